"""FTP servers, plain and over TLS (RFC 959, 1738, 2389, 2428, 3659, 4217).

Folders are listed by MLSD where the server has it, else by CWD and LIST (whose argument many servers take for options
and patterns). A file is read in the middle by REST; one on a server that cannot do that is read whole when it is small,
and fetched whole first when it is not.

`ftps://` is TLS from the first byte on port 990 (as curl and QEMU have it) and AUTH TLS on port 21; on another port
it is whichever the server speaks, and without a port 990 is tried before 21. It never falls back to plain FTP.

The password goes to the server of the first location that a source is used with, and to no other.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import ClassVar

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish, SecretSlot
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import (
    BadAnswer,
    FarbootError,
    NotAContainer,
    NotAnImage,
    NotFetched,
    Refused,
    Unreachable,
    Unsupported,
)
from probes.fetched.cache import Cache, fetched_attachment
from probes.fetched.reader import CopyReader
from probes.ftp.control import Control, Login
from probes.ftp.failures import NoTls, ReplyError
from probes.ftp.folders import batches, begin_listing, entry_of, followed
from probes.ftp.listing import Row, rows
from probes.ftp.looking import Found, look_at
from probes.ftp.paths import absolute, path_in, url_of
from probes.ftp.pool import Pool
from probes.ftp.reader import FtpReader, WholeReader
from probes.ftp.replies import reply_error
from probes.location import Location
from probes.network.call import Call
from probes.reader import Pin, Reader
from probes.source import DEADLINE, Progress, Source

WHOLE = 16 << 20
"""Size in bytes up to which an image on a server that cannot read in the middle is read whole."""
SLOW = "QEMU's own driver logs in anew for every read"

_MOST_LINKS = 200  # of a LIST, that are followed to tell folders from files: each costs a round trip or two
_IMPLICIT_PORT, _PORT = 990, 21


class FtpSource(Source):
    """One FTP server, as one user sees it."""

    schemes: ClassVar[tuple[str, ...]] = ("ftp", "ftps")
    title: ClassVar[str] = "FTP"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._pools: dict[str, Pool] = {}
        self._calls: set[Call] = set()
        self._trusted_host = ""
        self._closed = False
        self._lock = threading.Lock()
        self._opening = threading.Lock()

    def entries(self, location: Location) -> Iterator[Entry]:
        path = path_in(location)
        folder = location if location.path.endswith("/") else replace(location, path=location.path + "/", query="")
        links: list[Row] = []
        with self.call("list", location) as call:
            pool = self._pool(call, location)
            with pool.begun(call, lambda control: begin_listing(control, path)) as (control, is_mlsd):
                for batch in batches(control):
                    found = []
                    for row in rows(batch, is_mlsd, datetime.now(UTC).replace(tzinfo=None)):
                        if row.type == "link":
                            links.append(row)
                        else:
                            found.append(entry_of(folder, row))
                    with call.resting():
                        yield from found
            for number, row in enumerate(links):
                entry = entry_of(folder, row)
                if number < _MOST_LINKS:
                    entry = pool.run(call, partial(followed, folder=folder, path=path, row=row))
                with call.resting():
                    yield entry

    def stat(self, location: Location) -> Entry:
        with self.call("look at", location) as call:
            _, found = self._look(call, location)
            if found.is_folder:
                folder = location if location.path.endswith("/") else replace(location, path=location.path + "/")
                return Entry(folder, location.name, Kind.CONTAINER)
            if location.path.endswith("/"):
                raise NotAContainer("look at", location, "it is a file, not a folder", "leave the last / out")
            return Entry(location, location.name, kind_by_name(location.name), found.size, found.modified)

    def open(self, location: Location) -> Reader:
        with self.call("open", location) as call:
            pool, found = self._look(call, location)
            if found.is_folder or location.path.endswith("/"):
                raise NotAnImage("open", location, "it is a folder, not an image", "list it, and name an image in it")
            pin = _pin_of(call, found)
            path = path_in(location)
            full = absolute(path, pool.features.home if pool.features else "")
            if self._has_rest(call, pool):
                return FtpReader(self.call, pool, location, full, pin, lambda control: look_at(control, path).pin)
            if pin.size <= WHOLE:
                return WholeReader(location, pin, b"".join(self._whole(call, pool, full, pin.size)))
            copy = Cache().find(self._named(location))
            if copy is not None and (copy.size, copy.validator) == (pin.size, pin.validator):
                return CopyReader(location, copy, pin)
        why = "the server cannot read in the middle of a file (it has no REST)"
        raise NotFetched("open", location, why, "it has to be fetched whole first: farboot fetch", size=pin.size)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        if mode is Mode.WRITE:
            why = "an image on an FTP server cannot be written in place"
            raise Refused("attach", location, why, "without --write its guest writes into a throwaway overlay")
        with self.open(location) as reader:
            return self._attachment(location, reader, qemu)

    def fetched(self, location: Location) -> bool:
        """Whether a copy lies here that has the size and the time stamp of the server's file."""
        with self.call("look at", location) as call:
            _, found = self._look(call, location)
            copy = Cache().find(self._named(location))
            return copy is not None and (copy.size, copy.validator) == (found.size, found.stamp)

    def fetch(self, location: Location, progress: Progress) -> Pin:
        """Fetch the image whole, from its beginning, unless it is `fetched`."""
        cache, named = Cache(), self._named(location)
        with self.call("fetch", location) as call:
            pool, found = self._look(call, location)
            if found.is_folder:
                raise NotAnImage("fetch", location, "it is a folder, not an image")
            pin = _pin_of(call, found)
            full = absolute(path_in(location), pool.features.home if pool.features else "")
            with cache.fetching(named, progress, pin.size):
                copy = cache.find(named)
                if copy is None or (copy.size, copy.validator) != (pin.size, pin.validator):
                    cache.keep(named, self._whole(call, pool, full, pin.size), pin.size, pin.validator, progress)
            return pin

    def forget(self, location: Location) -> None:
        """Delete the copy that was fetched, if any."""
        Cache().forget(self._named(location))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls, pools = list(self._calls), list(self._pools.values())
        for call in calls:
            call.abort()
        for pool in pools:
            pool.close()

    @contextlib.contextmanager
    def call(self, tried: str, on: Location) -> Iterator[Call]:
        """Begin a call."""
        call = Call(tried, on, self.deadline)
        with self._lock:
            self._calls.add(call)
            if self._closed:
                call.abort()
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    # -- connecting -----------------------------------------------------------------------------------------------

    def _pool(self, call: Call, location: Location) -> Pool:
        with self._lock:
            pool = self._pools.get(location.authority)
        if pool is not None:
            return pool
        pool = self._connected(call, location)
        with self._lock:
            return self._pools.setdefault(location.authority, pool)

    def _connected(self, call: Call, location: Location) -> Pool:
        """A pool that has found out, where need be, how the server speaks TLS."""
        login = self._login(call, location)
        if location.scheme == "ftp":
            return Pool(login)
        if location.port is not None:
            kinds = {_IMPLICIT_PORT: ["implicit"], _PORT: ["explicit"]}.get(location.port, ["implicit", "explicit"])
            ways = [(location.port, kind) for kind in kinds]
        else:
            ways = [(_IMPLICIT_PORT, "implicit"), (_PORT, "explicit")]
        first: FarbootError | None = None
        for index, (port, kind) in enumerate(ways):
            pool = Pool(replace(login, port=port, tls=kind, share=0.4 if index + 1 < len(ways) else 1.0))
            try:
                pool.run(call, lambda control: None)
            except (NoTls, Unreachable) as error:
                call.remaining()
                first = first or error
                continue
            pool.login = replace(pool.login, share=1.0)
            return pool
        assert first is not None, "at least one way was tried"
        raise first

    def _login(self, call: Call, location: Location) -> Login:
        with self._lock:
            self._trusted_host = self._trusted_host or location.host
            is_trusted = self._trusted_host == location.host
        own = self.credentials if is_trusted else NO_CREDENTIALS
        user = location.user or own.username or "anonymous"
        password = own.password.reveal() if own.password is not None and own.username in {None, user} else None
        context = call.tls_context(self.credentials.ca_file) if location.scheme == "ftps" else None
        return Login(location.host, location.port or _PORT, "", user, password, context)

    def _named(self, location: Location) -> Location:
        """The location with its user, for another user may see another file there."""
        user = location.user or self.credentials.username
        if not user or location.user:
            return location
        return replace(location, authority=f"{user}@{location.authority}")

    # -- reading --------------------------------------------------------------------------------------------------

    def _look(self, call: Call, location: Location) -> tuple[Pool, Found]:
        path = path_in(location)
        pool = self._pool(call, location)
        return pool, pool.run(call, lambda control: look_at(control, path))

    def _has_rest(self, call: Call, pool: Pool) -> bool:
        def ask(control: Control) -> bool:
            if "REST STREAM" in control.features:
                return True
            control.binary()
            if control.ask("REST 1").code != 350:
                return False
            return control.ask("REST 0").code == 350

        if pool.can_rest is None:
            pool.can_rest = pool.run(call, ask)
        return pool.can_rest

    def _whole(self, call: Call, pool: Pool, path: str, size: int) -> Iterator[bytes]:
        """All of a file, which must have `size` bytes."""

        def begin(control: Control) -> None:
            control.binary()
            try:
                control.retrieve(f"RETR {path}")
            except ReplyError as error:
                raise reply_error(call, error.reply, control.secrets) from None

        with pool.begun(call, begin) as (control, _):
            stream = control.stream
            assert stream is not None, "it was just begun"
            while data := stream.read(256 << 10):
                if stream.position > size:
                    raise BadAnswer(call.tried, call.on, "the server sends more than the size that it told")
                with call.resting():
                    yield data
            came = stream.position
            control.end_stream()
            if came < size:
                raise Unreachable(call.tried, call.on, f"the connection broke off after {came} of {size} bytes")

    # -- how QEMU gets at it --------------------------------------------------------------------------------------

    def _attachment(self, location: Location, reader: Reader, qemu: QemuFacts) -> Attachment:
        if isinstance(reader, CopyReader):
            if qemu.route is RouteWish.DIRECT:
                why = "the server cannot read in the middle of a file, which QEMU's driver needs"
                raise Unsupported("attach", location, why, "leave the route to auto: it boots from the copy fetched")
            copy = Cache().find(self._named(location))
            if copy is not None:
                why = "it was fetched whole, for its server cannot read in the middle of a file"
                return fetched_attachment(location, copy, reader.pin, why)
        impossible = self._why_not_direct(location, reader, qemu)
        if qemu.route is RouteWish.DIRECT and impossible:
            raise Unsupported("attach", location, impossible, "the bridge can: leave the route to auto")
        if qemu.route is not RouteWish.DIRECT:
            why = impossible or SLOW if qemu.route is RouteWish.AUTO else "as was asked for"
            return Attachment(location, Route.BRIDGE, reader.pin, why=why)
        node: dict[str, object] = {"driver": location.scheme, "url": url_of(location), "timeout": 30}
        if location.scheme == "ftps":
            node["sslverify"] = True
        login = self._pools[location.authority].login
        secrets: tuple[SecretSlot, ...] = ()
        if login.user != "anonymous":
            label = f"password of {login.user} at {location.authority.rpartition('@')[2]}"
            node["username"] = login.user
            secrets = (SecretSlot("password-secret", Secret(login.password or ""), label, "password"),)
        return Attachment(location, Route.DRIVER, reader.pin, node, secrets, notes=(SLOW,))

    def _why_not_direct(self, location: Location, reader: Reader, qemu: QemuFacts) -> str:
        if location.scheme not in qemu.drivers:
            return f"this QEMU has no {location.scheme} driver (apt install qemu-block-extra)"
        if not isinstance(reader, FtpReader):
            return "the server cannot read in the middle of a file, which QEMU's driver needs"
        login = self._pools[location.authority].login
        if login.tls == "explicit":
            return "the server speaks AUTH TLS, and QEMU's ftps driver only TLS from the first byte"
        if login.tls and self.credentials.ca_file:
            return "QEMU's driver cannot be given an authority of one's own"
        return ""


def _pin_of(call: Call, found: Found) -> Pin:
    if found.size is None:
        why = "the server does not tell its size"
        raise Unsupported(call.tried, call.on, why, "without its size an image cannot be read")
    return found.pin
