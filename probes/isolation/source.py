"""A source in a child process, for those whose C library cannot be bounded, or holds the GIL, or may crash.

`IsolatedSource` is itself a Source: the class it names runs unchanged in a child (`probes.isolation.child`), and
each call is bounded from outside. A child that does not answer in time is killed, and the call raises TimedOut;
one that ends by itself makes it raise Crashed, with the signal's name and the last words on its stderr. Either
fails only what that child was doing: the next call starts a fresh one. Readers of a dead child stay dead, for
what they had pinned may have changed; open the image again.

Why not multiprocessing. Measured on the development machine, from nothing to our contracts imported: its
forkserver 5 ms after a first time of 50, a process of our own 45, where connecting to the storage takes 100 and
more. For those 40 ms its forkserver has to be started before any thread, stays, imports the main module again
(whatever a console script may do then), and reads pickles of anything. A plain `python -I -S` with a socket does
none of that and may be started from any thread at any time. Its stdin and stdout are /dev/null, its stderr is kept
(the last 8 KiB), it has a session of its own (no Ctrl-C, no terminal) and a limit on memory, and the kernel kills
it when this process ends.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

from probes.attachment import Attachment, Mode, QemuFacts
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry
from probes.errors import BadAnswer, Cancelled, Crashed
from probes.isolation.process import Asked, Child
from probes.isolation.wire import Opened, Setup
from probes.location import Location
from probes.reader import Pin, Reader, Writer
from probes.source import DEADLINE, CanWrite, HasSnapshots, Source, TellsUse, Use

if TYPE_CHECKING:
    from probes.registry import System

GRACE = 3.0
"""Seconds that a call may take beyond the source's own deadline, whose error says more than ours."""

MEMORY = 2 << 30
"""Bytes of private memory that a child may use."""

_PIECE = 1 << 20  # bytes asked for in one answer: each is an answer in time


class IsolatedSource(Source):
    """The source `module:Class`, run in a child process that starts with the first call.

    After `close` every call raises Cancelled.
    """

    title = "Isolated"
    schemes = ()

    def __init__(
        self,
        source: str,
        credentials: Credentials = NO_CREDENTIALS,
        deadline: float = DEADLINE,
        *,
        grace: float = GRACE,
        memory: int = MEMORY,
    ) -> None:
        super().__init__(credentials, deadline)
        self._setup = Setup(source, credentials, deadline, memory)
        self._limit = deadline + grace
        self._starting = threading.Lock()
        self._child: Child | None = None
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        yield from self._listing("entries", "list", location)

    def stat(self, location: Location) -> Entry:
        return cast("Entry", self._ask("stat", "look at", location, location))

    def open(self, location: Location) -> Reader:
        child, opened, pin = self._opened("open", "open", location)
        return _IsolatedReader(child, location, opened.handle, opened.size, pin)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        return cast("Attachment", self._ask("attach", "find QEMU's way to", location, location, qemu, mode))

    def close(self) -> None:
        with self._starting:
            self._closed = True
            child, self._child = self._child, None
        if child:
            child.close()

    def _ask(self, verb: str, tried: str, location: Location, *arguments: object) -> object:
        return self._running(tried, location).ask(verb, arguments, tried, location)

    def _opened(self, verb: str, tried: str, location: Location) -> tuple[Child, Opened, Pin]:
        child = self._running(tried, location)
        opened = child.ask(verb, (location,), tried, location)
        if not isinstance(opened, Opened) or not isinstance(opened.pin, Pin):
            raise BadAnswer(tried, location, "its helper process answered nonsense")
        return child, opened, opened.pin

    def _listing(self, verb: str, tried: str, location: Location) -> Iterator[Entry]:
        child = self._running(tried, location)
        handle = child.ask(verb, (location,), tried, location)
        try:
            finished = False
            while not finished:
                answer = child.ask("more", (handle,), tried, location)
                rows, finished = cast("tuple[list[Entry], bool]", answer)
                yield from rows
        finally:
            child.drop(handle)

    def _running(self, tried: str, location: Location) -> Child:
        """The child, started if there is none, or none alive. Raises what its start raised."""
        with self._starting:
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            if self._child is None or self._child.has_ended:
                try:
                    self._child = Child(self._setup, self._limit)
                except OSError as error:
                    raise Crashed(tried, location, f"a helper process cannot be started: {error.strerror}") from error
            child = self._child
        child.wait_until_ready(tried, location)
        return child


