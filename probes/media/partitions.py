"""Partition tables: which kind a disk has. Each kind has a file of its own: mbr, gpt, apple_map, disklabel."""

from collections.abc import Iterable

from probes.image import Partition
from probes.media.apple_map import read_apple_map
from probes.media.disklabel import read_disklabel
from probes.media.filesystems import first_spans
from probes.media.gpt import first_copy, read_gpt
from probes.media.mbr import is_mbr, is_protective, primaries, read_mbr, volumes
from probes.media.partition_types import BIOS_BOOT
from probes.media.table import Table
from probes.reader import Reader

MAX_FILESYSTEMS = 12
"""Partitions that are looked into: each is a read or two. Beyond that they are listed by type only."""

_EMPTY = frozenset({
    BIOS_BOOT, "Microsoft reserved", "FreeBSD boot", "PowerPC PReP", "Apple_partition_map", "Apple_Free", "Apple_Void",
})  # fmt: skip
"""Types of partitions in which nobody keeps a filesystem."""


def read_table(reader: Reader) -> Table | None:
    """Return the partition table of the disk in `reader`, or None if it has none. Raises what `reader` raises.

    Names are not cleaned.
    """
    sector0 = reader.pread(0, 512)
    return (
        read_gpt(reader, sector0)
        or read_mbr(reader, sector0)
        or read_apple_map(reader, sector0)
        or read_disklabel(reader)
    )


def worth_looking(partitions: Iterable[Partition], size: int, holders: frozenset[int] = frozenset()) -> list[Partition]:
    """Return those of `partitions` that are looked into, on a disk of `size` bytes; `holders` as in `Table`."""
    inside = (part for part in partitions if part.size > 0 and part.start < size and part.number not in holders)
    return [part for part in inside if part.type not in _EMPTY][:MAX_FILESYSTEMS]


def spans_after_head(reader: Reader) -> list[tuple[int, int]]:
    """Return the (offset, length) that telling the filesystems will want first, by the disk's first 64 KiB alone."""
    sector0 = reader.pread(0, 512)
    table = first_copy(reader, sector0) if is_protective(sector0) else None
    listed = table.partitions if table else primaries(sector0) if is_mbr(sector0) else ()
    spans = first_spans(volumes(worth_looking(listed, reader.size)))
    return [*copy_span(table), *spans] if table else spans


def copy_span(table: Table) -> list[tuple[int, int]]:
    """Return the (offset, length) of the second copy of `table`, if it has one."""
    return [] if table.copy is None else [(table.copy, table.sector)]
