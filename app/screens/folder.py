"""One place being listed: filled from a job's thread, emptied into the listing by the screen's."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from app.background import Job, Lane
from probes.entry import Entry, Kind
from probes.errors import BadAnswer, FarbootError, NotAContainer
from probes.known.guests import Owners
from probes.location import Location
from probes.registry import SYSTEMS
from probes.source import HasSnapshots, Source
from widgets.rows import Row, Rows

PAUSE = 0.03
"""Seconds between two batches."""

MOST_ROWS = 2_000_000
"""Entries of one place that are kept, some 600 bytes each: a server could send them for ever."""

_BATCH = 2000
"""Rows that are put in their places without a pause that is felt: in some 8 ms."""


class Folder:
    """What is known of a place, and where the person was in it.

    With `of_image` the place is an image: it and its snapshots are what is in it. `wanted` is the entry that the
    cursor should go to. `aside` says what could not be had, where something else could (the listing around an image,
    say).
    """

    def __init__(self, location: Location, wanted: Location | None = None, of_image: bool = False) -> None:
        self.location = location
        self.of_image = of_image
        self.wanted = wanted
        self.rows = Rows()
        self.cursor = 0
        self.top = 0
        self.done = False
        self.error: FarbootError | None = None
        self.aside: FarbootError | None = None
        self.owners: Owners | None = None
        self._arrived: deque[Row] = deque()

    def receive(self, entry: Entry, leading: bool = False) -> None:
        """Take an entry, from any thread. Raises BadAnswer for one too many."""
        if len(self.rows) + len(self._arrived) >= MOST_ROWS:
            why, hint = f"it has more than {MOST_ROWS:,} entries", "o opens one of the others by its name"
            raise BadAnswer("list", self.location, why, hint)
        self._arrived.append(Row(with_owner(entry, self.owners), leading))

    @property
    def noun(self) -> str:
        """What its entries are called."""
        return "snapshot" if self.of_image else "entry"

    @property
    def count(self) -> int:
        """How many of them came; an image is not one of its own snapshots."""
        return len(self.rows) - 1 if self.of_image and len(self.rows) else len(self.rows)

    @property
    def conclusion(self) -> str:
        """What is worth saying below the last row."""
        alone = self.done and self.of_image and self.error is None and not self.count
        return "It has no snapshots. b boots it as it is, esc goes back." if alone else ""

    def take(self) -> list[Row]:
        """Give the rows that arrived, but not more than can be merged without a pause that is felt."""
        return [self._arrived.popleft() for _ in range(min(len(self._arrived), _BATCH))]

    @property
    def waiting(self) -> bool:
        """Whether rows arrived that nobody took yet."""
        return bool(self._arrived)


def with_owner(entry: Entry, owners: Owners | None) -> Entry:
    """The entry, with whose disk it is before its own note."""
    if not owners or entry.kind is Kind.CONTAINER:
        return entry
    notes = [owner.note for owner in owners.of(entry.location)]
    return replace(entry, note=" · ".join([*notes[:3], *([entry.note] if entry.note else [])])) if notes else entry


def fill(lane: Lane, folder: Folder, job: Job, certain: bool, owners: Owners | None = None) -> None:
    """List the folder's place, in a job's thread. `certain` says that it is known to be a container, `owners` whose
    disks there may be in it.

    A place that turns out to be an image is shown among its neighbours. Raises FarbootError.
    """
    folder.owners = owners
    with lane.source(folder.location) as source:
        if folder.of_image:
            _receive_snapshots(source, folder, job)
            return
        if not certain and not folder.location.is_container:
            entry = source.stat(folder.location)
            if entry.kind is not Kind.CONTAINER:
                _fill_around(lane, folder, job, entry)
                return
            folder.location = entry.location
        try:
            _receive(source.entries(folder.location), folder, job)
        except NotAContainer:
            _fill_around(lane, folder, job, source.stat(folder.location))


def _fill_around(lane: Lane, folder: Folder, job: Job, entry: Entry) -> None:
    outer = entry.location.parent
    folder.wanted = entry.location
    if outer is None:
        folder.receive(entry)
        return
    folder.location = outer
    found = False
    try:
        with lane.source(outer) as source:
            if has_snapshots(outer) and source.stat(outer).kind is Kind.IMAGE:
                folder.of_image = True
                _receive_snapshots(source, folder, job)
                return
            for neighbour in source.entries(outer):
                if job.cancelled:
                    return
                found = found or neighbour.location == entry.location
                folder.receive(neighbour)
    except FarbootError as error:  # a server may give an image and not its index: the image is what was asked for
        folder.aside = error
    if not found:
        folder.receive(entry)


def has_snapshots(location: Location) -> bool:
    """Whether images of this storage system can have snapshots: their names are all that is needed to know."""
    return any(location.scheme in system.schemes and HasSnapshots in system.abilities for system in SYSTEMS)


def _receive_snapshots(source: Source, folder: Folder, job: Job) -> None:
    """Both can be booted: the image as it is now, which comes first, and what it was."""
    folder.receive(replace(source.stat(folder.location), note="the image as it is now"), leading=True)
    if isinstance(source, HasSnapshots):
        _receive(source.snapshots(folder.location), folder, job)


def _receive(entries: Iterator[Entry], folder: Folder, job: Job) -> None:
    for entry in entries:
        if job.cancelled:
            return
        folder.receive(entry)


def next_pause(spent: float) -> float:
    """How long to let the keys have the screen after a merge that took `spent` seconds."""
    return max(PAUSE, 4 * spent)
