"""GPT, by the UEFI specification 2.10, chapter 5: header and entries with their check sums, in two copies.

Sectors are 512 bytes; those of 4096 bytes are tried too, and told.
"""

import zlib
from dataclasses import replace

from probes.fields import guid_text, little, text
from probes.image import Partition
from probes.media.mbr import is_protective, protected
from probes.media.partition_types import GPT_TYPES
from probes.media.table import Table
from probes.reader import Reader

MAX_ENTRIES_BYTES = 64 << 10
"""Bytes of GPT entries that are read: 512 of the usual size, four times what anybody makes."""

_SECTORS = (512, 4096)


def read_gpt(reader: Reader, sector0: bytes) -> Table | None:
    """Return the GPT, if the protective MBR says that there is one; a table without entries where both are damaged.

    Without that MBR a GPT is what an earlier use left behind: firmware and Linux do not look at it either. One whose
    first copy is damaged is read from its second, as Linux and firmware do.
    """
    if not is_protective(sector0):
        return None
    sectors, hybrid = protected(sector0)
    features = ("hybrid GPT and MBR",) if hybrid else ()
    for sector in _SECTORS:
        found = _gpt_at(reader, sector, sector)
        if found:
            disk = max(found.disk, sectors * sector)
            return replace(found, disk=disk, features=(*found.features, *features))
    for sector in _SECTORS:  # the second copy lies in the last sector
        last = reader.size - reader.size % sector - sector
        found = _gpt_at(reader, last, sector) if last > sector else None
        if found:
            problem = "the first copy of its partition table is damaged; the second one is used"
            features = (*found.features, *features)
            return replace(found, problems=(problem,), features=features, copy=None, disk=sectors * sector)
    return Table("gpt", (), problems=("its partition table (GPT) is damaged",), features=features)


def first_copy(reader: Reader, sector0: bytes) -> Table | None:
    """Return the GPT by its first copy alone, or None."""
    return next(filter(None, (_gpt_at(reader, one, one) for one in _SECTORS)), None) if is_protective(sector0) else None


def copy_problem(reader: Reader, table: Table) -> str | None:
    """Return what is wrong with the second copy of `table`, whose first is sound; None if nothing is."""
    if table.copy is None or table.copy + table.sector > reader.size:
        return None
    header = reader.pread(table.copy, table.sector)
    return (
        None if _is_header(header, table.copy // table.sector) else "the second copy of its partition table is damaged"
    )


def _is_header(header: bytes, at: int) -> bool:
    """Whether it is a sound GPT header that lies in the sector number `at`."""
    length = little(header, 12, 4)
    return (
        header[:8] == b"EFI PART"
        and 92 <= length <= len(header)
        and zlib.crc32(header[:16] + bytes(4) + header[20:length]) == little(header, 16, 4)
        and little(header, 24, 8) == at
    )


def _gpt_at(reader: Reader, offset: int, sector: int) -> Table | None:
    header = reader.pread(offset, sector)
    if not _is_header(header, offset // sector):
        return None
    count, width = little(header, 80, 4), little(header, 84, 4)
    if width < 128 or width % 8 or not 0 < count * width <= MAX_ENTRIES_BYTES:
        return None
    entries = reader.pread(little(header, 72, 8) * sector, count * width)
    if zlib.crc32(entries) != little(header, 88, 4):
        return None
    partitions = []
    legacy = False
    for index in range(count):
        entry = entries[index * width : (index + 1) * width]
        kind = guid_text(entry, 0)
        if not kind:
            continue
        first, last = little(entry, 32, 8), little(entry, 40, 8)
        active = bool(little(entry, 48, 8) & 4)
        legacy = legacy or active
        partitions.append(
            Partition(
                number=index + 1,
                start=first * sector,
                size=max(last - first + 1, 0) * sector,
                type=GPT_TYPES.get(kind, kind),
                name=text(entry, 56, 72, "utf-16-le"),
                bootable=active,
            )
        )
    copy = little(header, 32, 8) * sector
    features = (f"{sector}-byte sectors",) if sector != _SECTORS[0] else ()
    return Table("gpt", tuple(partitions), sector, features=features, legacy_boot=legacy, disk=copy + sector, copy=copy)
