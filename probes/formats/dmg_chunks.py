"""Inside an Apple disk image: its tables of chunks ("mish" blocks), and the guest's bytes by them.

The tables lie as base64 in a property list, or as resources in an old resource fork; QEMU's block/dmg.c looks for them
in the same plain way, without reading the XML. All numbers are big-endian.
"""

import bisect
import re
import struct
from binascii import a2b_base64
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

from probes.fields import big
from probes.formats.packing import Unpacked, inflate, unpack_bzip2
from probes.mapping import BlockMap, CannotMap, Span
from probes.reader import Reader

_SECTOR = 512
_MISH = b"mish"
_TABLE_AT, _ENTRY = 204, struct.Struct(">IIQQQQ")
_COMMENT, _LAST = 0x7FFFFFFE, 0xFFFFFFFF
# No two parts of it match the same: a text of blanks would take days.
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]*(?:=\s*){0,2}")
_MAX_TABLES = 4096  # ours: there is one for each partition, and some property list's text beside them
_MAX_FOLLOWED = 4 << 20  # bytes of a chunk that is unpacked for a look; mostly they are 256 KiB or 1 MiB


class Kind(IntEnum):
    """How a chunk is stored: those kinds that some QEMU reads."""

    ZEROS = 0
    RAW = 1
    IGNORED = 2
    ZLIB = 0x80000005
    BZIP2 = 0x80000006
    LZFSE = 0x80000007

    @property
    def is_packed(self) -> bool:
        return self >= Kind.ZLIB


_TOO_MANY = "more of them than any disk has"
_KINDS = {int(kind): kind for kind in Kind}


class Malformed(Exception):
    """The tables cannot be read; the message completes "Its chunk tables make no sense: …"."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of the guest's sectors of 512 bytes, and where it is stored: in bytes. `kind` is a `Kind`, or a number that
    no QEMU knows.
    """

    kind: int
    sector: int
    sectors: int
    offset: int
    length: int


def chunks_of_plist(text: bytes, data_fork: int) -> list[Chunk]:
    """Return the chunks of a property list. Raises Malformed."""
    if b"\0" in text:
        raise Malformed("a property list that is no text")
    found: list[Chunk] = []
    at = text.find(b"<data>")
    for _ in range(_MAX_TABLES):
        if at < 0:
            return found
        end = text.find(b"</data>", at + 6)
        if end < 0:
            raise Malformed("a property list that is cut short")
        found += _chunks_of_mish(_decoded(text[at + 6 : end]), data_fork)
        at = text.find(b"<data>", end)
    raise Malformed(_TOO_MANY)


def chunks_of_resources(fork: bytes, data_fork: int) -> list[Chunk]:
    """Return the chunks of a resource fork. Raises Malformed."""
    at, length = big(fork, 0, 4), big(fork, 8, 4)
    end = at + length
    if not length or end > len(fork):
        raise Malformed("a resource fork that leads outside itself")
    found: list[Chunk] = []
    for _ in range(_MAX_TABLES):
        if at >= end:
            return found
        count = big(fork, at, 4)
        if not count or count > end - at - 4:
            raise Malformed("a resource that leads outside its fork")
        found += _chunks_of_mish(fork[at + 4 : at + 4 + count], data_fork)
        at += 4 + count
    raise Malformed(_TOO_MANY)


class ChunkMap(BlockMap):
    """The chunks of the image that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, chunks: list[Chunk], virtual_size: int) -> None:
        self.virtual_size = virtual_size
        self._inner = inner
        self._chunks = [chunk for chunk in chunks if chunk.sectors]
        self._starts = [chunk.sector for chunk in self._chunks]
        self._unpacked = Unpacked()
        if self._starts != sorted(self._starts):
            raise CannotMap("chunks out of order")

    def locate(self, offset: int) -> Span:
        index = bisect.bisect_right(self._starts, offset // _SECTOR) - 1
        chunk = self._chunks[index] if index >= 0 else None
        if chunk is None or offset // _SECTOR >= chunk.sector + chunk.sectors:
            raise CannotMap("a sector in no chunk")
        within = offset - chunk.sector * _SECTOR
        length = chunk.sectors * _SECTOR - within
        if chunk.kind in {Kind.ZEROS, Kind.IGNORED}:
            return Span(length)
        if chunk.kind == Kind.RAW:
            return Span(length, at=chunk.offset + within)
        data = self._unpacked.get(index, lambda: self._unpack(chunk))
        return Span(length, data=data[within:])

    def _unpack(self, chunk: Chunk) -> bytes:
        size = chunk.sectors * _SECTOR
        if max(size, chunk.length) > _MAX_FOLLOWED:
            raise CannotMap("a chunk too large to be unpacked for a look")
        if chunk.kind == Kind.ZLIB:
            return inflate(self._inner.pread(chunk.offset, chunk.length), size, "zlib")
        if chunk.kind == Kind.BZIP2:
            return unpack_bzip2(self._inner.pread(chunk.offset, chunk.length), size)
        raise CannotMap("a chunk that is packed in another way")


def _decoded(text: bytes) -> bytes:
    if not _BASE64.fullmatch(text):
        raise Malformed("data that is no base64")
    letters = bytes(text.translate(None, b" \t\r\n\v\f="))
    letters = letters[: len(letters) - (len(letters) % 4 == 1)]
    return a2b_base64(letters + b"=" * (-len(letters) % 4))


def _chunks_of_mish(block: bytes, data_fork: int) -> Iterator[Chunk]:
    """Yield the chunks of one table; of anything else, none."""
    if block[:4] != _MISH or len(block) < _TABLE_AT + _ENTRY.size:
        return
    first, data_at = big(block, 8, 8), data_fork + big(block, 24, 8)
    whole = len(block) - (len(block) - _TABLE_AT) % _ENTRY.size
    for kind, _, sector, sectors, offset, length in _ENTRY.iter_unpack(block[_TABLE_AT:whole]):
        if kind not in {_COMMENT, _LAST}:
            yield Chunk(_KINDS.get(kind, kind), first + sector, sectors, data_at + offset, length)
