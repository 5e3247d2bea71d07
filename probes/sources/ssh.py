"""Hosts reached by SSH: folders and images over SFTP, as the person who logs in sees them.

`ssh://user@host:port/path` and `sftp://…` are the same. The path is the host's own: `ssh://host/` is its root folder,
`ssh://host/~/` the home folder of the user. `host` may be an alias: ~/.ssh/config says what it stands for, which
jump hosts lead there and which key opens it (`probes.ssh.config`).

QEMU's driver is given what that comes to, the fingerprint of the very host key that it will be shown, and an agent that
holds the one key that has just let us in. What libssh cannot do (jump hosts, passwords, certificates) the bridge does.
"""

import base64
import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

import paramiko

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import (
    BadAnswer,
    Cancelled,
    Changed,
    Denied,
    FarbootError,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.network.call import Call
from probes.reader import Pin, Writer, is_openly_below
from probes.source import DEADLINE, Source
from probes.ssh import replies as protocol
from probes.ssh.config import resolve
from probes.ssh.for_qemu import host_key, sha256_hex, why_bridge, why_far
from probes.ssh.host import Host
from probes.ssh.login import Connection, connect
from probes.ssh.replies import Attributes, SftpError
from probes.ssh.sftp import Sftp
from probes.ssh.wire import Malformed, raw

HEAD = 64 << 10
"""Bytes read when an image is opened, and kept: what it takes to judge most images."""

_UNSAFE = (
    "the server cannot be asked to write to its disk (its SFTP lacks fsync@openssh.com):"
    " should its host crash, what the guest wrote last may be lost"
)


class SshSource(Source):
    """The hosts that one person can log in to: one connection each, over which all threads read and list."""

    schemes: ClassVar[tuple[str, ...]] = ("ssh", "sftp")
    title: ClassVar[str] = "SSH"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(_with_host_key(credentials), deadline)
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}
        self._calls: set[Call] = set()
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        tried = "list"
        with self._told(tried, location):
            sftp = self._sftp(location, tried, for_lists=True)
            path = _path(sftp, location)
            folder = _folder(location, path)
            try:
                for name, attributes in sftp.entries(path):
                    yield _entry(folder, _text(name), attributes)
            except SftpError as error:
                if error.code in {protocol.NO_SUCH_FILE, protocol.FAILURE} and not sftp.stat(path).is_folder:
                    raise NotAContainer(tried, location, "it is a file") from None
                raise

    def stat(self, location: Location) -> Entry:
        tried = "look at"
        with self._told(tried, location):
            sftp = self._sftp(location, tried, for_lists=True)
            path = _path(sftp, location)
            attributes = sftp.stat(path)
            if attributes.is_folder:
                return Entry(_folder(location, path), location.name, Kind.CONTAINER, modified=_time(attributes))
            name = _text(path.rpartition(b"/")[2])
            return replace(_entry(_folder(location, path).parent or location, name, attributes), location=location)

    def open(self, location: Location) -> "SshReader":
        return self._open("open", location, write=False, head=HEAD)

    def open_for_writing(self, location: Location) -> "SshReader":
        """Open the image for reading and writing: see `probes.source.CanWrite`."""
        return self._open("open for writing", location, write=True)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        tried = "attach"
        doing = "open for writing" if mode is Mode.WRITE else "open"
        with self._open(doing, location, write=mode is Mode.WRITE) as reader, self._told(tried, location):
            pin, path = reader.pin, reader.path
            notes: tuple[str, ...] = (_UNSAFE,) if mode is Mode.WRITE and not reader.can_flush else ()
            whole = Attachment(location, Route.BRIDGE, pin, writable=True, trusted=True, notes=notes)
            if qemu.route is RouteWish.BRIDGE:
                return replace(whole, why="the bridge was asked for")
            may_choose = qemu.route is RouteWish.AUTO and mode is Mode.SNAPSHOT  # the bridge writes raw images only
            far = why_far(reader, location) if may_choose else ""
            with self._call(tried, location) as call:
                connection = self._host(location).connection(call)
                blob, why = host_key(connection, call)
        why = why_bridge(connection, path, qemu) or why or far
        if why:
            if qemu.route is RouteWish.DIRECT:
                raise Unsupported(tried, location, why, "choose the route auto or bridge")
            return replace(whole, why=why)
        target, identity = connection.target, connection.login.identity
        if identity and not identity.agent and self.credentials.passphrase is not None:
            notes += (f"QEMU started by hand would want this key in an agent: ssh-add {identity.path}",)
        node = {
            "driver": "ssh",
            "server": {"host": target.host, "port": str(target.port)},
            "user": target.user,
            "path": _text(path),
            "host-key-check": {"mode": "hash", "type": "sha256", "hash": sha256_hex(blob)},
        }
        key = identity.fingerprint if identity else ""
        return replace(whole, route=Route.DRIVER, node=node, agent_key=key, notes=notes)

    def remember_host_key(self, location: Location) -> str:
        """Write the key of `location`'s host, which was found good, into the person's known_hosts file; return the
        file's path. Raises FarbootError.
        """
        tried = "remember the host key of"
        with self._told(tried, location), self._call(tried, location) as call:
            return self._host(location).connection(call).remember_host_key()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls, hosts = list(self._calls), list(self._hosts.values())
            self._hosts.clear()
        for call in calls:
            call.abort()
        for host in hosts:
            host.close()

    # -- connections --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _call(self, tried: str, location: Location) -> Iterator[Call]:
        call = Call(tried, location, self.deadline)
        with self._lock:
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            self._calls.add(call)
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def _host(self, location: Location) -> Host:
        def connected(call: Call) -> Connection:
            target = resolve(location.host, location.port, location.user or self.credentials.username)
            return connect(target, self.credentials, call)

        with self._lock:
            if self._closed:
                raise Cancelled("use", location, "it was closed")
            return self._hosts.setdefault(location.authority, Host(connected))

    def _sftp(self, location: Location, tried: str, for_lists: bool) -> Sftp:
        with self._call(tried, location) as call:
            return self._host(location).sftp(call, for_lists)

    def _open(self, tried: str, location: Location, write: bool, head: int = 0) -> "SshReader":
        with self._told(tried, location):
            sftp = self._sftp(location, tried, for_lists=False)
            path = _path(sftp, location)
            attributes = sftp.stat(path)  # first: opening a pipe would hang the server
            if attributes.is_folder:
                raise NotAnImage(tried, location, "it is a folder")
            if not attributes.is_file:
                hint = "block devices are read where they are, or served there by nbd"
                raise NotAnImage(tried, location, "it is not a regular file", hint)
            handle = sftp.open(path, write)
            attributes, first = sftp.begin(handle, head) if head else (sftp.stat_handle(handle), b"")
            if attributes.size is None:
                sftp.close_handle(handle)
                raise BadAnswer(tried, location, "the server does not tell its size")
            written = attributes.modified
            pin = Pin(attributes.size, "" if written is None else f"mtime:{written}")
            return SshReader(self, sftp, location, path, handle, pin, first)

    @contextlib.contextmanager
    def _told(self, tried: str, location: Location) -> Iterator[None]:
        """Raise what goes wrong as errors of the family, about `location`."""
        try:
            yield
        except SftpError as error:
            raise _failure(error, tried, location) from None
        except Malformed:
            raise BadAnswer(tried, location, "the server's answer ends too soon") from None
        except (BadAnswer, Cancelled, TimedOut, Unreachable) as error:
            raise type(error)(tried, location, error.why, error.hint, error.detail) from None
        except (paramiko.SSHException, OSError, EOFError) as error:
            if self._closed:
                raise Cancelled(tried, location, "it was closed") from None
            raise Unreachable(tried, location, "the connection broke off", detail=type(error).__name__) from None


