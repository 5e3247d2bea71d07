"""The room of all guests of this host."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from app.screens.room import Room
from widgets.guests_table import GuestLine, GuestsTable
from widgets.rows_view import RowsView

if TYPE_CHECKING:
    from app.qemu.sessions.session import SessionInfo


class GuestsRoom(Room):
    """A table that follows what runs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "stop", "Stop"),
        Binding("x", "forget", "Remove"),
        Binding("escape,backspace,left,h,g", "leave", "Back", key_display="esc"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._can_be_stopped = (False, False)

    def compose_room(self) -> ComposeResult:
        yield GuestsTable(id="guests")

    def on_mount(self) -> None:
        """Show what is known."""
        self.top_bar.show("Guests")
        self.query_one(GuestsTable).focus()

    def guests_changed(self, guests: "Sequence[SessionInfo]") -> None:
        super().guests_changed(guests)
        now = time.time()
        table = self.query_one(GuestsTable)
        before = self._can_be_stopped
        table.show(
            [
                GuestLine(
                    guest.id,
                    guest.name,
                    str(guest.state),
                    now - guest.started,
                    guest.memory,
                    guest.location,
                    guest.error,
                    guest.mode == "write",
                )
                for guest in sorted(guests, key=_first_running)
            ]
        )
        over = sum(guest.is_over for guest in guests)
        self.top_bar.show(state=f"{over} over" if over else "")
        self._can_be_stopped = self.allows("stop"), self.allows("forget")
        if before != self._can_be_stopped:
            self.refresh_bindings()

    @property
    def guest(self) -> "SessionInfo | None":
        """The guest under the cursor."""
        line = self.query_one(GuestsTable).guest
        return next((guest for guest in self.farboot.guests if line is not None and guest.id == line.id), None)

    @on(RowsView.Moved)
    def moved(self) -> None:
        """Another guest may be over."""
        self.refresh_bindings()

    @on(RowsView.Chosen)
    def chosen(self) -> None:
        """Go to its console."""
        guest = self.guest
        if guest is not None:
            self.farboot.show_guest(guest)

    def allows(self, action: str) -> bool:
        """Only what there is can be stopped."""
        if action in {"stop", "forget"}:
            return self.guest is not None and self.guest.is_over == (action == "forget")
        return True

    def action_leave(self) -> None:
        """Back."""
        self.dismiss()

    def action_stop(self) -> None:
        """Stop the guest under the cursor."""
        if self.guest is not None:
            self.farboot.stop_guest(self.guest)

    action_forget = action_stop


def _first_running(guest: "SessionInfo") -> tuple[bool, float]:
    return guest.is_over, -guest.started
