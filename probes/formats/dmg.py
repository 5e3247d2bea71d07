"""dmg: Apple's disk images (UDIF); told by the trailer at their end.

Apple has published no specification; the layout here is that of QEMU's block/dmg.c, and so are the limits, or they are
ours, which are said. QEMU writes none of them. All numbers are big-endian.
"""

from dataclasses import dataclass

from probes.fields import big
from probes.formats.dmg_chunks import Chunk, ChunkMap, Kind, Malformed, chunks_of_plist, chunks_of_resources
from probes.formats.packing import judge_ratio
from probes.image import Format, Hazard, Image, Verdict
from probes.mapping import CannotMap, MappedReader
from probes.reader import Reader

_MARK = b"koly\0\0\0\4\0\0\2\0"  # with its version, and its length
_LENGTH = 512
_SECTOR = 512
_TAIL = 20 << 10  # what all who look at an image's end read at once
_MAX_SECTORS = ((1 << 63) - 1) // _SECTOR
_MAX_CHUNK = 64 << 20

MAX_TABLES = 3 << 20
"""Bytes of the property list or the resource fork: ours. It must be read for the judgement, and tells of a dozen
gigabytes at least. QEMU takes 16 MiB of the one, and of the other what there is.
"""

_MODULES = {Kind.BZIP2: ("bzip2", "block-dmg-bz2.so"), Kind.LZFSE: ("LZFSE", "block-dmg-lzfse.so")}


@dataclass(frozen=True, slots=True)
class Trailer:
    """The trailer's fields, unjudged. `at` is where it stands; offsets and lengths in bytes."""

    data: bytes
    at: int

    @property
    def data_fork(self) -> int:
        return big(self.data, 0x18, 8)

    @property
    def resources(self) -> tuple[int, int]:
        """Offset and length of the resource fork."""
        return big(self.data, 0x28, 8), big(self.data, 0x30, 8)

    @property
    def segments(self) -> int:
        return big(self.data, 0x3C, 4)

    @property
    def plist(self) -> tuple[int, int]:
        """Offset and length of the property list."""
        return big(self.data, 0xD8, 8), big(self.data, 0xE0, 8)

    @property
    def sectors(self) -> int:
        return big(self.data, 0x1EC, 8)

    @property
    def virtual_size(self) -> int:
        return self.sectors * _SECTOR


class Dmg(Format):
    """An Apple disk image."""

    name = "dmg"

    def probe(self, reader: Reader) -> Image | None:
        tail = reader.pread(max(reader.size - _TAIL, 0), _TAIL)
        if _MARK not in tail[-1024:]:
            return None
        trailer = _trailer(tail, reader.size)
        if trailer is None:
            return Image(self.name, 0, reader.size, hazards=(_invalid("its trailer", "it is not the only one"),))
        hazards = _judge_trailer(trailer)
        chunks: list[Chunk] = []
        if not hazards:
            try:
                chunks = _chunks(reader, trailer)
                hazards = _judge_chunks(chunks)
            except Malformed as error:
                hazards = [_invalid("its tables of chunks", str(error))]
        return Image(
            self.name,
            trailer.virtual_size,
            reader.size,
            features=_features(chunks),
            hazards=tuple(hazards),
        )

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        trailer = _trailer(reader.pread(max(reader.size - _TAIL, 0), _TAIL), reader.size)
        try:
            chunks = _chunks(reader, trailer) if trailer else []
        except Malformed as error:
            raise CannotMap("tables that cannot be read") from error
        return MappedReader(reader, ChunkMap(reader, chunks, trailer.virtual_size if trailer else 0), backing)


def _trailer(tail: bytes, size: int) -> Trailer | None:
    """Return what QEMU takes for the trailer: at the first "koly" of a stretch that ends before the last 508 bytes, of
    a size that it rounds up to sectors. None, if that is none.
    """
    whole = size + -size % _SECTOR
    begin = max(whole - 1023, 0)
    start = size - len(tail)
    at = tail.find(_MARK[:4], begin - start, begin - start + 515)
    if at < 0 or not tail.startswith(_MARK, at):
        return None
    return Trailer(tail[at : at + _LENGTH].ljust(_LENGTH, b"\0"), start + at)


