"""The room of one guest: its serial console, its screen, and what it runs."""

import getpass
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Static

from app.background import Job, ask
from app.screens.contract import Guests
from app.screens.line import Line
from app.screens.room import Room
from probes.errors import FarbootError
from probes.text import clean, shell_word
from probes.words import human_size, since
from widgets.console import Console
from widgets.picture import Grid, Picture

if TYPE_CHECKING:
    from app.qemu.sessions.session import SessionInfo

_TAKE = 0.05
_LOOK = 1.5
_QUIET = 4.0
_WAITING = "Waiting for its first words on its serial line.\np shows its screen, where many a guest speaks instead."


class GuestRoom(Room):
    """Watch a guest, type into it, look at its screen, stop it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "picture", "Screen"),
        Binding("p", "serial", "Serial console"),
        Binding("x", "stop", "Stop"),
        Binding("i", "about", "About"),
        Binding("escape,backspace,left,h", "leave", "Back", key_display="esc"),
    ]

    def __init__(self, guests: Guests, guest: "SessionInfo", new: bool = False) -> None:
        super().__init__()
        self._guests = guests
        self._guest = guest
        self._new = new
        self._began = time.monotonic()
        self._chosen = False
        self._line: Line | None = None
        self._look: Job | None = None
        self._room_for_picture = (80, 22)

    def compose_room(self) -> ComposeResult:
        with Horizontal(id="guest"):
            yield Console(id="console")
            yield Picture(id="picture")
            with VerticalScroll(id="about", can_focus=False):
                yield Static()

    def on_mount(self) -> None:
        """Take up the serial line."""
        console = self.query_one(Console)
        console.placeholder = _WAITING
        console.focus()
        self.query_one(Picture).display = False
        self._line = Line(self._connect)
        self.set_interval(_TAKE, self._take)
        self.set_interval(_LOOK, self._refresh_picture)
        self._show_state()

    def on_resize(self, event: events.Resize) -> None:
        """Show what it runs beside the console where both have room."""
        self.set_class(event.size.width >= 80 + 42 + 2, "-beside")

    def _connect(self) -> socket.socket:
        return self._guests.console(self._guest.id)

    def on_unmount(self) -> None:
        """Leave the line; the guest goes on."""
        if self._line is not None:
            self._line.close()
        if self._look is not None:
            self._look.cancel()

    @property
    def takes_all_keys(self) -> bool:
        return self.is_furnished and self.console.holding

    @property
    def console(self) -> Console:
        """The serial console."""
        return self.query_one(Console)

    @property
    def picture(self) -> Picture:
        """The guest's screen."""
        return self.query_one(Picture)

    def _take(self) -> None:
        line = self._line
        if line is None:
            return
        data = line.take()
        if data:
            blank = self.console.serial.is_blank
            self.console.feed(data)
            if blank and not self.console.serial.is_blank and self.picture.display and not self._chosen:
                self._show_picture(False)
        elif line.ended and not self.console.closed:
            error = line.error
            why = error.why if isinstance(error, FarbootError) else "it said nothing"
            self.console.close(f"Its serial line is closed: {why}")
            self.refresh_bindings()
        quiet = self.console.serial.is_blank and time.monotonic() - self._began > _QUIET
        if quiet and not self._chosen and not self.picture.display and not self._guest.is_over:
            self._show_picture(True)  # many images say nothing on a serial line: their screen is where they speak

    @on(Console.Typed)
    def typed(self, event: Console.Typed) -> None:
        """Send it to the guest."""
        if self._line is not None:
            self._line.send(event.data)

    @on(Console.Held)
    def held(self) -> None:
        """Say who has the keyboard."""
        self._show_state()
        self.refresh_bindings()

    # What is known of the guest

    def guests_changed(self, guests: "Sequence[SessionInfo]") -> None:
        super().guests_changed(guests)
        found = next((guest for guest in guests if guest.id == self._guest.id), None)
        if found is not None:
            gone = not self._guest.is_over and found.is_over
            self._guest = found
            if gone:
                self.console.action_release()
                self._show_picture(False)
                self.refresh_bindings()
        self._show_state()

    def _show_state(self) -> None:
        guest = self._guest
        state = f"{guest.state}, {since(time.time() - guest.started)}, {human_size(guest.memory)}"
        if guest.mode == "write":
            state = f"WRITES, {state}"
        if guest.is_over:
            state = f"{guest.state}: {guest.error}" if guest.error else str(guest.state)
        if self.console.holding:
            state = "TYPING INTO IT, ctrl+] stops"
        self.set_class(self.console.holding, "-typing")
        self.top_bar.show(guest.name, state)
        self.query_one("#about > Static", Static).update(self._about())

    def _about(self) -> RenderableType:
        guest = self._guest
        rows = [
            ("Guest", guest.name),
            ("State", str(guest.state)),
            ("Why", guest.error),
            ("From", guest.location),
            ("Format", guest.format),
            ("Route", guest.route),
            ("Writes", "thrown away" if guest.mode == "snapshot" else "into the image"),
            ("Memory", human_size(guest.memory)),
            ("CPUs", str(guest.cpus)),
            ("Network", guest.network),
            ("Log", guest.log),
            ("Session", guest.id),
        ]
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=8)
        table.add_column(ratio=1, overflow="fold")
        for label, value in rows:
            if value:
                table.add_row(Text(label, "dim"), Text(clean(value)))
        if not guest.vnc or guest.is_over:
            return table
        here = f"{getpass.getuser()}@{socket.gethostname()}"
        way = Text("\nTo see its screen from your desk:\n", "dim")
        way.append(f"ssh -N -L 5900:{shell_word(guest.vnc)} {here}\n", "not dim")
        way.append("and point a VNC viewer at localhost:5900")
        return Group(table, way)

    # The guest's screen

    def _show_picture(self, shown: bool) -> None:
        self.picture.display = shown
        self.console.display = not shown
        (self.picture if shown else self.console).focus()
        if shown:
            self._refresh_picture()
        self.refresh_bindings()

    def _refresh_picture(self) -> None:
        if self.picture.display and self._look is None and not self._guest.is_over:
            size = self.picture.scrollable_content_region
            self._room_for_picture = (size.width, size.height)
            self._look = ask(self, self._look_at_screen, self._picture_came, self._picture_failed)

    def _look_at_screen(self) -> Grid:
        from app.picture import draw

        return draw(self._guests.screen(self._guest.id), *self._room_for_picture)

    def _picture_came(self, grid: Grid) -> None:
        self._look = None
        self.picture.show(grid)

    def _picture_failed(self, error: FarbootError) -> None:
        self._look = None
        self.picture.fail(f"Its screen cannot be had: {error.why}")

    # What the person does

    def allows(self, action: str) -> bool:
        """Which keys do something now."""
        if self.console.holding and action not in {"release"}:
            return False
        if action == "picture":
            return not self.picture.display and not self._guest.is_over
        if action == "serial":
            return self.picture.display
        if action == "stop":
            return not self._guest.is_over
        return True

    def action_picture(self) -> None:
        """Show the guest's screen."""
        self._chosen = True
        self._show_picture(True)

    def action_serial(self) -> None:
        """Show its serial console."""
        self._chosen = True
        self._show_picture(False)

    def action_stop(self) -> None:
        """Stop it."""
        self.farboot.stop_guest(self._guest)

    def action_about(self) -> None:
        """Say what it runs."""
        from app.screens.dialogs import Show

        self.app.push_screen(Show(clean(self._guest.name), self._about()))

    def action_leave(self) -> None:
        """Back; the guest goes on."""
        self.dismiss()
