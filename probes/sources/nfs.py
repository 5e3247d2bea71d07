"""NFS servers: their exports, folders and files.

`nfs://host/` lists the exports (MOUNT protocol, RFC 1813), or the one tree of a server that speaks NFSv4 only; what
follows is a path on the server, of which the longest export, or folder that can be mounted, is found. Options are those
of libnfs's URLs: `?uid=0&gid=0`, `version=4`, `nfsport=`, `mountport=`; QEMU's node gets those that it knows.

Without options we present this process's uid and gid, and so does QEMU's node, whatever account QEMU runs as.
"""

import os
import posixpath
import stat
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from urllib.parse import quote

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import (
    BadAnswer,
    Cancelled,
    Denied,
    NotAContainer,
    NotAnImage,
    NotFound,
    Unsupported,
)
from probes.location import Location
from probes.nfs.library import Attributes
from probes.nfs.open import OpenFile
from probes.nfs.options import Options, options_of
from probes.nfs.server import Found, Server, tidy
from probes.nfs.services import ExportLine
from probes.reader import Reader, Writer, is_openly_below
from probes.source import DEADLINE, Source
from probes.text import clean

_NAMELESS_IMAGE = 1 << 20  # bytes from which a file without an ending may well be a disk
_SHOWN_CLIENTS = 3
_SPECIAL = {
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


class NfsSource(Source):
    """What one uid sees of NFS servers."""

    schemes = ("nfs",)
    title = "NFS"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._servers: dict[tuple[str, Options], Server] = {}
        self._lock = threading.Lock()
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        tried = "list"
        server, path = self._server(location, tried), _path(location, tried)
        server.facts(tried, location, again=path == "/")  # whoever lists them wants to see those that are new
        lines = self._above_exports(server, path, tried, location)
        if lines is not None:
            yield from (_export_entry(location, line) for line in lines)
            return
        found = server.find(path, tried, location)
        if not found.is_folder:
            raise NotAContainer(tried, location, "it is not a folder", "its folder can be listed")
        for name, attributes in server.listing(found, tried, location):
            if stat.S_ISLNK(attributes.mode):
                yield self._link_entry(server, found, location, name, attributes)
            else:
                yield _entry(location.child(name), name, attributes)

    def stat(self, location: Location) -> Entry:
        tried = "look at"
        server, path = self._server(location, tried), _path(location, tried)
        if self._above_exports(server, path, tried, location) is not None:
            return Entry(location, location.name, Kind.CONTAINER)
        found = server.find(path, tried, location)
        return _entry(location, location.name, found.attributes, found.link, named=True)

    def open(self, location: Location) -> Reader:
        return self._open("open", location, write=False)

    def open_for_writing(self, location: Location) -> Writer:
        """Open the image at `location` for reading and writing."""
        return self._open("open for writing", location, write=True)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        """Say QEMU's `nfs` node. QEMU mounts the folder that holds the image, by version 3, as the portmapper tells:
        where the server would not have that, the bridge is taken.
        """
        tried = "attach"
        server = self._server(location, tried)
        found = self._file(server, location, tried)
        with OpenFile(found.export, found.inner, location, self.deadline) as reader:
            pin = reader.pin
        why, path = self._why_bridge(server, found, qemu, location)
        writable = mode is Mode.SNAPSHOT or self._is_writable(found, location)
        whole = Attachment(location, Route.BRIDGE, pin, writable=writable, trusted=True, why=why)
        if why:
            if qemu.route is RouteWish.DIRECT:
                raise Unsupported(tried, location, why, "choose the route auto or bridge")
            return whole
        uid, gid = server.who
        node: dict[str, object] = {"driver": "nfs", "server": {"type": "inet", "host": location.host}, "path": path}
        node |= {"user": uid, "group": gid} | dict(server.options.tuning)
        return Attachment(location, Route.DRIVER, pin, node, writable=writable, trusted=True)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            servers = list(self._servers.values())
        for server in servers:
            server.close()

    def _server(self, location: Location, tried: str) -> Server:
        options = options_of(location, tried)
        who = (
            os.getuid() if options.uid is None else options.uid,
            os.getgid() if options.gid is None else options.gid,
        )
        with self._lock:
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            key = (location.host, options)
            if key not in self._servers:
                self._servers[key] = Server(location.host, options, who, self.deadline)
            return self._servers[key]

    def _above_exports(self, server: Server, path: str, tried: str, location: Location) -> list[ExportLine] | None:
        """The exports below `path`, where it is no folder of one; None where it is, or nothing is known."""
        facts = server.facts(tried, location)
        if facts.version == 4 or server.is_exported(path):
            return None
        if path == "/" and facts.exports is None:
            hint = "type the path of one: nfs://host/path/"
            raise Denied(tried, location, "the server does not tell its exports", hint)
        return server.exports_below(path) or ([] if path == "/" else None)

    def _file(self, server: Server, location: Location, tried: str) -> Found:
        path = _path(location, tried)
        what = "it is a list of exports" if self._above_exports(server, path, tried, location) is not None else ""
        found = None if what else server.find(path, tried, location)
        if found is None or found.is_folder:
            raise NotAnImage(tried, location, what or "it is a folder", "choose one of its files")
        if not found.is_file:
            what = _SPECIAL.get(stat.S_IFMT(found.attributes.mode), "special file")
            raise NotAnImage(tried, location, f"it is a {what}")
        return found

    def _open(self, tried: str, location: Location, write: bool) -> OpenFile:
        server = self._server(location, tried)
        at_once = self._opened_at_once(server, location, tried, write)
        if at_once:
            return at_once
        found = self._file(server, location, tried)
        return OpenFile(found.export, found.inner, location, self.deadline, write, partial(self._leads, location))

    def _leads(self, location: Location, folder: Location) -> bool:
        """Whether `location` leads into the folder, or below it, once all links were followed."""
        tried = "look at"
        server = self._server(location, tried)
        found = server.find(_path(location, tried), tried, location)
        whole = server.without_links(f"{_path(folder, tried).rstrip('/')}/x", tried, folder).removesuffix("x")
        return is_openly_below(server.without_links(found.path, tried, location), whole)

    def _opened_at_once(self, server: Server, location: Location, tried: str, write: bool) -> OpenFile | None:
        """The plain file at `location`, opened without a look at it first, which is two round trips.

        None where anything is in the way: then the look tells what. (Of NFSv4 nothing may be opened that cannot be.)
        """
        path = _path(location, tried)
        if server.facts(tried, location).version == 4 or not server.is_exported(path):
            return None
        try:
            export, inner = server.locate(path, tried, location)
            opened = OpenFile(export, inner, location, self.deadline, write, partial(self._leads, location))
        except (NotFound, Denied, BadAnswer):
            return None
        if opened.is_file:
            return opened
        opened.close()
        return None

    def _is_writable(self, found: Found, location: Location) -> bool:
        try:
            OpenFile(found.export, found.inner, location, self.deadline, write=True).close()
        except (Denied, BadAnswer):
            return False
        return True

    def _link_entry(
        self, server: Server, folder: Found, location: Location, name: str, attributes: Attributes
    ) -> Entry:
        """The row of a link: what it leads to, and where that is."""
        place, shown = location.child(name), "→ …"
        inner = f"{folder.inner.rstrip('/')}/{name}"
        try:
            with folder.export.use("list", location, self.deadline) as context:
                link = context.readlink(inner, attributes.size)
            shown = f"→ {clean(link)}"
            found = server.find(tidy(posixpath.join(folder.path, link)), "look at", place)
        except Denied:
            return Entry(place, name, Kind.OTHER, note=f"{shown} (not for us to see)")
        except (NotFound, BadAnswer):
            return Entry(place, name, Kind.OTHER, note=f"{shown} (leads nowhere)")
        return _entry(place, name, found.attributes, link)

    def _why_bridge(self, server: Server, found: Found, qemu: QemuFacts, location: Location) -> tuple[str, str]:
        """Why QEMU's own driver cannot be used, or "", and then the path that it is given."""
        facts = server.facts("attach", location)
        if qemu.route is RouteWish.BRIDGE:
            return "the bridge was asked for", ""
        if "nfs" not in qemu.drivers:
            return "this QEMU has no nfs driver (Debian's is in qemu-block-extra; Proxmox's has none)", ""
        if facts.version == 4:
            return f"QEMU's nfs driver speaks version 3 only, and {facts.why_4}", ""
        if server.options.nfs_port or server.options.mount_port:
            return "QEMU's nfs driver asks the portmapper and takes no ports", ""
        if any("\udc80" <= character <= "\udcff" for character in found.path):
            return "QEMU cannot be given a name that is not UTF-8", ""
        return _why_not_mounted(server, found.path, location)


def _why_not_mounted(server: Server, path: str, location: Location) -> tuple[str, str]:
    """Try what QEMU's driver does: it mounts everything before the last slash."""
    path = server.without_links(path, "attach", location)
    folder = path.rpartition("/")[0]
    _, why = server.mount(folder or "/", "attach", location)
    if why:
        return f"the server does not let QEMU mount the folder itself ({clean(folder or '/')}: {why})", ""
    return "", path if folder else f"/{path}"  # "/" is what comes before the last slash then


def _path(location: Location, tried: str) -> str:
    """The path on the server that `location` names."""
    if any("\0" in name for name in location.names):
        raise NotFound(tried, location, "no name has a NUL in it")
    return tidy("/".join(location.names))


def _export_entry(location: Location, line: ExportLine) -> Entry:
    raw = tidy(line.path).encode("utf-8", "surrogateescape")
    path = quote(raw, safe="/:@+,=~").rstrip("/") + "/"
    shown = ", ".join(line.clients[:_SHOWN_CLIENTS]) + (", …" if len(line.clients) > _SHOWN_CLIENTS else "")
    place = Location(location.scheme, location.authority, path, location.query)
    return Entry(place, line.path, Kind.CONTAINER, note=f"for {clean(shown, 100)}" if shown else "")


def _entry(place: Location, name: str, found: Attributes, link: str = "", named: bool = False) -> Entry:
    """The entry of what was looked at. `named` says that a person asked for this one: it counts as an image whatever
    it is called.
    """
    modified = _time(found.modified)
    note = f"→ {clean(link)}" if link else ""
    if stat.S_ISDIR(found.mode):
        as_folder = (
            place
            if place.path.endswith("/")
            else Location(place.scheme, place.authority, place.path + "/", place.query)
        )
        return Entry(as_folder, name, Kind.CONTAINER, None, modified, note)
    if stat.S_ISREG(found.mode):
        kind = Kind.IMAGE if named or _may_be_image(name, found.size) else Kind.OTHER
        return Entry(place, name, kind, found.size, modified, note)
    return Entry(place, name, Kind.OTHER, note=note or _SPECIAL.get(stat.S_IFMT(found.mode), "special file"))


def _may_be_image(name: str, size: int) -> bool:
    """By its name, or, where the name has no ending to tell (`vm-100-disk-0`, `base.1`), by being large."""
    if kind_by_name(name) is Kind.IMAGE:
        return True
    ending = name.rpartition(".")[2] if "." in name[1:] else ""
    return size >= _NAMELESS_IMAGE and (not ending or ending.isdigit())


def _time(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # a time stamp outside what calendars hold
        return None
