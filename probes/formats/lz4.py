"""lz4: a frame's header may have the size of what is in it; its blocks are simple enough to unpack the first here.

https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md (with the legacy frames of the Linux kernel) and
lz4_Block_format.md.
"""

from probes.fields import little
from probes.formats.packed import UNPACKED, FullSize, Packed
from probes.reader import Reader

_FRAME = b"\x04\x22\x4d\x18"
_LEGACY = b"\x02\x21\x4c\x18"
_CONTENT_SIZE, _BLOCK_SUMS, _DICTIONARY = 0x08, 0x10, 0x01


class Lz4(Packed):
    """An lz4 file; of several frames, the first alone is looked at."""

    name = "lz4"
    command = "lz4 -dm NAME"

    def begins(self, head: bytes) -> bool:
        return head.startswith((_FRAME, _LEGACY))

    def full_size(self, reader: Reader) -> FullSize:
        head = reader.pread(0, 16)
        known = head[:4] == _FRAME and little(head, 4, 1) & _CONTENT_SIZE and len(head) >= 14
        return FullSize(little(head, 6, 8)) if known else FullSize()

    def unpack(self, data: bytes) -> bytes:
        flags = 0
        at = 4
        if data[:4] == _FRAME:
            flags = little(data, 4, 1)
            at = 7 + (8 if flags & _CONTENT_SIZE else 0) + (4 if flags & _DICTIONARY else 0)
        out = bytearray()
        while at + 4 < len(data) and len(out) < UNPACKED:
            size = little(data, at, 4)
            stored, size = size >> 31, size & 0x7FFFFFFF
            block = data[at + 4 : at + 4 + size]
            if not block:
                break
            if stored:
                out += block
            elif not _unpack_block(block, out):
                break
            at += 4 + size + (4 if flags & _BLOCK_SUMS else 0)
        return bytes(out[:UNPACKED])


def _unpack_block(block: bytes, out: bytearray) -> bool:
    """Add to `out` what `block`, or its beginning, unpacks to, `UNPACKED` in all; False where it is damaged."""
    at = 0
    while at < len(block) and len(out) < UNPACKED:
        token = block[at]
        literals, at = _length(block, at + 1, token >> 4)
        out += block[at : at + literals]
        at += literals
        if at + 2 > len(block):  # a block's last sequence has no match
            return True
        back = little(block, at, 2)
        length, at = _length(block, at + 2, token & 15)
        length = min(length + 4, UNPACKED)
        if not 0 < back <= len(out):
            return False
        pattern = out[-back:][:length]
        out += (pattern * (length // len(pattern) + 1))[:length]
    return True


def _length(block: bytes, at: int, length: int) -> tuple[int, int]:
    """Return a length of four bits and, where those are full, of the bytes that follow; and where those end."""
    if length == 15:
        while at < len(block):
            length += block[at]
            at += 1
            if block[at - 1] != 255:
                break
    return length, at
