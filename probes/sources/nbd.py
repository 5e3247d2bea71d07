"""NBD: a server's exports, which are images.

Written as QEMU writes them: `nbd://host[:port]/` lists the exports, `nbd://host/name` is one of them, `nbd://host` the
one without a name; `nbds` is the same with TLS, and `nbd+unix:///name?socket=/path` a Unix socket. Exports lie in
nothing but their server, whatever slashes their names have.

Nothing stays connected but for open readers: many servers let in one client at a time. The pin is the size alone, for
NBD tells nothing else; nor does it tell who else uses an export.
"""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterator

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish, SecretSlot, Tls
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.entry import Entry, Kind
from probes.errors import BadAnswer, Cancelled, Denied, NotAContainer, NotAnImage, NotFound, Unsupported
from probes.location import Location
from probes.nbd.connection import Begun, Connection, Export
from probes.nbd.server import Server, export_of, place_of, server_of, text
from probes.nbd.tls import certificates, psk_line
from probes.reader import Pin, Reader, Writer
from probes.source import DEADLINE, Source, Use
from probes.text import clean

NAMELESS = "(default export)"
"""What the export without a name is called in a listing."""

SIZES_WITHIN = 1.0
"""Seconds that a listing may spend on asking for sizes, one round trip each; what is left then has none."""

_PIECE = 1 << 20  # bytes of one request
_AT_ONCE = 16  # requests of one call that are on their way
_LONGEST_NOTE = 80


class NbdSource(Source):
    """The exports of NBD servers."""

    schemes = ("nbd", "nbds", "nbd+unix", "nbds+unix")
    title = "NBD"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._open: set[Connection] = set()
        self._lock = threading.Lock()
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        tried = "list"
        with self._connected(location, tried) as connection:
            name = export_of(location)
            if name:
                self._info(connection, name, tried, location)
                raise NotAContainer(tried, location, "it is an export")
            try:
                yield from self._exports(connection, location, tried)
            except (Unsupported, Denied) as error:
                if isinstance(error, Denied) and error.wants:
                    raise
                yield from self._unlisted(location, tried, error)

    def stat(self, location: Location) -> Entry:
        tried = "look at"
        with self._connected(location, tried) as connection:
            name = export_of(location)
            if name is None:
                return Entry(location, location.name, Kind.CONTAINER)
            try:
                return _entry(name, location, self._info(connection, name, tried, location))
            except NotFound:
                if name:
                    raise
                top = Location(location.scheme, location.authority, "/", location.query)
                return Entry(top, top.name, Kind.CONTAINER)  # `nbd://host` was meant as the server, cut short

    def open(self, location: Location) -> Reader:
        return _NbdReader(*self._opened(location, "open"), location)

    def open_for_writing(self, location: Location) -> Writer:
        """Open the export at `location` for reading and writing. Raises Denied where the server forbids it."""
        tried = "open for writing"
        connection, export = self._opened(location, tried)
        if export.read_only:
            connection.close()
            raise Denied(tried, location, "the server offers this export for reading only")
        return _NbdWriter(connection, export, location)

    def in_use(self, location: Location) -> Use:
        """Return that nothing is known: NBD has no way to tell who else is connected."""
        return Use((), certain=False)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        tried = "attach"
        name, server = export_of(location), server_of(location, tried)
        if name is None:
            raise _not_an_image(location, tried)
        with self._connected(location, tried) as connection:
            export = self._info(connection, name, tried, location)
        secure = _tls(server, self.credentials, tried, location) if server.tls else None
        why = _why_bridge(name, server, secure, qemu)
        if why and qemu.route is RouteWish.DIRECT:
            raise Unsupported(tried, location, why, "choose the route auto or bridge")
        whole = Attachment(
            location,
            Route.BRIDGE if why else Route.DRIVER,
            _pin(export),
            writable=not export.read_only,
            trusted=True,
            why=why,
            notes=_notes(export, mode),
        )
        return whole if why else _direct(whole, name, server, secure, qemu)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            connections = list(self._open)
        for connection in connections:
            connection.close()

    # Connections

    @contextlib.contextmanager
    def _connected(self, location: Location, tried: str) -> Iterator[Connection]:
        connection = Connection(server_of(location, tried), self.credentials, self.deadline, tried, location)
        with self._lock:
            if self._closed:
                connection.close()
                raise Cancelled(tried, location, "it was closed")
            self._open.add(connection)
        try:
            connection.start()
            yield connection
        finally:
            connection.close()
            self._forget(connection)

    def _opened(self, location: Location, tried: str) -> tuple[Connection, Export]:
        """A connection that reads one export, which the caller closes."""
        name = export_of(location)
        if name is None:
            with self._connected(location, tried):  # is there a server at all?
                raise _not_an_image(location, tried)
        connection = Connection(server_of(location, tried), self.credentials, self.deadline, tried, location)
        with self._lock:
            if self._closed:
                connection.close()
                raise Cancelled(tried, location, "it was closed")
            self._open.add(connection)
            connection.on_end(lambda: self._forget(connection))
        try:
            connection.start()
            return connection, connection.go(name, tried, location)
        except BaseException:
            connection.close()
            raise

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._open.discard(connection)

    def _info(self, connection: Connection, name: bytes, tried: str, location: Location) -> Export:
        """What the server says of an export; where it cannot say without opening it, it is opened."""
        try:
            return connection.info(name, tried, location)
        except Unsupported:
            return connection.go(name, tried, location)

    def _exports(self, connection: Connection, location: Location, tried: str) -> Iterator[Entry]:
        until: float | None = None
        for name, description in list(connection.exports(tried, location)):
            until = until or time.monotonic() + SIZES_WITHIN
            export: Export | None = None
            if time.monotonic() < until:
                try:
                    export = connection.info(name, tried, location)
                except Unsupported:
                    until = 0.0
                except (NotFound, Denied, BadAnswer):  # listed and gone, or shut to us: the list says what there is
                    export = None
            yield _entry(name, location, export, description)

    def _unlisted(self, location: Location, tried: str, error: Exception) -> Iterator[Entry]:
        """What a server has that does not list its exports: the one without a name, if there is one."""
        try:
            with self._connected(location, tried) as connection:
                export = self._info(connection, b"", tried, location)
        except (NotFound, Unsupported):
            raise error from None
        yield _entry(b"", location, export, b"the server does not list its exports")