class _WithSnapshots(IsolatedSource):
    def snapshots(self, location: Location) -> Iterator[Entry]:
        """Yield the snapshots of the image at `location`."""
        yield from self._listing("snapshots", "list the snapshots of", location)


class _WithUse(IsolatedSource):
    def in_use(self, location: Location) -> Use:
        """Return who uses the image at `location` now."""
        return cast("Use", self._ask("in_use", "see who uses", location, location))


class _WithWriting(IsolatedSource):
    def open_for_writing(self, location: Location) -> Writer:
        """Open the image at `location` for reading and writing."""
        child, opened, pin = self._opened("open_for_writing", "write to", location)
        return _IsolatedWriter(child, location, opened.handle, opened.size, pin)


def isolated(system: "System", credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> IsolatedSource:
    """Make the source of `system` in a child process, with the abilities and names that the registry tells."""
    return _class_for(system)(system.source, credentials, deadline)


@cache
def _class_for(system: "System") -> type[IsolatedSource]:
    mixins: dict[type, type[IsolatedSource]] = {
        HasSnapshots: _WithSnapshots,
        TellsUse: _WithUse,
        CanWrite: _WithWriting,
    }
    bases = tuple(mixins[ability] for ability in system.abilities) or (IsolatedSource,)
    return type("IsolatedSource", bases, {"schemes": system.schemes, "title": system.title})


class _IsolatedReader(Reader):
    def __init__(self, child: Child, location: Location, handle: int, size: int, pin: Pin) -> None:
        self._child = child
        self._location = location
        self._handle = handle
        self._size = size
        self._pin = pin

    @property
    def size(self) -> int:
        return self._size

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._size)
        pieces = [self._piece(start, min(_PIECE, end - start)) for start in range(offset, end, _PIECE)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def lies_below(self, folder: Location) -> bool:
        return self._child.ask("lies_below", (self._handle, folder), "look at", self._location, self._handle) is True

    def begin_read(self, offset: int, length: int) -> "_BegunRead | None":
        """Ask for the bytes, and do not wait."""
        length = min(length, self.size - offset)
        if not 0 < length <= _PIECE:
            return None
        asked = self._child.begin("pread", (self._handle, offset, length), "read", self._location, self._handle)
        return _BegunRead(self, asked, offset, length) if asked else None

    def close(self) -> None:
        self._child.drop(self._handle)

    def whole(self, answer: object, offset: int, length: int) -> bytes:
        """The answer to a read, which must be all of it. Raises BadAnswer."""
        if not isinstance(answer, bytes) or len(answer) != length:
            raise BadAnswer("read", self._location, f"its helper process answered too little at offset {offset}")
        return answer

    def _piece(self, offset: int, length: int) -> bytes:
        answer = self._child.ask("pread", (self._handle, offset, length), "read", self._location, self._handle)
        return self.whole(answer, offset, length)


@dataclass(frozen=True, slots=True)
class _BegunRead:
    """A read that the child carries out."""

    reader: _IsolatedReader
    asked: Asked
    offset: int
    length: int

    def result(self) -> bytes:
        return self.reader.whole(self.asked.outcome(), self.offset, self.length)

    def when_done(self, call: Callable[[], object]) -> None:
        self.asked.future.add_done_callback(lambda _: call())


class _IsolatedWriter(_IsolatedReader, Writer):
    def pwrite(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        for start in range(0, len(data), _PIECE):
            piece = bytes(view[start : start + _PIECE]) if len(data) > _PIECE else data
            arguments = (self._handle, offset + start)
            self._child.ask("pwrite", arguments, "write to", self._location, self._handle, piece)

    def flush(self) -> None:
        self._child.ask("flush", (self._handle,), "write to", self._location, self._handle)
