"""A yes or no that goes along with an answer: `[x]`, which every terminal can show."""

from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from widgets.cells import fit


class Tick(Widget, can_focus=True):
    """One line; Space turns it on and off, Enter says that the person is done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "turn", "Tick", show=False),
        Binding("enter", "submit", "Go on", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"tick--focused"}
    DEFAULT_CSS = "Tick { height: 1; }"

    value = reactive(False)
    """Whether it is on."""

    class Submitted(Message):
        """Enter was pressed on it."""

    def __init__(self, label: str, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self._label = label

    def action_turn(self) -> None:
        """Turn it on or off."""
        self.value = not self.value

    def action_submit(self) -> None:
        """Say that the person is done."""
        self.post_message(self.Submitted())

    def on_click(self) -> None:
        """The mouse does the same."""
        self.action_turn()

    def on_focus(self) -> None:
        """It looks otherwise."""
        self.refresh()

    def on_blur(self) -> None:
        """It looks otherwise."""
        self.refresh()

    def render_line(self, y: int) -> Strip:
        style = self.get_component_rich_style("tick--focused") if self.has_focus else self.rich_style
        text = fit(f"[{'x' if self.value else ' '}] {self._label}", self.size.width)
        return Strip([Segment(text, style)])
