"""Inside a VHDX: the guest's bytes, by its block allocation table.

The specification is [MS-VHDX], section 2.5.
"""

from probes.fields import little
from probes.formats.vhdx_metadata import Disk
from probes.mapping import BlockMap, CannotMap, Span, table_entry
from probes.reader import Reader

STATE = 7
"""The bits of an entry that say the block's state."""

ALLOCATED = 6  # PAYLOAD_BLOCK_FULLY_PRESENT

_ZEROS = {0, 1, 2, 3, 5}  # not present, undefined, zero, unmapped, and unmapped in drafts of the specification


def place(entry: int) -> int:
    """Return the byte of the file where the block of an entry lies."""
    return entry >> 20 << 20


class BlockTable(BlockMap):
    """The blocks of the VHDX that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, disk: Disk, table_offset: int) -> None:
        self.virtual_size = disk.virtual_size
        self._inner = inner
        self._disk = disk
        self._table_offset = table_offset

    def locate(self, offset: int) -> Span:
        index, within = divmod(offset, self._disk.block_size)
        length = self._disk.block_size - within
        entry = self._entry(index + index // self._disk.chunk_ratio)
        if entry & STATE in _ZEROS:
            return Span(length)
        if entry & STATE != ALLOCATED:
            raise CannotMap("a block in a state that QEMU does not read")
        return Span(length, at=place(entry) + within)

    def _entry(self, index: int) -> int:
        return little(table_entry(self._inner, self._table_offset + index * 8, 8), 0, 8)
