"""vpc: the VHD of Virtual PC, Hyper-V, Azure and XenServer; fixed and dynamic.

The specification is Microsoft's "Virtual Hard Disk Image Format Specification" (2006); what counts is how QEMU reads it
(block/vpc.c). All numbers are big-endian.

- A dynamic VHD begins with a copy of its footer. Only that copy counts to QEMU, which follows it whatever type of disk
  it claims: one that claims to be fixed would show the guest these very headers, one that has a parent would be shown
  without it. Both are refused.
- A fixed VHD is the disk itself, then the footer. QEMU's own probing takes it for raw, so its driver must be named.
  A guest can write a footer to the end of its raw disk. It is believed only where all of it fits: then the guest has
  hidden its own last sector from itself, and nothing else. Else the image is refused.
- The disk's size is that of its geometry (Virtual PC) or of another field (Hyper-V): the program that made it decides.
  QEMU up to 9.2 knows those that count by the field, QEMU 10.0 those that count by geometry, and they differ on all
  others. The size given here is that of the former.
"""

from dataclasses import dataclass

from probes.fields import big
from probes.formats import vpc_blocks
from probes.formats.vpc_blocks import DynamicHeader, DynamicMap, FixedMap, checksum
from probes.image import Format, Hazard, Image, Verdict
from probes.mapping import MappedReader
from probes.reader import Reader
from probes.recording import HEAD, TAIL
from probes.text import clean
from probes.words import human_size

COOKIE = b"conectix"

_SECTOR = 512
_PIECE = 4 << 10
_FIXED, _DYNAMIC, _DIFFERENCING = 2, 3, 4
_USUAL_BLOCK = 2 << 20
_MAX_GEOMETRY = 65535 * 16 * 255  # sectors; VHD_MAX_GEOMETRY: a geometry that says "more than this"
MAX_SECTORS = 0xFF000000  # VHD_MAX_SECTORS: 2040 GiB
MAX_TABLE_BYTES = 32 << 20  # ours: a real one takes 4 MiB at most, and QEMU would take 2 GiB into memory

_BY_FIELD = {b"win ": "Hyper-V", b"qem2": "QEMU", b"d2v ": "Disk2vhd", b"tap\0": "XenServer", b"CTXS": "XenConverter"}
_BY_GEOMETRY = {b"vpc ": "Virtual PC", b"qemu": "QEMU"}
_UNDECIDED = {b"wa\0\0": "Azure", b"vbox": "VirtualBox", b"vs  ": "Virtual Server"}
_CREATORS = _BY_FIELD | _BY_GEOMETRY | _UNDECIDED


@dataclass(frozen=True, slots=True)
class Footer:
    """The footer's fields, unjudged. Sizes in bytes."""

    data: bytes

    @property
    def header_offset(self) -> int:
        """Where the second header lies."""
        return big(self.data, 16, 8)

    @property
    def creator(self) -> bytes:
        return self.data[28:32]

    @property
    def size_field(self) -> int:
        return big(self.data, 48, 8)

    @property
    def geometry(self) -> int:
        """The size that the geometry gives, in bytes."""
        return big(self.data, 56, 2) * self.data[58] * self.data[59] * _SECTOR

    @property
    def type(self) -> int:
        return big(self.data, 60, 4)

    @property
    def is_whole(self) -> bool:
        return checksum(self.data, 64) == big(self.data, 64, 4)

    @property
    def has_saved_state(self) -> bool:
        return bool(self.data[84])

    @property
    def virtual_size(self) -> int:
        if self.creator in _BY_FIELD or self.geometry == _MAX_GEOMETRY * _SECTOR:
            return self.size_field // _SECTOR * _SECTOR
        return self.geometry

    @property
    def newer_size(self) -> int:
        """The same as QEMU 10 has it."""
        return self.virtual_size if self.creator in _BY_GEOMETRY else self.size_field // _SECTOR * _SECTOR


class Vpc(Format):
    """A dynamic VHD: its head is a copy of its footer."""

    name = "vpc"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, min(_SECTOR, reader.size))
        if data[:8] != COOKIE:
            return None
        footer = Footer(data.ljust(_SECTOR, b"\0"))
        header = _second_header(reader, footer)
        hazards = _invalid(footer)
        if not hazards and footer.type == _DIFFERENCING:
            hazards = [_differencing(header)]
        elif not hazards and footer.type != _DYNAMIC:
            hazards = [_broken(f"its head is that of a dynamic disk, yet it calls itself one of type {footer.type}")]
        if not hazards:
            hazards = _tables(reader, footer, header)
        words = ["differencing" if footer.type == _DIFFERENCING else "dynamic"]
        if header.block_size != _USUAL_BLOCK and not hazards:
            words.append(f"blocks of {human_size(header.block_size)}")
        return _image(reader, footer, words, hazards)

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        footer = Footer(reader.pread(0, _SECTOR).ljust(_SECTOR, b"\0"))
        return MappedReader(reader, DynamicMap(reader, _second_header(reader, footer), footer.virtual_size))


class FixedVpc(Format):
    """A fixed VHD: the disk itself, with a footer."""

    name = "vpc"

    def probe(self, reader: Reader) -> Image | None:
        footer, where = _footer_behind(reader)
        if footer.data[:8] != COOKIE:
            tail = _tail(reader)
            if COOKIE not in {tail[-512:-504], tail[-511:-503]}:  # 511 bytes in Virtual PC before 2004
                return None
            hazards = [_broken("its footer does not begin at a whole sector, and QEMU finds no other")]
            return Image(self.name, 0, reader.size, features=("fixed",), hazards=tuple(hazards))
        hazards = _invalid(footer)
        if not hazards and footer.type != _FIXED:
            hazards = [_broken(f"its footer is that of a disk of type {footer.type}, whose head is lost")]
        if not hazards:
            hazards = _sizes(footer, where)
        return _image(reader, footer, ["fixed"], hazards)

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        return MappedReader(reader, FixedMap(_footer_behind(reader)[0].virtual_size))


