"""An image in pieces: what QEMU's many small reads become on their way to a far server.

A miss is fetched in whole pieces, several neighbours by one request; what is already on its way is waited for, not
asked for again; and a reader that goes straight ahead finds the next pieces fetched before it asks. How far ahead is
learnt: nothing for a random reader, and twice as much each time a straight one catches up, to `FURTHEST_AHEAD`.

Where the storage is near, a whole piece costs more than it saves: there a short read that is not part of a straight one
is passed on as it is, and only what lies where something was read before brings its piece.

Memory: at most `CACHE` for pieces, `AHEAD_RUNS` runs of read-ahead, and what clients wait for (which
`app.qemu.bridge.nbd` bounds).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.qemu.bridge.distance import Distance
from app.qemu.workers import look_at

PIECE = 64 << 10
"""Bytes. A power of two; large enough to be worth a round trip, small enough to cost a random reader little."""
LONGEST_RUN = 1 << 20
"""Bytes asked for by one request, at most."""
CACHE = 32 << 20
FURTHEST_AHEAD = 2 << 20
AHEAD_RUNS = 4
NEAR = 1 << 20
"""Bytes: reads that are in flight together lie within it, if they are part of the same."""
_STREAMS = 32
_TOUCHED = 512
"""Pieces of which is remembered that something of them was read."""

Fetch = Callable[[int, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Neighbouring pieces on their way, from the offset `start` up to `stop`."""

    start: int
    stop: int
    task: asyncio.Task[bytes]


class _Stream:
    """Reads that lie near each other, one after the other: perhaps somebody who reads straight ahead.

    QEMU does not keep the order of what it has in flight, so straight is what covers most of the way it makes.
    """

    __slots__ = ("ahead", "end", "is_straight", "read", "start", "window")

    def __init__(self, offset: int, end: int) -> None:
        self.start = offset
        self.end = end
        self.read = end - offset
        self.window = 0
        self.is_straight = False  # nobody knows after one read
        self.ahead = end
        """Up to where was looked ahead."""

    def is_near(self, offset: int) -> bool:
        """Whether a read at `offset` belongs to it."""
        return -NEAR <= offset - self.end <= NEAR

    def read_on(self, offset: int, end: int) -> bool:
        """Note the next read; whether it is time to fetch more ahead, which is then `window` bytes past the end."""
        has_advanced = end > self.end
        self.start, self.end = min(self.start, offset), max(self.end, end)
        self.read = min(self.read + end - offset, self.end - self.start)
        if self.end - self.start > 4 * NEAR:  # what was long ago counts for less
            self.start += (self.end - self.start) // 2
            self.read //= 2
        self.is_straight = 2 * self.read >= self.end - self.start
        if not has_advanced or not self.is_straight or self.ahead - self.end > self.window // 2:
            return False
        self.window = min(max(2 * self.window, end - offset, PIECE), FURTHEST_AHEAD)
        self.ahead = max(self.ahead, self.end - NEAR)
        return True


