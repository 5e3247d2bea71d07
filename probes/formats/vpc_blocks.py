"""Inside a VHD: its second header, its block allocation table, and the guest's bytes by them.

A block stands behind a bitmap of its sectors, which QEMU does not look at: what is allocated is read whole, sectors
never written being zeros. The specification is Microsoft's "Virtual Hard Disk Image Format Specification"; all numbers
are big-endian.
"""

import struct
from dataclasses import dataclass

from probes.fields import big, text
from probes.mapping import BlockMap, CannotMap, Span, table_entry
from probes.reader import Reader

COOKIE = b"cxsparse"
LENGTH = 1024
"""Bytes of the second header."""

_SECTOR = 512
_UNALLOCATED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class DynamicHeader:
    """The second header of a dynamic or differencing VHD, unjudged. Offsets and sizes in bytes."""

    data: bytes

    @property
    def table_offset(self) -> int:
        return big(self.data, 16, 8)

    @property
    def table_entries(self) -> int:
        return big(self.data, 28, 4)

    @property
    def block_size(self) -> int:
        return big(self.data, 32, 4)

    @property
    def parent_name(self) -> str:
        """The name of the parent, not cleaned; empty where it names none."""
        return text(self.data, 64, 512, "utf-16-be")

    @property
    def table_end(self) -> int:
        return self.table_offset + self.table_entries * 4

    @property
    def bitmap_size(self) -> int:
        size = self.block_size // (8 * _SECTOR)
        return size + -size % _SECTOR


def checksum(data: bytes, at: int) -> int:
    """Return the checksum of a header whose own field for it lies at byte `at`: the complement of the sum."""
    return ~(sum(data) - sum(data[at : at + 4])) & 0xFFFFFFFF


def highest_end(table: bytes, header: DynamicHeader) -> int:
    """Return the byte at which the last block ends that `table`, a part of the table, names; 0 if it names none."""
    count = len(table) // 4
    entries = struct.unpack_from(f">{count}I", table)
    last = max((entry for entry in entries if entry != _UNALLOCATED), default=None)
    return 0 if last is None else last * _SECTOR + header.bitmap_size + header.block_size


class DynamicMap(BlockMap):
    """The blocks of the dynamic VHD that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, header: DynamicHeader, virtual_size: int) -> None:
        self.virtual_size = virtual_size
        self._inner = inner
        self._header = header

    def locate(self, offset: int) -> Span:
        index, within = divmod(offset, self._header.block_size)
        length = self._header.block_size - within
        if index >= self._header.table_entries:
            raise CannotMap("beyond the block allocation table")
        entry = big(table_entry(self._inner, self._header.table_offset + index * 4, 4), 0, 4)
        if entry == _UNALLOCATED:
            return Span(length)
        return Span(length, at=entry * _SECTOR + self._header.bitmap_size + within)


class FixedMap(BlockMap):
    """The disk of a fixed VHD: its first bytes."""

    def __init__(self, virtual_size: int) -> None:
        self.virtual_size = virtual_size

    def locate(self, offset: int) -> Span:
        return Span(self.virtual_size - offset, at=offset)
