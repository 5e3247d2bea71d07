"""qcow, version 1: QEMU's own format before 2008.

There is no specification but QEMU's block/qcow.c, whose limits these are, or ours, which are said. All numbers are
big-endian. As with qcow2, the backing file that the header names is the danger.
"""

from dataclasses import dataclass

from probes.backing import MAX_NAME, read_name
from probes.fields import big
from probes.formats.packing import Unpacked, inflate
from probes.image import Backing, Format, Hazard, Image, Verdict
from probes.mapping import BlockMap, CannotMap, MappedReader, Span, table_entry
from probes.reader import Reader

_MAGIC = b"QFI\xfb\0\0\0\1"
_LENGTH = 48
_COMPRESSED = 1 << 63
_SECTOR = 512

MAX_L1_BYTES = 32 << 20
"""Bytes of the L1 table: ours, as qcow2's. QEMU would take 2 GiB of memory for one."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. Offsets and sizes in bytes."""

    data: bytes

    @property
    def backing_offset(self) -> int:
        return big(self.data, 8, 8)

    @property
    def backing_length(self) -> int:
        return big(self.data, 16, 4)

    @property
    def virtual_size(self) -> int:
        return big(self.data, 24, 8)

    @property
    def cluster_bits(self) -> int:
        return big(self.data, 32, 1)

    @property
    def l2_bits(self) -> int:
        return big(self.data, 33, 1)

    @property
    def encryption(self) -> int:
        return big(self.data, 36, 4)

    @property
    def l1_offset(self) -> int:
        return big(self.data, 40, 8)

    @property
    def l1_entries(self) -> int:
        return -(-self.virtual_size >> self.cluster_bits + self.l2_bits)


class Qcow(Format):
    """A qcow image of version 1."""

    name = "qcow"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, _LENGTH)
        if data[:8] != _MAGIC:
            return None
        header = Header(data.ljust(_LENGTH, b"\0"))
        return Image(
            self.name,
            header.virtual_size // _SECTOR * _SECTOR,
            reader.size,
            backing=_backing(reader, header),
            features=("version 1", *(("encrypted (AES)",) if header.encryption else ())),
            hazards=tuple(_judge(header, reader.size)),
        )

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        header = Header(reader.pread(0, _LENGTH).ljust(_LENGTH, b"\0"))
        return MappedReader(reader, ClusterMap(reader, header), backing)


class ClusterMap(BlockMap):
    """The clusters of the qcow that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, header: Header) -> None:
        self.virtual_size = header.virtual_size // _SECTOR * _SECTOR
        self._inner = inner
        self._header = header
        self._unpacked = Unpacked()

    def locate(self, offset: int) -> Span:
        bits, l2_bits = self._header.cluster_bits, self._header.l2_bits
        within = offset & ((1 << bits) - 1)
        length = (1 << bits) - within
        table = self._entry(self._header.l1_offset, offset >> bits + l2_bits)
        if not table:
            return Span(length, backing=True)
        entry = self._entry(table, (offset >> bits) & ((1 << l2_bits) - 1))
        if not entry:
            return Span(length, backing=True)
        if entry & _COMPRESSED:
            return Span(length, data=self._unpacked.get(entry, lambda: self._unpack(entry))[within:])
        if entry % _SECTOR:
            raise CannotMap("a cluster out of place")
        return Span(length, at=entry + within)

    def _entry(self, table: int, index: int) -> int:
        return big(table_entry(self._inner, table + index * 8, 8), 0, 8)

    def _unpack(self, entry: int) -> bytes:
        bits = self._header.cluster_bits
        shift = 63 - bits
        packed = self._inner.pread(entry & ((1 << shift) - 1), entry >> shift & ((1 << bits) - 1))
        return inflate(packed, 1 << bits, "deflate")


def _backing(reader: Reader, header: Header) -> Backing | None:
    if not header.backing_offset or not header.backing_length:
        return None
    name = read_name(reader, header.backing_offset, header.backing_length)
    return Backing(name) if name else None


def _judge(header: Header, file_size: int) -> list[Hazard]:
    wrong = []
    if not 9 <= header.cluster_bits <= 16:
        wrong.append(f"clusters of 2^{header.cluster_bits} bytes")
    if not 6 <= header.l2_bits <= 13:
        wrong.append(f"tables of 2^{header.l2_bits} entries")
    if header.encryption > 1:
        wrong.append(f"an encryption method {header.encryption}")
    if header.backing_offset and header.backing_length > MAX_NAME:
        wrong.append(f"a backing file's name of {header.backing_length} bytes")
    elif header.backing_offset + header.backing_length > file_size and header.backing_offset:
        wrong.append("the name of its backing file lies outside the image")
    hazards = [
        Hazard("qcow-invalid", f"Its qcow header makes no sense: {why}.", Verdict.REFUSE) for why in wrong
    ] or _tables(header, file_size)
    if header.virtual_size < _SECTOR:
        hazards.append(Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE))
    if header.encryption == 1:
        why = (
            "It is encrypted in a way (AES) that is broken, and that QEMU runs no guest from any more. Convert a copy: "
            "qemu-img convert knows the way."
        )
        hazards.append(Hazard("qcow-aes", why, Verdict.REFUSE))
    return hazards


def _tables(header: Header, file_size: int) -> list[Hazard]:
    length = header.l1_entries * 8
    if length > MAX_L1_BYTES:
        text = f"Its table takes {length >> 20} MiB, more than any real image needs: opening it would eat memory."
        return [Hazard("qcow-tables", text, Verdict.REFUSE)]
    if header.l1_offset + length > file_size:
        text = f"It is cut short: its table would end at byte {header.l1_offset + length}, and it has {file_size}."
        return [Hazard("qcow-truncated", text, Verdict.REFUSE)]
    return []
