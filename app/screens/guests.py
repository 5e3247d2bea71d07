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
    from app.qemu.session import SessionInfo


class GuestsRoom(Room):
    """A table that follows what runs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "stop", "Stop"),
        Binding("escape,backspace,left,h,g", "leave", "Back", key_display="esc"),
    ]

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
        before = table.guest
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
                )
                for guest in sorted(guests, key=_first_running)
            ]
        )
        over = sum(guest.is_over for guest in guests)
        self.top_bar.show(state=f"{over} over" if over else "")
        if (before is None) != (table.guest is None):
            self.refresh_bindings()

    @property
    def guest(self) -> "SessionInfo | None":
        """The guest under the cursor."""
        line = self.query_one(GuestsTable).guest
        return next((guest for guest in self.farboot.guests if line is not None and guest.id == line.id), None)

    @on(RowsView.Chosen)
    def chosen(self) -> None:
        """Go to its console."""
        guest = self.guest
        if guest is not None:
            self.farboot.show_guest(guest)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what there is can be stopped."""
        return self.guest is not None if action == "stop" else True

    def action_leave(self) -> None:
        """Back."""
        self.dismiss()

    def action_stop(self) -> None:
        """Stop the guest under the cursor."""
        if self.guest is not None:
            self.farboot.stop_guest(self.guest)


def _first_running(guest: "SessionInfo") -> tuple[bool, float]:
    return guest.is_over, -guest.started
