"""What the screens need from the rest of Farboot: the engine, and the guests.

`app.engine.Engine` and the module `app.qemu.sessions.session` are these; tests give others where reality cannot be had.
"""

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from probes.location import Location
from probes.source import Progress, Source

if TYPE_CHECKING:
    from app.engine import Inspection, Prepared
    from app.judged import Judged
    from app.keychain import Keychain
    from app.qemu.options import Host, Options
    from app.qemu.sessions.session import SessionInfo


class Engine(Protocol):
    """Browse, inspect, plan, boot. Everything blocks, and raises FarbootError."""

    @property
    def keychain(self) -> "Keychain":
        """The credentials of this run."""
        ...

    @property
    def host(self) -> "Host":
        """What this host can do."""
        ...

    def open_source(self, location: Location) -> Source:
        """Make the source for `location`."""
        ...

    def inspect(self, location: Location, source: Source | None = None, fetch: Progress | None = None) -> "Inspection":
        """Read a few kilobytes of the image and say what it is."""
        ...

    def glance(self, location: Location, source: Source, known: "Judged | None" = None) -> "Judged":
        """Read so little of the image that only its format, size and verdict are known."""
        ...

    def prepare(
        self,
        location: Location,
        options: "Options",
        inspection: "Inspection | None" = None,
        fetch: Progress | None = None,
    ) -> "Prepared":
        """Plan the boot of the image at `location`."""
        ...

    def script(self, prepared: "Prepared") -> str:
        """Return the boot as a shell script."""
        ...

    def boot(self, prepared: "Prepared") -> "SessionInfo":
        """Start the guest and return its session once it runs."""
        ...


class Guests(Protocol):
    """The sessions of this host. Everything blocks, and raises FarbootError."""

    def sessions(self) -> "Sequence[SessionInfo]":
        """All sessions that there are."""
        ...

    def stop(self, identity: str, /, force: bool = False) -> None:
        """Ask the guest to shut down, or end it."""
        ...

    def screen(self, identity: str, /) -> bytes:
        """The guest's screen as PNG."""
        ...

    def console(self, identity: str, /) -> socket.socket:
        """The raw serial line, starting with the end of its log."""
        ...