class _NbdReader(Reader):
    """An export over a connection of its own, several requests at a time."""

    def __init__(self, connection: Connection, export: Export, location: Location) -> None:
        self._connection = connection
        self._export = export
        self._location = location

    @property
    def size(self) -> int:
        return self._export.size

    @property
    def pin(self) -> Pin:
        return _pin(self._export)

    def pread(self, offset: int, length: int) -> bytes:
        size, block = self._export.size, self._export.block
        end = min(offset + length, size)
        if end <= offset:
            return b""
        start = offset - offset % block
        whole = min(end + -end % block, size)
        data = b"".join(self._pieces(start, whole))
        return data[offset - start : end - start]

    def begin_read(self, offset: int, length: int) -> Begun | None:
        """Ask for the bytes, and do not wait: where one request of whole blocks does it."""
        length = min(length, self.size - offset)
        is_one = 0 < length <= min(_PIECE, self._export.most)
        if not is_one or offset % self._export.block or length % self._export.block:
            return None
        return self._connection.begin(offset, length, "read", self._location)

    def close(self) -> None:
        self._connection.close()

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        step = min(_PIECE, self._export.most)
        spans = [(at, min(step, end - at)) for at in range(start, end, step)]
        for first in range(0, len(spans), _AT_ONCE):
            yield from self._connection.read(spans[first : first + _AT_ONCE], "read", self._location)


