"""The guests, one a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType

from probes.text import clean
from probes.words import human_size, since
from widgets.cells import fit
from widgets.rows_view import RowsView


@dataclass(frozen=True)
class GuestLine:
    """A guest as its line shows it: `lasts` in seconds, `memory` in bytes; `writes` says into the image itself."""

    id: str
    name: str
    state: str
    lasts: float
    memory: int
    location: str
    error: str = ""
    writes: bool = False


class GuestsTable(RowsView):
    """Guests under a cursor that stays on its guest while others come and go."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,right,l", "choose", "Console", key_display="enter")]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"guests--running", "guests--failed"}

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self.lines: tuple[GuestLine, ...] = ()

    def row_count(self) -> int:
        return len(self.lines)

    def empty_text(self) -> str:
        return "No guests run. Press b on an image to start one."

    @property
    def guest(self) -> GuestLine | None:
        """The guest under the cursor."""
        return self.lines[self.cursor] if self.cursor < len(self.lines) else None

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Without a guest there is no console."""
        return self.guest is not None if action == "choose" else True

    def show(self, lines: Sequence[GuestLine]) -> None:
        """Show these guests."""
        current = self.guest
        self.lines = tuple(lines)
        if current is not None:
            same = (index for index, line in enumerate(self.lines) if line.id == current.id)
            self.cursor = next(same, self.cursor)
        self.rows_changed()

    def action_choose(self) -> None:
        """Go to the guest under the cursor."""
        if self.guest is not None:
            self.post_message(self.Chosen(self))

    def draw_row(self, index: int, width: int, base: Style, selected: bool) -> list[Segment]:
        line = self.lines[index]
        faint = self.faint(base, selected)
        style = base
        if not selected and line.state in {"running", "failed"}:
            style = self.get_component_rich_style(f"guests--{line.state}")
        name_width = max(12, min(32, (width - 36) // 2))
        rest = width - name_width - 33
        segments = [
            Segment("› " if selected else "  ", base),
            Segment(fit(clean(line.name), name_width) + "  ", base),
            Segment(fit(line.state, 9), style),
            Segment(since(line.lasts).rjust(8), base),
            Segment(human_size(line.memory).rjust(10) + "  ", base),
        ]
        if rest > 8:
            about = f"writes {line.location}" if line.writes else line.location
            segments.append(Segment(fit(clean(line.error or about), rest), faint))
        return segments
