"""parallels: Parallels' expanding disks.

The specification is QEMU's docs/interop/parallels.rst (formerly .txt); the limits are those of block/parallels.c, or of
ours, which are said. All numbers are little-endian. There are two kinds: the old one counts its clusters in sectors and
its disk in 32 bits, the extended one, which QEMU makes, counts in clusters and 64 bits.
"""

import struct
from dataclasses import dataclass

from probes.fields import little
from probes.image import Format, Hazard, Image, Verdict
from probes.mapping import BlockMap, CannotMap, MappedReader, Span, table_entry
from probes.reader import Reader
from probes.recording import HEAD
from probes.words import human_size

OLD, EXTENDED = b"WithoutFreeSpace", b"WithouFreSpacExt"

_SECTOR = 512
_LENGTH = 64
_VERSION = 2
_IN_USE = 0x746F6E59
_EXTENSION = 0xAB234CEF23DCEA87
_MAX_CLUSTER_SECTORS = (1 << 31) // 513
_USUAL_CLUSTER = 1 << 20
MAX_TABLE_BYTES = 64 << 20  # ours: QEMU would take 2 GiB into memory
_MAX_EXTENSION = 64 << 20  # ours: bytes of a cluster, if QEMU is to read a whole one when it opens the image


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. Offsets and sizes in bytes."""

    data: bytes

    @property
    def is_extended(self) -> bool:
        return self.data[:16] == EXTENDED

    @property
    def version(self) -> int:
        return little(self.data, 16, 4)

    @property
    def cluster_sectors(self) -> int:
        return little(self.data, 28, 4)

    @property
    def cluster_size(self) -> int:
        return self.cluster_sectors * _SECTOR

    @property
    def table_entries(self) -> int:
        return little(self.data, 32, 4)

    @property
    def table_end(self) -> int:
        return _LENGTH + self.table_entries * 4

    @property
    def virtual_size(self) -> int:
        return little(self.data, 36, 8 if self.is_extended else 4) * _SECTOR

    @property
    def is_in_use(self) -> bool:
        return little(self.data, 44, 4) == _IN_USE

    @property
    def extension_offset(self) -> int:
        return little(self.data, 56, 8) * _SECTOR

    def place(self, entry: int) -> int:
        """Return the byte of the file where the cluster of an entry of the table lies."""
        return entry * (self.cluster_size if self.is_extended else _SECTOR)


class Parallels(Format):
    """A Parallels image."""

    name = "parallels"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, min(_LENGTH, reader.size))
        if data[:16] not in {OLD, EXTENDED}:
            return None
        header = Header(data.ljust(_LENGTH, b"\0"))
        if header.version != _VERSION:
            why = f"It is a Parallels image of version {header.version}, which nobody knows."
            return Image(self.name, 0, reader.size, hazards=(Hazard("parallels-version", why, Verdict.REFUSE),))
        hazards = _invalid(header) or _tables(reader, header) or _dangers(reader, header)
        return Image(self.name, header.virtual_size, reader.size, features=_features(header), hazards=tuple(hazards))

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        return MappedReader(reader, ClusterTable(reader, Header(reader.pread(0, _LENGTH).ljust(_LENGTH, b"\0"))))


class ClusterTable(BlockMap):
    """The clusters of the image that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, header: Header) -> None:
        self.virtual_size = header.virtual_size
        self._inner = inner
        self._header = header

    def locate(self, offset: int) -> Span:
        index, within = divmod(offset, self._header.cluster_size)
        length = self._header.cluster_size - within
        if index >= self._header.table_entries:
            raise CannotMap("beyond the block allocation table")
        entry = little(table_entry(self._inner, _LENGTH + index * 4, 4), 0, 4)
        return Span(length, at=self._header.place(entry) + within) if entry else Span(length)


def _broken(why: str) -> Hazard:
    return Hazard("parallels-invalid", f"Its Parallels header makes no sense: {why}.", Verdict.REFUSE)


def _truncated(why: str) -> Hazard:
    return Hazard("parallels-truncated", f"It is cut short: {why}.", Verdict.REFUSE)


def _heavy(what: str) -> Hazard:
    text = f"{what} than any real image needs: opening it would eat memory."
    return Hazard("parallels-tables", text, Verdict.REFUSE)


def _invalid(header: Header) -> list[Hazard]:
    """Judge the numbers that QEMU would act upon when it opens the image."""
    if not 0 < header.cluster_sectors <= _MAX_CLUSTER_SECTORS:
        return [_broken(f"clusters of {header.cluster_sectors} sectors")]
    if not header.virtual_size:
        return [Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE)]
    if header.table_entries * header.cluster_size < header.virtual_size:  # QEMU lets that pass, and shows zeros
        return [_broken("its block allocation table is too small for its disk")]
    if header.table_entries * 4 > MAX_TABLE_BYTES:
        return [_heavy("Its block allocation table is larger")]
    return []


def _tables(reader: Reader, header: Header) -> list[Hazard]:
    """Judge the table by what of it lies near. QEMU shows zeros where it leads beyond the end of the file."""
    if header.table_end > reader.size:
        return [_truncated(f"its table would end at byte {header.table_end}, and it has {reader.size}")]
    near = reader.pread(_LENGTH, min(header.table_end, HEAD) - _LENGTH)
    last = max(struct.unpack_from(f"<{len(near) // 4}I", near), default=0)
    if header.place(last) >= reader.size:
        return [_truncated(f"a cluster would begin at byte {header.place(last)}, and it has {reader.size}")]
    return []


def _dangers(reader: Reader, header: Header) -> list[Hazard]:
    hazards = []
    if header.extension_offset:
        hazards += _extension(reader, header)
    if header.is_in_use:
        text = "It was not closed cleanly, or is in use: QEMU reads it, but does not write to it."
        hazards.append(Hazard("dirty", text, Verdict.OK))
    return hazards


def _extension(reader: Reader, header: Header) -> list[Hazard]:
    """Judge the format extension, which holds dirty bitmaps: QEMU reads a cluster of it when it opens the image, checks
    its MD5 (which is not done here), and opens no image with a damaged one; an offset too large ends QEMU.
    """
    if header.cluster_size > _MAX_EXTENSION:
        return [_heavy("The cluster of its format extension is larger")]
    mark = reader.pread(header.extension_offset, 8)
    if len(mark) < 8:
        return [_truncated("its format extension lies beyond its end")]
    if little(mark, 0, 8) != _EXTENSION:
        return [_broken("there is no format extension where one should be")]
    return []


def _features(header: Header) -> tuple[str, ...]:
    words = ["extended" if header.is_extended else "old kind"]
    if header.cluster_size != _USUAL_CLUSTER and 0 < header.cluster_sectors <= _MAX_CLUSTER_SECTORS:
        words.append(f"clusters of {human_size(header.cluster_size)}")
    words += ["format extension"] if header.extension_offset else []
    return tuple(words)
