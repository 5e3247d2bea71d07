"""vdi: VirtualBox's.

There is no specification but VirtualBox's source (src/VBox/Storage/VDICore.h); what counts is how QEMU reads it
(block/vdi.c). All numbers are little-endian. The map tells of each block of the disk its place in the order in which
blocks were written.
"""

import struct
from dataclasses import dataclass

from probes.fields import guid_text, little
from probes.image import Format, Hazard, Image, Verdict
from probes.mapping import BlockMap, CannotMap, MappedReader, Span, table_entry
from probes.reader import Reader
from probes.recording import HEAD
from probes.words import human_size

SIGNATURE = b"\x7f\x10\xda\xbe"

_AT = 64
_LENGTH = 512
_SECTOR = 512
_VERSION = 0x00010001
_BLOCK = 1 << 20
_TYPES = {1: "dynamic", 2: "static", 3: "undo", 4: "differencing"}
_WHOLE = frozenset({1, 2})
_MAX_BLOCKS = 0x3FFFFFFF
_DISCARDED, _UNALLOCATED = 0xFFFFFFFE, 0xFFFFFFFF
MAX_MAP_BYTES = (
    64 << 20
)  # ours: a disk of 16 TiB, eight times what VirtualBox offers. QEMU would take 4 GiB into memory


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. Offsets and sizes in bytes."""

    data: bytes

    @property
    def version(self) -> int:
        return little(self.data, 68, 4)

    @property
    def type(self) -> int:
        return little(self.data, 76, 4)

    @property
    def map_offset(self) -> int:
        return little(self.data, 340, 4)

    @property
    def data_offset(self) -> int:
        return little(self.data, 344, 4)

    @property
    def sector_size(self) -> int:
        return little(self.data, 360, 4)

    @property
    def disk_size(self) -> int:
        return little(self.data, 368, 8)

    @property
    def virtual_size(self) -> int:
        """The disk's size in whole sectors: VirtualBox makes odd ones of raw files, and QEMU rounds them up."""
        return self.disk_size + -self.disk_size % _SECTOR

    @property
    def block_size(self) -> int:
        return little(self.data, 376, 4)

    @property
    def block_extra(self) -> int:
        """Bytes before each block that are not the disk's."""
        return little(self.data, 380, 4)

    @property
    def blocks(self) -> int:
        return little(self.data, 384, 4)

    @property
    def allocated(self) -> int:
        """How many blocks there are in the file."""
        return little(self.data, 388, 4)

    @property
    def link(self) -> str:
        return guid_text(self.data, 424)

    @property
    def parent(self) -> str:
        return guid_text(self.data, 440)

    @property
    def map_end(self) -> int:
        return self.map_offset + self.blocks * 4

    def place(self, entry: int) -> int:
        """Return the byte of the file where the block of an entry of the map lies."""
        return self.data_offset + entry * _BLOCK


class Vdi(Format):
    """A VDI image."""

    name = "vdi"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, min(_LENGTH, reader.size))
        if data[_AT : _AT + 4] != SIGNATURE:
            return None
        header = Header(data.ljust(_LENGTH, b"\0"))
        if header.version != _VERSION:
            major, minor = header.version >> 16, header.version & 0xFFFF
            why = f"It is a VDI image of version {major}.{minor}, which QEMU does not know."
            return Image(self.name, 0, reader.size, hazards=(Hazard("vdi-version", why, Verdict.REFUSE),))
        hazards = _parents(header) or _invalid(header) or _blocks(reader, header)
        kind = _TYPES.get(header.type)
        return Image(
            self.name,
            header.virtual_size,
            reader.size,
            features=(kind,) if kind else (),
            hazards=tuple(hazards),
        )

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        return MappedReader(reader, BlockTable(reader, Header(reader.pread(0, _LENGTH).ljust(_LENGTH, b"\0"))))


class BlockTable(BlockMap):
    """The blocks of the VDI that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, header: Header) -> None:
        self.virtual_size = header.virtual_size
        self._inner = inner
        self._header = header

    def locate(self, offset: int) -> Span:
        index, within = divmod(offset, _BLOCK)
        if index >= self._header.blocks:
            raise CannotMap("beyond the block map")
        entry = little(table_entry(self._inner, self._header.map_offset + index * 4, 4), 0, 4)
        if entry >= _DISCARDED:
            return Span(_BLOCK - within)
        return Span(_BLOCK - within, at=self._header.place(entry) + within)


def _broken(why: str) -> Hazard:
    return Hazard("vdi-invalid", f"Its VDI header makes no sense: {why}.", Verdict.REFUSE)


def _truncated(why: str) -> Hazard:
    return Hazard("vdi-truncated", f"It is cut short: {why}.", Verdict.REFUSE)


def _parents(header: Header) -> list[Hazard]:
    """Judge whether it is the whole of a disk. QEMU goes by the links alone, whatever type the header tells."""
    if not (header.link or header.parent) and _TYPES.get(header.type) not in {"undo", "differencing"}:
        return []
    parent = header.parent or header.link
    named = f" ({parent})" if parent else ""
    text = (
        f"It holds only what differs from another VDI{named}, and QEMU does not open such. Make one of the two with "
        "VirtualBox: VBoxManage clonemedium FROM TO."
    )
    return [Hazard("vdi-differencing", text, Verdict.REFUSE)]


def _invalid(header: Header) -> list[Hazard]:
    """Judge the numbers that QEMU would act upon when it opens the image."""
    if header.type not in _WHOLE:
        return [_broken(f"it calls itself one of type {header.type}")]
    if header.sector_size != _SECTOR:
        return [_broken(f"sectors of {header.sector_size} bytes, and QEMU knows only {_SECTOR}")]
    if header.block_size != _BLOCK or header.block_extra:
        extra = f" and {header.block_extra} more" if header.block_extra else ""
        return [_broken(f"blocks of {header.block_size} bytes{extra}, and QEMU knows only {_BLOCK}")]
    if header.map_offset % _SECTOR or header.data_offset % _SECTOR:
        return [_broken("its map or its data do not begin at a whole sector")]
    if not header.virtual_size:
        return [Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE)]
    if header.blocks > _MAX_BLOCKS or header.virtual_size > header.blocks * _BLOCK:
        return [_broken(f"a disk of {header.virtual_size} bytes in {header.blocks} blocks")]
    if header.blocks * 4 > MAX_MAP_BYTES:
        most = human_size(MAX_MAP_BYTES // 4 * _BLOCK)
        text = f"Its map is one of {header.blocks} blocks, and would eat memory: a disk of {most} is the most here."
        return [Hazard("vdi-tables", text, Verdict.REFUSE)]
    if header.map_offset < _LENGTH or header.data_offset < header.map_end:
        return [_broken("its header, map and data lie one over the other")]
    return []


def _blocks(reader: Reader, header: Header) -> list[Hazard]:
    """Judge whether all is there, by the count of blocks and what of the map lies near. QEMU takes for zeros what lies
    beyond the end: with its map missing, every block would be the first.
    """
    if header.map_end > reader.size:
        return [_truncated(f"its map would end at byte {header.map_end}, and it has {reader.size}")]
    near = reader.pread(header.map_offset, max(min(header.map_end, HEAD) - header.map_offset, 0))
    entries = struct.unpack_from(f"<{len(near) // 4}I", near)
    last = max((entry for entry in entries if entry < _DISCARDED), default=-1)
    last = max(last, header.allocated - 1)
    if last >= 0 and header.place(last) >= reader.size:
        return [_truncated(f"a block would begin at byte {header.place(last)}, and it has {reader.size}")]
    return []
