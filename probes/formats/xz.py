"""xz: a stream's index, at its end, has the size of every block of it.

https://tukaani.org/xz/xz-file-format.txt (1.2), sections 2.1.2 (footer), 4 (index), 1.2 (multibyte integers).
"""

import lzma
import zlib
from collections.abc import Iterator

from probes.fields import little
from probes.formats.packed import UNPACKED, FullSize, Packed
from probes.reader import Reader
from probes.recording import TAIL

_MAX_STREAMS = 8
_MAX_INDEX = 256 << 10
_MAX_MEMORY = 192 << 20  # bytes: the largest dictionary of xz's presets takes 65 MiB
_HEADER = _FOOTER = 12


class Xz(Packed):
    """An xz file, of one stream or several."""

    name = "xz"
    command = "xz -dk NAME"

    def begins(self, head: bytes) -> bool:
        return head.startswith(b"\xfd7zXZ\0")

    def full_size(self, reader: Reader) -> FullSize:
        total, end = 0, reader.size
        reader.pread(max(end - TAIL, 0), TAIL)  # most indices, and the footer, at once
        for _ in range(_MAX_STREAMS):
            found = _stream_before(reader, end)
            if found is None:
                return FullSize()
            size, end = found
            total += size
            if end == 0:
                return FullSize(total)
        return FullSize()

    def unpack(self, data: bytes) -> bytes:
        try:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_MEMORY).decompress(data, UNPACKED)
        except (lzma.LZMAError, MemoryError):
            return b""


def _stream_before(reader: Reader, end: int) -> tuple[int, int] | None:
    """Return what the stream that ends at `end` unpacks to, and where it starts; None if it makes no sense."""
    last = reader.pread(max(end - 1024, 0), min(1024, end))
    end -= len(last) - len(last.rstrip(b"\0"))  # streams may be padded
    footer = reader.pread(end - _FOOTER, _FOOTER) if end > _FOOTER else b""
    if footer[10:12] != b"YZ" or zlib.crc32(footer[4:10]) != little(footer, 0, 4):
        return None
    length = (little(footer, 4, 4) + 1) * 4
    index_at = end - _FOOTER - length
    if length > _MAX_INDEX or index_at < _HEADER:
        return None
    index = reader.pread(index_at, length)
    if index[:1] != b"\0" or zlib.crc32(index[:-4]) != little(index, length - 4, 4):
        return None
    numbers = _numbers(index[1:-4])
    blocks = next(numbers, 0)
    packed = size = 0
    for _ in range(blocks):
        unpadded, full = next(numbers, None), next(numbers, None)
        if unpadded is None or full is None:
            return None
        packed += unpadded + -unpadded % 4
        size += full
    start = index_at - packed - _HEADER
    return (size, start) if start >= 0 else None


def _numbers(data: bytes) -> Iterator[int]:
    """Yield the multibyte integers of `data`: seven bits a byte, the lowest first."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0
        elif shift > 56:
            return
