"""A guest's screen, in cells."""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

Run = tuple[str, str, str]
"""Characters of one look, their colour and the colour behind them (`#rrggbb`)."""

Grid = tuple[tuple[Run, ...], ...]
"""Lines of runs."""


def _is_seen(run: Run) -> bool:
    text, _, back = run
    return bool(text.strip()) or back != "#000000"


class Picture(ScrollView, can_focus=True):
    """Shows a `Grid`, or says why there is none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", show=False),
        Binding("down,j", "scroll_down", "Down", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"picture--faint"}
    DEFAULT_CSS = """
    Picture { height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-gutter: stable; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self._grid: Grid = ()
        self._why = "Looking at its screen ..."

    @property
    def text(self) -> str:
        """The characters that are shown."""
        return "\n".join("".join(run[0] for run in line).rstrip() for line in self._grid)

    def show(self, grid: Grid) -> None:
        """Show these cells."""
        if grid == self._grid:
            return
        following = not self._grid or self.scroll_offset.y >= self.max_scroll_y
        self._grid = grid
        self._fit(following)

    def on_resize(self) -> None:
        """Keep the end in sight."""
        self.call_after_refresh(self._fit, True)

    def _fit(self, following: bool) -> None:
        """Make room for the lines that are used, and show the last of them."""
        used = len(self._grid)
        while used and not any(_is_seen(run) for run in self._grid[used - 1]):
            used -= 1
        self.virtual_size = Size(0, used)
        if following:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True, immediate=True)
        self.refresh()

    def fail(self, why: str) -> None:
        """Say why there is nothing to see; what was seen before stays."""
        self._why = why
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        index = y + round(self.scroll_offset.y)
        if not self._grid and y == 1:
            faint = self.get_component_rich_style("picture--faint")
            return Strip([Segment(f"  {self._why}", faint)]).adjust_cell_length(width, base)
        if index >= len(self._grid):
            return Strip.blank(width, base)
        segments = [Segment(text, Style(color=fore, bgcolor=back)) for text, fore, back in self._grid[index]]
        return Strip(segments).adjust_cell_length(width, base)
