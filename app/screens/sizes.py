"""Sizes that a listing does not bring: asked for one by one, for the rows that are seen alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from textual.screen import Screen
from textual.timer import Timer

from app.background import Job, Lane, start
from app.screens.contract import Engine
from probes.entry import Entry, Kind
from probes.errors import FarbootError, NotFound
from probes.source import Source
from widgets.listing import Listing
from widgets.rows import Row

_REST = 0.25  # seconds that the rows must stand still
_AT_ONCE = 8


class Sizes:
    """Fills in the sizes of the images that are seen. Each row is asked for once; what fails is left as it is."""

    def __init__(self, screen: Screen[None], engine: Engine, listing: Callable[[], Listing]) -> None:
        self._screen = screen
        self._listing = listing
        self._lane = Lane(engine)
        self._job: Job | None = None
        self._timer: Timer | None = None
        self._asked: set[Row] = set()
        self._refused = False

    def look(self) -> None:
        """The listing moved, or got rows: ask for what is missing in it, once it stands still."""
        if self._timer is not None:
            self._timer.stop()
        self._timer = self._screen.set_timer(_REST, self._begin) if self._job is None else None

    def forget(self) -> None:
        """Another place is shown: nothing more is wanted of this one."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self._lane.give_up()
        self._asked.clear()
        self._refused = False

    def _begin(self) -> None:
        self._timer = None
        rows = [row for row in self._listing().seen if _wants_size(row.entry) and row not in self._asked]
        if not rows or self._refused or self._job is not None:
            return
        self._asked.update(rows)
        self._job = start(self._screen, lambda job: self._ask(job, rows), self._failed)

    def _ask(self, job: Job, rows: list[Row]) -> None:
        with self._lane.source(rows[0].entry.location) as source, ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda row: self._ask_one(job, source, row), rows))
        job.tell(self._done)

    def _ask_one(self, job: Job, source: Source, row: Row) -> None:
        if job.cancelled:
            return
        try:
            entry = source.stat(row.entry.location)
        except NotFound:  # it went away meanwhile; the others are asked for all the same
            return
        if entry.size is not None:
            job.tell(self._came, row, entry)

    def _came(self, row: Row, entry: Entry) -> None:
        row.entry = replace(row.entry, size=entry.size, rounded=entry.rounded)
        self._listing().row_changed(row)

    def _done(self) -> None:
        self._job = None
        self.look()

    def _failed(self, error: FarbootError) -> None:
        """A server that does not tell one size is not asked for the others: the listing is good without."""
        self._job = None
        self._refused = True


def _wants_size(entry: Entry) -> bool:
    return entry.size is None and entry.kind is Kind.IMAGE
