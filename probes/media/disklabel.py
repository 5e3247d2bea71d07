"""BSD's disklabel: in the second sector of a whole disk, or of the MBR slice of a FreeBSD, OpenBSD or NetBSD.

The layout is that of FreeBSD's sys/disk/bsd.h (struct disklabel); Linux' block/partitions/msdos.c says how the three
count: FreeBSD from its slice on, the others from the disk's start. (Alphas had it in the first sector, and so has
parted; on a PC nobody looks there.)
"""

from functools import reduce
from operator import xor

from probes.fields import little
from probes.image import Partition
from probes.media.table import Table
from probes.reader import Reader

_LABEL_AT = 512
_MAGIC = 0x82564557
_MAX_PARTITIONS = 22
_WHOLE = 2  # the partition c stands for the slice or the disk itself
_TYPES = {
    1: "BSD swap", 7: "BSD FFS", 8: "MS-DOS", 9: "BSD LFS", 10: "Unknown", 11: "HPFS", 12: "ISO 9660", 13: "Boot",
    17: "Linux ext2", 18: "NTFS", 27: "ZFS",
}  # fmt: skip


def place(start: int) -> tuple[int, int]:
    """Return the (offset, length) of the label of a slice or disk that starts at byte `start`."""
    return start + _LABEL_AT, 512


def read_disklabel(reader: Reader) -> Table | None:
    """Return the disklabel of the whole disk in `reader`, or None."""
    partitions = _partitions(reader.pread(*place(0)), 0, reader.size)
    return None if partitions is None else Table("bsd", tuple(partitions))


def read_slice(reader: Reader, part: Partition) -> list[Partition]:
    """Return what the disklabel in the MBR slice `part` says is in it: nothing where there is none."""
    relative = part.start if part.type == "FreeBSD" else 0
    inside = _partitions(reader.pread(*place(part.start)), relative, part.size) or []
    return [
        one
        for one in inside
        if part.start <= one.start and one.start + one.size <= part.start + part.size
        if (one.start, one.size) != (part.start, part.size)
    ]


def _partitions(label: bytes, base: int, size: int) -> list[Partition] | None:
    """Return the partitions of a label, numbered from 1 on; None where it is none, or its check sum is wrong."""
    count, sector = little(label, 138, 2), little(label, 40, 4)
    if little(label, 0, 4) != _MAGIC or little(label, 132, 4) != _MAGIC:
        return None
    if not 0 < count <= _MAX_PARTITIONS or sector not in {512, 1024, 2048, 4096}:
        return None
    if reduce(xor, (little(label, at, 2) for at in range(0, 148 + 16 * count, 2))):
        return None
    found: list[Partition] = []
    for index in range(count):
        at = 148 + 16 * index
        sectors, start, kind = little(label, at, 4), little(label, at + 4, 4), little(label, at + 12, 1)
        if not sectors or not kind or (index == _WHOLE and sectors * sector >= size):
            continue
        type_ = _TYPES.get(kind, f"BSD type {kind}")
        found.append(Partition(len(found) + 1, base + start * sector, sectors * sector, type_, chr(ord("a") + index)))
    return found
