"""Inside a qcow2: the guest's bytes, by its cluster map.

For the few blocks that tell what the guest would find. Plain and deflated clusters are followed; zstd, encryption, data
files, backing files and extended L2 entries are not. The specification is QEMU's docs/interop/qcow2.rst.
"""

import zlib
from dataclasses import dataclass

from probes.fields import big
from probes.mapping import BlockMap, CannotMap, Span
from probes.reader import Reader

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1
_MAX_CACHED = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where the map lies: cluster size as a power of two, the guest's size in bytes, and the L1 table's place."""

    cluster_bits: int
    virtual_size: int
    l1_offset: int
    l1_entries: int


class ClusterMap(BlockMap):
    """The clusters of the qcow2 that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, place: Place) -> None:
        self.virtual_size = place.virtual_size
        self._inner = inner
        self._map = place
        self._inflated: dict[int, bytes] = {}

    def locate(self, offset: int) -> Span:
        bits = self._map.cluster_bits
        within = offset & ((1 << bits) - 1)
        length = (1 << bits) - within
        index = offset >> bits
        l2_bits = bits - 3
        l1_index = index >> l2_bits
        if l1_index >= self._map.l1_entries:
            raise CannotMap("beyond the L1 table")
        table = self._entry(self._map.l1_offset, l1_index) & _OFFSET
        if not table:
            return Span(length, backing=True)
        self._check(table)
        entry = self._entry(table, index & ((1 << l2_bits) - 1))
        if entry & _COMPRESSED:
            return Span(length, data=self._inflate(entry)[within:])
        place = entry & _OFFSET
        if entry & _ZERO:
            return Span(length)
        if not place:
            return Span(length, backing=True)
        self._check(place)
        return Span(length, at=place + within)

    def _check(self, place: int) -> None:
        if place % (1 << self._map.cluster_bits) or place >= self._inner.size:
            raise CannotMap("a cluster out of place")

    def _entry(self, table: int, index: int) -> int:
        data = self._inner.pread(table + index * 8, 8)
        if len(data) != 8:
            raise CannotMap("a table beyond the end")
        return big(data, 0, 8)

    def _inflate(self, entry: int) -> bytes:
        if entry in self._inflated:
            return self._inflated[entry]
        bits = self._map.cluster_bits
        shift = 62 - (bits - 8)
        place = entry & ((1 << shift) - 1)
        sectors = (entry >> shift & ((1 << (bits - 8)) - 1)) + 1
        packed = self._inner.pread(place, sectors * 512 - place % 512)
        try:
            data = zlib.decompressobj(-15).decompress(packed, 1 << bits)
        except zlib.error as error:
            raise CannotMap("a cluster that cannot be inflated") from error
        if len(data) != 1 << bits:
            raise CannotMap("a cluster that is cut short")
        if len(self._inflated) >= _MAX_CACHED:
            self._inflated.clear()
        self._inflated[entry] = data
        return data
