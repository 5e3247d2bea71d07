"""The whole command that would boot an image: a shell script that works as it stands."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from app.background import Job, ask
from app.screens.contract import Engine
from app.screens.room import Room
from probes.attachment import Mode
from probes.errors import FarbootError, Refused
from probes.location import Location
from widgets.facts import told

if TYPE_CHECKING:
    from app.qemu.options import Options


def fetch_script(
    room: Room,
    engine: Engine,
    location: Location,
    options: "Options",
    done: Callable[[str], None],
    failed: Callable[[FarbootError], None] | None = None,
) -> Job:
    """Work the script out in a thread, and give it to `done`."""

    def call() -> str:
        prepared = engine.prepare(location, options)
        if prepared.inspection.asked:  # the script says it at its head; nobody boots anything here
            prepared = engine.prepare(location, prepared.inspection.accepted(options), prepared.inspection)
        if prepared.plan.refusals:
            raise Refused("boot", location, "; ".join(prepared.plan.refusals))
        return engine.script(prepared)

    return ask(room, call, done, failed or (lambda error: room.farboot.say(str(error), "error")))


class CommandRoom(Room):
    """The script, to read and to copy; where the image can be written, that of either boot."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace,left,h,v", "leave", "Back", key_display="esc"),
        Binding("Y,y", "copy", "Copy", key_display="Y"),
        Binding("w", "mode('write')", "Writing boot"),
        Binding("s", "mode('snapshot')", "Snapshot boot"),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
    ]

    def __init__(self, engine: Engine, location: Location, options: "Options", writable: bool = False) -> None:
        super().__init__()
        self._engine = engine
        self._location = location
        self._options = options
        self._writable = writable
        self._job: Job | None = None
        self.script = ""

    def compose_room(self) -> ComposeResult:
        with VerticalScroll(id="script"):
            yield Static()

    def on_mount(self) -> None:
        """Work it out."""
        self.query_one("#script").focus()
        self._begin()

    def _begin(self) -> None:
        writes = self._options.mode is Mode.WRITE
        self.top_bar.show(str(self._location), "boots, WRITING into it" if writes else "boots a snapshot")
        self.script = ""
        self.query_one("#script > Static", Static).update(Text("working it out ..."))
        if self._job is not None:
            self._job.cancel()
        self._job = fetch_script(self, self._engine, self._location, self._options, self._show, self._failed)
        self.refresh_bindings()

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

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the other boot is offered."""
        if action == "mode":
            return self.is_furnished and self._writable and parameters != (self._options.mode.value,)
        return super().check_action(action, parameters)

    def allows(self, action: str) -> bool:
        """There is nothing to copy before it is known."""
        return bool(self.script) if action == "copy" else True

    def action_mode(self, mode: str) -> None:
        """Show the other boot's command."""
        self._options = replace(self._options, mode=Mode(mode))
        self._begin()

    def action_leave(self) -> None:
        """Back to the listing."""
        self.dismiss()

    def action_copy(self) -> None:
        """Copy the script."""
        self.farboot.copy_command(self._location, self.script)

    def action_scroll(self, lines: int) -> None:
        """Scroll."""
        self.query_one("#script").scroll_relative(y=lines, animate=False)
