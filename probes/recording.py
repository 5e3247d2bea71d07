"""Reading for a judgement: few round trips, a budget, and a record of what was read.

The head of an image answers most questions, so it is fetched whole at the first touch. What was once read is given
from memory ever after: a server that changes its mind between two reads is judged by its first answer, and the
bridge serves that very answer to the guest.
"""

import bisect
import threading

from probes.errors import BadAnswer, Refused
from probes.reader import Pin, Reader

HEAD = 64 << 10
"""Bytes at the start of an image that are fetched at once, and that `head_digest` covers."""

PIECE = 4 << 10
"""Bytes: reads are widened to multiples of it."""

MAX_BYTES = 4 << 20
"""Bytes that one judgement may read."""

MAX_TRIPS = 64
"""Reads of the image that one judgement may take."""


class OverBudget(Refused):
    """Telling what the image is would take more reading than any sound image does."""

    code = "too-costly"


class RecordingReader(Reader):
    """A reader over `inner` that remembers, and never reads a byte twice.

    `pread` raises OverBudget before a read that would pass the budget (`max_bytes` in bytes, `max_trips` in reads of
    `inner`), and BadAnswer where `inner` gives less than it must. Closing it lets go of `inner`, not of the record.
    """

    def __init__(self, inner: Reader, max_bytes: int = MAX_BYTES, max_trips: int = MAX_TRIPS) -> None:
        self.inner = inner
        self.trips = 0
        self.bytes_read = 0
        self._max_bytes = max_bytes
        self._max_trips = max_trips
        self._size = inner.size
        self._starts: list[int] = []  # sorted, beside the bytes that start there; no two touch or overlap
        self._pieces: list[bytes] = []
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._size

    @property
    def pin(self) -> Pin:
        return self.inner.pin

    @property
    def pieces(self) -> tuple[tuple[int, bytes], ...]:
        """What was read so far, as (offset, bytes), in order and merged where it touches."""
        with self._lock:
            return tuple(zip(self._starts, self._pieces, strict=True))

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._size)
        if offset < 0 or end <= offset:
            return b""
        with self._lock:
            if offset < HEAD:
                self._fetch(0, min(max(end, HEAD), self._size))
            else:
                self._fetch(offset - offset % PIECE, min(end + -end % PIECE, self._size))
            index = bisect.bisect_right(self._starts, offset) - 1
            inside = offset - self._starts[index]
            return self._pieces[index][inside : inside + end - offset]

    def close(self) -> None:
        self.inner.close()

    def _fetch(self, start: int, end: int) -> None:
        """Have [start, end) in memory, as one piece with all that touches it."""
        first = bisect.bisect_left(self._starts, start)
        if first and self._starts[first - 1] + len(self._pieces[first - 1]) >= start:
            first -= 1
        last, at, parts = first, start, list[bytes]()
        trips_before = self.trips
        while last < len(self._starts) and self._starts[last] <= end:
            if self._starts[last] > at:
                parts.append(self._read(at, self._starts[last]))
            parts.append(self._pieces[last])
            at = self._starts[last] + len(self._pieces[last])
            last += 1
        if at < end:
            parts.append(self._read(at, end))
        if self.trips > trips_before:
            self._starts[first:last] = [min([start, *self._starts[first:last]])]
            self._pieces[first:last] = [b"".join(parts)]

    def _read(self, start: int, end: int) -> bytes:
        length = end - start
        if self.trips + 1 > self._max_trips or self.bytes_read + length > self._max_bytes:
            why = f"it would take more than {self._max_trips} reads or {self._max_bytes >> 10} KiB of it"
            raise OverBudget("tell what is", "the image", why, "a sound image takes a fraction of that")
        self.trips += 1
        data = self.inner.pread(start, length)
        if len(data) != length:
            raise BadAnswer("read", "the image", f"{len(data)} bytes came instead of {length}, at {start}")
        self.bytes_read += length
        return data
