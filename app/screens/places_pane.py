"""The places pane: filled at once with what is known, and again as files are read, places saved and used."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from textual.screen import Screen

from app.background import ask
from app.memory import Memory, Remembered
from app.screens.places import bookmark_of, places
from app.settings import Settings
from probes.errors import FarbootError
from probes.location import Location
from widgets.places import Place, PlacesView

if TYPE_CHECKING:
    from app.tui import FarbootApp


class PlacesPane:
    """What the places pane does. `changed` is called when its lines are others."""

    def __init__(
        self, screen: Screen[None], memory: Memory, view: Callable[[], PlacesView], changed: Callable[[], None]
    ) -> None:
        self.known = Remembered()
        self._screen = screen
        self._memory = memory
        self._view = view
        self._changed = changed
        self._opened: list[Location] = []
        self._used: list[str] = []
        self._told = ""

    @property
    def settings(self) -> Settings:
        """The settings, as last read."""
        return self.known.settings

    @property
    def used(self) -> list[str]:
        """Locations that were used: in this run, then before."""
        return list(dict.fromkeys([*self._used, *self.known.used]))

    def begin(self) -> None:
        """Show what needs no reading, and read the rest."""
        self._show()
        self.read()

    def read(self) -> None:
        """Read settings, history and the machine's files."""
        ask(self._screen, self._memory.gather, self._gathered, self._failed)

    def _gathered(self, known: Remembered) -> None:
        self.known = known
        self._show()
        trouble = known.trouble
        if trouble is not None and str(trouble) != self._told:
            self._failed(trouble)
        self._told = str(trouble or "")

    def _failed(self, error: FarbootError) -> None:
        cast("FarbootApp", self._screen.app).fail(error)

    def _show(self) -> None:
        self._view().show(places(self._opened, self.known))
        self._changed()

    def opened(self, location: Location, instead_of: Location | None = None) -> None:
        """A location was opened; what was asked for (`instead_of`) may have turned out to be another one."""
        kept = [place for place in self._opened if place not in {location, instead_of}]
        self._opened = [*kept, location]
        self._show()

    def typed(self, location: Location) -> None:
        """A location was asked for: it is offered again in this run, whether or not it can be listed."""
        text = str(location)
        self._used = [text, *(used for used in self._used if used != text)][:20]

    def used_now(self, location: Location) -> None:
        """A location turned out to be good for something: it is offered in later runs, too."""
        ask(self._screen, lambda: self._memory.used_now(location), lambda _: None, self._failed)

    # Saved places

    def save(self, location: Location, name: str) -> None:
        """Ask what to call a place, and save it."""
        from app.screens.dialogs import AskLine

        existing = next((b for b in self.settings.bookmarks if b.location == str(location)), None)

        def answered(given: str | None) -> None:
            if given and given.strip():
                self._change(lambda: self._memory.save(given.strip(), location))

        title = "Name the bookmark anew" if existing else "Save as a bookmark"
        self._screen.app.push_screen(AskLine(title, str(location), existing.name if existing else name), answered)

    def rename(self, place: Place | None) -> None:
        """Ask what to call a saved place."""
        bookmark = bookmark_of(place, self.known)
        if bookmark is not None and bookmark.place is not None:
            self.save(bookmark.place, bookmark.name)

    def remove(self, place: Place | None) -> None:
        """Take a saved place, or one used before, off the list."""
        bookmark = bookmark_of(place, self.known)
        if bookmark is not None:
            self._change(lambda: self._memory.remove(bookmark))
        elif place is not None and place.kind == "used":
            self._used = [text for text in self._used if text != str(place.location)]
            self._change(lambda: self._memory.forget(str(place.location)))

    def _change(self, change: Callable[[], None]) -> None:
        ask(self._screen, change, lambda _: self.read(), self._failed)
