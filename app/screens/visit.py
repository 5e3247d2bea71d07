"""The place that the listing shows: entered, filled as entries arrive, left, and found again as it was."""

import time
from collections import OrderedDict
from collections.abc import Callable

from textual.screen import Screen
from textual.timer import Timer

from app.background import Job, Lane, start
from app.screens.contract import Engine
from app.screens.folder import PAUSE, Folder, fill, next_pause
from probes.errors import FarbootError, TimedOut, Unreachable
from probes.known.guests import Owners
from probes.location import Location
from probes.registry import system_of
from probes.words import counted
from widgets.listing import Listing
from widgets.rows import Order

_REMEMBERED = 20


class Visit:
    """What the listing pane does. `changed` is called when there is more to say about the place, `finished` and
    `failed` when its listing is over. `owners` is asked in a job's thread.
    """

    def __init__(
        self,
        screen: Screen[None],
        engine: Engine,
        listing: Callable[[], Listing],
        changed: Callable[[], None],
        finished: Callable[[Folder], None],
        failed: Callable[[Folder, FarbootError], None],
        owners: Callable[[], Owners | None] = lambda: None,
    ) -> None:
        self.folder: Folder | None = None
        self._screen = screen
        self._listing = listing
        self._changed = changed
        self._finished = finished
        self._failed = failed
        self._owners = owners
        self._lane = Lane(engine)
        self._job: Job | None = None
        self._timer: Timer | None = None
        self._seen: OrderedDict[Location, Folder] = OrderedDict()
        self._found_in: dict[Location, Location] = {}

    @property
    def state(self) -> str:
        """How much there is, and whether more may come."""
        folder = self.folder
        if folder is None:
            return ""
        count = folder.count
        state = counted(count, folder.noun)
        if folder.rows.needle:
            state = f"{len(folder.rows.visible):,} of {len(folder.rows):,}"
        if not folder.done:
            state = f"{state}, arriving ..." if count else "listing ..."
        elif folder.error is not None:
            state = f"{state}, broken off" if count else "failed"
        if folder.rows.order is not Order.NAME:
            state += f", {folder.rows.order.value}"
        return state

    def enter(self, folder: Folder, certain: bool = True) -> None:
        """Show a place, and list it if that was not done yet. `certain` says that it is known to be a container."""
        self._leave()
        self.folder = folder
        listing = self._listing()
        listing.placeholder = ""
        listing.show(folder.rows, folder.cursor, folder.top)
        if not folder.done:
            self._job = start(self._screen, lambda job: self._fill(job, folder, certain), self._broke_off)
            self._drain_after(PAUSE)
        self._changed()

    @property
    def outer(self) -> Location | None:
        """The place that Esc leads to: the one in which this one was found, or else the one around it.

        None where that was never seen and would not be now: its server does not answer, or lists nothing.
        """
        folder = self.folder
        if folder is None:
            return None
        outer = self._found_in.get(folder.location) or folder.location.parent
        if outer is None or outer in self._seen:
            return outer
        is_dead = isinstance(folder.error, Unreachable | TimedOut) or not (folder.done or len(folder.rows))
        return None if is_dead or system_of(outer.scheme).unlisted else outer

    def enter_inner(self, location: Location) -> None:
        """Go on to a place that is listed in this one."""
        if self.folder is not None:
            self._found_in[location] = self.folder.location
        self.enter(Folder(location))

    def enter_outer(self, outer: Location) -> None:
        """Go back to the place that holds this one, as it was left."""
        inner = self.folder.location if self.folder else None
        self.enter(self._seen.pop(outer) if outer in self._seen else Folder(outer, wanted=inner))

    def reload(self) -> None:
        """List the place anew; the cursor goes to the entry that it is on."""
        if self.folder is None:
            return
        entry = self._listing().entry
        wanted = entry.location if entry else self.folder.wanted
        again = Folder(self.folder.location, wanted, self.folder.of_image)
        self.forget()
        self.enter(again, certain=False)

    def forget(self) -> None:
        """Let go of servers, and of all that was seen: with other credentials it may look otherwise."""
        if self._job is not None:
            self._job.cancel()
            self._job = None
        self._lane.give_up()
        self._seen.clear()

    def _leave(self) -> None:
        """Remember the place that is shown, or stop listing it if that still goes on."""
        folder = self.folder
        if folder is None:
            return
        if self._job is not None:
            self._job.cancel()
            self._job = None
            self._lane.give_up()
        elif folder.done and folder.error is None:
            listing = self._listing()
            row = listing.row
            folder.rows.filter("")
            folder.cursor = (folder.rows.index_of(row) or 0) if row else 0
            folder.top = max(0, folder.cursor - listing.cursor + round(listing.scroll_offset.y))
            self._seen[folder.location] = folder
            self._seen.move_to_end(folder.location)
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)

    def _fill(self, job: Job, folder: Folder, certain: bool) -> None:
        fill(self._lane, folder, job, certain, self._owners())
        job.tell(self._all_came)

    def _all_came(self) -> None:
        """What is still waiting is taken in pieces, too; then it is finished."""
        self._job = None

    def _drain_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.stop()
        self._timer = self._screen.set_timer(seconds, self._drain)

    def _drain(self) -> None:
        """Take the rows that arrived into the listing, and come again while there may be more."""
        folder = self.folder
        if folder is None or folder.done:
            return
        began = time.perf_counter()
        self._take(folder)
        if folder.waiting or self._job is not None:
            self._drain_after(next_pause(time.perf_counter() - began))
        else:
            folder.done = True
            self._listing().settle()
            self._finished(folder)
        self._changed()

    def _take(self, folder: Folder) -> None:
        batch = folder.take()
        if not batch:
            return
        listing = self._listing()
        listing.add(batch)
        if folder.wanted is None or listing.moved_by_hand:
            return
        row = next((row for row in batch if row.entry.location == folder.wanted), None)
        if row is not None:
            folder.wanted = None
            listing.go_to(row)

    def _broke_off(self, error: FarbootError) -> None:
        self._job = None
        folder = self.folder
        if folder is None:
            return
        while folder.waiting:  # what came before it failed is worth seeing
            self._take(folder)
        folder.done = True
        folder.error = error
        self._failed(folder, error)
        self._changed()
