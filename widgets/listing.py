"""What a place holds: one line an entry, of which there may be 100,000, arriving while one looks."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType

from probes.entry import Entry, Kind
from probes.image import Image, Verdict
from probes.text import clean
from probes.words import human_size, short_time
from widgets.cells import cut, fit
from widgets.columns import columns_in, disk_cell, form_cell
from widgets.rows import Order, Row, Rows
from widgets.rows_view import RowsView


class Listing(RowsView):
    """The entries of one place under a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,right,l", "choose", "Open", show=False),
        Binding("enter,right,l", "choose_image", "Snapshots", key_display="enter"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"listing--container", "listing--image", "listing--ask", "listing--refuse"}

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self.rows = Rows()
        self.placeholder = ""
        self.has_snapshots: Callable[[Entry], bool] = lambda _entry: False
        self.moved_by_hand = False
        self._settled = False

    def row_count(self) -> int:
        return len(self.rows.visible)

    def empty_text(self) -> str:
        if self.rows.needle and len(self.rows):
            return "Nothing matches. Esc clears the filter."
        return self.placeholder

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The key that opens says so where that is not plain."""
        if action in {"choose", "choose_image"}:
            return (action == "choose_image") == (self.entry is not None and self.has_snapshots(self.entry))
        return True

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        visible = self.rows.visible
        return visible[self.cursor] if self.cursor < len(visible) else None

    @property
    def entry(self) -> Entry | None:
        """The entry under the cursor."""
        row = self.row
        return row.entry if row else None

    @property
    def seen(self) -> list[Row]:
        """The rows that are on the screen."""
        top = round(self.scroll_offset.y)
        return self.rows.visible[top : top + self.scrollable_content_region.height]

    @property
    def following(self) -> list[Row]:
        """The rows of the next page."""
        height = self.scrollable_content_region.height
        top = round(self.scroll_offset.y) + height
        return self.rows.visible[top : top + height]

    def know_more(self, resized: bool = False) -> None:
        """There is more to show of some rows; `resized` says that sizes of entries are others now."""
        if resized and self.rows.order is Order.SIZE:
            self._keeping_place(lambda: self.rows.sort(self.rows.order))
        self.refresh()

    def settle(self) -> None:
        """From now on the cursor keeps to its entry while others arrive; before, to the top."""
        self._settled = True

    def show(self, rows: Rows, cursor: int = 0, top: int = 0) -> None:
        """Show other rows, with the cursor and the first seen row where they were."""
        self.rows = rows
        self.cursor = cursor
        self._settled = cursor > 0
        self.moved_by_hand = False
        self.rows_changed()
        self.scroll_top(min(top, max(0, len(rows.visible) - 1)))
        self.show_cursor()
        self.post_message(self.Moved(self))

    def add(self, batch: list[Row]) -> None:
        """Merge rows that arrived. A cursor that was moved stays on its entry, and the entry in its line."""
        self._keeping_place(lambda: self.rows.add(batch))

    def filter(self, text: str) -> None:
        """Show only what contains `text`."""
        self._keeping_place(lambda: self.rows.filter(text))

    def sort(self, order: Order) -> None:
        """Show the rows in another order."""
        self._keeping_place(lambda: self.rows.sort(order))

    def go_to(self, row: Row) -> None:
        """Put the cursor on `row`, in the middle of what is seen."""
        index = self.rows.index_of(row)
        if index is not None:
            self._settled = True
            self.scroll_top(max(0, index - self.scrollable_content_region.height // 2))
            super().move_to(index)

    def move_to(self, index: int) -> None:
        self._settled = self.moved_by_hand = True
        super().move_to(index)

    def action_choose(self) -> None:
        """Open what is under the cursor."""
        if self.row is not None:
            self.post_message(self.Chosen(self))

    action_choose_image = action_choose

    def draw_row(self, index: int, width: int, base: Style, selected: bool) -> list[Segment]:
        row = self.rows.visible[index]
        entry = row.entry
        faint = self.faint(base, selected)
        style = base if selected else self._kind_style(entry.kind, faint)
        columns = columns_in(width)
        if entry.kind is not Kind.IMAGE and row.image is None:  # it has no format, so its name has that room
            columns = replace(columns, form=0, disk=0)
            if entry.size is None:
                columns = replace(columns, size=0, time=columns.time if entry.modified is not None else 0)
        room = width - columns.total - 3
        suffix = "/" if entry.kind is Kind.CONTAINER else ""
        name = row.shown
        note = clean(entry.note)
        length = cell_len(name) + len(suffix)
        marked = self.rows.match(row) if length <= room else (0, 0)
        if length > room:
            name, length = fit(name, room - len(suffix)), room
        segments = [Segment("› " if selected else "  ", base)]
        segments += self._marked(name, marked, style)
        segments.append(Segment(suffix, style))
        if note and room - length >= 8:
            text = cut(note, room - length - 2)
            segments.append(Segment(f"  {text}", faint))
            length += 2 + cell_len(text)
        segments.append(Segment(" " * (room - length), base))
        if columns.form:
            form_style = base if selected else self._form_style(row.image, faint)
            segments.append(Segment(form_cell(row.image, columns.form), form_style))
        size = human_size(entry.size, entry.rounded)
        if columns.disk:
            segments.append(Segment(disk_cell(row.image, size, columns.disk), base))
        if columns.size:
            segments.append(Segment(size.rjust(columns.size), base))
        if columns.time:
            segments.append(Segment(short_time(entry.modified, columns.time - 2).rjust(columns.time), faint))
        segments.append(Segment(" ", base))
        return segments

    def _kind_style(self, kind: Kind, faint: Style) -> Style:
        if kind is Kind.OTHER:
            return faint
        return self.get_component_rich_style(f"listing--{kind}")

    def _form_style(self, image: Image | None, faint: Style) -> Style:
        if image is None or image.verdict is Verdict.OK:
            return faint
        return self.get_component_rich_style(f"listing--{image.verdict}")

    def _marked(self, name: str, marked: tuple[int, int], style: Style) -> list[Segment]:
        start, end = marked
        if start == end:
            return [Segment(name, style)]
        match = style + self.get_component_rich_style("rows--match", partial=True)
        return [Segment(name[:start], style), Segment(name[start:end], match), Segment(name[end:], style)]

    def _keeping_place(self, change: Callable[[], None]) -> None:
        row, line = self.row, self.cursor - round(self.scroll_offset.y)
        change()
        index = self.rows.index_of(row) if row is not None and self._settled else None
        self.cursor = index or 0
        self.rows_changed()
        if index is not None:
            self.scroll_top(max(0, index - line))
        self.show_cursor()
        if self.row is not row:
            self.post_message(self.Moved(self))