class SshReader(Writer):
    """An open file on a host. Its pin is weak: size, and the time of the last change in whole seconds."""

    def __init__(
        self, source: SshSource, sftp: Sftp, location: Location, path: bytes, handle: bytes, pin: Pin, head: bytes
    ) -> None:
        self.path = path
        self._source = source
        self._sftp = sftp
        self._location = location
        self._handle = handle
        self._pin = pin
        self._head = head
        self._closed = False

    def pread(self, offset: int, length: int) -> bytes:
        with self._used("read"):
            length = min(length, self._pin.size - offset)
            if length <= 0:
                return b""
            if offset + length <= len(self._head):
                return self._head[offset : offset + length]
            data = self._sftp.read(self._handle, offset, length)
            if len(data) != length:
                raise Changed("read", self._location, f"it now ends at {offset + len(data)} bytes", "look at it again")
            return data

    def pwrite(self, offset: int, data: bytes) -> None:
        with self._used("write"):
            if offset < 0 or offset + len(data) > self._pin.size:
                raise BadAnswer("write", self._location, "the bytes lie outside of the image")
            self._sftp.write(self._handle, offset, data)

    @property
    def can_flush(self) -> bool:
        """Whether `flush` reaches the server's disk, and not only the server."""
        return self._sftp.can_sync

    def flush(self) -> None:
        with self._used("write"):
            self._sftp.sync(self._handle)

    def lies_below(self, folder: Location) -> bool:
        with self._used("look at"):
            whole = self._sftp.real_path(_path(self._sftp, folder))
            return is_openly_below(_text(self._sftp.real_path(self.path)), _text(whole))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._sftp.close_handle(self._handle)

    @contextlib.contextmanager
    def _used(self, tried: str) -> Iterator[None]:
        if self._closed:
            raise Cancelled(tried, self._location, "it was closed")
        with self._source._told(tried, self._location):
            yield


