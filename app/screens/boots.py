"""The keys that boot what is under the cursor: as a snapshot, for writing, and the command for either."""

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from app.screens.contract import Engine
from app.screens.room import Room
from app.settings import Settings
from probes.attachment import Mode
from probes.entry import Entry
from probes.errors import Unsupported
from probes.image import Image, MediaKind
from probes.location import Location
from probes.registry import system_of

if TYPE_CHECKING:
    from app.qemu.options import Options
    from app.qemu.sessions.session import SessionInfo

_ACTIONS = frozenset({"boot", "boot_snapshot", "boot_writing", "write", "snapshot", "command", "copy_command"})


def may_be_written(location: Location, image: Image | None = None) -> bool:
    """Whether a boot for writing can be offered at all: what the name, and what is known of the image, tell.

    Whether it can be done is found out when it is tried, and said then.
    """
    try:
        system = system_of(location.scheme)
    except Unsupported:
        return False
    is_cd = image is not None and image.media.kind is MediaKind.CD
    return not (system.read_only or location.is_snapshot or is_cd)


class Boots(Room):
    """A room in which images can be booted. `b` does what the settings say; `w` always writes, `s` never does."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("b", "boot_snapshot", "Boot snapshot"),
        Binding("b", "boot_writing", "Boot, writing"),
        Binding("w", "write", "Write"),
        Binding("s", "snapshot", "Snapshot"),
        Binding("v", "command", "Command"),
        Binding("Y", "copy_command", "Copy the command", show=False),
    ]

    _engine: Engine

    @property
    def settings(self) -> Settings:
        """The person's settings."""
        raise NotImplementedError

    @property
    def image_entry(self) -> Entry | None:
        """The entry that can be booted, if one is under the cursor."""
        raise NotImplementedError

    @property
    def image(self) -> Image | None:
        """What is known of it."""
        raise NotImplementedError

    @property
    def can_write(self) -> bool:
        """Whether what is under the cursor may be booted for writing."""
        entry = self.image_entry
        return entry is not None and may_be_written(entry.location, self.image)

    @property
    def default_mode(self) -> Mode:
        """What `b` does with what is under the cursor."""
        return self.settings.boot if self.can_write else Mode.SNAPSHOT

    def options_for(self, location: Location, image: Image) -> "Options":
        """The choices with which `b` boots an image."""
        return self.settings.options(self.settings.boot if may_be_written(location, image) else Mode.SNAPSHOT)

    def allows_boot(self, action: str) -> bool | None:
        """Whether a key of these does something now; None for an action that is none of these."""
        if action not in _ACTIONS:
            return None
        if self.image_entry is None:
            return False
        writes = self.default_mode is Mode.WRITE
        if action in {"boot_writing", "boot_snapshot"}:
            return writes == (action == "boot_writing")
        if action == "write":
            return self.can_write and not writes
        return writes if action == "snapshot" else True

    def action_boot_snapshot(self) -> None:
        """Boot it, and throw away what the guest writes."""
        self._boot(Mode.SNAPSHOT)

    def action_boot_writing(self) -> None:
        """Boot it for writing, after a question."""
        self._boot(Mode.WRITE)

    action_write = action_boot_writing
    action_snapshot = action_boot_snapshot

    def _boot(self, mode: Mode) -> None:
        from app.screens.starting import Starting

        entry = self.image_entry
        if entry is None:
            return
        location = entry.location

        def started(guest: "SessionInfo | None") -> None:
            if guest is not None:
                self.booted(location)
                self.farboot.show_guest(guest, new=True)

        self.app.push_screen(Starting(self._engine, location, self.settings.options(mode)), started)

    def booted(self, location: Location) -> None:
        """A guest was started from it."""

    def action_command(self) -> None:
        """Show the whole command."""
        from app.screens.command import CommandRoom

        entry = self.image_entry
        if entry is not None:
            options = self.settings.options(self.default_mode)
            self.app.push_screen(CommandRoom(self._engine, entry.location, options, self.can_write))

    def action_copy_command(self) -> None:
        """Copy the whole command."""
        from app.screens.command import fetch_script

        entry = self.image_entry
        if entry is not None:
            location, options = entry.location, self.settings.options(self.default_mode)
            done = lambda script: self.farboot.copy_command(location, script)  # noqa: E731  # it is one
            fetch_script(self, self._engine, location, options, done)
