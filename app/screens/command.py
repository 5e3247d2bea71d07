"""The whole command that would boot an image: a shell script that works as it stands."""

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from app.background import Job, ask
from app.screens.contract import Engine
from app.screens.room import Room
from probes.errors import FarbootError, Refused
from probes.location import Location
from widgets.facts import told


def fetch_script(
    room: Room,
    engine: Engine,
    location: Location,
    done: Callable[[str], None],
    failed: Callable[[FarbootError], None] | None = None,
) -> Job:
    """Work the script out in a thread, and give it to `done`."""

    def call() -> str:
        from app.qemu.options import Options

        prepared = engine.prepare(location, Options())
        if prepared.plan.refusals:
            raise Refused("boot", location, "; ".join(prepared.plan.refusals))
        return engine.script(prepared)

    return ask(room, call, done, failed or (lambda error: room.farboot.say(str(error), "error")))


class CommandRoom(Room):
    """The script, to read and to copy."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace,left,h,v", "leave", "Back", key_display="esc"),
        Binding("Y,y", "copy", "Copy", key_display="Y"),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
    ]

    def __init__(self, engine: Engine, location: Location) -> None:
        super().__init__()
        self._engine = engine
        self._location = location
        self.script = ""

    def compose_room(self) -> ComposeResult:
        with VerticalScroll(id="script"):
            yield Static(Text("working it out ..."))

    def on_mount(self) -> None:
        """Work it out."""
        self.top_bar.show(str(self._location), "what b would run")
        self.query_one("#script").focus()
        fetch_script(self, self._engine, self._location, self._show, self._failed)

    def _show(self, script: str) -> None:
        self.script = script
        text = Text(script, overflow="fold")
        text.highlight_regex(r"(?m)^\s*#.*$", "dim")
        self.query_one("#script > Static", Static).update(text)
        self.refresh_bindings()

    def _failed(self, error: FarbootError) -> None:
        text = Text(f"{told(error, self._location)}: {error.why}")
        if error.hint:
            text.append(f"\n\n{error.hint}")
        self.query_one("#script > Static", Static).update(text)

    def allows(self, action: str) -> bool:
        """There is nothing to copy before it is known."""
        return bool(self.script) if action == "copy" else True

    def action_leave(self) -> None:
        """Back to the listing."""
        self.dismiss()

    def action_copy(self) -> None:
        """Copy the script."""
        self.farboot.copy_command(self._location, self.script)

    def action_scroll(self, lines: int) -> None:
        """Scroll."""
        self.query_one("#script").scroll_relative(y=lines, animate=False)
