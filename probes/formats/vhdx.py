"""vhdx: Hyper-V's.

The specification is [MS-VHDX]; what counts is what QEMU opens (block/vhdx.c). Everything lies beyond the first 64 KiB:
the headers and the region table at places of their own, the metadata and the block allocation table where the region
table says, which is one of two places as a rule. All of them are fetched at once.
"""

from probes.fields import little
from probes.formats.vhdx_blocks import ALLOCATED, STATE, BlockTable, place
from probes.formats.vhdx_headers import (
    HEADERS,
    PIECE,
    REGIONS,
    MiB,
    Region,
    Regions,
    Unsound,
    broken,
    current_header,
    log_hazards,
    regions,
    truncated,
)
from probes.formats.vhdx_metadata import ITEMS, Disk, read_disk
from probes.image import Format, Hazard, Image, Verdict
from probes.mapping import CannotMap, MappedReader
from probes.reader import Reader, ahead
from probes.text import clean
from probes.words import human_size

MAGIC = b"vhdxfile"

MAX_TABLE_BYTES = 64 << 20  # ours: QEMU would take 4 GiB into memory

# Hyper-V lays log, metadata, table, each 1 MiB long; QEMU lays log, table, metadata.
_USUAL = (2 * MiB, 2 * MiB + ITEMS, 3 * MiB, 3 * MiB + ITEMS)


class Vhdx(Format):
    """A VHDX image."""

    name = "vhdx"

    def probe(self, reader: Reader) -> Image | None:
        if reader.pread(0, len(MAGIC)) != MAGIC:
            return None
        if reader.size < MiB:
            hazard = truncated(f"its headers alone take 1 MiB, and it has {reader.size} bytes").hazard
            return Image(self.name, 0, reader.size, hazards=(hazard,))
        ahead(reader, [(at, PIECE) for at in (*HEADERS, REGIONS, *_USUAL)])
        hazards: list[Hazard] = []
        disk = None
        try:
            header = current_header(reader)
            hazards += log_hazards(reader, header)
            places = regions(reader, header)
            ahead(reader, [(at, PIECE) for at in _wanted(places)])
            disk = read_disk(reader, places.metadata)
            hazards += _dangers(disk)
            _check_table(reader, disk, places)
        except Unsound as error:
            if all(hazard.verdict is not Verdict.REFUSE for hazard in hazards):
                hazards.append(error.hazard)
        size = disk.virtual_size if disk else 0
        return Image(self.name, size, reader.size, features=_features(disk), hazards=tuple(hazards))

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        try:
            places = regions(reader, current_header(reader))
            disk = read_disk(reader, places.metadata)
        except Unsound as error:
            raise CannotMap(str(error)) from error
        return MappedReader(reader, BlockTable(reader, disk, places.table.offset))


def _wanted(places: Regions) -> tuple[int, int, int]:
    return places.metadata.offset, places.metadata.offset + ITEMS, places.table.offset


def _dangers(disk: Disk) -> list[Hazard]:
    """Judge what the metadata ask of whoever opens the image."""
    hazards = []
    if disk.parent is not None:
        name = clean(disk.parent, 200)
        named = f", {name}," if name else ""
        text = (
            f"It holds only what differs from another VHDX{named} and QEMU opens no such image. Merge the two into one "
            "VHDX, with the system that made them."
        )
        hazards.append(Hazard("vhdx-differencing", text, Verdict.REFUSE))
    if disk.logical_sector != 512:
        text = f"Its disk has sectors of {disk.logical_sector} bytes, and QEMU opens no VHDX of such a disk."
        hazards.append(Hazard("vhdx-sectors", text, Verdict.REFUSE))
    if not disk.virtual_size:
        hazards.append(Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE))
    return hazards


def _check_table(reader: Reader, disk: Disk, places: Regions) -> None:
    """Judge the block allocation table, all of which QEMU takes into memory and looks through; its first entries are
    looked through here. Raises Unsound, and what `reader` raises.
    """
    table = places.table
    if not disk.virtual_size:
        return
    if disk.table_entries * 8 > table.length:
        raise broken("its block allocation table is too small for its disk")
    if table.length > MAX_TABLE_BYTES:
        text = "Its block allocation table is larger than any real image needs: opening it would eat memory."
        raise Unsound(Hazard("vhdx-tables", text, Verdict.REFUSE))
    end = table.offset + disk.table_entries * 8
    if end > reader.size:
        raise truncated(f"its table would end at byte {end}, and it has {reader.size}")
    data = reader.pread(table.offset, min(disk.table_entries * 8, PIECE))
    for index in range(len(data) // 8):
        entry = little(data, index * 8, 8)
        if entry & STATE == ALLOCATED:
            _check_block(place(entry), index, disk, reader.size, places.taken)


def _check_block(at: int, index: int, disk: Disk, file_size: int, taken: tuple[Region, ...]) -> None:
    left = disk.virtual_size - index * disk.block_size
    length = min(disk.block_size, left) if left > 0 else disk.block_size  # the last block need not be whole
    if at >= file_size or at + length > file_size:
        raise truncated(f"a block would end at byte {at + length}, and it has {file_size}")
    if any(at < region.end and at + disk.block_size > region.offset for region in taken):
        raise broken("a block of its disk lies in its headers")


def _features(disk: Disk | None) -> tuple[str, ...]:
    if disk is None:
        return ()
    kind = "differencing" if disk.parent is not None else "fixed" if disk.is_fixed else "dynamic"
    return kind, f"blocks of {human_size(disk.block_size)}"