class _NbdWriter(_NbdReader, Writer):
    """The same, written too."""

    def __init__(self, connection: Connection, export: Export, location: Location) -> None:
        super().__init__(connection, export, location)
        self._mending = threading.Lock()

    def pwrite(self, offset: int, data: bytes) -> None:
        if offset < 0 or offset + len(data) > self.size:
            raise BadAnswer("write", self._location, f"{len(data)} bytes at {offset} are not inside the image")
        block = self._export.block
        if offset % block or (len(data) % block and offset + len(data) != self.size):
            with self._mending:  # the server takes whole blocks only: what lies around goes back as it was
                start = offset - offset % block
                end = min(offset + len(data) + -(offset + len(data)) % block, self.size)
                around = self.pread(start, end - start)
                self._write(start, around[: offset - start] + data + around[offset - start + len(data) :])
            return
        self._write(offset, data)

    def flush(self) -> None:
        if self._export.can_flush:
            self._connection.flush("flush", self._location)

    def _write(self, offset: int, data: bytes) -> None:
        step = min(_PIECE, self._export.most)
        pieces = [(offset + at, data[at : at + step]) for at in range(0, len(data), step)]
        for first in range(0, len(pieces), _AT_ONCE):
            self._connection.write(pieces[first : first + _AT_ONCE], "write", self._location)


def _not_an_image(location: Location, tried: str) -> NotAnImage:
    return NotAnImage(tried, location, "it is the list of a server's exports", "choose one of them")


def _entry(name: bytes, location: Location, export: Export | None, description: bytes = b"") -> Entry:
    words = [clean(description.decode("utf-8", "replace"), _LONGEST_NOTE)] if description else []
    words += ["read-only"] if export and export.read_only else []
    size = export.size if export else None
    shown = text(name) if name else NAMELESS
    return Entry(place_of(name, location), shown, Kind.IMAGE, size, note=", ".join(words))


def _pin(export: Export) -> Pin:
    return Pin(export.size)


def _notes(export: Export, mode: Mode) -> tuple[str, ...]:
    if mode is Mode.WRITE and export.multi_conn:
        return ("the server lets several clients write to this export at once, and does not tell who they are",)
    return ()


def _direct(whole: Attachment, name: bytes, server: Server, secure: Tls | None, qemu: QemuFacts) -> Attachment:
    inet = {"type": "inet", "host": server.host, "port": str(server.port)}
    node: dict[str, object] = {
        "driver": "nbd",
        "server": {"type": "unix", "path": server.socket} if server.socket else inet,
        "export": text(name),
        "reconnect-delay": 30,  # seconds in which the guest waits instead of failing
    }
    if qemu.version >= (7,):
        node["open-timeout"] = 5
    reads = (server.socket,) if server.socket else ()
    return Attachment(
        whole.location,
        Route.DRIVER,
        whole.pin,
        node,
        reads=reads,
        writable=whole.writable,
        trusted=True,
        tls=secure,
        notes=whole.notes,
    )


def _tls(server: Server, credentials: Credentials, tried: str, location: Location) -> Tls | None:
    """The TLS that QEMU is to be given; None where it cannot do what we do."""
    if credentials.key is not None:
        user, _, key = psk_line(credentials, tried, location).rpartition(":")
        slot = SecretSlot("tls-creds", Secret(key), f"shared key of {user} at {server.shown}", "key")
        return Tls(psk=slot, username=user)
    files = certificates(credentials, tried, location)
    if credentials.ca_file is None or not server.host:
        return None
    return Tls(files=files, hostname=server.host)


def _why_bridge(name: bytes, server: Server, secure: Tls | None, qemu: QemuFacts) -> str:
    if qemu.route is RouteWish.BRIDGE:
        return "the bridge was asked for"
    if "nbd" not in qemu.drivers:
        return "this QEMU has no nbd driver"
    if any("\udc80" <= character <= "\udcff" for character in text(name) + server.socket):
        return "QEMU cannot be given a name that is not UTF-8"
    if server.tls and secure is None:
        what = "a certificate over a Unix socket" if server.socket else "certificates by the system's authorities"
        return f"QEMU cannot check {what}"
    if server.socket and not _is_open_to_all(server.socket):
        return "QEMU runs as an account of its own, which may not use this socket"
    return ""


def _is_open_to_all(path: str) -> bool:
    """Whether QEMU could connect: as ourselves, or under root as another account. Its folders do not matter, for a
    confined QEMU sees the socket in folders of its own.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(mode) and (os.geteuid() != 0 or bool(mode & stat.S_IWOTH))
