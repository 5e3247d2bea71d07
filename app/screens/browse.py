"""The room a person comes in by: places, what they hold, and what the thing under the cursor is."""

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal, Vertical
from textual.widgets import Input

from app.memory import Memory
from app.screens.contract import Engine
from app.screens.folder import Folder, has_snapshots
from app.screens.look import Look
from app.screens.places import described, examples
from app.screens.places_pane import PlacesPane
from app.screens.pointing import Pointing
from app.screens.probing import Probing
from app.screens.visit import Visit
from app.settings import Settings
from probes.credentials import Credentials
from probes.entry import Entry, Kind
from probes.errors import Denied, FarbootError, Unsupported
from probes.image import Image
from probes.location import Location
from widgets.details import Details
from widgets.facts import Facts
from widgets.filter_line import FilterLine
from widgets.listing import Listing
from widgets.places import PlacesView
from widgets.rows import Order
from widgets.rows_view import RowsView

_ORDERS = list(Order)
_WELCOME = "Choose a place, or press o for any location."


class Browse(Pointing):
    """Places, listing, description."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # These two are asked before the panes: what is typed on at once, or in one burst, belongs to their lines.
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("o", "open", "Go to", priority=True),
        Binding("escape,backspace,left,h", "back", "Back", key_display="esc"),
        Binding("r", "reload", "Reload"),
        Binding("greater_than_sign", "sort(1)", "Sort", key_display=">", show=False),
        Binding("less_than_sign", "sort(-1)", "Sort back", show=False),
        Binding("tab", "next_pane(1)", "Next pane", show=False),
        Binding("shift+tab", "next_pane(-1)", "Pane before", show=False),
    ]

    AUTO_FOCUS = ""

    def __init__(self, engine: Engine, start_at: Location | None, memory: Memory) -> None:
        super().__init__()
        self._engine = engine
        self._start_at = start_at
        self._pane = PlacesPane(self, memory, lambda: self.places, self._places_changed)
        self._visit = Visit(
            self, engine, lambda: self.listing, self._place_changed, self._listed, self._not_listed, memory.owners
        )
        self._probing = Probing(self, engine, lambda: self.listing)
        self._look = Look(self, engine, self._show_facts, self._denied_look, self.options_for, self._probing)
        self._asked: Location | None = None

    def compose_room(self) -> ComposeResult:
        with Horizontal(id="panes"):
            yield PlacesView(id="places")
            with Container(id="work"):
                with Vertical(id="middle"):
                    yield Listing(id="listing")
                    yield FilterLine(id="filter")
                yield Details(id="details")

    def on_mount(self) -> None:
        """Begin where the person said, or at the places."""
        self._pane.begin()
        self.listing.placeholder = _WELCOME
        self.listing.has_snapshots = self._has_snapshots
        if self._start_at is not None:
            self.open(self._start_at)
        else:
            self._enter_places()

    def on_unmount(self) -> None:
        """Let go of servers."""
        self._visit.forget()
        self._look.forget()
        self._probing.forget()

    @property
    def settings(self) -> Settings:
        return self._pane.settings

    @property
    def details(self) -> Details:
        """The pane on the right, or below."""
        return self.query_one(Details)

    @property
    def folder(self) -> Folder | None:
        """The place that is shown."""
        return self._visit.folder

    # Places

    def open(self, location: Location, credentials: Credentials | None = None) -> None:
        """Go to a location that was typed, or given at the start: a container, or an image among its neighbours."""
        if credentials:
            self._engine.keychain.add(location, credentials)
            self._visit.forget()
            self._look.forget()
            self._probing.forget(everything=True)
        self._pane.typed(location)
        self._asked = location
        self._pane.opened(location)
        self._enter(Folder(location), certain=False)

    def _places_changed(self) -> None:
        if self.folder is None and self.focused is self.places:
            self._describe_place()
        self.refresh_bindings()

    def _enter(self, folder: Folder, certain: bool = True) -> None:
        self._leave(certain)
        self._visit.enter(folder, certain)

    def _enter_inner(self, location: Location) -> None:
        self._leave()
        self._visit.enter_inner(location)

    def _leave(self, certain: bool = True) -> None:
        self._asked = None if certain else self._asked
        self._show_listing()

    def _show_listing(self) -> None:
        self.listing.focus()
        self.query_one(FilterLine).reset()

    def _place_changed(self) -> None:
        folder = self.folder
        if folder is not None:
            self.listing.conclude(folder.conclusion)
            self._probing.look()
        self.top_bar.show(str(folder.location) if folder else "", self._visit.state)

    def _listed(self, folder: Folder) -> None:
        self.listing.placeholder = "Nothing here. Esc goes back."
        self.listing.refresh()
        if self._asked is not None:
            self._pane.opened(folder.location, instead_of=self._asked)
            self._pane.used_now(self._asked)
            self._asked = None
        self.farboot.let_in(folder.location)
        self.places.mark(folder.location)
        if folder.aside is not None and not isinstance(folder.aside, Unsupported):  # that is no news
            self.farboot.say(f"The folder around it cannot be listed: {folder.aside.why}", "warning")

    def _not_listed(self, folder: Folder, error: FarbootError) -> None:
        self.listing.placeholder = error.why
        self.listing.refresh()
        if len(folder.rows):
            self.farboot.say(f"The listing broke off: {error.why}", "error")
        else:
            self._show_facts(Facts(error=error))
        if isinstance(error, Denied) and error.wants:
            self.farboot.ask_credentials(error, folder.location, self.action_reload)

    # The description

    def _show_facts(self, facts: Facts) -> None:
        if facts.image is not None and facts.entry is not None:
            self.farboot.let_in(facts.entry.location)
        self.details.show(facts)
        self.refresh_bindings()

    def _denied_look(self, error: Denied) -> None:
        entry = self.listing.entry
        if entry is not None:
            self.farboot.ask_credentials(error, entry.location, self._look_anew)

    def _look_anew(self) -> None:
        self._look.forget()
        self._probing.forget(everything=True)
        self._look.rest(self.listing.entry)
        self._probing.look()

    @on(RowsView.Moved)
    def moved(self, event: RowsView.Moved) -> None:
        """The cursor of a pane moved."""
        if event.view is self.places:
            if self.focused is self.places:
                self._describe_place()
        elif self.folder is not None and not (self.folder.error and not self.listing.row):
            self._look.rest(self.listing.entry)
            self._probing.look()
        self.refresh_bindings()

    @on(RowsView.Scrolled)
    def scrolled(self, event: RowsView.Scrolled) -> None:
        """Other rows of a pane are seen."""
        if event.view is self.listing and self.folder is not None:
            self._probing.look()

    def _describe_place(self) -> None:
        place = self.places.place
        if place is None:
            return
        self._look.rest(None)
        self._show_facts(Facts(text=described(place)))

    # What the person does

    @on(RowsView.Chosen)
    def chosen(self, event: RowsView.Chosen) -> None:
        """Enter, on a place or on an entry."""
        event.stop()
        if event.view is self.places:
            place = self.places.place
            if place is None or place.missing:
                return
            if place.location is None:
                self.action_open(place.typed)
            else:
                self._enter(Folder(place.location))
            return
        entry = self.listing.entry
        if entry is None:
            return
        if entry.kind is Kind.CONTAINER:
            self._enter_inner(entry.location)
            return
        if self._has_snapshots(entry):
            self._enter(Folder(entry.location, of_image=True))
            return
        if entry.kind is Kind.OTHER and self.details.facts.image is None:
            self._look.now()
        self.details.focus()

    def _has_snapshots(self, entry: Entry) -> bool:
        """Whether snapshots are what is in `entry`; in their own listing nothing is."""
        listed = self.folder is not None and self.folder.of_image
        return entry.kind is Kind.IMAGE and not listed and has_snapshots(entry.location)

    def action_back(self) -> None:
        """One level back: from the description, the filter, the folder, the storage."""
        filter_line = self.query_one(FilterLine)
        if self.focused is self.details:
            self.listing.focus()
        elif self.focused is self.places:
            if self.folder is not None:
                self.listing.focus()
        elif filter_line.active:
            filter_line.reset()
        elif self.folder is None or (outer := self._visit.outer) is None:
            self._enter_places()
        else:
            self._show_listing()
            self._visit.enter_outer(outer)

    def _enter_places(self) -> None:
        if self.folder is not None:
            self.places.mark(self.folder.location)
        self.set_class(True, "-places")
        self.places.focus()
        self._describe_place()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The panes that have a narrow screen only while they are used come and go."""
        self.set_class(self.focused is self.places, "-places")
        self.set_class(self.focused is self.details, "-reading")
        self._fit_details()
        if self.focused is self.listing:
            self._look.rest(self.listing.entry)
            self.show_error_again()
        self.refresh_bindings()

    def on_resize(self, event: events.Resize) -> None:
        super().on_resize(event)
        self._fit_details()
        if self.folder is not None:
            self.call_after_refresh(self._probing.look)

    def _fit_details(self) -> None:
        """Below a narrow listing there is room for little more than what its row does not say."""
        compact = self.size.width < 100 and not self.has_class("-reading")
        if compact != self.details.compact:
            self.details.compact = compact
            self.details.redraw()

    def show_error_again(self) -> None:
        """A place that could not be listed says so as long as one is there."""
        folder = self.folder
        if folder is not None and folder.error is not None and not len(folder.rows):
            self._show_facts(Facts(error=folder.error))

    def action_next_pane(self, step: int) -> None:
        """Go from pane to pane."""
        panes = [self.places, self.listing, self.details]
        index = panes.index(self.focused) if self.focused in panes else 0
        target = panes[(index + step) % len(panes)]
        if target is self.places:
            self._enter_places()
        target.focus()

    def action_filter(self) -> None:
        """Type what names shall contain."""
        self.query_one(FilterLine).begin()

    @on(FilterLine.Changed)
    def filter_changed(self, event: FilterLine.Changed) -> None:
        """Filter as one types."""
        self.listing.filter(event.value)
        self._place_changed()

    @on(FilterLine.Left)
    def filter_left(self, event: FilterLine.Left) -> None:
        """Back to the listing, which stays filtered unless the line was cleared."""
        self.listing.focus()
        if event.steps:
            self.listing.action_move(event.steps)

    def action_sort(self, step: int) -> None:
        """Sort another way."""
        rows = self.listing.rows
        self.listing.sort(_ORDERS[(_ORDERS.index(rows.order) + step) % len(_ORDERS)])
        self._place_changed()

    def action_reload(self) -> None:
        """Read again: the description that has the focus, or what failed, or the whole listing."""
        if self.focused is self.details or (self.details.facts.error and self.details.facts.entry):
            self._look.again()
        else:
            self._look.forget()
            self._probing.forget()
            self._show_listing()
            self._visit.reload()

    def action_open(self, typed: str = "") -> None:
        """Open any location."""
        from app.screens.open_location import Opened, OpenLocation

        def opened(answer: Opened | None) -> None:
            if answer is not None:
                self.open(*answer)

        folder = self.folder
        if not typed and folder is not None and isinstance(folder.error, Unsupported) and self.focused is self.listing:
            typed = str(folder.location)  # where nothing can be listed, a path is typed behind it
        self.app.push_screen(OpenLocation(typed, self._pane.used, examples()), opened)

    @property
    def image_entry(self) -> Entry | None:
        """What is called neither an image nor a container can be booted once Enter has found an image in it."""
        entry = self.listing.entry
        if entry is None or entry.kind is Kind.CONTAINER or (entry.kind is Kind.OTHER and self.image is None):
            return None
        return entry

    @property
    def image(self) -> Image | None:
        shown, entry = self.details.facts, self.listing.entry
        is_it = shown.entry is not None and entry is not None and shown.entry.location == entry.location
        return shown.image if is_it else None

    def allows(self, action: str) -> bool:
        """Which keys do something now."""
        boots = self.allows_boot(action)
        if boots is not None:
            return boots and self.focused is not self.places
        if action in {"rename", "remove"}:
            return self.allows_change(action)
        if action == "open":
            return not isinstance(self.focused, Input)
        if action == "back":
            return self.folder is not None or self.focused is not self.places
        if action == "filter" and self.focused is self.places:
            return False
        if action in {"filter", "reload", "sort"}:
            return self.folder is not None and not isinstance(self.focused, Input)
        return True

    def booted(self, location: Location) -> None:
        self._pane.used_now(location)
