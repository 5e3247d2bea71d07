"""Filesystems and their like, told by their superblocks: type, label and UUID in the manner of blkid(8).

The first 8 KiB of a volume settle nearly all. For the others a partition's type says where it is worth looking in the
same round trip; where nothing was found, the other places follow in a second one. A last one is for labels that lie
elsewhere. All volumes of a disk are asked for at once.

Known differences from blkid: no label of HFS+ (two reads away), no swap of pages larger than 8 KiB, no sub-types.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from probes.image import Filesystem
from probes.mapping import CannotMap
from probes.media import foreign, members, superblocks, udf
from probes.media.labels import label_in, label_place
from probes.reader import Reader, ahead
from probes.recording import OverBudget

NEAR = 8 << 10
"""Bytes at a volume's start that the first read takes."""

MAX_SEARCHED = 4
"""Volumes in which the less usual places are looked at when nothing was found at their start."""

_PIECE = 4 << 10
_AT_8K, _AT_16K, _AT_32K, _AT_64K, _AT_1M = 8 << 10, 16 << 10, 32 << 10, 64 << 10, 1 << 20

_Check = Callable[[bytes], Filesystem | None]

# In the order of certainty: what holds others first, long magics before short ones, FAT's guess last.
_NEAR: tuple[_Check, ...] = (
    members.luks, members.lvm, members.raid, members.bitlocker,
    superblocks.bcachefs, superblocks.xfs, superblocks.squashfs, superblocks.cramfs,
    foreign.exfat, foreign.ntfs, foreign.refs, foreign.apfs,
    superblocks.swap, superblocks.ext, superblocks.f2fs, superblocks.erofs, superblocks.nilfs2, superblocks.ocfs2,
    foreign.hfsplus, foreign.hfs, superblocks.minix, foreign.vfat,
)  # fmt: skip
_ELSEWHERE: dict[int, tuple[int, tuple[_Check, ...]]] = {
    _AT_16K: (_PIECE, (members.zfs,)),
    _AT_32K: (4 * _PIECE, (foreign.iso9660, foreign.udf, superblocks.jfs)),
    _AT_64K: (_PIECE, (superblocks.btrfs, superblocks.reiserfs, foreign.ufs)),
    _AT_8K: (_PIECE, (foreign.ufs, superblocks.reiserfs)),
    _AT_1M: (_PIECE, (members.vmfs,)),
}
_SEARCHED = (_AT_16K, _AT_32K, _AT_64K, _AT_8K)

_LIKELY = {
    "Linux RAID": (), "ISO 9660": (_AT_32K,), "VMware VMFS": (_AT_1M,), "Solaris": (_AT_16K,), "ZFS": (_AT_16K,),
    "FreeBSD": (_AT_8K, _AT_64K), "OpenBSD": (_AT_8K, _AT_64K), "NetBSD": (_AT_8K, _AT_64K),
    "FreeBSD UFS": (_AT_8K, _AT_64K), "BSD FFS": (_AT_8K, _AT_64K), "FreeBSD ZFS": (_AT_16K,),
}  # fmt: skip
"""Where else to look at once, by the partition's type. Linux' own types: for btrfs."""


@dataclass(frozen=True, slots=True)
class Volume:
    """Where a filesystem may lie: a partition or a whole disk, in bytes; `type` is the partition's."""

    start: int
    size: int
    type: str = ""


def find_filesystem(reader: Reader, start: int = 0, size: int | None = None) -> Filesystem | None:
    """Return what lies in the `size` bytes at `start` (by default: all of it), or None where no superblock is known.

    Labels are as the filesystem has them, not cleaned. Raises what `reader` raises; where its bytes cannot be told
    there is nothing.
    """
    return find_filesystems(reader, [Volume(start, reader.size - start if size is None else size)])[0]


