"""bochs: the growing disk images of the Bochs emulator.

The layout stands in Bochs' own iodev/hdimage/hdimage.h (redolog_header_t); the limits are those of QEMU's
block/bochs.c, which reads this one kind and writes none. All numbers are little-endian.
"""

from dataclasses import dataclass

from probes.fields import little, text
from probes.image import Format, Hazard, Image, Verdict
from probes.mapping import BlockMap, MappedReader, Span, table_entry
from probes.reader import Reader
from probes.text import clean

_MAGIC = b"Bochs Virtual HD Image"
_LENGTH = 512
_SECTOR = 512
_VERSION_1, _VERSION_2 = 0x00010000, 0x00020000
_NOT_THERE = 0xFFFFFFFF
_MAX_CATALOG = 0x100000  # entries, of 4 bytes
_MAX_EXTENT = 0x800000


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. `catalog` in entries, all other sizes in bytes."""

    data: bytes

    @property
    def kind(self) -> tuple[str, str]:
        return text(self.data, 32, 16), text(self.data, 48, 16)

    @property
    def version(self) -> int:
        return little(self.data, 64, 4)

    @property
    def length(self) -> int:
        return little(self.data, 68, 4)

    @property
    def catalog(self) -> int:
        return little(self.data, 72, 4)

    @property
    def bitmap(self) -> int:
        return little(self.data, 76, 4)

    @property
    def extent(self) -> int:
        return little(self.data, 80, 4)

    @property
    def virtual_size(self) -> int:
        return little(self.data, 84 if self.version == _VERSION_1 else 88, 8) // _SECTOR * _SECTOR


class Bochs(Format):
    """A growing Bochs image."""

    name = "bochs"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, _LENGTH)
        if not data.startswith(_MAGIC):
            return None
        header = Header(data.ljust(_LENGTH, b"\0"))
        other = _judge_kind(header, data)
        if other:
            return Image(self.name, 0, reader.size, hazards=(other,))
        hazards = _judge(header, reader.size)
        version = "version 1" if header.version == _VERSION_1 else "version 2"
        return Image(self.name, header.virtual_size, reader.size, features=(version,), hazards=hazards)

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        return MappedReader(reader, ExtentMap(reader, Header(reader.pread(0, _LENGTH).ljust(_LENGTH, b"\0"))), backing)


class ExtentMap(BlockMap):
    """The extents of the image that `inner` reads, which is expected to remember (`RecordingReader`): each a bitmap of
    its sectors, and the sectors.
    """

    def __init__(self, inner: Reader, header: Header) -> None:
        self.virtual_size = header.virtual_size
        self._inner = inner
        self._header = header
        self._bitmap_bytes = (((header.bitmap - 1) & 0xFFFFFFFF) // _SECTOR + 1) * _SECTOR

    def locate(self, offset: int) -> Span:
        header = self._header
        index, within = divmod(offset, header.extent)
        entry = table_entry(self._inner, header.length + index * 4, 4)
        place = little(entry, 0, 4)
        if place == _NOT_THERE:
            return Span(header.extent - within)
        bitmap_at = header.length + header.catalog * 4 + place * (header.extent + self._bitmap_bytes)
        sectors = header.extent // _SECTOR
        bits = little(table_entry(self._inner, bitmap_at, -(-sectors // 8)), 0, -(-sectors // 8))
        first = within // _SECTOR
        there = bits >> first & 1
        last = first + 1
        while last < sectors and bits >> last & 1 == there:
            last += 1
        length = last * _SECTOR - within
        return Span(length, at=bitmap_at + self._bitmap_bytes + within) if there else Span(length)


def _judge_kind(header: Header, data: bytes) -> Hazard | None:
    """Judge what QEMU looks at to tell a Bochs image: it opens nothing else that Bochs writes."""
    if len(data) < _LENGTH:
        return Hazard("bochs-invalid", "Its Bochs header is cut short.", Verdict.REFUSE)
    ended = not data[len(_MAGIC)]
    if ended and header.kind == ("Redolog", "Growing") and header.version in {_VERSION_1, _VERSION_2}:
        return None
    kind = clean(" ".join((*header.kind, f"version {header.version >> 16}")), 60)
    why = f"It is a Bochs image of a kind that QEMU does not open ({kind}). Convert a copy with bximage."
    return Hazard("bochs-kind", why, Verdict.REFUSE)


def _judge(header: Header, file_size: int) -> tuple[Hazard, ...]:
    wrong = ""
    if not _SECTOR <= header.extent <= _MAX_EXTENT or header.extent & (header.extent - 1):
        wrong = f"extents of {header.extent} bytes"
    elif header.catalog > _MAX_CATALOG:
        wrong = f"a catalog of {header.catalog} extents"
    elif header.catalog * header.extent < header.virtual_size:
        wrong = "its catalog is too small for its disk"
    elif not header.bitmap:
        wrong = "bitmaps of no size"
    if wrong:
        return (Hazard("bochs-invalid", f"Its Bochs header makes no sense: {wrong}.", Verdict.REFUSE),)
    end = header.length + header.catalog * 4
    if end > file_size:
        text = f"It is cut short: its catalog would end at byte {end}, and it has {file_size}."
        return (Hazard("bochs-truncated", text, Verdict.REFUSE),)
    if not header.virtual_size:
        return (Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE),)
    return ()
