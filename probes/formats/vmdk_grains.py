"""Inside a hosted sparse VMDK: the guest's bytes, by its grain directory and grain tables.

Plain, zeroed and packed grains are followed. A packed one begins with a marker: where on the disk it belongs (u64), how
many bytes follow (u32), and then those, a zlib stream.
"""

import struct

from probes.fields import little
from probes.formats.packing import Unpacked, inflate
from probes.formats.vmdk_header import HAS_ZEROED_GRAINS, SECTOR, Header
from probes.formats.vmdk_header import IS_PACKED as PACKED
from probes.mapping import BlockMap, CannotMap, Span, table_entry
from probes.reader import Reader

_MARKER = 12
_ZEROED = 1


def likely_places(header: Header) -> tuple[tuple[int, int], ...]:
    """Return where the map of the disk's two ends should lie, as (offset, length) in bytes: the grain tables follow
    their directory in all but streams.
    """
    entries = header.directory_entries
    tables = header.directory + entries * 4 + -(entries * 4) % SECTOR
    size = header.table_entries * 4 + -(header.table_entries * 4) % SECTOR
    first, last = (header.directory, 4), (header.directory + (entries - 1) * 4, 4)
    return first, last, (tables, size), (tables + (entries - 1) * size, size)


class GrainMap(BlockMap):
    """The grains of the VMDK that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, header: Header) -> None:
        self.virtual_size = header.virtual_size
        self._inner = inner
        self._header = header
        self._unpacked = Unpacked()

    def locate(self, offset: int) -> Span:
        header = self._header
        index, within_table = divmod(offset, header.covered)
        if index >= header.directory_entries:
            raise CannotMap("beyond the grain directory")
        table = self._number(header.directory + index * 4)
        if not table:
            return Span(header.covered - within_table, backing=True)
        row, within = divmod(within_table, header.grain)
        length = header.grain - within
        place = self._number(table * SECTOR + row * 4)
        if not place:
            return Span(length, backing=True)
        if place == _ZEROED and header.flags & HAS_ZEROED_GRAINS:
            return Span(length)
        if header.flags & PACKED:
            wanted = min(header.grain, self.virtual_size - (offset - within))
            data = self._unpacked.get(place, lambda: self._unpack(table, place, wanted))
            return Span(length, data=data[within:])
        return Span(length, at=place * SECTOR + within)

    def _number(self, at: int) -> int:
        return little(table_entry(self._inner, at, 4), 0, 4)

    def _unpack(self, table: int, place: int, length: int) -> bytes:
        """Return the `length` bytes of the grain at sector `place`, which the table at sector `table` names."""
        most = 2 * self._header.grain  # as QEMU
        start = place * SECTOR
        packed = self._inner.pread(start, min(self._room(table, place), most))
        size = little(packed, 8, 4)
        if not size or size > most:
            raise CannotMap("a packed grain of an odd size")
        if size + _MARKER > len(packed):
            packed = self._inner.pread(start, size + _MARKER)
        return inflate(packed[_MARKER : _MARKER + size], length, "zlib")

    def _room(self, table: int, place: int) -> int:
        """Return how many bytes the grain at sector `place` can take: up to the next one, which spares a read."""
        raw = self._inner.pread(table * SECTOR, self._header.table_entries * 4)
        entries = struct.unpack_from(f"<{len(raw) // 4}I", raw)
        following = min((entry for entry in entries if entry > place), default=None)
        return self._header.grain + SECTOR if following is None else (following - place) * SECTOR
