"""Reading for a judgement: few round trips, a budget, and a record of what was read.

The head of an image answers most questions, so it is fetched whole at the first touch. What was once read is given
from memory ever after: a server that changes its mind between two reads is judged by its first answer, and the
bridge serves that very answer to the guest.
"""

import bisect
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from probes.errors import BadAnswer, Refused, TimedOut
from probes.location import Location
from probes.reader import Pin, Reader

HEAD = 64 << 10
"""Bytes at the start of an image that are fetched at once."""

TAIL = 20 << 10
"""Bytes at an image's end that whoever looks there reads at once: a fixed VHD's footer, a DMG's trailer, GPT's copy."""

PIECE = 4 << 10
"""Bytes: reads are widened to multiples of it."""

NEAR = 16 << 10
"""Bytes between two places that are read ahead: fewer than this cost less than a read of their own."""

MAX_BYTES = 4 << 20
"""Bytes that one judgement may read."""

MAX_READS = 64
"""Reads of the image that one judgement may take."""

MAX_SECONDS = 60.0
"""Seconds that the reading for one judgement may take: a server that drips ends here, however patient its source."""

_AT_ONCE = 8


class OverBudget(Refused):
    """Telling what the image is would take more reading than any sound image does."""

    code = "too-costly"


class RecordingReader(Reader):
    """A reader over `inner` that remembers, and never reads a byte twice.

    `pread` raises OverBudget before a read that would pass the budget (`max_bytes` in bytes, `max_reads` of `inner`),
    TimedOut before one that begins `max_seconds` after the first, and BadAnswer where `inner` gives less than it must.
    Closing it lets go of `inner`, not of the record.

    `reads` counts the reads of `inner`, `trips` those that had to wait for one another: reads ahead are one together.
    Once the verdict is drawn `seal` says so: `evidence` is then what was asked for until that moment.
    """

    def __init__(
        self,
        inner: Reader,
        max_bytes: int = MAX_BYTES,
        max_reads: int = MAX_READS,
        max_seconds: float = MAX_SECONDS,
    ) -> None:
        self.inner = inner
        self.trips = 0
        self.reads = 0
        self.bytes_read = 0
        self._max_bytes = max_bytes
        self._max_reads = max_reads
        self._max_seconds = max_seconds
        self._began: float | None = None
        self._size = inner.size
        self._starts: list[int] = []  # sorted, beside the bytes that start there; no two touch or overlap
        self._pieces: list[bytes] = []
        self._asked: list[tuple[int, int]] = []  # sorted, as (start, end); no two touch or overlap
        self._sealed: tuple[tuple[int, bytes], ...] | None = None
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._size

    @property
    def pin(self) -> Pin:
        return self.inner.pin

    def lies_below(self, folder: Location) -> bool:
        return self.inner.lies_below(folder)

    @property
    def pieces(self) -> tuple[tuple[int, bytes], ...]:
        """What was read so far, as (offset, bytes), in order and merged where it touches."""
        with self._lock:
            return tuple(zip(self._starts, self._pieces, strict=True))

    @property
    def evidence(self) -> tuple[tuple[int, bytes], ...]:
        """What was asked for before `seal` was called the first time, as `pieces`; not what was only read ahead."""
        return self._sealed or ()

    def seal(self) -> None:
        """Take note that all that was asked for until now is what the verdict was drawn from."""
        if self._sealed is not None:
            return
        asked = list(self._asked)
        if len(asked) > self._max_reads:
            self._sealed = self.pieces
        else:
            self._sealed = tuple((start, self.pread(start, end - start)) for start, end in asked)

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._size)
        if offset < 0 or end <= offset:
            return b""
        with self._lock:
            span = self._widened(offset, end)
            gaps = self._missing(*span)
            if gaps:
                self._spend(gaps)
                self.trips += len(gaps)
                for start, stop in gaps:
                    self._keep(start, self._read(start, stop))
            if self._sealed is None:
                self._ask_for(*span)
            index = bisect.bisect_right(self._starts, offset) - 1
            inside = offset - self._starts[index]
            return self._pieces[index][inside : inside + end - offset]

    def ahead(self, spans: Iterable[tuple[int, int]]) -> None:
        """Have the (offset, length) of `spans` in memory, fetched at once; not those that pass the budget."""
        with self._lock:
            gaps = self._gaps(spans)
            room = self._max_reads - self.reads
            gaps = gaps[: max(room, 0)]
            while gaps and self.bytes_read + sum(stop - start for start, stop in gaps) > self._max_bytes:
                gaps.pop()
            if not gaps:
                return
            self._spend(gaps)
            self.trips += 1
            if len(gaps) == 1:
                found = [self._read(*gaps[0])]
            else:
                with ThreadPoolExecutor(min(_AT_ONCE, len(gaps))) as pool:
                    found = list(pool.map(lambda gap: self._read(*gap), gaps))
            for (start, _), data in zip(gaps, found, strict=True):
                self._keep(start, data)

    def close(self) -> None:
        self.inner.close()

    def _widened(self, start: int, end: int) -> tuple[int, int]:
        if start < HEAD:
            return 0, min(max(end + -end % PIECE, HEAD), self._size)
        return start - start % PIECE, min(end + -end % PIECE, self._size)

    def _gaps(self, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what is missing of `spans`, in order, neighbours as one."""
        wanted = sorted(
            self._widened(offset, min(offset + length, self._size))
            for offset, length in spans
            if 0 <= offset < self._size and length > 0
        )
        merged: list[tuple[int, int]] = []
        for start, end in wanted:
            if merged and start <= merged[-1][1] + NEAR:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return [gap for start, end in merged for gap in self._missing(start, end)]

    def _missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of [start, end) that are not in memory."""
        gaps = []
        index = max(bisect.bisect_right(self._starts, start) - 1, 0)
        for known, data in zip(self._starts[index:], self._pieces[index:], strict=True):
            if known >= end:
                break
            if known > start:
                gaps.append((start, known))
            start = max(start, known + len(data))
        if start < end:
            gaps.append((start, end))
        return gaps

    def _ask_for(self, start: int, end: int) -> None:
        low = bisect.bisect_left(self._asked, start, key=lambda span: span[1])
        high = bisect.bisect_right(self._asked, end, key=lambda span: span[0])
        if low < high:
            start, end = min(start, self._asked[low][0]), max(end, self._asked[high - 1][1])
        self._asked[low:high] = [(start, end)]

    def _keep(self, start: int, data: bytes) -> None:
        """Remember `data`, none of which is known, as one piece with what it touches."""
        self.bytes_read += len(data)
        index = bisect.bisect_right(self._starts, start)
        first = last = index
        parts = [data]
        if index and self._starts[index - 1] + len(self._pieces[index - 1]) == start:
            first -= 1
            parts.insert(0, self._pieces[first])
            start = self._starts[first]
        if index < len(self._starts) and self._starts[index] == start + sum(map(len, parts)):
            parts.append(self._pieces[index])
            last += 1
        self._starts[first:last] = [start]
        self._pieces[first:last] = [b"".join(parts)]

    def _spend(self, gaps: list[tuple[int, int]]) -> None:
        """Account for the reads that are to come. Raises OverBudget, TimedOut."""
        length = sum(stop - start for start, stop in gaps)
        if self.reads + len(gaps) > self._max_reads or self.bytes_read + length > self._max_bytes:
            why = f"it would take more than {self._max_reads} reads or {self._max_bytes >> 10} KiB of it"
            raise OverBudget("tell what is", "the image", why, "a sound image takes a fraction of that")
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if now - self._began > self._max_seconds:
            raise TimedOut("tell what is", "the image", f"reading a little of it took {self._max_seconds:g} seconds")
        self.reads += len(gaps)

    def _read(self, start: int, end: int) -> bytes:
        data = self.inner.pread(start, end - start)
        if len(data) != end - start:
            raise BadAnswer("read", "the image", f"{len(data)} bytes came instead of {end - start}, at {start}")
        return data
