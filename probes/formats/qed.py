"""qed: QEMU's enhanced disk, superseded by qcow2.

The specification is QEMU's docs/interop/qed_spec.rst; the limits are those of block/qed.c, which refuses what passes
them, or of ours, which are said. All numbers are little-endian. The backing file that the header names is the danger.
"""

from dataclasses import dataclass

from probes.backing import MAX_NAME, read_name
from probes.fields import little
from probes.image import Backing, Format, Hazard, Image, Verdict
from probes.mapping import BlockMap, CannotMap, MappedReader, Span
from probes.reader import Reader

_MAGIC = b"QED\0"
_LENGTH = 64
_SECTOR = 512
_BACKING, _NEED_CHECK, _BACKING_IS_RAW = 1, 2, 4
_KNOWN = _BACKING | _NEED_CHECK | _BACKING_IS_RAW

MAX_TABLE = 4 << 20
"""Bytes of one table: ours. QEMU allows 1 GiB and keeps fifty of them in memory; its own images have 256 KiB."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. `table_clusters` and `header_clusters` in clusters, all else in bytes."""

    data: bytes

    @property
    def cluster(self) -> int:
        return little(self.data, 4, 4)

    @property
    def table_clusters(self) -> int:
        return little(self.data, 8, 4)

    @property
    def header_clusters(self) -> int:
        return little(self.data, 12, 4)

    @property
    def features(self) -> int:
        return little(self.data, 16, 8)

    @property
    def l1_offset(self) -> int:
        return little(self.data, 40, 8)

    @property
    def virtual_size(self) -> int:
        return little(self.data, 48, 8)

    @property
    def backing_offset(self) -> int:
        return little(self.data, 56, 4)

    @property
    def backing_length(self) -> int:
        return little(self.data, 60, 4)

    @property
    def table(self) -> int:
        """Bytes of a table, L1 or L2."""
        return self.cluster * self.table_clusters

    def is_place(self, offset: int, file_size: int) -> bool:
        """Whether a cluster may lie at `offset`."""
        end = file_size // self.cluster * self.cluster
        return not offset % self.cluster and self.header_clusters * self.cluster <= offset < end

    def is_table(self, offset: int, file_size: int) -> bool:
        """Whether a table may lie at `offset`. QEMU's check takes none of a single cluster."""
        last = offset + self.table - self.cluster
        return last > offset and self.is_place(offset, file_size) and self.is_place(last, file_size)


class Qed(Format):
    """A QED image."""

    name = "qed"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, _LENGTH)
        if data[:4] != _MAGIC:
            return None
        header = Header(data.ljust(_LENGTH, b"\0"))
        return Image(
            self.name,
            header.virtual_size,
            reader.size,
            backing=_backing(reader, header),
            hazards=tuple(_judge(header, reader.size)),
        )

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        header = Header(reader.pread(0, _LENGTH).ljust(_LENGTH, b"\0"))
        return MappedReader(reader, ClusterMap(reader, header), backing)


class ClusterMap(BlockMap):
    """The clusters of the QED that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, header: Header) -> None:
        self.virtual_size = header.virtual_size
        self._inner = inner
        self._header = header

    def locate(self, offset: int) -> Span:
        header = self._header
        within = offset % header.cluster
        length = header.cluster - within
        index, entries = offset // header.cluster, header.table // 8
        table = self._entry(header.l1_offset, index // entries)
        if not table:
            return Span(length, backing=True)
        if not header.is_table(table, self._inner.size):
            raise CannotMap("a table out of place")
        place = self._entry(table, index % entries)
        if place <= 1:  # 0: not there; 1: zeros
            return Span(length, backing=not place)
        if not header.is_place(place, self._inner.size):
            raise CannotMap("a cluster out of place")
        return Span(length, at=place + within)

    def _entry(self, table: int, index: int) -> int:
        return little(self._inner.pread(table + index * 8, 8), 0, 8)


def _backing(reader: Reader, header: Header) -> Backing | None:
    if not header.features & _BACKING:
        return None
    name = read_name(reader, header.backing_offset, header.backing_length)
    return Backing(name, "raw" if header.features & _BACKING_IS_RAW else None) if name else None


def _judge(header: Header, file_size: int) -> list[Hazard]:
    hazards = []
    unknown = header.features & ~_KNOWN
    if unknown:
        bits = ", ".join(f"bit {bit}" for bit in range(64) if unknown >> bit & 1)
        why = f"It uses features that are not known here ({bits})."
        hazards.append(Hazard("qed-unknown-feature", why, Verdict.REFUSE))
    wrong = _first_wrong(header, file_size)
    if wrong:
        hazards.append(Hazard("qed-invalid", f"Its QED header makes no sense: {wrong}.", Verdict.REFUSE))
    elif header.table > MAX_TABLE:
        text = f"Its tables take {header.table >> 20} MiB each, more than any real image needs: it would eat memory."
        hazards.append(Hazard("qed-tables", text, Verdict.REFUSE))
    if not header.virtual_size:
        hazards.append(Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE))
    if header.features & _NEED_CHECK:
        why = "It was not closed cleanly, or is in use: its tables may be damaged."
        hazards.append(Hazard("dirty", why, Verdict.OK))
    return hazards


def _first_wrong(header: Header, file_size: int) -> str:
    if not 4096 <= header.cluster <= 64 << 20 or header.cluster & (header.cluster - 1):
        return f"clusters of {header.cluster} bytes"
    if not 1 <= header.table_clusters <= 16 or header.table_clusters & (header.table_clusters - 1):
        return f"tables of {header.table_clusters} clusters"
    entries = header.table // 8
    if header.virtual_size % _SECTOR or header.virtual_size > (entries * header.cluster * entries) % (1 << 64):
        return f"a disk of {header.virtual_size} bytes"
    if not header.is_table(header.l1_offset, file_size):
        return "its table lies outside the image (it may have been cut short)"
    if header.header_clusters > 0xFFFFFFFF // header.cluster:
        return f"a header of {header.header_clusters} clusters"
    names_end = header.backing_offset + header.backing_length
    if header.features & _BACKING and (
        names_end > header.header_clusters * header.cluster or header.backing_length > MAX_NAME
    ):
        return "the name of its backing file lies outside the header"
    return ""
