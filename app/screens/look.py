"""Looking at what the cursor rests on: what it is, and how QEMU would get it."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from textual.screen import Screen
from textual.timer import Timer

from app.background import Job, Lane, start
from app.judged import Judged
from app.screens.contract import Engine
from app.screens.probing import Probing
from probes.entry import Entry, Kind
from probes.errors import Denied, FarbootError, NotFetched
from probes.image import Image
from probes.location import Location
from probes.words import human_size
from widgets.facts import Command, Facts

if TYPE_CHECKING:
    from app.qemu.options import Options

REST = 0.15
"""Seconds that the cursor must rest before an image is read."""

_REMEMBERED = 500


class Look:
    """Shows what is under the cursor, as it becomes known; what is no longer under it is dropped.

    `show` gets the facts, `denied` is called beside it when a prompt could help. `options` are the choices for a boot,
    as the key that boots would take them. `probing` knows what rows are at a glance, and is told what is found.
    """

    def __init__(
        self,
        screen: Screen[None],
        engine: Engine,
        show: Callable[[Facts], None],
        denied: Callable[[Denied], None],
        options: "Callable[[Location, Image], Options]",
        probing: Probing,
    ) -> None:
        self._screen = screen
        self._engine = engine
        self._show = show
        self._denied = denied
        self._options = options
        self._probing = probing
        self._lane = Lane(engine)
        self._job: Job | None = None
        self._timer: Timer | None = None
        self._known: OrderedDict[Location, Facts] = OrderedDict()
        self._entry: Entry | None = None
        self._facts = Facts()

    def rest(self, entry: Entry | None) -> None:
        """The cursor is on `entry` now."""
        if entry is not None and self._entry is not None and entry.location == self._entry.location:
            return
        self._stop()
        self._entry = entry
        if entry is None:
            self._set(Facts())
        elif entry.location in self._known:
            self._set(self._known[entry.location])
        elif entry.kind is Kind.IMAGE:
            self._set(self._at_first(entry))
            self._timer = self._screen.set_timer(REST, self.now)
        else:
            self._set(Facts(entry))

    def now(self) -> None:
        """Look at the entry under the cursor at once, whatever its name says."""
        self._stop()
        entry = self._entry
        if entry is None or entry.kind is Kind.CONTAINER:
            return
        self._set(self._at_first(entry))
        self._job = start(self._screen, lambda job: self._read(job, entry), self._failed)

    def again(self) -> None:
        """Forget what is known of the entry under the cursor, and look anew."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._known.pop(entry.location, None)
        self.rest(entry)

    def forget(self) -> None:
        """Forget everything: other credentials may show another picture."""
        self._stop()
        self._lane.give_up()
        self._known.clear()
        self._entry = None

    def _at_first(self, entry: Entry) -> Facts:
        known = self._probing.known(entry)
        return Facts(entry, image=known.image if known else None, busy="reading ...")

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._job is not None:
            self._job.cancel()
            self._job = None
            if self._facts.busy:
                self._lane.give_up()

    def _read(self, job: Job, entry: Entry) -> None:
        with self._lane.source(entry.location) as source:
            inspection = self._engine.inspect(entry.location, source)
        job.tell(self._probing.learned, entry, Judged(inspection.image, inspection.pin))
        facts = Facts(entry, image=inspection.image, busy="working out the command ...")
        job.tell(self._set, facts)
        try:
            options = inspection.accepted(self._options(entry.location, inspection.image))
            plan = self._engine.prepare(entry.location, options, inspection).plan
            command = Command(plan.drive, plan.drive_withheld, plan.notes, plan.refusals, str(options.mode))
        except NotFetched:  # which is nothing to do by itself, while somebody looks around
            command = Command(withheld="it has to be fetched whole first: b does that and boots it")
        except FarbootError as error:
            command = Command(error=error)
        job.tell(self._finish, replace(facts, command=command, busy=""))

    def _finish(self, facts: Facts) -> None:
        if facts.entry is not None:
            self._known[facts.entry.location] = facts
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._set(facts)

    def _failed(self, error: FarbootError) -> None:
        if isinstance(error, NotFetched):
            amount = f" ({human_size(error.size)})" if error.size else ""
            text = f"Its server cannot read in the middle of it: b fetches it{amount} and boots it."
            self._set(Facts(self._entry, text=text))
            return
        self._set(Facts(self._entry, error=error))
        if isinstance(error, Denied) and error.wants:
            self._denied(error)

    def _set(self, facts: Facts) -> None:
        self._facts = facts
        self._show(facts)
