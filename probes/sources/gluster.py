"""GlusterFS: a server's volumes, their folders, and the images in them.

`gluster://host[:port]/volume/path`, as QEMU has it (block/gluster.c). Nothing is mounted: libgfapi speaks to the
bricks. It runs in a child process, for its calls know no end; a connection to a volume lives as long as the source.
"""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import (
    BadAnswer,
    Cancelled,
    Changed,
    Denied,
    FarbootError,
    MissingClient,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.gluster.library import Facts, File, Library, Volume
from probes.gluster.volumes import PORT, volumes
from probes.location import Location
from probes.reader import Pin, Reader, Writer, is_openly_below
from probes.source import DEADLINE, Source

_PIECE = 1 << 20  # bytes of one read or write
_SECTOR = 512
_DEPRECATED = (9, 2)


class GlusterSource(Source):
    """The volumes of GlusterFS servers."""

    schemes = ("gluster",)
    title = "GlusterFS"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._library: Library | None = None
        self._volumes: dict[tuple[str, int, str], Volume] = {}
        self._lock = threading.Lock()
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        tried = "list"
        if not location.names:
            for name in volumes(location, self.deadline, tried):
                yield Entry(location.child(name, container=True), name, Kind.CONTAINER)
            return
        with _told(tried, location):
            volume, path = self._volume(location, tried), _path(location)
            if path != b"/" and not volume.stat(path).is_folder:
                raise NotAContainer(tried, location, "it is a file")
            for raw, facts in volume.entries(path):
                yield _entry(location, raw, self._followed(volume, path, raw) if facts.is_link else facts)

    def stat(self, location: Location) -> Entry:
        tried = "look at"
        if not location.names:
            self._knock(location, tried)
            return Entry(location, location.name, Kind.CONTAINER)
        with _told(tried, location):
            facts = self._volume(location, tried).stat(_path(location))
        kind = Kind.CONTAINER if facts.is_folder else kind_by_name(location.name) if facts.is_file else Kind.OTHER
        size = facts.size if facts.is_file else None
        return Entry(location, location.name, kind, size, _when(facts))

    def open(self, location: Location) -> Reader:
        return _GlusterReader(*self._opened(location, "open"), location, partial(self._leads, location))

    def open_for_writing(self, location: Location) -> Writer:
        """Open the image at `location` for reading and writing."""
        return _GlusterWriter(*self._opened(location, "open for writing", write=True), location)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        tried = "attach"
        with self.open(location) as reader:
            pin = reader.pin
        path = "/".join(location.names[1:])
        why = _why_bridge(location.names[0] + path, pin.size, qemu)
        if why and qemu.route is RouteWish.DIRECT:
            raise Unsupported(tried, location, why, "choose the route auto or bridge")
        if why:
            return Attachment(location, Route.BRIDGE, pin, writable=True, trusted=True, why=why)
        server = {"type": "inet", "host": location.host, "port": str(location.port or PORT)}
        node = {"driver": "gluster", "volume": location.names[0], "path": path, "server": [server]}
        notes = ("QEMU's gluster driver is deprecated (since 9.2) and will go; the bridge stays",)
        return Attachment(
            location,
            Route.DRIVER,
            pin,
            node,
            writable=True,
            trusted=True,
            notes=notes if qemu.version >= _DEPRECATED else (),
        )

    def close(self) -> None:
        self._closed = True  # the connections end with the process: libgfapi takes ten seconds to end one

    # Connections

    def _volume(self, location: Location, tried: str) -> Volume:
        """The connection to the volume that `location` names. Raises OSError."""
        if self._closed:
            raise Cancelled(tried, location, "it was closed")
        where = (location.host, location.port or PORT, location.names[0])
        with self._lock:
            found = self._volumes.get(where)
            if found is None:
                try:
                    self._library = self._library or Library()
                    found = Volume(self._library, *where)
                except OSError as error:
                    raise _login_failure(error, location, tried) from None
                except LookupError:
                    why = "this processor lays out `struct stat` in a way that Farboot does not know"
                    raise Unsupported(tried, location, why) from None
                self._volumes[where] = found
        return found

    def _opened(self, location: Location, tried: str, write: bool = False) -> tuple[File, Facts]:
        if not location.names:
            self._knock(location, tried)
            raise NotAnImage(tried, location, "it is the list of a server's volumes", "choose an image in one")
        with _told(tried, location):
            volume, path = self._volume(location, tried), _path(location)
            facts = volume.stat(path)
            if not facts.is_file:
                what = "a folder" if facts.is_folder else "no file"
                raise NotAnImage(tried, location, f"it is {what}", "choose an image")
            file = volume.open(path, write)
            return file, file.stat()

    def _leads(self, location: Location, folder: Location) -> bool:
        """Whether no link and nothing hidden is on the way from the folder to `location`: where links lead libgfapi
        does not tell.
        """
        way, above = _path(location), _path(folder).rstrip(b"/")
        if not is_openly_below(os.fsdecode(way), os.fsdecode(above)):
            return False
        with _told("look at", location):
            volume = self._volume(location, "look at")
            steps = way[len(above) + 1 :].split(b"/")
            ways = [b"/".join([above, *steps[: depth + 1]]) for depth in range(len(steps))]
            return not any(volume.is_link(each) for each in ways)

    def _followed(self, volume: Volume, folder: bytes, raw: bytes) -> Facts | None:
        try:
            return volume.stat(folder.rstrip(b"/") + b"/" + raw)
        except OSError:
            return None  # it leads nowhere

    def _knock(self, location: Location, tried: str) -> None:
        """Find out whether anybody is there at all."""
        try:
            socket.create_connection((location.host, location.port or PORT), timeout=self.deadline).close()
        except TimeoutError:
            raise TimedOut(tried, location, f"no answer within {self.deadline:g} s") from None
        except OSError as error:
            raise Unreachable(tried, location, error.strerror or str(error), _IS_IT_UP) from None


class _GlusterReader(Reader):
    """An open file. It is closed once nobody reads from it, for libgfapi would not survive anything else.

    The pin is weak: Gluster's times are those of a brick, and of replicas they may differ a little.
    """

    def __init__(
        self, file: File, facts: Facts, location: Location, leads: Callable[[Location], bool] | None = None
    ) -> None:
        self._file = file
        self._leads = leads
        self._location = location
        self._pin = Pin(facts.size, f"{facts.inode:x}:{facts.modified}")
        self._users = 1
        self._closed = False
        self._lock = threading.Lock()

    def lies_below(self, folder: Location) -> bool:
        return self._leads is None or self._leads(folder)

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        pieces: list[bytes] = []
        with self._used("read"):
            while offset < end:
                piece = self._file.read(offset, min(_PIECE, end - offset))
                if not piece:
                    raise Changed("read", self._location, f"it ends at {offset} bytes and had {self.size}")
                pieces.append(piece)
                offset += len(piece)
        return b"".join(pieces)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._leave()

    @contextlib.contextmanager
    def _used(self, tried: str) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise Cancelled(tried, self._location, "it was closed")
            self._users += 1
        try:
            with _told(tried, self._location):
                yield
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            with contextlib.suppress(OSError):  # the connection may be gone, and the file with it
                self._file.close()


class _GlusterWriter(_GlusterReader, Writer):
    """The same, written too."""

    def pwrite(self, offset: int, data: bytes) -> None:
        if offset < 0 or offset + len(data) > self.size:
            raise BadAnswer("write", self._location, f"{len(data)} bytes at {offset} are not inside the image")
        with self._used("write"):
            while data:
                count = self._file.write(offset, data[:_PIECE])
                if not count:
                    raise BadAnswer("write", self._location, f"nothing was taken at offset {offset}")
                offset, data = offset + count, data[count:]

    def flush(self) -> None:
        with self._used("flush"):
            self._file.sync()


_IS_IT_UP = "is glusterd running, and does a firewall let its ports through (24007, and the bricks' from 49152)?"
_GONE = {errno.ENOTCONN, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPIPE}


def _path(location: Location) -> bytes:
    return b"/" + os.fsencode("/".join(location.names[1:]))


def _entry(folder: Location, raw: bytes, facts: Facts | None) -> Entry:
    name = os.fsdecode(raw)
    if facts is None:
        return Entry(folder.child(name), name, Kind.OTHER, note="a link that leads nowhere")
    if facts.is_folder:
        return Entry(folder.child(name, container=True), name, Kind.CONTAINER, modified=_when(facts))
    kind = kind_by_name(name) if facts.is_file else Kind.OTHER
    return Entry(folder.child(name), name, kind, facts.size if facts.is_file else None, _when(facts))


def _when(facts: Facts) -> datetime | None:
    try:
        return datetime.fromtimestamp(facts.modified // 1_000_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _why_bridge(name: str, size: int, qemu: QemuFacts) -> str:
    if qemu.route is RouteWish.BRIDGE:
        return "the bridge was asked for"
    if "gluster" not in qemu.drivers:
        return "this QEMU has no gluster driver (Debian's is in qemu-block-extra; others leave it out)"
    if any("\udc80" <= character <= "\udcff" for character in name):
        return "QEMU cannot be given a name that is not UTF-8"
    if size % _SECTOR:
        return f"QEMU's gluster driver fails at the end of an image whose size is no multiple of {_SECTOR} bytes"
    return ""


def _login_failure(error: OSError, location: Location, tried: str) -> FarbootError:
    name, host = location.names[0], location.host
    if error.errno is None:  # the dynamic loader's
        return MissingClient(tried, location, "the library libgfapi is not installed", "apt install libgfapi0")
    if error.errno in {errno.ENOENT, errno.EIO}:
        return NotFound(tried, location, f"{host} has no volume {name}, or it is not started", _see_volumes(location))
    if error.errno in _GONE:
        return Unreachable(tried, location, f"nobody answers at {host} port {location.port or PORT}", _IS_IT_UP)
    return _failure(error, location, tried)


def _see_volumes(location: Location) -> str:
    return f"`farboot ls gluster://{location.authority}/` lists the volumes"


def _failure(error: OSError, location: Location, tried: str) -> FarbootError:
    words = error.strerror or str(error)
    match error.errno:
        case errno.ENOENT | errno.ENAMETOOLONG:
            return NotFound(tried, location, "there is no such file")
        case errno.ENOTDIR:
            return NotAContainer(tried, location, "it is a file, or lies in one")
        case errno.EISDIR:
            return NotAnImage(tried, location, "it is a folder")
        case errno.EACCES | errno.EPERM:
            return Denied(tried, location, "this account may not", "the volume's auth.allow and the file's mode decide")
        case errno.EROFS:
            return Denied(tried, location, "the volume is read-only")
        case errno.ETIMEDOUT:
            return TimedOut(tried, location, "a brick does not answer")
        case errno.ENOSPC | errno.EDQUOT:
            return FarbootError(tried, location, "the volume is full")
    if error.errno in _GONE:
        return Unreachable(tried, location, "the connection to the bricks is lost", _IS_IT_UP)
    return BadAnswer(tried, location, f"Gluster reports: {words}")


@contextlib.contextmanager
def _told(tried: str, location: Location) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _failure(error, location, tried) from None
