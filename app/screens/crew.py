"""Threads that ask one server about the rows of a listing: what is wanted most comes first, what is no longer wanted is
not begun.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

from textual.screen import Screen

from app.background import Job, start
from app.screens.contract import Engine
from probes.errors import Cancelled, FarbootError
from probes.location import Location
from probes.source import Source
from widgets.rows import Row

AT_ONCE = 16

Ask = Callable[[Job, Source, Row], bool]
"""Asks about one row. False, or an error, where the server gave no answer that is worth asking on for."""


class Crew:
    """The source of one server, and the threads that use it. One goes ahead alone: only an answer brings the others.

    `ask` is called in the threads, `failed` in the screen's with what it raises but for Cancelled, once.
    """

    def __init__(
        self, screen: Screen[None], engine: Engine, root: Location, ask: Ask, failed: Callable[[FarbootError], None]
    ) -> None:
        self.root = root
        self._engine = engine
        self._ask = ask
        self._failed = failed
        self._changed = threading.Condition()
        self._opening = threading.Lock()
        self._wanted: deque[Row] = deque()
        self._begun: set[Row] = set()
        self._busy = 0
        self._at_once = 1
        self._closed = False
        self._source: Source | None = None
        self._jobs = [start(screen, self._work, self._told) for _ in range(AT_ONCE)]

    def want(self, rows: Iterable[Row]) -> None:
        """Ask about these rows next, in this order, and about no others that were not begun."""
        with self._changed:
            self._wanted = deque(row for row in rows if row not in self._begun)
            self._changed.notify_all()

    def has_begun(self, row: Row) -> bool:
        """Whether a row was asked about, or is being asked about."""
        return row in self._begun

    @property
    def is_busy(self) -> bool:
        """Whether a question is under way."""
        return self._busy > 0

    def rest(self) -> None:
        """Forget all rows: others will be wanted."""
        with self._changed:
            self._wanted.clear()
            self._begun.clear()

    def close(self) -> None:
        """End it at once: what is under way fails, or is not heard. Returns without waiting."""
        with self._changed:
            self._closed = True
            source = self._source
            self._changed.notify_all()
        for job in self._jobs:
            job.cancel()
        if source is not None:
            threading.Thread(target=source.close, name="farboot-close", daemon=True).start()

    def _work(self, job: Job) -> None:
        while (row := self._take()) is not None:
            answered = goes_on = False
            try:
                answered = self._ask(job, self._opened(row.entry.location), row)
                goes_on = True
            except Cancelled:
                goes_on = True
            finally:
                self._give_back(answered, goes_on)

    def _take(self) -> Row | None:
        with self._changed:
            while not self._closed and (not self._wanted or self._busy >= self._at_once):
                self._changed.wait()
            if self._closed:
                return None
            row = self._wanted.popleft()
            self._begun.add(row)
            self._busy += 1
            return row

    def _give_back(self, answered: bool, goes_on: bool) -> None:
        with self._changed:
            self._busy -= 1
            if answered:
                self._at_once = AT_ONCE
            if not goes_on:
                self._at_once = 0
            self._changed.notify_all()

    def _opened(self, location: Location) -> Source:
        with self._opening:
            if self._source is None:
                source = self._engine.open_source(location)  # which contacts nobody, but may take long to import
                with self._changed:
                    if self._closed:
                        raise Cancelled("ask", location, "nobody wants to know any more")
                    self._source = source
            return self._source

    def _told(self, error: FarbootError) -> None:
        if not self._closed:
            self.close()
            self._failed(error)
