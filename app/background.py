"""Work that may take long, in threads of its own: what keeps the screen from ever freezing.

Textual's thread workers share one small pool, which a handful of dead servers would fill, and which the program would
wait for when it ends. Each job here has its own daemon thread; a job nobody wants any more runs out by itself, and
what it says is dropped.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

from textual.message_pump import MessagePump

from probes.errors import Crashed, FarbootError
from probes.location import Location
from probes.source import Source

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Job:
    """One piece of work, seen from both sides: `tell` from its thread, `cancel` from the screen's."""

    def __init__(self, pump: MessagePump) -> None:
        self._pump = pump
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Let nothing more of it be heard."""
        self._cancelled.set()

    def tell(self, callback: Callable[_P, None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Have the screen's thread call `callback`, unless the job is cancelled by then."""
        try:
            self._pump.call_later(self._hear, partial(callback, *args, **kwargs))
        except RuntimeError:  # the program has ended: its event loop is closed
            self.cancel()

    def _hear(self, callback: Callable[[], None]) -> None:
        if not self.cancelled:
            callback()


def start(pump: MessagePump, work: Callable[[Job], None], failed: Callable[[FarbootError], None]) -> Job:
    """Run `work` in a thread. Its error, whatever it is, comes to `failed` in the screen's thread."""
    job = Job(pump)

    def run() -> None:
        try:
            work(job)
        except FarbootError as error:
            job.tell(failed, error)
        except Exception as error:  # a defect of ours costs this job, and is told as one
            if os.environ.get("FARBOOT_TRACEBACK"):
                raise
            why = f"{type(error).__name__}: {error}"
            job.tell(failed, Crashed("do", "this", why, "this is a bug in Farboot; FARBOOT_TRACEBACK=1 shows where"))

    threading.Thread(target=run, name="farboot-job", daemon=True).start()
    return job


def ask(
    pump: MessagePump, call: Callable[[], _T], done: Callable[[_T], None], failed: Callable[[FarbootError], None]
) -> Job:
    """Run `call` in a thread and give its result to `done` in the screen's."""
    return start(pump, lambda job: job.tell(done, call()), failed)


class Pace:
    """Says whether it is time again, at most once in so many seconds: for news that come faster than anybody reads."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


class _OpensSources(Protocol):
    def open_source(self, location: Location) -> Source: ...


class Lane:
    """The source that one pane uses: kept open between its jobs, and closed under a job that is given up.

    Only one job at a time uses a lane. `give_up` makes a call that hangs fail soon, where that is possible; where it
    is not, its thread is left behind and ends at the source's deadline.
    """

    def __init__(self, engine: _OpensSources) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._idle: tuple[Location, Source] | None = None
        self._busy: set[Source] = set()

    @contextmanager
    def source(self, location: Location) -> Iterator[Source]:
        """Lend the source for `location`, from a job's thread."""
        root = location.root
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None and idle[0] != root:
            idle[1].close()
            idle = None
        source = idle[1] if idle else self._engine.open_source(location)
        with self._lock:
            self._busy.add(source)
        try:
            yield source
        except BaseException:  # whatever it was: other credentials, or a new connection, may be what it takes
            with self._lock:
                self._busy.discard(source)
            source.close()
            raise
        with self._lock:
            surplus: Source | None = source
            if source in self._busy:
                self._busy.discard(source)
                surplus = self._idle[1] if self._idle else None
                self._idle = (root, source)
        if surplus is not None:
            surplus.close()

    def give_up(self) -> None:
        """Close what a running job uses, and forget the idle source: returns at once."""
        with self._lock:
            sources = set(self._busy)
            self._busy.clear()
            if self._idle is not None:
                sources.add(self._idle[1])
                self._idle = None
        for source in sources:
            threading.Thread(target=source.close, name="farboot-close", daemon=True).start()
