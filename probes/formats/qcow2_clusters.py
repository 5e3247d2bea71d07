"""Inside a qcow2: the guest's bytes, by its cluster map.

For the few blocks that tell what the guest would find. Plain and deflated clusters are followed; zstd, encryption, data
files, backing files and extended L2 entries are not. The specification is QEMU's docs/interop/qcow2.rst.
"""

import zlib
from dataclasses import dataclass

from probes.fields import big
from probes.reader import Pin, Reader

_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1
_MAX_CACHED = 64


class CannotMap(Exception):
    """The guest's bytes cannot be told from this map: it is damaged, or of a kind that is not followed."""


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """Where the map lies: cluster size as a power of two, the guest's size in bytes, and the L1 table's place."""

    cluster_bits: int
    virtual_size: int
    l1_offset: int
    l1_entries: int


class MappedReader(Reader):
    """The guest's disk in the qcow2 that `inner` reads; `pread` also raises CannotMap. Not for several threads.

    Each entry of a table is a small read of `inner`, which is expected to remember (`RecordingReader`).
    """

    def __init__(self, inner: Reader, mapping: ClusterMap) -> None:
        self._inner = inner
        self._map = mapping
        self._inflated: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        return self._map.virtual_size

    @property
    def pin(self) -> Pin:
        return self._inner.pin

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        cluster = 1 << self._map.cluster_bits
        parts: list[bytes] = []
        start = run = 0  # a run of neighbouring host bytes, read at once
        while offset < end:
            count = min(end - offset, cluster - offset % cluster)
            place = self._place(offset)
            if isinstance(place, int) and run and start + run == place:
                run += count
            else:
                parts.append(self._read(start, run))
                start = run = 0
                if isinstance(place, int):
                    start, run = place, count
                else:
                    within = offset % cluster
                    parts.append(place[within : within + count] if place else bytes(count))
            offset += count
        parts.append(self._read(start, run))
        return b"".join(parts)

    def close(self) -> None:
        self._inner.close()

    def _place(self, offset: int) -> int | bytes:
        """Return where the guest's byte `offset` lies in the file, or its inflated cluster, or b"" for zeros."""
        bits = self._map.cluster_bits
        index = offset >> bits
        l2_bits = bits - 3
        l1_index = index >> l2_bits
        if l1_index >= self._map.l1_entries:
            raise CannotMap("beyond the L1 table")
        table = self._entry(self._map.l1_offset, l1_index) & _OFFSET
        if not table:
            return b""
        self._check(table)
        entry = self._entry(table, index & ((1 << l2_bits) - 1))
        if entry & _COMPRESSED:
            return self._inflate(entry)
        place = entry & _OFFSET
        if entry & _ZERO or not place:
            return b""
        self._check(place)
        return place + (offset & ((1 << bits) - 1))

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

    def _read(self, start: int, count: int) -> bytes:
        # A file that ends within its last cluster goes on in zeros.
        return self._inner.pread(start, count).ljust(count, b"\0") if count else b""
