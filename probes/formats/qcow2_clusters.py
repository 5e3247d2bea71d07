"""Inside a qcow2: the guest's bytes, by its cluster map.

For the few blocks that tell what the guest would find. Plain and packed clusters and subclusters are followed;
encryption and data files are not. The specification is QEMU's docs/interop/qcow2.rst.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from probes.fields import big
from probes.formats.packing import Unpacked, inflate, unpack_zstd
from probes.mapping import BlockMap, CannotMap, Span, table_entry
from probes.reader import Reader, ahead

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1
_SUBCLUSTERS = 32


@dataclass(frozen=True, slots=True)
class Place:
    """Where the map lies, and how it is to be read: cluster size as a power of two, the guest's size in bytes, the L1
    table's place. `extended` says that L2 entries tell of subclusters; `zstd` that clusters are packed with that.
    """

    cluster_bits: int
    virtual_size: int
    l1_offset: int
    l1_entries: int
    extended: bool = False
    zstd: bool = False


class ClusterMap(BlockMap):
    """The clusters of the qcow2 that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, place: Place) -> None:
        self.virtual_size = place.virtual_size
        self._inner = inner
        self._map = place
        self._l2_bits = place.cluster_bits - (4 if place.extended else 3)
        self._unpacked = Unpacked()

    def locate(self, offset: int) -> Span:
        bits = self._map.cluster_bits
        within = offset & ((1 << bits) - 1)
        length = (1 << bits) - within
        index = offset >> bits
        if not self._has_l1(index):
            raise CannotMap("beyond the L1 table")
        table = self._number(self._l1_place(index)) & _OFFSET
        if not table:
            return Span(length, backing=True)
        self._check(table)
        at = self._l2_place(table, index)
        entry = self._number(at)
        if entry & _COMPRESSED:
            return Span(length, data=self._unpacked.get(entry, lambda: self._unpack(entry))[within:])
        place = entry & _OFFSET
        if place:
            self._check(place)
        if self._map.extended:
            return self._subcluster(place, within, self._number(at + 8))
        if entry & _ZERO:
            return Span(length)
        if not place:
            return Span(length, backing=True)
        return Span(length, at=place + within)

    def prepare(self, offsets: Iterable[int]) -> None:
        indexes = {offset >> self._map.cluster_bits for offset in offsets}
        places = {index: self._l1_place(index) for index in indexes if self._has_l1(index)}
        ahead(self._inner, [(place, 8) for place in places.values()])
        tables = {index: big(self._inner.pread(place, 8), 0, 8) & _OFFSET for index, place in places.items()}
        ahead(self._inner, [(self._l2_place(table, index), 8) for index, table in tables.items() if table])

    def _has_l1(self, index: int) -> bool:
        return index >> self._l2_bits < self._map.l1_entries

    def _l1_place(self, index: int) -> int:
        return self._map.l1_offset + (index >> self._l2_bits) * 8

    def _l2_place(self, table: int, index: int) -> int:
        return table + (index & ((1 << self._l2_bits) - 1)) * (16 if self._map.extended else 8)

    def _subcluster(self, place: int, within: int, bitmap: int) -> Span:
        """Return the rest of the subcluster at `within`: of the two halves of `bitmap`, the lower one says which are
        there, the upper one which are zeros.
        """
        size = (1 << self._map.cluster_bits) // _SUBCLUSTERS
        length = size - within % size
        there, zero = (bool(bitmap >> (within // size + half) & 1) for half in (0, _SUBCLUSTERS))
        if there and (zero or not place):
            raise CannotMap("a subcluster of two kinds")
        if there:
            return Span(length, at=place + within)
        return Span(length, backing=not zero)

    def _check(self, place: int) -> None:
        if place % (1 << self._map.cluster_bits) or place >= self._inner.size:
            raise CannotMap("a cluster out of place")

    def _number(self, at: int) -> int:
        return big(table_entry(self._inner, at, 8), 0, 8)

    def _unpack(self, entry: int) -> bytes:
        bits = self._map.cluster_bits
        shift = 62 - (bits - 8)
        place = entry & ((1 << shift) - 1)
        sectors = (entry >> shift & ((1 << (bits - 8)) - 1)) + 1
        packed = self._inner.pread(place, sectors * 512 - place % 512)
        return unpack_zstd(packed, 1 << bits) if self._map.zstd else inflate(packed, 1 << bits, "deflate")