def find_filesystems(reader: Reader, volumes: Sequence[Volume]) -> list[Filesystem | None]:
    """Return what lies in each of `volumes`: as `find_filesystem` does, in three round trips at most."""
    inside = [replace(volume, size=min(volume.size, reader.size - volume.start)) for volume in volumes]
    ahead(reader, first_spans(inside))
    found = [_look(reader, volume, (0, *_likely(volume)), _is_raid(volume)) for volume in inside]
    unknown = [index for index, one in enumerate(found) if one is None and inside[index].size > NEAR][:MAX_SEARCHED]
    ahead(reader, [span for index in unknown for span in later_spans(inside[index])])
    for index in unknown:
        found[index] = _look(reader, inside[index], _SEARCHED, tail=True)
    return _with_labels(reader, inside, found)


def first_spans(volumes: Iterable[Volume]) -> list[tuple[int, int]]:
    """Return the (offset, length) that `find_filesystems` will want first."""
    return [span for volume in volumes for span in _spans(volume, (0, *_likely(volume)), _is_raid(volume))]


def later_spans(volume: Volume) -> list[tuple[int, int]]:
    """Return the (offset, length) that `find_filesystems` will want of a volume at whose start it found nothing."""
    return _spans(volume, _SEARCHED, tail=True)


def _likely(volume: Volume) -> tuple[int, ...]:
    return _LIKELY.get(volume.type, (_AT_64K,) if volume.type.startswith("Linux") else ())


def _is_raid(volume: Volume) -> bool:
    return volume.type == "Linux RAID"


def _spans(volume: Volume, places: Iterable[int], tail: bool) -> list[tuple[int, int]]:
    spans = [(place, _ELSEWHERE[place][0] if place else NEAR) for place in places]
    if tail:
        spans += [(at, _PIECE) for at in members.raid_tails(volume.size)]
    return [(volume.start + at, min(length, volume.size - at)) for at, length in spans if at < volume.size]


def _look(reader: Reader, volume: Volume, places: Iterable[int], tail: bool) -> Filesystem | None:
    """Try the checks of `places`, in order; the superblocks of raids at the end come before all."""
    try:
        if tail:
            for at in members.raid_tails(volume.size):
                found = members.raid_at_end(_read(reader, volume, at, _PIECE), at)
                if found:
                    return found
        for place in places:
            length, checks = _ELSEWHERE[place] if place else (NEAR, _NEAR)
            data = _read(reader, volume, place, length)
            for check in checks:
                found = check(data)
                if found:
                    return found
    except CannotMap:
        pass  # unknown, and the other volumes may well be known
    return None


def _with_labels(
    reader: Reader, volumes: Sequence[Volume], found: Sequence[Filesystem | None]
) -> list[Filesystem | None]:
    """Return `found` with the labels that take another read; without them where that would cost too much."""
    named = list(found)
    try:
        starts = [_read(reader, volume, 0, 512) if one else b"" for volume, one in zip(volumes, found, strict=True)]
        boots = [start.ljust(512, b"\0") for start in starts]
        places = [one and label_place(one, boot) for one, boot in zip(found, boots, strict=True)]
        wanted = [(index, *place) for index, place in enumerate(places) if place and place[0] < volumes[index].size]
        ahead(reader, [(volumes[index].start + at, length) for index, at, length in wanted])
        for index, one in enumerate(found):
            volume = volumes[index]
            if one and one.type == "udf" and (known := udf.find_volume(reader, volume.start, volume.size)):
                named[index] = known.filesystem
        for index, at, length in wanted:
            filesystem = named[index]
            assert filesystem is not None
            label = label_in(filesystem, _read(reader, volumes[index], at, length))
            named[index] = replace(filesystem, label=label or filesystem.label)
    except (CannotMap, OverBudget):
        pass
    return named


def _read(reader: Reader, volume: Volume, at: int, length: int) -> bytes:
    return reader.pread(volume.start + at, min(length, volume.size - at)) if at < volume.size else b""
