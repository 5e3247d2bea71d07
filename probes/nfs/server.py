"""An NFS server: which version it speaks to us, what it exports, and which export holds a path.

Version 3 is asked for first, since QEMU's driver speaks no other: the portmapper tells the ports, MOUNT the exports.
Where that is not to be had and NFSv4 answers (a server, or a firewall, for version 4 only), the server's one tree is
browsed by version 4.
"""

import errno
import posixpath
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from probes.errors import BadAnswer, Denied, FarbootError, NotFound
from probes.location import Location
from probes.nfs import services
from probes.nfs.errors import failure
from probes.nfs.export import Export
from probes.nfs.library import Attributes, Context
from probes.nfs.options import Options
from probes.nfs.readdir import CannotList, read_folder
from probes.nfs.readdir4 import read_tree
from probes.nfs.rpc import Connection, Deadline, RpcDenied, RpcError, RpcRefused
from probes.nfs.services import MOUNT, NFS3, NFS4, NFS_PORT, ExportLine

_NOBODY_THERE = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM})
_LINKS = 20  # followed in a row, as a kernel does
_SHARE = 0.4  # of what is left of the deadline, for one question that another could follow


@dataclass(frozen=True, slots=True)
class Facts:
    """What the server told. `exports` is None where it tells nobody; `why_4` says why it is not version 3."""

    version: int
    nfs_port: int
    mount_port: int = 0
    exports: tuple[ExportLine, ...] | None = None
    why_4: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at a path once all links were followed: `path` is the server's, `inner` the export's name for it.

    `link` is where the last link that was followed leads, as it is written; empty where there was none.
    """

    export: Export
    path: str
    inner: str
    attributes: Attributes
    link: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it can be listed."""
        return stat.S_ISDIR(self.attributes.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file."""
        return stat.S_ISREG(self.attributes.mode)


class Server:
    """One host, with one set of options."""

    def __init__(self, host: str, options: Options, who: tuple[int, int], deadline: float) -> None:
        self.host = host
        self.options = options
        self.who = who
        self.deadline = deadline
        self._asking = threading.Lock()
        self._facts: Facts | None = None
        self._exports: dict[str, Export] = {}
        self._lock = threading.Lock()
        self._closed = False

    def facts(self, tried: str, location: Location, again: bool = False) -> Facts:
        """What the server tells about itself, asked once (or `again`)."""
        with self._asking:
            if self._facts is None or again:
                try:
                    facts = self._ask(Deadline(self.deadline))
                except (OSError, RpcError) as error:
                    raise failure(error, tried, location) from None
                self._facts = facts
            return self._facts

    def exports_below(self, path: str) -> list[ExportLine]:
        """The exports that lie below `path`, as far as the server told: it only exists as their way there."""
        lines = self._facts.exports if self._facts else None
        return [line for line in lines or () if _is_in(tidy(line.path), path) and tidy(line.path) != path]

    def is_exported(self, path: str) -> bool:
        """Whether an export in the server's list holds `path`."""
        lines = self._facts.exports if self._facts else None
        return any(_is_in(path, tidy(line.path)) for line in lines or ())

    def find(self, path: str, tried: str, location: Location) -> Found:
        """Follow `path` to what lies there. Raises NotFound, Denied and what a broken server raises."""
        link = ""
        for _ in range(_LINKS):
            export, inner = self.locate(path, tried, location)
            try:
                with export.use(tried, location, self.deadline) as context:
                    found = context.lstat(inner)
            except (NotFound, BadAnswer):  # libnfs stumbles over links that leave the export, and by NFSv4 over any
                target = self._first_link(export, path, tried, location)
                if target is None:
                    raise
                path = target
                continue
            if not stat.S_ISLNK(found.mode):
                return Found(export, path, inner, found, link)
            with export.use(tried, location, self.deadline) as context:
                link = context.readlink(inner, found.size)
            path = tidy(posixpath.join(posixpath.dirname(path), link))
        raise NotFound(tried, location, "its links lead in a circle")

    def without_links(self, path: str, tried: str, location: Location) -> str:
        """`path` with the folders that are links replaced by what they lead to."""
        for _ in range(_LINKS):
            export, _ = self.locate(path, tried, location)
            target = self._first_link(export, path, tried, location)
            if target is None:
                break
            path = target
        return path

    def locate(self, path: str, tried: str, location: Location) -> tuple[Export, str]:
        """The export that holds `path`, mounted before or now, and its own name for it.

        That is the longest in the server's list; where the list does not say, each folder above is tried: servers
        let folders below an export be mounted, and may hide their list.
        """
        facts = self.facts(tried, location)
        if facts.version == 4:
            return self._export("/", facts), path
        listed = [tidy(line.path) for line in facts.exports or ()]
        holders = sorted((p for p in listed if _is_in(path, p)), key=len, reverse=True)
        if holders:
            return self._export(holders[0], facts), _inner(path, holders[0])
        with self._lock:
            tried_before = sorted((p for p in self._exports if _is_in(path, p)), key=len, reverse=True)
        if tried_before:
            return self._export(tried_before[0], facts), _inner(path, tried_before[0])
        return self._hidden(path, facts, tried, location)

    def listing(self, folder: Found, tried: str, location: Location) -> Iterator[tuple[str, Attributes]]:
        """The names in a folder and their attributes, as they arrive; all at once where only libnfs can list it."""
        begun = False
        try:
            for row in self._rows(folder, tried, location):
                begun = True
                yield row
        except CannotList:
            if begun:
                raise BadAnswer(tried, location, "the server does not go on with the listing", "try again") from None
        except (OSError, RpcError) as error:
            raise failure(error, tried, location, self.who) from None
        else:
            return
        with folder.export.use(tried, location, self.deadline) as context:
            rows = context.listing(folder.inner)
        yield from rows

    def _rows(self, folder: Found, tried: str, location: Location) -> Iterator[tuple[str, Attributes]]:
        is_4 = self.facts(tried, location).version == 4
        root, _ = (b"", "") if is_4 else self.mount(folder.export.path, tried, location)
        if not root and not is_4:
            raise CannotList
        port = self.facts(tried, location).nfs_port
        with Connection(self.host, port, Deadline(self.deadline), self.who) as connection:
            found = (
                read_tree(connection, folder.inner, self.deadline)
                if is_4
                else read_folder(connection, root, folder.inner, self.deadline)
            )
            for name, attributes in found:
                if attributes is not None:
                    yield name, attributes
                    continue
                # The server does not tell them here: another file system begins, say.
                with folder.export.use(tried, location, self.deadline) as context:
                    yield name, context.lstat(f"{folder.inner.rstrip('/')}/{name}")

    def mount(self, path: str, tried: str, location: Location) -> tuple[bytes, str]:
        """Mount a folder by version 3, as `services.mount` does, at the port that a restart may have changed."""
        for again in (False, True):
            facts = self.facts(tried, location, again)
            try:
                return services.mount(self.host, facts.mount_port, path, self.who, Deadline(self.deadline))
            except (OSError, RpcError) as error:
                problem = failure(error, tried, location, self.who)
        raise problem

    def close(self) -> None:
        """Drop every connection."""
        with self._lock:
            self._closed = True
            exports = list(self._exports.values())
        for export in exports:
            export.close()

    def _hidden(self, path: str, facts: Facts, tried: str, location: Location) -> tuple[Export, str]:
        refusal: FarbootError | None = None
        place = path
        while True:
            export = self._export(place, facts)
            try:
                with export.use(tried, location, self.deadline):
                    return export, _inner(path, place)
            except (Denied, NotFound) as error:  # servers say either of a folder that they do not export
                refusal = refusal or error
                with self._lock:
                    self._exports.pop(place, None)
                export.close()
            if place == "/":
                break
            place = posixpath.dirname(place)
        if facts.exports is not None:
            hint = f"`farboot ls nfs://{location.authority}/` lists what it exports; its /etc/exports tells to whom"
            raise NotFound(tried, location, "the server exports no such folder to this host", hint)
        raise refusal

    def _export(self, path: str, facts: Facts) -> Export:
        with self._lock:
            if path not in self._exports:
                make = partial(Context, self._libnfs_options(facts), self.deadline, facts.version)
                denial = partial(self._denial, path, facts)
                self._exports[path] = Export(path, make, denial, self.host, self.who, facts.version)
                if self._closed:
                    self._exports[path].close()
            return self._exports[path]

    def _denial(self, path: str, facts: Facts) -> str:
        """Why the server would not let a folder be mounted, in its words; "" where it would, or does not say."""
        if facts.version == 4:
            return ""
        try:
            end = Deadline(self.deadline * _SHARE)
            _, why = services.mount(self.host, facts.mount_port, path, self.who, end)
            if why:
                return why
            services.answers(self.host, facts.nfs_port, NFS3, end)
            return "NFS itself rejects the calls of this host"  # for it is there, and the connection is sound
        except RpcDenied as error:
            return str(error)
        except (OSError, RpcError):
            return ""

    def _libnfs_options(self, facts: Facts) -> str:
        """Only the ports that a person named: others are libnfs's to ask for, as a restart changes them."""
        uid, gid = self.who
        named = {"nfsport": self.options.nfs_port, "mountport": self.options.mount_port}
        if facts.version == 3 and self.options.mount_port:
            named["nfsport"] = facts.nfs_port
        ports = "".join(f"&{name}={port}" for name, port in named.items() if port)
        ours = f"version={facts.version}&uid={uid}&gid={gid}{ports}"
        return ours + "&auto-traverse-mounts=0&autoreconnect=0&dircache=0"

    def _first_link(self, export: Export, path: str, tried: str, location: Location) -> str | None:
        """`path` with the first folder on the way to it that is a link replaced by what it leads to; None: none is."""
        inner = _inner(path, export.path)
        parts = [part for part in inner.split("/") if part]
        for index in range(1, len(parts)):
            above = "/" + "/".join(parts[:index])
            try:
                with export.use(tried, location, self.deadline) as context:
                    found = context.lstat(above)
                    link = context.readlink(above, found.size) if stat.S_ISLNK(found.mode) else ""
            except (NotFound, BadAnswer):
                return None
            if link:
                outer = path[: len(path) - len("/" + "/".join(parts[index:]))]
                return tidy(posixpath.join(posixpath.dirname(outer), link, *parts[index:]))
        return None

    def _ask(self, deadline: Deadline) -> Facts:
        if self.options.version == 4:
            return self._ask_4(deadline, "version 4 was asked for")
        try:
            return self._ask_3(deadline)
        except (OSError, RpcError) as error:
            if self.options.version == 3 or not _means_no_3(error):
                raise
            try:
                return self._ask_4(deadline, _why_not_3(error))
            except (OSError, RpcError):
                raise error from None

    def _ask_3(self, deadline: Deadline) -> Facts:
        mount_port, nfs_port = self.options.mount_port or 0, self.options.nfs_port or 0
        if not mount_port:
            mount_port = services.port_of(self.host, MOUNT, deadline.part(_SHARE))
        if not nfs_port:
            nfs_port = (
                services.port_of(self.host, NFS3, deadline.part(_SHARE)) if not self.options.mount_port else NFS_PORT
            )
        if not mount_port or not nfs_port:
            raise RpcRefused("the server has not registered NFS version 3 with its portmapper")
        try:
            return Facts(3, nfs_port, mount_port, services.exports(self.host, mount_port, deadline.part(_SHARE)))
        except RpcRefused:
            return Facts(3, nfs_port, mount_port)

    def _ask_4(self, deadline: Deadline, why: str) -> Facts:
        port = self.options.nfs_port or NFS_PORT
        services.answers(self.host, port, NFS4, deadline)
        return Facts(4, port, why_4=why)


def tidy(path: str) -> str:
    """An absolute path without "." and "..", doubled slashes, or one at its end."""
    return "/" + posixpath.normpath("/" + path).strip("/")


def _is_in(path: str, folder: str) -> bool:
    return folder in {"/", path} or path.startswith(folder + "/")


def _inner(path: str, export: str) -> str:
    """The name that an export has for what the server calls `path`."""
    return path if export == "/" else path[len(export) :] or "/"


def _means_no_3(error: OSError | RpcError) -> bool:
    """Whether a server that fails like this may well be one for version 4 only; others have a problem."""
    return isinstance(error, RpcRefused | TimeoutError) or getattr(error, "errno", 0) in _NOBODY_THERE


def _why_not_3(error: OSError | RpcError) -> str:
    if isinstance(error, TimeoutError):
        return "the server's portmapper or MOUNT service does not answer (a firewall?)"
    return "the server does not offer that"
