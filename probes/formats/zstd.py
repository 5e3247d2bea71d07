"""zstd: a frame's header may have the size of what is in it; of a seekable file, a table at its end.

RFC 8878, sections 3.1.1 (frames) and 3.1.2 (skippable frames); the table is that of zstd's own
contrib/seekable_format/zstd_seekable_compression_format.md.
"""

import io

from probes.fields import little
from probes.formats.packed import UNPACKED, FullSize, Packed
from probes.reader import Reader
from probes.recording import HEAD, TAIL

_FRAME = b"\x28\xb5\x2f\xfd"
_SEEKABLE = b"\xb1\xea\x92\x8f"
_MAX_TABLE = 256 << 10
_MAX_WINDOW = 128 << 20  # bytes: what the program itself takes without being asked for more
_MAX_SKIPPED = 16


class Zstd(Packed):
    """A zstd file: one frame, or several in a row, and what may be skipped between them."""

    name = "zstd"
    command = "zstd -d NAME"

    def begins(self, head: bytes) -> bool:
        return head[:4] == _FRAME or _is_skippable(head)

    def full_size(self, reader: Reader) -> FullSize:
        head = reader.pread(0, HEAD)
        tail = reader.pread(max(reader.size - TAIL, 0), TAIL)
        if tail[-4:] == _SEEKABLE:
            return _seekable_size(reader, tail)
        at = skipped = 0
        while _is_skippable(head[at:]) and skipped < _MAX_SKIPPED:
            at += 8 + little(head, at + 4, 4)
            skipped += 1
        # Frames that follow what was skipped are pieces of a whole, as pzstd makes them.
        size = None if skipped else _content_size(head)
        return FullSize() if size is None else FullSize(size)

    def unpack(self, data: bytes) -> bytes:
        try:
            import zstandard
        except ImportError:  # what is inside stays unknown
            return b""
        out = b""
        try:
            unpacker = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            with unpacker.stream_reader(io.BytesIO(data), read_across_frames=True) as stream:
                while len(out) < UNPACKED:
                    piece = stream.read(min(UNPACKED - len(out), 128 << 10))
                    if not piece:
                        break
                    out += piece
        except (zstandard.ZstdError, MemoryError):
            pass
        return out


def _is_skippable(data: bytes) -> bool:
    return data[1:4] == b"\x2a\x4d\x18" and 0x50 <= data[0] <= 0x5F


def _content_size(head: bytes) -> int | None:
    """Return the frame content size of the frame that `head` starts with, None where it does not say."""
    if head[:4] != _FRAME or len(head) < 18:
        return None
    descriptor = head[4]
    single = descriptor >> 5 & 1
    at = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    match descriptor >> 6:
        case 0:
            return head[at] if single else None
        case 1:
            return little(head, at, 2) + 256
        case flag:
            return little(head, at, 4 if flag == 2 else 8)


def _seekable_size(reader: Reader, tail: bytes) -> FullSize:
    """Add up the table of a seekable file, which is its last (skippable) frame."""
    frames, flags = little(tail, len(tail) - 9, 4), tail[-5]
    width = 12 if flags & 0x80 else 8
    length = frames * width
    at = reader.size - 9 - length
    if length > _MAX_TABLE or at < 8:
        return FullSize()
    table = reader.pread(at - 8, 8 + length)
    if not _is_skippable(table) or little(table, 4, 4) != length + 9:
        return FullSize()
    sizes = [(little(table, row, 4), little(table, row + 4, 4)) for row in range(8, 8 + length, width)]
    if sum(packed for packed, _ in sizes) > at:
        return FullSize()
    return FullSize(sum(full for _, full in sizes))