class Pieces:
    """The bytes of something `size` long, through a cache, from `fetch(offset, length)`.

    `fetch` returns exactly what it is asked for, or raises; it decides about trying again. `distance` tells whether the
    storage is near. Whoever writes tells, when it is done and before it says so to anyone, by `written` or `forget`.
    For one event loop.
    """

    def __init__(self, fetch: Fetch, size: int, distance: Distance | None = None) -> None:
        self._fetch = fetch
        self._size = size
        self._distance = distance or Distance()
        self._touched: OrderedDict[int, None] = OrderedDict()
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._coming: dict[int, _Run] = {}
        self._streams: list[_Stream] = []  # the one used last comes first
        self._ahead_runs = 0

    def read(self, offset: int, length: int) -> bytes | Awaitable[bytes]:
        """Return the `length` bytes at `offset`, all of which lie inside: at once if the cache has them.

        Awaiting it raises what `fetch` raises.
        """
        end = offset + length
        stream, is_time = self._followed(offset, end)
        indices = range(offset // PIECE, -(-end // PIECE))
        if self._distance.is_near and length < PIECE and not stream.is_straight and self._are_new(indices):
            return self._fetch(offset, length)
        sources = self._sources(indices)
        if is_time:
            self._fetch_ahead(stream)
        parts = [(start, source) for start, source in sources if isinstance(source, bytes)]
        if len(parts) == len(sources):
            return _cut(parts, offset, end)
        return self._read_later(sources, offset, end)

    def written(self, offset: int, data: bytes) -> None:
        """Note that `data` has been written at `offset`: reads from now on see it.

        What was on its way while it was written may be older, and is good enough only for those who wait for it.
        """
        end = offset + len(data)
        for index in range(offset // PIECE, -(-end // PIECE)):
            self._coming.pop(index, None)
            kept = self._kept.get(index)
            if kept is not None:
                start = index * PIECE
                low, high = max(offset, start), min(end, start + len(kept))
                self._kept[index] = b"".join(
                    (kept[: low - start], memoryview(data)[low - offset : high - offset], kept[high - start :])
                )

    def forget(self, offset: int, length: int) -> None:
        """Note that something has been written here, or perhaps has: reads from now on ask anew."""
        for index in range(offset // PIECE, -(-(offset + length) // PIECE)):
            self._coming.pop(index, None)
            self._kept.pop(index, None)

    async def _read_later(self, sources: list[tuple[int, bytes | _Run]], offset: int, end: int) -> bytes:
        # Which leaves the runs running, for others, when this reader is cancelled.
        await asyncio.wait([source.task for _, source in sources if isinstance(source, _Run)])
        parts = [(start, source.task.result() if isinstance(source, _Run) else source) for start, source in sources]
        return _cut(parts, offset, end)

    def _sources(self, indices: range) -> list[tuple[int, bytes | _Run]]:
        """Return where these pieces will come from, as (offset, bytes or run), having asked for what is missing."""
        sources: list[tuple[int, bytes | _Run]] = []
        for index in indices:
            kept = self._kept.get(index)
            if kept is not None:
                self._kept.move_to_end(index)
                sources.append((index * PIECE, kept))
                continue
            run = self._coming.get(index) or self._ask(index, indices.stop)
            if not sources or sources[-1][1] is not run:
                sources.append((run.start, run))
        return sources

    def _ask(self, first: int, stop: int) -> _Run:
        """Ask for the pieces from `first` on that nobody asked for, as many as one run takes, before `stop`."""
        stop = min(stop, first + LONGEST_RUN // PIECE)
        index = first + 1
        while index < stop and index not in self._kept and index not in self._coming:
            index += 1
        task = asyncio.get_running_loop().create_task(self._bring(first, index))
        task.add_done_callback(look_at)
        run = _Run(first * PIECE, index * PIECE, task)
        for each in range(first, index):
            self._coming[each] = run
        return run

    async def _bring(self, first: int, stop: int) -> bytes:
        start = first * PIECE
        try:
            data = await self._fetch(start, min(stop * PIECE, self._size) - start)
        finally:
            wanted = [index for index in range(first, stop) if self._is_ours(index)]
            for index in wanted:
                del self._coming[index]
        for index in wanted:
            self._kept[index] = data[index * PIECE - start : (index + 1) * PIECE - start]
        while len(self._kept) > CACHE // PIECE:
            self._kept.popitem(last=False)
        return data

    def _is_ours(self, index: int) -> bool:
        """Whether this piece is still waited for from the run that is this very task."""
        run = self._coming.get(index)
        return run is not None and run.task is asyncio.current_task()

    def _are_new(self, indices: range) -> bool:
        """Whether nothing of these pieces was read lately, nor is there; from now on it was."""
        are_new = True
        for index in indices:
            are_new = are_new and not (index in self._touched or index in self._kept or index in self._coming)
            self._touched[index] = None
        while len(self._touched) > _TOUCHED:
            self._touched.popitem(last=False)
        return are_new

    def _followed(self, offset: int, end: int) -> tuple[_Stream, bool]:
        """Note that `offset` to `end` is being read: as part of what, and whether it is time to look further ahead."""
        for stream in self._streams:
            if stream.is_near(offset):
                if self._streams[0] is not stream:
                    self._streams.remove(stream)
                    self._streams.insert(0, stream)
                return stream, stream.read_on(offset, end)
        stream = _Stream(offset, end)
        self._streams.insert(0, stream)
        del self._streams[_STREAMS:]
        return stream, False

    def _fetch_ahead(self, stream: _Stream) -> None:
        index = -(-stream.ahead // PIECE)
        stop = -(-min(stream.end + stream.window, self._size) // PIECE)
        while index < stop and self._ahead_runs < AHEAD_RUNS:
            if index in self._kept or index in self._coming:
                index += 1
                continue
            run = self._ask(index, stop)
            self._ahead_runs += 1
            run.task.add_done_callback(self._ahead_done)
            index = run.stop // PIECE
        stream.ahead = max(stream.ahead, index * PIECE)

    def _ahead_done(self, _: asyncio.Task[bytes]) -> None:
        self._ahead_runs -= 1


def _cut(parts: list[tuple[int, bytes]], offset: int, end: int) -> bytes:
    """Return the bytes from `offset` to `end` out of adjoining parts, each with its own offset."""
    if len(parts) == 1:
        start, data = parts[0]
        return data[offset - start : end - start]
    return b"".join([memoryview(data)[max(offset - start, 0) : end - start] for start, data in parts])
