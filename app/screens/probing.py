"""What the images in a listing are, found out in the background: for the rows that are seen first, then for the page
after them, and for no others.

What is found is remembered (`app.judged`), so that coming back, listing again and sorting show it at once. Where it
cannot be had without harm (`probes.registry`, `costly`), or only with the whole image, the sizes that the listing does
not bring are all that is asked for. The row under the cursor is left to `Look`, which has a connection of its own.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from textual.screen import Screen
from textual.timer import Timer

from app.background import Job
from app.judged import Judged, JudgedImages
from app.screens.contract import Engine
from app.screens.crew import Crew
from probes.entry import Entry, Kind
from probes.errors import Crashed, Denied, FarbootError, NotFetched, TimedOut, Unreachable, Unsupported
from probes.location import Location
from probes.registry import system_of
from probes.source import Source
from widgets.listing import Listing
from widgets.rows import Row, Rows

REST = 0.25
"""Seconds that the rows must stand still; more than the cursor must, so that its image is asked for first."""

_TOGETHER = 0.05  # seconds in which what came is gathered, and then drawn at once
_MISSES = 3  # failures in a row after which asking on is pointless, or unwelcome


class Probing:
    """Fills in what images are, and the sizes that listings do not bring. What fails is left blank."""

    def __init__(self, screen: Screen[None], engine: Engine, listing: Callable[[], Listing]) -> None:
        self._screen = screen
        self._engine = engine
        self._listing = listing
        self._memory = JudgedImages()
        self._crew: Crew | None = None
        self._timer: Timer | None = None
        self._rows: Rows | None = None
        self._seen: list[Row] = []
        self._cursor: Row | None = None
        self._unsure: set[Row] = set()
        self._came: deque[tuple[Row, Judged | Entry]] = deque()
        self._drawing: Timer | None = None
        self._misses = self._refusals = 0
        self._gave_up = False
        self._gives_whole: set[Location] = set()

    def look(self) -> None:
        """Other rows may be seen now: show what is known of them, and ask for the rest once they stand still."""
        listing = self._listing()
        if listing.rows is not self._rows:
            self._leave(listing.rows)
        seen, cursor = listing.seen, listing.row
        if seen == self._seen and cursor is self._cursor:
            return
        if seen != self._seen:
            self._recall(seen)
            if self._crew is not None:
                self._crew.want(())
            self._stop_timer()
        self._seen, self._cursor = seen, cursor
        if self._timer is None:
            self._timer = self._screen.set_timer(REST, self._begin)

    def learned(self, entry: Entry, judged: Judged) -> None:
        """Somebody looked at the image listed as `entry`."""
        self._memory.keep(entry, judged)
        for row in self._listing().seen:
            if row.entry.location == entry.location:
                self._take_in(row, judged)
                self._listing().know_more()

    def known(self, entry: Entry) -> Judged | None:
        """What the image listed as `entry` was found to be."""
        found = self._memory.of(entry)
        return found.judged if found else None

    def forget(self, everything: bool = False) -> None:
        """Let go of the server: it may be worth asking again. With `everything` also of what is known."""
        self._end_crew()
        self._leave(None)
        if everything:
            self._memory.forget()

    # Which rows

    def _leave(self, rows: Rows | None) -> None:
        """Another place is shown: nothing more is wanted of the last one."""
        self._rows = rows
        self._stop_timer()
        if self._crew is not None:
            if self._crew.is_busy:
                self._end_crew()
            else:
                self._crew.rest()
        self._seen, self._cursor = [], None
        self._unsure.clear()
        self._came.clear()
        self._misses = self._refusals = 0
        self._gave_up = False

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None

    def _end_crew(self) -> None:
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def _recall(self, rows: list[Row]) -> None:
        for row in rows:
            if row.image is None and row.entry.kind is not Kind.CONTAINER:
                found = self._memory.of(row.entry)
                if found is not None:
                    self._take_in(row, found.judged)
                    if not found.is_certain:
                        self._unsure.add(row)

    def _begin(self) -> None:
        self._timer = None
        listing = self._listing()
        if self._gave_up or not listing.seen:
            return
        root = listing.seen[0].entry.location.root
        rows = [row for row in listing.seen if row is not self._cursor and self._is_wanted(row, root)]
        if self._reads(root):
            rows += [row for row in listing.following if self._is_wanted(row, root)]
        if self._crew is not None and self._crew.root != root:
            self._end_crew()
        if self._crew is None and rows:
            self._crew = Crew(self._screen, self._engine, root, self._ask, self._failed)
        if self._crew is not None:
            self._crew.want(rows)

    def _is_wanted(self, row: Row, root: Location) -> bool:
        if row.entry.kind is not Kind.IMAGE or (self._crew is not None and self._crew.has_begun(row)):
            return False
        if row.entry.location.root != root:  # a device among files, say: its disk may be asleep
            return False
        return row.entry.size is None or (self._reads(root) and (row.image is None or row in self._unsure))

    def _reads(self, root: Location) -> bool:
        """Whether images may be read there though nobody has asked for them."""
        return not system_of(root.scheme).costly and root not in self._gives_whole

    # What the crew's threads do

    def _ask(self, job: Job, source: Source, row: Row) -> bool:
        answered = True
        try:
            if self._reads(row.entry.location.root):
                try:
                    self._have(job, row, self._engine.glance(row.entry.location, source, self._pinned(row)))
                    return True
                except Unsupported as error:
                    answered = self._cannot_read(row.entry.location.root, error)
            if row.entry.size is None:
                self._have(job, row, source.stat(row.entry.location))
        except (Unreachable, TimedOut, Crashed, Denied) as error:
            if isinstance(error, Denied) and not error.wants:
                return True  # its owner keeps this one from us, which says nothing about the others
            self._misses += 1
            if self._misses >= _MISSES:
                raise
            return False
        except FarbootError:  # it went away meanwhile, say: the others are asked for all the same
            return True
        return answered

    def _have(self, job: Job, row: Row, answer: Judged | Entry) -> None:
        self._misses = 0
        self._came.append((row, answer))
        job.tell(self._draw_soon)

    def _cannot_read(self, root: Location, error: Unsupported) -> bool:
        """Take note, and return whether that is for sure now: of no image there can a part be had."""
        self._refusals += 1
        if isinstance(error, NotFetched) or self._refusals >= _MISSES:
            self._gives_whole.add(root)
        return root in self._gives_whole

    def _pinned(self, row: Row) -> Judged | None:
        found = self._memory.of(row.entry) if row in self._unsure else None
        return found.judged if found else None

    def _failed(self, error: FarbootError) -> None:
        """A server that does not answer is not asked on: the listing is good without."""
        self._crew = None
        self._gave_up = True

    # What they found

    def _draw_soon(self) -> None:
        if self._drawing is None:
            self._drawing = self._screen.set_timer(_TOGETHER, self._draw)

    def _draw(self) -> None:
        self._drawing = None
        resized = False
        while self._came:
            row, answer = self._came.popleft()
            if isinstance(answer, Judged):
                self._memory.keep(row.entry, answer)
            resized = self._take_in(row, answer) or resized
            self._unsure.discard(row)
        self._listing().know_more(resized)

    def _take_in(self, row: Row, answer: Judged | Entry) -> bool:
        """Have `row` show it; return whether its size is another one now."""
        entry = row.entry
        if isinstance(answer, Judged):
            row.image = answer.image
            if entry.size is not None and not entry.rounded and row not in self._unsure:
                return False
            size, rounded = answer.pin.size, False
        else:
            if answer.size is None:
                return False
            size, rounded = answer.size, answer.rounded
        row.entry = replace(entry, size=size, rounded=rounded)
        return size != entry.size