def _tail(reader: Reader) -> bytes:
    return reader.pread(max(reader.size - TAIL, 0), TAIL)


def _footer_behind(reader: Reader) -> tuple[Footer, int]:
    """Return what stands where QEMU looks for a fixed disk's footer, and its place: it counts in whole sectors."""
    where = reader.size + -reader.size % _SECTOR - _SECTOR
    data = _tail(reader)[where - reader.size :] if 0 < where < reader.size else b""
    return Footer(data.ljust(_SECTOR, b"\0")), where


def _second_header(reader: Reader, footer: Footer) -> DynamicHeader:
    return DynamicHeader(reader.pread(footer.header_offset, vpc_blocks.LENGTH).ljust(vpc_blocks.LENGTH, b"\0"))


def _image(reader: Reader, footer: Footer, words: list[str], hazards: list[Hazard]) -> Image:
    if footer.creator in _CREATORS:
        words.append(f"made by {_CREATORS[footer.creator]}")
    if all(hazard.verdict is not Verdict.REFUSE for hazard in hazards):
        hazards += _told(footer)
    size, newer = footer.virtual_size, footer.newer_size
    features, newer_size = tuple(words), None if newer == size else newer
    return Image(Vpc.name, size, reader.size, features=features, hazards=tuple(hazards), newer_size=newer_size)


def _broken(why: str) -> Hazard:
    return Hazard("vpc-invalid", f"Its VHD headers make no sense: {why}.", Verdict.REFUSE)


def _truncated(why: str) -> Hazard:
    return Hazard("vpc-truncated", f"It is cut short: {why}.", Verdict.REFUSE)


def _invalid(footer: Footer) -> list[Hazard]:
    """Judge what is common to all footers."""
    if not footer.is_whole:
        return [_broken("its footer's checksum is wrong")]
    if footer.virtual_size > MAX_SECTORS * _SECTOR:
        return [_broken(f"a disk of {human_size(footer.virtual_size)}, where 2040 GiB is the most")]
    if not footer.virtual_size:
        return [Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE)]
    return []


def _differencing(header: DynamicHeader) -> Hazard:
    name = clean(header.parent_name, 200)
    named = f", {name}," if name else ""
    text = (
        f"It holds only what differs from another VHD{named} which QEMU would leave out: the guest would find its disk "
        "full of holes. Merge the two into one VHD, with the system that made them."
    )
    return Hazard("vpc-differencing", text, Verdict.REFUSE)


def _tables(reader: Reader, footer: Footer, header: DynamicHeader) -> list[Hazard]:
    """Judge the second header and the table, which QEMU takes into memory when it opens the image."""
    if header.data[:8] != vpc_blocks.COOKIE:
        return [_broken("its second header is not where the first says")]
    size = header.block_size
    if size < _SECTOR or size & (size - 1):
        return [_broken(f"blocks of {size} bytes")]
    if header.table_entries * size < footer.virtual_size:
        return [_broken("its block allocation table is too small for its disk")]
    if header.table_entries * 4 > MAX_TABLE_BYTES:
        text = "Its block allocation table is larger than any real image needs: opening it would eat memory."
        return [Hazard("vpc-tables", text, Verdict.REFUSE)]
    if header.table_end > reader.size:
        return [_truncated(f"its table would end at byte {header.table_end}, and it has {reader.size}")]
    # The rest of the table is left to QEMU, which does not open the image if one of its blocks is missing.
    near = max(HEAD, header.table_offset + _PIECE)
    table = reader.pread(header.table_offset, min(header.table_end, near) - header.table_offset)
    end = vpc_blocks.highest_end(table, header)
    if end > reader.size + -reader.size % _SECTOR:
        return [_truncated(f"a block would end at byte {end}, and it has {reader.size}")]
    if checksum(header.data, 36) != big(header.data, 36, 4):
        text = "Its second header has a wrong checksum: it may be damaged. QEMU does not look at that."
        return [Hazard("vpc-checksum", text, Verdict.OK)]
    return []


def _sizes(footer: Footer, held: int) -> list[Hazard]:
    """Judge a fixed disk's sizes by the `held` bytes that stand before its footer."""
    claimed = max(footer.virtual_size, footer.size_field)
    if claimed > held:
        return [_truncated(f"its footer tells of a disk of {claimed} bytes, and {held} stand before it")]
    if footer.size_field // _SECTOR != held // _SECTOR:
        text = f"its footer tells of a disk of {footer.size_field} bytes, and {held} stand before it"
        return [_broken(text)]
    return []


def _told(footer: Footer) -> list[Hazard]:
    """Return what a person should know of a VHD that can be opened."""
    hazards = []
    other = footer.newer_size
    if footer.virtual_size != other:
        text = (
            f"Its size can be read in two ways: QEMU up to 9.2 shows the guest {footer.virtual_size} bytes, QEMU 10 "
            f"shows {other}. If the guest finds its disk cut off, convert a copy with the latter."
        )
        hazards.append(Hazard("vpc-size", text, Verdict.OK))
    if footer.has_saved_state:
        text = "Its guest was suspended, not shut down: it will start as after a power cut."
        hazards.append(Hazard("saved-state", text, Verdict.OK))
    return hazards
