"""The storage systems, and the servers that were opened: where looking begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType

from probes.location import Location
from probes.text import clean
from widgets.cells import fit
from widgets.rows_view import RowsView


@dataclass(frozen=True)
class Place:
    """A line of the places.

    `location` is what choosing it opens; without one `typed` is what the person goes on typing from ("http://").
    `missing` says what to install before it can be used, `about` where it comes from. A `heading` only separates.
    `kind` says what can be done with the line itself: "bookmark", "used".
    """

    title: str
    location: Location | None = None
    typed: str = ""
    missing: str = ""
    heading: bool = False
    about: str = ""
    kind: str = ""


class PlacesView(RowsView):
    """Places under a cursor that steps over headings."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,right,l", "choose", "Open", key_display="enter")]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self.places: tuple[Place, ...] = ()

    def row_count(self) -> int:
        return len(self.places)

    @property
    def place(self) -> Place | None:
        """The place under the cursor."""
        place = self.places[self.cursor] if self.cursor < len(self.places) else None
        return place if place and not place.heading else None

    def show(self, places: Sequence[Place]) -> None:
        """Show these places; the cursor stays on the one it is on."""
        current = self.place
        self.places = tuple(places)
        if current in self.places:
            self.cursor = self.places.index(current)
        self.rows_changed()
        if self.place is None:
            self.move_to(self.cursor + 1)

    def mark(self, location: Location | None) -> None:
        """Put the cursor on the place that holds `location` most closely, if one does."""
        if location is None:
            return
        scores = [_closeness(place.location, location) if place.location else -1 for place in self.places]
        best = max(scores, default=-1)
        if best >= 0:
            self.move_to(scores.index(best))

    def move_to(self, index: int) -> None:
        index = max(0, min(index, len(self.places) - 1))
        onwards = range(index, len(self.places))
        back = range(index, -1, -1)
        ways = (*onwards, *back) if index >= self.cursor else (*back, *onwards)
        line = next((i for i in ways if not self.places[i].heading), None)
        if line is not None:
            super().move_to(line)
        if line == self.first:
            self.scroll_top(0)  # its heading is worth seeing, too

    @property
    def first(self) -> int | None:
        """The first line that is no heading."""
        return next((i for i, place in enumerate(self.places) if not place.heading), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What is off cannot be opened."""
        return action != "choose" or (self.place is not None and not self.place.missing)

    def action_choose(self) -> None:
        """Open the place under the cursor."""
        if self.place is not None:
            self.post_message(self.Chosen(self))

    def draw_row(self, index: int, width: int, base: Style, selected: bool) -> list[Segment]:
        place = self.places[index]
        faint = self.faint(base, selected)
        if place.heading:
            return [Segment(" " + fit(place.title, width - 1), faint)]
        style = faint if place.missing else base
        note = " off" if place.missing else ""
        room = width - 3 - cell_len(note)
        mark = Segment("› " if selected else "  ", base)
        return [mark, Segment(fit(clean(place.title), room), style), Segment(note, faint)]


def _closeness(outer: Location, inner: Location) -> int:
    """How closely a place holds a location: by how many names; 0 for another part of the same storage, -1 for none."""
    if outer.scheme != inner.scheme or (outer.scheme != "file" and outer.root != inner.root):
        return -1
    names = outer.names
    return len(names) + 1 if inner.names[: len(names)] == names else 0
