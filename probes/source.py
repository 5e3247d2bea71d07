"""The contract of a storage system: list it, read it, and say how QEMU gets at it.

A source is written synchronously and plainly. It runs in worker threads, several at a time; one whose C library
cannot be bounded or holds the GIL is run, unchanged, in a child process (`probes.isolation.source`), which
`probes.registry` says. Nothing is contacted before the first call, every call ends within the deadline, and all
failures are of the family in `probes.errors`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Protocol, Self, runtime_checkable

from probes.attachment import Attachment, Mode, QemuFacts
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry
from probes.location import Location
from probes.reader import Pin, Reader, Writer

DEADLINE = 10.0
"""Seconds that one call may take (for `entries` and for readers: without any progress)."""


class Source(ABC):
    """One storage system, as one person (these credentials) sees it."""

    schemes: ClassVar[tuple[str, ...]]
    title: ClassVar[str]

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        self.credentials = credentials
        self.deadline = deadline

    @abstractmethod
    def entries(self, location: Location) -> Iterator[Entry]:
        """Yield what `location` contains, as it arrives, in the server's order.

        Raises NotAContainer for an image, NotFound, Denied, Unreachable, TimedOut, BadAnswer.
        """

    @abstractmethod
    def stat(self, location: Location) -> Entry:
        """Return the entry of `location` itself: what kind of thing it is, and its size where that is cheap."""

    @abstractmethod
    def open(self, location: Location) -> Reader:
        """Open the image at `location` for reading. Raises NotAnImage for a container."""

    @abstractmethod
    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        """Say how this QEMU gets at the image. All look-ups that this takes (redirects, configuration files,
        the key ring) happen here, none when the boot is planned.
        """

    def close(self) -> None:
        """Let go of connections. May be called twice, and from another thread while a call runs: that call
        then fails soon.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@runtime_checkable
class HasSnapshots(Protocol):
    """A source whose images have snapshots that can be booted too."""

    def snapshots(self, location: Location) -> Iterator[Entry]:
        """Yield the snapshots of the image at `location`, oldest first; none is a fine answer."""
        ...


@dataclass(frozen=True)
class Use:
    """Who else uses an image, as far as the storage tells.

    `users` are short texts a person understands ("client.4123 at 192.0.2.7", "mounted at /srv"). Empty users
    with `certain` means: nobody; without it: nobody that could be seen.
    """

    users: tuple[str, ...]
    certain: bool


@runtime_checkable
class TellsUse(Protocol):
    """A source that can tell who has an image open."""

    def in_use(self, location: Location) -> Use:
        """Return who uses the image at `location` now."""
        ...


@runtime_checkable
class CanWrite(Protocol):
    """A source through which the bridge can write, for storage that this QEMU does not speak."""

    def open_for_writing(self, location: Location) -> Writer:
        """Open the image at `location` for reading and writing. Raises Denied, and NotAnImage for a container."""
        ...


Progress = Callable[[int, int | None], None]
"""Is told the bytes that have come, and how many there will be where that is known. What it raises ends the work."""


@runtime_checkable
class Fetches(Protocol):
    """A source that cannot read in the middle of an image: it is fetched whole, once, and then used from there."""

    def fetched(self, location: Location) -> bool:
        """Whether a whole copy lies here that is still good, as far as the server tells (it is asked)."""
        ...

    def fetch(self, location: Location, progress: Progress) -> Pin:
        """Fetch the image unless it is `fetched`; afterwards `open` and `attach` use the copy."""
        ...

    def forget(self, location: Location) -> None:
        """Delete the copy, if there is one; a guest that runs from it goes on."""
        ...
