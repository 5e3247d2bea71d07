"""One place being listed: filled from a job's thread, emptied into the listing by the screen's."""

from collections import deque
from collections.abc import Iterator

from app.background import Job, Lane
from probes.entry import Entry, Kind
from probes.errors import FarbootError, NotAContainer
from probes.location import Location
from widgets.rows import Row, Rows

PAUSE = 0.05
"""Seconds between two batches."""

_SMALLEST_BATCH = 5000


class Folder:
    """What is known of a place, and where the person was in it.

    `wanted` is the entry that the cursor should go to. `aside` says what could not be had, where something else
    could (the listing around an image, say).
    """

    def __init__(self, location: Location, wanted: Location | None = None) -> None:
        self.location = location
        self.wanted = wanted
        self.rows = Rows()
        self.cursor = 0
        self.top = 0
        self.done = False
        self.error: FarbootError | None = None
        self.aside: FarbootError | None = None
        self._arrived: deque[Row] = deque()

    def receive(self, entry: Entry) -> None:
        """Take an entry, from any thread."""
        self._arrived.append(Row(entry))

    def take(self) -> list[Row]:
        """Give the rows that arrived, but not more than can be merged without a pause that is felt."""
        count = min(len(self._arrived), max(_SMALLEST_BATCH, len(self.rows) // 8))
        return [self._arrived.popleft() for _ in range(count)]

    @property
    def waiting(self) -> bool:
        """Whether rows arrived that nobody took yet."""
        return bool(self._arrived)


def fill(lane: Lane, folder: Folder, job: Job, certain: bool) -> None:
    """List the folder's place, in a job's thread. `certain` says that it is known to be a container.

    A place that turns out to be an image is shown among its neighbours. Raises FarbootError.
    """
    with lane.source(folder.location) as source:
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
            for neighbour in source.entries(outer):
                if job.cancelled:
                    return
                found = found or neighbour.location == entry.location
                folder.receive(neighbour)
    except FarbootError as error:  # a server may give an image and not its index: the image is what was asked for
        folder.aside = error
    if not found:
        folder.receive(entry)


def _receive(entries: Iterator[Entry], folder: Folder, job: Job) -> None:
    for entry in entries:
        if job.cancelled:
            return
        folder.receive(entry)


def next_pause(spent: float) -> float:
    """How long to let the keys have the screen after a merge that took `spent` seconds."""
    return max(PAUSE, 4 * spent)
