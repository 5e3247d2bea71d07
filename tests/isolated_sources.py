"""Sources that misbehave in every way that a child process is there for. Only `tests.test_isolation` runs them."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import ClassVar

from probes import errors
from probes.attachment import Attachment, HostFile, Mode, QemuFacts, Route, SecretSlot
from probes.credentials import Credentials, Secret
from probes.entry import Entry, Kind
from probes.errors import BadAnswer, Cancelled, Changed, Denied, NotFound
from probes.location import Location
from probes.reader import Pin, Reader, Writer
from probes.source import Source, Use

MADE_BY = os.getpid()
"""The process that imported this module."""


def pattern(offset: int, length: int) -> bytes:
    """The bytes that the readers hold: each 8-byte word is its own number."""
    first, last = offset // 8, (offset + length + 7) // 8
    words = b"".join(number.to_bytes(8, "big") for number in range(first, last))
    return words[offset - first * 8 :][:length]


class PatternReader(Reader):
    """64 MiB of numbers."""

    def __init__(self, size: int = 64 << 20) -> None:
        self._size = size
        self.closed = threading.Event()

    @property
    def size(self) -> int:
        return self._size

    @property
    def pin(self) -> Pin:
        return Pin(self._size, f"pid-{os.getpid()}", strong=True)

    def pread(self, offset: int, length: int) -> bytes:
        if self.closed.is_set():
            raise Cancelled("read", "the pattern", "it was closed")
        return pattern(offset, max(0, min(length, self._size - offset)))

    def close(self) -> None:
        self.closed.set()


class SlowReader(PatternReader):
    """Answers when it is closed, or when eight are waiting at once."""

    def __init__(self) -> None:
        super().__init__()
        self.together = threading.Barrier(8)

    def pread(self, offset: int, length: int) -> bytes:
        if offset == 0:
            self.closed.wait(60)
        else:
            self.together.wait(30)
        return super().pread(offset, length)


class Good(Source):
    """Does all that the contract asks for, with rows chosen by the location's query."""

    schemes: ClassVar = ("test",)
    title: ClassVar = "Good"

    def entries(self, location: Location) -> Iterator[Entry]:
        for number in range(int(location.query or 3)):
            name = f"image{number}\udcff\x1b[31m.raw"
            yield Entry(location.child(name), name, Kind.IMAGE, number, datetime(2024, 5, 1, tzinfo=UTC), "a note")

    def stat(self, location: Location) -> Entry:
        return Entry(location, location.name, Kind.IMAGE, os.getpid(), None, repr(self.credentials))

    def open(self, location: Location) -> Reader:
        return SlowReader() if location.name == "slow" else PatternReader()

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        return Attachment(
            location,
            Route.DRIVER,
            Pin(1, "x"),
            {"driver": "rbd", "server": [{"host": "h", "port": "1"}], "version": list(qemu.version)},
            (SecretSlot("key-secret", self.credentials.key or Secret(""), "whose", "key"),),
            (HostFile("filename", "/dev/x"),),
            writable=mode is Mode.WRITE,
        )


class Able(Good):
    """Has the abilities too."""

    def snapshots(self, location: Location) -> Iterator[Entry]:
        yield Entry(location.child("@one"), "@one", Kind.IMAGE)

    def in_use(self, location: Location) -> Use:
        return Use(("client.1 at 192.0.2.7",), certain=True)


class Counting(Good):
    """Lists for ever, and writes into a file how far it got and that it was closed."""

    def entries(self, location: Location) -> Iterator[Entry]:
        count = 0
        try:
            while True:
                count += 1
                yield Entry(location.child(str(count)), str(count), Kind.OTHER)
        finally:
            with open(location.query, "w", encoding="utf-8") as file:
                file.write(f"closed after {count}")


class Dripping(Good):
    """Lists two rows, then says nothing until the file in the query exists."""

    def entries(self, location: Location) -> Iterator[Entry]:
        for name in "ab":
            yield Entry(location.child(name), name, Kind.OTHER)
        while not os.path.exists(location.query):
            time.sleep(0.01)
        yield Entry(location.child("c"), "c", Kind.OTHER)


class HoldsTheGil(Good):
    """Like a C library that sleeps without letting go of the interpreter."""

    def stat(self, location: Location) -> Entry:
        if location.query and os.path.exists(location.query):
            return super().stat(location)
        if location.query:
            with open(location.query, "w", encoding="utf-8") as file:
                file.write(str(os.getpid()))
        ctypes.PyDLL(None).sleep(600)
        raise AssertionError

    def entries(self, location: Location) -> Iterator[Entry]:
        yield Entry(location, "first", Kind.OTHER)
        self.stat(location)


