"""MBR: four partitions in the first sector, more in extended ones, and BSD's disklabels in slices.

As Linux and sfdisk read it: sectors of 512 bytes, logical partitions numbered from 5 on, then those of disklabels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from probes.fields import little
from probes.image import Partition
from probes.media import disklabel
from probes.media.filesystems import Volume, first_spans
from probes.media.partition_types import MBR_TYPES
from probes.media.table import Table
from probes.reader import Reader, ahead

MAX_LOGICAL = 24
"""Logical partitions followed in an extended one: each is a round trip."""

_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_SLICES = frozenset({0xA5, 0xA6, 0xA9})
_PROTECTIVE = 0xEE
_UNLIMITED = 0xFFFFFFFF
_NO_CODE = 512


def is_protective(sector0: bytes) -> bool:
    """Whether the MBR in `sector0` says that the disk has a GPT."""
    return _is_mbr(sector0) and any(kind == _PROTECTIVE for _, kind, _, _ in _entries(sector0))


def protected(sector0: bytes) -> tuple[int, bool]:
    """Return how many sectors a protective MBR says the disk has (0 if it does not), and whether it has partitions of
    its own beside (a hybrid).
    """
    entries = _entries(sector0)
    whole = [start + sectors for _, kind, start, sectors in entries if kind == _PROTECTIVE and sectors < _UNLIMITED]
    return max(whole, default=0), any(kind not in {0, _PROTECTIVE} and sectors for _, kind, _, sectors in entries)


def read_mbr(reader: Reader, sector0: bytes, sector: int = 512) -> Table | None:
    """Return the MBR partition table in `sector0`, or None; `sector` is the bytes of the disk's sectors.

    What is needed to tell the filesystems of its partitions is asked for along with the reads that it takes itself.
    """
    if not is_mbr(sector0):
        return None
    partitions = list(primaries(sector0, sector))
    entries = _entries(sector0)
    extended = [part for part in partitions if entries[part.number - 1][1] in _EXTENDED][:1]
    slices = [part for part in partitions if entries[part.number - 1][1] in _SLICES]
    if extended or slices:
        wanted = [(part.start, _NO_CODE) for part in extended] + [disklabel.place(part.start) for part in slices]
        ahead(reader, [*wanted, *first_spans(volumes(part for part in partitions if part not in extended))])
    more = False
    if extended:
        logical, more = _logical(reader, extended[0].start, sector)
        partitions += logical
    holders = {part.number for part in extended}
    for part in slices:
        inside = disklabel.read_slice(reader, part)
        if inside:
            holders.add(part.number)
            number = max(4, *(known.number for known in partitions))
            partitions += [replace(one, number=number + index) for index, one in enumerate(inside, 1)]
    features = (f"more than {MAX_LOGICAL} logical partitions",) if more else ()
    return Table("mbr", tuple(partitions), sector, features=features, holders=frozenset(holders))


def is_mbr(sector0: bytes) -> bool:
    """Whether `sector0` has an MBR partition table of its own, be it empty."""
    if not _is_mbr(sector0) or is_protective(sector0):
        return False
    # Without partitions and a disk's number it is a mere boot sector.
    return any(sectors for _, _, _, sectors in _entries(sector0)) or bool(little(sector0, 440, 4))


def primaries(sector0: bytes, sector: int = 512) -> Iterator[Partition]:
    """Yield the partitions in `sector0` itself."""
    for number, (flag, kind, start, sectors) in enumerate(_entries(sector0), 1):
        if sectors:
            yield _partition(number, flag, kind, start * sector, sectors * sector)


def volumes(partitions: Iterator[Partition] | Sequence[Partition]) -> list[Volume]:
    """Return where the filesystems of `partitions` may lie."""
    return [Volume(part.start, part.size, part.type) for part in partitions]


def _is_mbr(sector: bytes) -> bool:
    return sector[510:512] == b"\x55\xaa" and all(flag in {0, 0x80} for flag, _, _, _ in _entries(sector))


def _entries(sector: bytes) -> list[tuple[int, int, int, int]]:
    """Return flag, type, first sector and sectors of the four entries."""
    return [
        (little(sector, at, 1), little(sector, at + 4, 1), little(sector, at + 8, 4), little(sector, at + 12, 4))
        for at in range(446, 510, 16)
    ]


def _partition(number: int, flag: int, kind: int, start: int, size: int) -> Partition:
    return Partition(number, start, size, MBR_TYPES.get(kind, f"type 0x{kind:02x}"), bootable=flag == 0x80)


def _logical(reader: Reader, extended: int, sector: int) -> tuple[list[Partition], bool]:
    """Follow the chain of extended boot records; also whether it goes on beyond what was read.

    In each, the first entry is a logical partition, relative to the record; a second one of an extended type
    points to the next record, relative to the extended partition.
    """
    found: list[Partition] = []
    seen: set[int] = set()
    at = extended
    while at not in seen:
        if len(seen) == MAX_LOGICAL:
            return found, True
        seen.add(at)
        ahead(reader, [(at, _NO_CODE), *first_spans(volumes(found[-1:]))])
        record = reader.pread(at, _NO_CODE)
        if record[510:512] != b"\x55\xaa":
            break
        following = None
        for flag, kind, start, sectors in _entries(record)[:2]:
            if kind in _EXTENDED and following is None:
                following = extended + start * sector
            elif kind and sectors:
                found.append(_partition(5 + len(found), flag, kind, at + start * sector, sectors * sector))
        if following is None:
            break
        at = following
    return found, False
