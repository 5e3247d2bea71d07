"""A list with a cursor, drawn line by line from plain rows: the ground of the listing and of the guests' table.

Textual's own DataTable and OptionList take many seconds for 100,000 rows; drawing what is seen takes none.
"""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from widgets.cells import cut


class RowsView(ScrollView, can_focus=True):
    """Lines of text under a cursor. A subclass says how many there are and draws one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown,space", "page(1)", "Page down", show=False),
        Binding("home", "jump(0)", "First", show=False),
        Binding("end", "jump(-1)", "Last", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--cursor", "rows--faint", "rows--match"}
    DEFAULT_CSS = """
    RowsView { height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-gutter: stable; }
    """

    class Moved(Message):
        """The cursor is on another row, or on what the same place now holds."""

        def __init__(self, view: "RowsView") -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> "RowsView":
            return self.view

    class Scrolled(Message):
        """Other rows are seen."""

        def __init__(self, view: "RowsView") -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> "RowsView":
            return self.view

    class Chosen(Message):
        """Somebody wants the row under the cursor: by Enter or a second click."""

        def __init__(self, view: "RowsView") -> None:
            super().__init__()
            self.view = view

        @property
        def control(self) -> "RowsView":
            return self.view

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self.cursor = 0
        self._conclusion = ""

    def row_count(self) -> int:
        """How many rows there are."""
        raise NotImplementedError

    def draw_row(self, index: int, width: int, base: Style, selected: bool) -> list[Segment]:
        """Draw row `index` into `width` cells upon the style `base`."""
        raise NotImplementedError

    def empty_text(self) -> str:
        """What to say where there are no rows."""
        return ""

    def conclude(self, text: str) -> None:
        """Say `text` below the last row, where there is room."""
        if text != self._conclusion:
            self._conclusion = text
            self.refresh()

    def rows_changed(self) -> None:
        """Tell the view that rows came, went or changed."""
        count = self.row_count()
        self.virtual_size = Size(self.size.width, count)
        self.cursor = max(0, min(self.cursor, count - 1))
        self.refresh()

    def move_to(self, index: int) -> None:
        """Put the cursor on row `index`, or on the nearest there is, and show it."""
        index = max(0, min(index, self.row_count() - 1))
        moved = index != self.cursor
        self.cursor = index
        self.show_cursor()
        self.refresh()
        if moved:
            self.post_message(self.Moved(self))

    def show_cursor(self) -> None:
        """Scroll so that the cursor's row is seen."""
        height = self.scrollable_content_region.height
        if height <= 0:
            return
        top = round(self.scroll_offset.y)
        if self.cursor < top:
            top = self.cursor
        elif self.cursor >= top + height:
            top = self.cursor - height + 1
        self.scroll_top(top)

    def scroll_top(self, top: int) -> None:
        """Make row `top` the first one that is seen."""
        if top != round(self.scroll_offset.y):
            self.scroll_to(y=top, animate=False, force=True, immediate=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Say so, whoever scrolled."""
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self.post_message(self.Scrolled(self))

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        index = y + round(self.scroll_offset.y)
        base = self.rich_style
        if index >= self.row_count():
            text = self._conclusion if index == self.row_count() + 1 else ""
            text = self.empty_text() if y == 1 and self.row_count() == 0 else text
            faint = self.get_component_rich_style("rows--faint")
            return Strip([Segment(f"  {cut(text, width - 3)}", faint)]).adjust_cell_length(width, base)
        selected = index == self.cursor
        if selected:
            base = self.get_component_rich_style("rows--cursor")
        segments = self.draw_row(index, width, base, selected)
        return Strip(segments).adjust_cell_length(width, base)

    def faint(self, base: Style, selected: bool) -> Style:
        """The style of what matters less, upon `base`."""
        return base if selected else self.get_component_rich_style("rows--faint")

    def action_move(self, steps: int) -> None:
        """Move the cursor by `steps` rows."""
        self.move_to(self.cursor + steps)

    def action_page(self, pages: int) -> None:
        """Move the cursor by whole pages."""
        self.move_to(self.cursor + pages * max(1, self.scrollable_content_region.height - 1))

    def action_jump(self, index: int) -> None:
        """Move the cursor to the first row (0) or to the last (-1)."""
        self.move_to(index if index >= 0 else self.row_count() - 1)

    def on_resize(self, event: events.Resize) -> None:
        """Keep the cursor in sight when the room changes."""
        self.virtual_size = Size(event.size.width, self.row_count())
        self.call_after_refresh(self.show_cursor)

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse points; on the cursor's own row, choose it."""
        index = event.y + round(self.scroll_offset.y)
        if index >= self.row_count():
            return
        if index == self.cursor:
            self.post_message(self.Chosen(self))
        else:
            self.move_to(index)
