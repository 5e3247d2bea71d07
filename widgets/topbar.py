"""The first line of every room: where one is, how much is there, and how many guests run."""

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from probes.text import clean
from probes.words import counted
from widgets.cells import fit


class TopBar(Widget):
    """One line: the program, the place, the state of the room, the guests."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"topbar--name", "topbar--faint", "topbar--guests"}
    DEFAULT_CSS = "TopBar { height: 1; dock: top; }"

    def __init__(self, place: str = "", state: str = "") -> None:
        super().__init__()
        self._place = place
        self._state = state
        self._guests = 0

    def show(self, place: str | None = None, state: str | None = None) -> None:
        """Show another place or state; None leaves it as it is."""
        before = self._place, self._state
        self._place = self._place if place is None else place
        self._state = self._state if state is None else state
        if before != (self._place, self._state):
            self.refresh()

    def count_guests(self, number: int) -> None:
        """Show how many guests there are."""
        if number != self._guests:
            self._guests = number
            self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        base = self.rich_style
        faint = self.get_component_rich_style("topbar--faint")
        guests = f" {counted(self._guests, 'guest')} " if self._guests else " no guests "
        guests_style = self.get_component_rich_style("topbar--guests") if self._guests else faint
        state = f"  {clean(self._state)}  " if self._state else "  "
        if width < 50:
            state = "  "
        name = " Farboot " if width >= 60 else ""
        room = width - cell_len(name) - cell_len(state) - cell_len(guests) - 1
        segments = [
            Segment(name, self.get_component_rich_style("topbar--name")),
            Segment(" " + fit(clean(self._place), max(room, 0)), base),
            Segment(state, faint),
            Segment(guests, guests_style),
        ]
        return Strip(segments).adjust_cell_length(width, base)
