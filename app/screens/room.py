"""What every room has: the line above, the keys below, and the count of guests."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import ComposeResult
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Static

from widgets.keybar import KeyBar
from widgets.topbar import TopBar

if TYPE_CHECKING:
    from app.qemu.sessions.session import SessionInfo
    from app.tui import FarbootApp

SMALLEST = 40, 12
"""Columns and lines below which there is no point."""


class Room(Screen[None]):
    """A screen with a top bar and a key bar."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "app.guests", "Guests"),
        Binding("question_mark", "app.help", "Help", key_display="?"),
        Binding("q", "app.leave", "Quit"),
    ]

    @property
    def farboot(self) -> "FarbootApp":
        """The application."""
        return cast("FarbootApp", self.app)

    @property
    def is_furnished(self) -> bool:
        """Whether everything is in its place: it is not before the room is composed, nor while the program ends."""
        return self.is_mounted and self.app.is_running and bool(self.query(KeyBar)) and bool(self.query(TopBar))

    @property
    def takes_all_keys(self) -> bool:
        """Whether no key is a command just now."""
        return False

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Which keys do something now: none before the room is furnished."""
        return self.is_furnished and self.allows(action)

    def allows(self, action: str) -> bool:
        """Whether the action can be taken now, for a room that has some which cannot always be."""
        return True

    @property
    def top_bar(self) -> TopBar:
        """The line above."""
        return self.query_one(TopBar)

    def compose(self) -> ComposeResult:
        """The bars, and what the room itself holds."""
        yield TopBar()
        yield from self.compose_room()
        yield KeyBar()
        yield Static(f"Farboot needs a terminal of {SMALLEST[0]} by {SMALLEST[1]}.", id="too-small", markup=False)

    def compose_room(self) -> ComposeResult:
        """What is between the bars."""
        raise NotImplementedError

    def dismiss(self, result: None = None) -> AwaitComplete:
        """Leave the room, once, however often a key that leaves it was pressed in one burst."""
        return super().dismiss(result) if self.is_active else AwaitComplete()

    def guests_changed(self, guests: "Sequence[SessionInfo]") -> None:
        """The guests of this host were looked at."""
        self.top_bar.count_guests(sum(not guest.is_over for guest in guests))

    def on_screen_resume(self) -> None:
        """Show what changed while another room was in front."""
        if self.is_furnished:
            self.guests_changed(self.farboot.guests)

    def on_resize(self, event: events.Resize) -> None:
        """Say so where there is no room for a room."""
        self.set_class(event.size.width < SMALLEST[0] or event.size.height < SMALLEST[1], "-too-small")
