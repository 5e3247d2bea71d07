"""Small questions in front of a room: a choice, a text to read, a line to type."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, ScreenResultType
from textual.widgets import Input, Static


class Dialog(ModalScreen[ScreenResultType]):
    """A question in front of a room, answered once."""

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Give the answer. Of keys that come in one burst, several reach a question that the first of them answered:
        they do nothing, where Textual would take away whatever is in front by then.
        """
        return super().dismiss(result) if self.is_active else AwaitComplete()


@dataclass(frozen=True)
class Choice:
    """One answer: its key, and what it means."""

    key: str
    label: str


class Ask(Dialog[str | None]):
    """A question with a few answers, each one key; gives that key, or None for Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, title: str, text: str, choices: Sequence[Choice], cancel: str = "leave it") -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._choices = tuple(choices)
        self._cancel = cancel

    def compose(self) -> ComposeResult:
        """Title, text, answers."""
        answers = Text()
        for choice in (*self._choices, Choice("esc", self._cancel)):
            answers.append(choice.key, "bold")
            answers.append(f" {choice.label}    ")
        answers.rstrip()
        with Vertical(classes="dialog"):
            yield Static(Text(self._title, overflow="ellipsis", no_wrap=True), classes="dialog-title")
            with VerticalScroll(classes="dialog-text"):
                yield Static(Text(self._text))
            yield Static(answers, classes="dialog-keys")

    def on_key(self, event: events.Key) -> None:
        """Take an answer."""
        if event.key in {choice.key for choice in self._choices}:
            event.stop()
            self.dismiss(event.key)


class Show(Dialog[None]):
    """A text to read, or to mark with the mouse, where no clipboard can be reached."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Close"),
        Binding("k", "scroll(-1)", "Up", show=False),
        Binding("j", "scroll(1)", "Down", show=False),
        Binding("space", "scroll(10)", "Page down", show=False),
    ]

    def __init__(self, title: str, text: str | RenderableType) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        """Title, text, how to leave."""
        text = Text(self._text, overflow="fold") if isinstance(self._text, str) else self._text
        with Vertical(classes="dialog wide"):
            yield Static(Text(self._title), classes="dialog-title")
            with VerticalScroll(classes="dialog-text"):
                yield Static(text)
            yield Static(classes="dialog-keys")

    def on_resize(self) -> None:
        """Say so where there is more than is seen."""
        self.call_after_refresh(self._say_keys)

    def _say_keys(self) -> None:
        keys = Text.assemble(("esc", "bold"), " closes")
        if self.query_one(VerticalScroll).max_scroll_y > 0:
            keys.append_text(Text.assemble("    ", ("down", "bold"), " goes on: there is more below"))
        self.query_one(".dialog-keys", Static).update(keys)

    def action_scroll(self, lines: int) -> None:
        """Scroll."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)


class AskLine(Dialog[str | None]):
    """A line to type, which begins as `value`; gives what was typed, or None for Esc."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, title: str, text: str, value: str = "") -> None:
        super().__init__()
        self._title = title
        self._text = text
        self._value = value

    def compose(self) -> ComposeResult:
        """Title, text, the line."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._title, overflow="ellipsis", no_wrap=True), classes="dialog-title")
            yield Static(Text(self._text, overflow="fold"), classes="dialog-why")
            yield Input(self._value, classes="dialog-input", max_length=200)
            keys = Text.assemble(("enter", "bold"), " takes it    ", ("esc", "bold"), " leaves it")
            yield Static(keys, classes="dialog-keys")

    def on_mount(self) -> None:
        """Type at once."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give it."""
        self.dismiss(event.value)
