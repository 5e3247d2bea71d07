"""Reading through an outage: while a server is away its guest waits, and then goes on with the very same image.

A read that fails is tried again with growing pauses, each time through a freshly opened reader, which whoever opens
it has compared with what was judged. An image that has changed is given up for good.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from app.qemu.bridge.distance import Distance
from app.qemu.workers import Workers, look_at
from probes.errors import BadAnswer, Changed, Crashed, FarbootError, TimedOut, Unreachable
from probes.reader import BeginsReads, Begun, Reader

_T = TypeVar("_T")
_SOON = 1.0  # seconds: a read that takes longer gets a thread, to be given up in time
_SHORT = 64 << 10  # bytes: of a longer read the line's width tells more than its length


@dataclass(frozen=True)
class Patience:
    """How long one read is tried, in seconds.

    `outage` while the server is away or answers nonsense, `refusal` while it answers clearly (denied, not found):
    that happens, for a moment, to servers that are being restarted. Pauses grow from `first_pause` to `longest_pause`.
    """

    outage: float = 600.0
    refusal: float = 15.0
    first_pause: float = 0.1
    longest_pause: float = 5.0


PATIENCE = Patience()
WAITS = "the guest waits"
"""How a line ends that tells of an outage; the next line tells of its end."""


class Way:
    """An open reader, who is reading through it, and whether another has taken its place."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.users = 0
        self.replaced = asyncio.Event()
        self.left = asyncio.Event()
        """Set when a user leaves."""
        self.is_closing = False
        """Whether it serves nobody any more, and another is being opened."""


