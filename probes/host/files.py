"""Opening and reading files and block devices of this host.

Nothing but regular files and block devices is ever opened: to open a FIFO waits, to open a tape or a watchdog does
things. A path may lie on a mount whose server is dead, where every call of the kernel waits for ever; so each runs in
a thread of its own and is given up at the deadline. The thread itself cannot be stopped: it waits on, holds its
descriptor, and costs nothing else.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TypeVar

from probes.errors import (
    Cancelled,
    Changed,
    Denied,
    FarbootError,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.reader import Pin, Reader

T = TypeVar("T")

_BATCH = 500  # rows that one thread brings

_REASONS: dict[int, tuple[type[FarbootError], str, str]] = {
    errno.ENOENT: (NotFound, "there is no such file", ""),
    errno.ENOTDIR: (NotFound, "part of the path is not a folder", ""),
    errno.ELOOP: (NotFound, "its symbolic links lead in a circle", ""),
    errno.ENAMETOOLONG: (NotFound, "no name is that long", ""),
    errno.EACCES: (Denied, "this account may not read it", "become root, or its owner, or a member of its group"),
    errno.EPERM: (Denied, "this account may not read it", "become root, or its owner, or a member of its group"),
    errno.ENOMEDIUM: (Unreachable, "there is no medium in the drive", "insert one"),
    errno.ENXIO: (Unreachable, "the device is not there any more", ""),
    errno.ENODEV: (Unreachable, "the device is not there any more", ""),
    errno.ESTALE: (Unreachable, "the file server has forgotten it", "open it again"),
    errno.EIO: (Unreachable, "the storage reports an input/output error", "the kernel's log (dmesg) says more"),
    errno.EMFILE: (Unsupported, "too many files are open", "close some, or raise `ulimit -n`"),
}


def within(deadline: float, tried: str, location: Location, what: Callable[[], T]) -> T:
    """Return what `what` returns, if it does within `deadline` seconds. Raises TimedOut, and OSErrors as our own."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(what())
        except BaseException as error:  # noqa: BLE001  # it is raised again, in the thread that asked
            outcome.set_exception(error)

    threading.Thread(target=run, name=tried, daemon=True).start()
    try:
        return outcome.result(deadline)
    except TimeoutError:
        why = f"no answer within {deadline:.0f} s"
        hint = "is its mount's server, or its disk, alive? The call in the kernel cannot be taken back"
        raise TimedOut(tried, location, why, hint) from None
    except OSError as error:
        raise family_error(error, tried, location) from None
    except ValueError as error:  # a NUL in the path
        raise NotFound(tried, location, str(error)) from None


def in_batches(deadline: float, tried: str, location: Location, rows: Iterable[T]) -> Iterator[T]:
    """Yield the rows as they come, `deadline` seconds at most for each batch."""
    source = iter(rows)
    while batch := within(deadline, tried, location, lambda: list(islice(source, _BATCH))):
        yield from batch


def family_error(error: OSError, tried: str, location: Location) -> FarbootError:
    """An error of the kernel as one of ours."""
    number = error.errno or 0
    kind, why, hint = _REASONS.get(number, (Unreachable, os.strerror(number), ""))
    return kind(tried, location, why, hint)


def open_file(location: Location, path: str, deadline: float) -> "LocalReader":
    """Open the regular file or block device at `path`. Raises NotAnImage for anything else."""
    return within(deadline, "open", location, lambda: LocalReader(_descriptor(location, path), location, deadline))


def _descriptor(location: Location, path: str) -> int:
    """Open without a way in between: what was looked at is what is opened, and only then."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        what = kind_of(os.fstat(handle).st_mode)
        if what not in {"file", "block device"}:
            hint = "list it instead" if what == "folder" else "only files and block devices can be read"
            raise NotAnImage("open", location, f"it is a {what}", hint)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.close(handle)


def kind_of(mode: int) -> str:
    """What a file is, in a person's words."""
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "folder",
        stat.S_IFBLK: "block device",
        stat.S_IFCHR: "character device",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
    }
    return kinds.get(stat.S_IFMT(mode), "thing of an unknown kind")


def sysfs(device: int) -> str:
    """The folder of the block device with this number in sysfs."""
    return os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")


def sysfs_value(folder: str, name: str) -> str:
    """The text of one attribute, empty where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""


def whole_disk(folder: str) -> str:
    """The sysfs folder of the disk that holds the partition at `folder`, or `folder` itself."""
    return os.path.dirname(folder) if os.path.exists(os.path.join(folder, "partition")) else folder


class LocalReader(Reader):
    """A regular file or a block device, open for reading; it owns the descriptor."""

    def __init__(self, descriptor: int, location: Location, deadline: float) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)  # it closes even where a given-up thread comes back late
        self._location = location
        self._deadline = deadline
        self._busy = 0
        self._is_closed = False
        self._lock = threading.Lock()
        self._pin = self._look()

    def pread(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0 and not self._is_closed:
            return b""
        return within(self._deadline, "read", self._location, lambda: self._read(offset, length))

    def close(self) -> None:
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            if not self._busy:
                self._file.close()

    def _read(self, offset: int, length: int) -> bytes:
        with self._lock:
            if self._is_closed:
                raise Cancelled("read", self._location, "it was closed")
            self._busy += 1
        try:
            parts = []
            while length > 0 and (part := os.pread(self._file.fileno(), length, offset)):
                parts.append(part)
                offset += len(part)
                length -= len(part)
            if length or self._look() != self._pin:  # looked at afterwards: time stamps change before the data does
                why = "it was written to or replaced after it was opened"
                raise Changed("read", self._location, why, "somebody uses it; open it again")
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            with self._lock:
                self._busy -= 1
                if self._is_closed and not self._busy:
                    self._file.close()

    def _look(self) -> Pin:
        """The pin of what the descriptor holds now.

        Neither is strong: the kernel's time stamps tick a few milliseconds apart, so that two writes may share
        one, and a device's sequence number tells that the medium or the backing was changed, not that it was
        written to.
        """
        descriptor = self._file.fileno()
        found = os.fstat(descriptor)
        if not stat.S_ISBLK(found.st_mode):
            return Pin(found.st_size, f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}:{found.st_ctime_ns}")
        folder = sysfs(found.st_rdev)
        sequence = sysfs_value(whole_disk(folder), "diskseq")
        size = os.lseek(descriptor, 0, os.SEEK_END)
        return Pin(size, f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}:{sequence}")
