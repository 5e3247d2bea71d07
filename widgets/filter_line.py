"""The line below a listing into which one types what names shall contain."""

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Static


class _Line(Input):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave(0, True)", "Clear"),
        Binding("enter,tab", "leave(0, False)", "Keep", key_display="enter"),
        Binding("down", "leave(1, False)", "To the listing", show=False),
        Binding("up", "leave(-1, False)", "To the listing", show=False),
        Binding("pagedown,pageup", "leave(0, False)", "To the listing", show=False),
    ]

    def action_leave(self, steps: int, clear: bool) -> None:
        """Go back to the listing."""
        line = self.parent
        if isinstance(line, FilterLine):
            line.leave(steps, clear)


class FilterLine(Horizontal):
    """`/` and a text; hidden while there is none."""

    DEFAULT_CSS = """
    FilterLine { height: 1; display: none; padding: 0 1; }
    FilterLine > Static { width: 2; height: 1; }
    FilterLine > Input, FilterLine > Input:focus { width: 1fr; height: 1; border: none; padding: 0; }
    """

    class Changed(Message):
        """Another text."""

        def __init__(self, value: str) -> None:
            super().__init__()
            self.value = value

    class Left(Message):
        """The person goes back to the listing, and `steps` rows further."""

        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps

    def compose(self) -> ComposeResult:
        """The sign, and the line."""
        yield Static("/", markup=False)
        yield _Line(select_on_focus=False)

    @property
    def active(self) -> bool:
        """Whether it filters."""
        return bool(self.query_one(Input).value)

    def begin(self) -> None:
        """Show the line and type into it."""
        self.display = True
        self.screen.set_focus(self.query_one(Input))  # now: the next key is text already

    def reset(self) -> None:
        """Clear and hide the line."""
        self.query_one(Input).value = ""
        self.display = False

    def leave(self, steps: int, clear: bool) -> None:
        """Hide the line if it is empty, and say that it was left."""
        if clear or not self.active:
            self.reset()
        self.post_message(self.Left(steps))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say so."""
        event.stop()
        self.post_message(self.Changed(event.value))

    def on_click(self, event: events.Click) -> None:
        """A click goes on typing."""
        self.query_one(Input).focus()