def _with_host_key(credentials: Credentials) -> Credentials:
    """The credentials, with the host key that QEMU's short form pins: `ssh://host/path?host_key_check=sha256:HEX`."""
    query = credentials.query.reveal() if credentials.query else ""
    match = re.fullmatch(r"host_key_check=sha256:((?:[0-9a-fA-F]{2}:?){32})", query)
    if match is None or credentials.host_key is not None:
        return credentials
    digest = bytes.fromhex(match[1].replace(":", ""))
    return replace(credentials, host_key="SHA256:" + base64.b64encode(digest).decode().rstrip("="))


# -- names and attributes ---------------------------------------------------------------------------------------


def _path(sftp: Sftp, location: Location) -> bytes:
    """The path on the host; what begins with `/~` begins in the user's home."""
    path = raw(location.decoded_path)
    if path == b"/~" or path.startswith(b"/~/"):
        return sftp.real_path(path[3:].lstrip(b"/") or b".")
    return path


def _folder(location: Location, path: bytes) -> Location:
    place = replace(location, path="/")
    for name in path.split(b"/"):
        if name:
            place = place.child(_text(name), container=True)
    return place


def _entry(folder: Location, name: str, attributes: Attributes) -> Entry:
    modified = _time(attributes)
    if attributes.is_folder:
        return Entry(folder.child(name, container=True), name, Kind.CONTAINER, modified=modified)
    where = folder.child(name)
    if attributes.is_link:
        return Entry(where, name, Kind.OTHER, note="a link that leads nowhere")
    if not attributes.is_file:
        return Entry(where, name, Kind.OTHER, modified=modified, note="not a regular file")
    return Entry(where, name, kind_by_name(name), attributes.size, modified)


def _time(attributes: Attributes) -> datetime | None:
    return None if attributes.modified is None else datetime.fromtimestamp(attributes.modified, UTC)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _failure(error: SftpError, tried: str, location: Location) -> FarbootError:
    if error.code == protocol.NO_SUCH_FILE:
        return NotFound(tried, location, "there is no such file or folder")
    if error.code == protocol.PERMISSION_DENIED:
        return Denied(tried, location, "the account may not: permission denied", "log in as another user, or chmod it")
    if error.code == protocol.UNSUPPORTED:
        return Unsupported(tried, location, f"the server cannot: {error.text or 'unsupported'}")
    return FarbootError(tried, location, f"the server says: {error.text or f'error {error.code}'}")