class Waits(Good):
    """Waits as a well-behaved C library does: without the interpreter."""

    def stat(self, location: Location) -> Entry:
        with open(location.query, "w", encoding="utf-8") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
        raise AssertionError


class Crashes(Good):
    """Ends its process, in the way that the location's name says; the second time it is well."""

    def stat(self, location: Location) -> Entry:
        if location.query and os.path.exists(location.query):
            return super().stat(location)
        if location.query:
            open(location.query, "w", encoding="utf-8").close()
        sys.stderr.write("noise\n" * 40_000 + "libfoo: assertion \x1b[31mfailed\n")
        sys.stderr.flush()
        match location.name:
            case "segv":
                ctypes.string_at(0)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "memory":
                ctypes.memset(ctypes.create_string_buffer(1 << 30), 1, 1 << 30)
        os._exit(7)


class Greedy(Good):
    """Wants more memory than it may have."""

    def stat(self, location: Location) -> Entry:
        return Entry(location, str(len(bytearray(1 << 30))), Kind.OTHER)


class _Own(NotFound):
    """A subclass that the parent does not know."""


class Raises(Good):
    """Raises what the location's name says."""

    def stat(self, location: Location) -> Entry:
        password = self.credentials.password.reveal() if self.credentials.password else ""
        match location.name:
            case "Denied":
                raise Denied("look at", location, "who are you", "say so", "at length", wants=("username", "password"))
            case "Own":
                raise _Own("look at", location, "nothing there", "look elsewhere")
            case "ValueError":
                raise ValueError(f"the password {password} is \x1b[31mbad")
            case "SystemExit":
                sys.exit(3)
            case "Unpicklable":
                return threading.Lock()  # type: ignore[return-value]  # that is the point
            case "Foreign":
                return os.stat("/")  # type: ignore[return-value]  # that is the point
            case name:
                raise getattr(errors, name)("look at", location, "the reason", "the hint", "the detail")

    def entries(self, location: Location) -> Iterator[Entry]:
        yield Entry(location.child("one"), "one", Kind.OTHER)
        raise BadAnswer("list", location, "the rest makes no sense")

    def open(self, location: Location) -> Reader:
        return ChangingReader()


class ChangingReader(PatternReader):
    """Is not what it was."""

    def pread(self, offset: int, length: int) -> bytes:
        raise Changed("read", "the pattern", "it is another one now")


class CannotBegin(Good):
    """Fails while it is made."""

    def __init__(self, credentials: Credentials, deadline: float) -> None:
        raise errors.MissingClient("open", "test://", "the library libfoo is not installed", "apt install libfoo")


class Noticing(Good):
    """Tells on which terms it runs."""

    def stat(self, location: Location) -> Entry:
        files = [os.readlink(f"/proc/self/fd/{number}") for number in (0, 1)]
        with open("/proc/self/environ", "rb") as environment, open("/proc/self/cmdline", "rb") as line:
            shown = environment.read() + line.read()
        try:
            os.close(os.open("/dev/tty", os.O_RDWR))
            tty = True
        except OSError:
            tty = False
        facts = {
            "files": files,
            "leader": os.getsid(0) == os.getpid(),
            "tty": tty,
            "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            "secret": any(secret.reveal().encode() in shown for secret in self.credentials.secrets()),
            "main": getattr(sys.modules["__main__"], "__file__", None),
            "made_by": os.getpid() == MADE_BY,
        }
        return Entry(location, repr(facts), Kind.OTHER)


class FileWriter(PatternReader, Writer):
    """Writes a file, and tells the largest write and the flushes beside it."""

    def __init__(self, path: str) -> None:
        super().__init__(os.path.getsize(path))
        self.path = path
        self.file = os.open(path, os.O_RDWR)

    def pread(self, offset: int, length: int) -> bytes:
        return os.pread(self.file, length, offset)

    def pwrite(self, offset: int, data: bytes) -> None:
        if self.closed.is_set():
            raise Cancelled("write to", self.path, "it was closed")
        assert type(data) is bytes
        if data == b"deny":
            raise Denied("write to", self.path, "not that")
        os.pwrite(self.file, data, offset)

    def flush(self) -> None:
        with open(self.path + ".flushed", "a", encoding="utf-8") as told:
            told.write("x")


class Writes(Good):
    """Can write the file that the location's query names."""

    def open_for_writing(self, location: Location) -> Writer:
        if location.name == "locked":
            raise Denied("write to", location, "somebody else has it")
        return FileWriter(location.query)

    def stat(self, location: Location) -> Entry:
        ctypes.PyDLL(None).sleep(600)  # like a C library that holds the interpreter
        raise AssertionError