def _chunks(reader: Reader, trailer: Trailer) -> list[Chunk]:
    """Return all chunks of a trailer that was judged. Raises Malformed."""
    offset, length = trailer.resources
    if length:
        return chunks_of_resources(reader.pread(offset, length), trailer.data_fork)
    offset, length = trailer.plist
    return chunks_of_plist(reader.pread(offset, length), trailer.data_fork)


def _invalid(what: str, why: str) -> Hazard:
    return Hazard("dmg-invalid", f"It is a damaged Apple disk image: {what} makes no sense: {why}.", Verdict.REFUSE)


def _judge_trailer(trailer: Trailer) -> list[Hazard]:
    if trailer.segments > 1:
        text = f"It is one of {trailer.segments} files that hold the disk together. Join them with hdiutil convert."
        return [Hazard("dmg-segments", text, Verdict.REFUSE)]
    if trailer.data_fork > trailer.at or trailer.sectors > _MAX_SECTORS:
        return [_invalid("its trailer", "its data lie nowhere")]
    for offset, length in (trailer.resources, trailer.plist):
        if offset >= trailer.at or length > trailer.at - offset:
            return [_invalid("its trailer", "its tables lie behind it")]
    length = trailer.resources[1] or trailer.plist[1]
    if not length:
        return [_invalid("its trailer", "it has no tables")]
    if length > MAX_TABLES:
        text = (
            f"Its tables take {length >> 20} MiB, more than is read to judge an image. If you trust it, convert a "
            "copy: qemu-img convert -f dmg -O qcow2 FROM TO."
        )
        return [Hazard("dmg-tables", text, Verdict.REFUSE)]
    if not trailer.sectors:
        return [Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE)]
    return []


def _judge_chunks(chunks: list[Chunk]) -> list[Hazard]:
    for chunk in chunks:
        if chunk.length > _MAX_CHUNK or (chunk.kind in _STORED and chunk.sectors * _SECTOR > _MAX_CHUNK):
            text = "One of its chunks is larger than 64 MiB: QEMU takes none such into memory."
            return [Hazard("dmg-tables", text, Verdict.REFUSE)]
        if chunk.kind == Kind.RAW and chunk.sectors * _SECTOR > chunk.length + -chunk.length % _SECTOR:
            # QEMU reads `length` bytes of it and then gives the guest `sectors` of its own memory.
            return [_invalid("a chunk", "it is stored as it is, and shorter than it is")]
    kinds = {chunk.kind for chunk in chunks}
    if any(not isinstance(kind, Kind) for kind in kinds):
        text = "Parts of it are packed in a way that no QEMU reads (ADC or LZMA). Convert it with hdiutil or dmg2img."
        return [Hazard("dmg-compression", text, Verdict.REFUSE)]
    hazards = []
    for kind, (title, module) in _MODULES.items():
        if kind in kinds:
            text = (
                f"Parts of it are packed with {title}: only a QEMU that has its module {module} reads them, and "
                "Debian's has not; to others they are I/O errors. If it does not start, convert it with dmg2img."
            )
            hazards.append(Hazard(f"dmg-{title.lower()}", text, Verdict.OK))
    packed = [chunk for chunk in chunks if isinstance(chunk.kind, Kind) and chunk.kind.is_packed]
    unpacked_size = sum(chunk.sectors for chunk in packed) * _SECTOR
    return [*hazards, *judge_ratio(sum(chunk.length for chunk in packed), unpacked_size)]


_STORED = {Kind.RAW, Kind.ZLIB, Kind.BZIP2, Kind.LZFSE}


def _features(chunks: list[Chunk]) -> tuple[str, ...]:
    kinds = {chunk.kind for chunk in chunks}
    words = {Kind.ZLIB: "zlib", Kind.BZIP2: "bzip2", Kind.LZFSE: "LZFSE"}
    return tuple(f"{word} compression" for kind, word in words.items() if kind in kinds)