class PatientReader:
    """Reads through `reader`, and through what `reopen` gives when that fails.

    `reopen` blocks; it raises Changed if the image is not the same any more. `tell` is called with a line about
    every outage and its end, and about a change. Takes over `reader`. For one event loop.
    """

    def __init__(
        self,
        reader: Reader,
        reopen: Callable[[], Reader],
        workers: Workers,
        tell: Callable[[str], None],
        patience: Patience = PATIENCE,
    ) -> None:
        self._way = Way(reader)
        self._reopen = reopen
        self._workers = workers
        self._tell = tell
        self._patience = patience
        self._renewal: asyncio.Task[None] | None = None
        self._away_since: float | None = None
        self.distance = Distance()
        """How near the storage is, by the reads that went well."""
        self.changed: Changed | None = None
        """What every read raises, once the image is known to have changed."""

    async def pread(self, offset: int, length: int) -> bytes:
        """Return exactly these bytes, all of which lie inside, however long it takes within the patience.

        Raises Changed, or the last failure.
        """
        return await self.persist(lambda way: self._read(way, offset, length))

    async def persist(self, attempt: Callable[[Way], Awaitable[_T]]) -> _T:
        """Return what `attempt` returns, however often it takes within the patience. Raises as `pread` does."""
        clock = asyncio.get_running_loop().time
        began, refused_since = clock(), None
        pause, tries = self._patience.first_pause, 0
        failed: Way | None = None
        while True:
            way = self._way
            try:
                if failed is not None or way.is_closing:
                    await self._renew(failed or way)
                if self.changed is not None:
                    raise self.changed.with_traceback(None)
                way = self._way
                result = await self._attempted(attempt, way)
                self._told_back()
                return result
            except Changed as error:
                self.give_up(error)
                raise
            except FarbootError as error:
                if isinstance(error, Unreachable | TimedOut | BadAnswer):
                    refused_since, limit = None, began + self._patience.outage
                else:
                    refused_since = refused_since or clock()
                    limit = refused_since + self._patience.refusal
                tries += 1
                if tries == 2:
                    self._told_away(error)
                if clock() + pause > limit:
                    self._tell(f"{error}; given up: the guest sees an error")
                    raise
            failed = way
            with contextlib.suppress(TimeoutError):  # or sooner, when another read's renewal has gone well
                async with asyncio.timeout(pause):
                    await failed.replaced.wait()
            pause = min(2 * pause, self._patience.longest_pause)

    def give_up(self, error: Changed) -> None:
        """Let every read fail from now on, for the image has changed."""
        if self.changed is None:
            self.changed = error
            self._tell(f"{error}; every read fails from now on")

    def close(self) -> None:
        """Let go of the reader."""
        self._way.reader.close()

    async def use(self, way: Way, call: Callable[..., _T], *arguments: object) -> _T:
        """Make a call of `way`'s reader in a thread."""
        way.users += 1
        try:
            return await self.call(call, *arguments)
        finally:
            way.users -= 1
            way.left.set()
            self._close_if_done(way)

    async def call(self, call: Callable[..., _T], *arguments: object) -> _T:
        """Make a call in a thread. Raises nothing but FarbootError."""
        with _told():
            return await self._workers.run(call, *arguments)

    async def renewed(self, failed: Way) -> Way:
        """Open the image anew."""
        return Way(await self.call(self._reopen))

    async def _attempted(self, attempt: Callable[[Way], Awaitable[_T]], way: Way) -> _T:
        try:
            return await attempt(way)
        except Changed:
            raise
        except FarbootError:
            if way.is_closing:  # under our feet: that says nothing about the server
                raise Unreachable("reach", "the image", "it is being opened again") from None
            raise

    async def _read(self, way: Way, offset: int, length: int) -> bytes:
        begun = self._begun(way.reader, offset, length)
        if begun is None:
            data, seconds = await self.use(way, _timed_read, way.reader, offset, length)
        else:
            data, seconds = await self._finished(way, begun)
        if length <= _SHORT:
            self.distance.note(seconds)
        if len(data) != length:
            raise Changed("read", "the image", f"{len(data)} bytes came instead of {length} at {offset}")
        return data

    def _begun(self, reader: Reader, offset: int, length: int) -> Begun | None:
        with _told():
            return reader.begin_read(offset, length) if isinstance(reader, BeginsReads) else None

    async def _finished(self, way: Way, begun: Begun) -> tuple[bytes, float]:
        """Wait for a read that is under way, without a thread unless it takes long; and tell how long it took."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        done: asyncio.Future[float | None] = loop.create_future()
        begun.when_done(functools.partial(_note_end, loop, done))
        timer = loop.call_later(_SOON, _settle, done, None)
        way.users += 1
        try:
            ended = await done
            with _told():
                data = await self._workers.run(begun.result) if ended is None else begun.result()
            return data, (ended or time.perf_counter()) - began
        finally:
            timer.cancel()
            way.users -= 1
            way.left.set()
            self._close_if_done(way)

    async def _renew(self, failed: Way) -> None:
        """Have another way than `failed`, opened once for everyone whose read failed."""
        if self._way is not failed:
            return
        renewal = self._renewal
        if renewal is None or renewal.done():
            renewal = self._renewal = asyncio.create_task(self._replace(failed))
            renewal.add_done_callback(look_at)
        await asyncio.wait({renewal})  # which leaves it running for others when this read is cancelled
        renewal.result()

    async def _replace(self, failed: Way) -> None:
        self._way = await self.renewed(failed)
        failed.replaced.set()
        self._close_if_done(failed)

    def _close_if_done(self, way: Way) -> None:
        if way.replaced.is_set() and not way.users and not way.is_closing:
            self._workers.start(way.reader.close)

    def _told_away(self, error: FarbootError) -> None:
        if self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
            self._tell(f"{error}; {WAITS}")

    def _told_back(self) -> None:
        if self._away_since is not None:
            seconds = asyncio.get_running_loop().time() - self._away_since
            self._away_since = None
            self._tell(f"reading goes on after {seconds:.0f} s")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Let nothing out but FarbootError."""
    try:
        yield
    except FarbootError:
        raise
    except Exception as error:
        # Its own words stay out: they may hold a secret.
        raise Crashed("read", "the image", f"Farboot's own mistake, {type(error).__name__}") from error


def _note_end(loop: asyncio.AbstractEventLoop, done: "asyncio.Future[float | None]") -> None:
    """Called in a thread of the reader's."""
    with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
        loop.call_soon_threadsafe(_settle, done, time.perf_counter())


def _settle(done: "asyncio.Future[float | None]", ended: float | None) -> None:
    if not done.done():
        done.set_result(ended)


def _timed_read(reader: Reader, offset: int, length: int) -> tuple[bytes, float]:
    """Read, and tell how many seconds that took by itself: waiting for a thread says nothing about the storage."""
    began = time.perf_counter()
    data = reader.pread(offset, length)
    return data, time.perf_counter() - began
