"""Sheepdog's volumes (VDIs) and their snapshots.

`sheepdog://host:7000/` lists the VDIs of the cluster that this sheep belongs to; `sheepdog://host/vdi` is an image, and
`sheepdog://host/vdi#tag` or `#3` one of its snapshots, as QEMU wrote it while it could. With `sheepdog+unix:///vdi?socket=PATH`
the sheep is asked over its Unix socket. No QEMU of today speaks Sheepdog: it is booted over Farboot's bridge.

Reading takes no lock. Writing takes Sheepdog's own lock of the VDI, which other clients respect, and no others.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import parse_qs, quote, unquote

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry, Kind
from probes.errors import (
    BadLocation,
    Cancelled,
    Denied,
    FarbootError,
    NotAContainer,
    NotAnImage,
    NotFound,
    Unsupported,
)
from probes.location import Location
from probes.reader import Reader, Writer
from probes.sheepdog.cluster import Cluster
from probes.sheepdog.connection import Address
from probes.sheepdog.protocol import PORT, Inode
from probes.sheepdog.volume import VdiReader, VdiWriter
from probes.source import DEADLINE, Source, Use

_PARTING = 2.0
"""Seconds that giving back a lock may take, when everything else is over."""
_NO_DRIVER = "QEMU has had no sheepdog driver since version 6.1"


class SheepdogSource(Source):
    """The VDIs of Sheepdog clusters, over one connection to each sheep that is asked."""

    schemes = ("sheepdog", "sheepdog+unix")
    title = "Sheepdog"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._clusters: dict[Address, Cluster] = {}
        self._held: dict[tuple[Address, bytes], int] = {}
        self._lock = threading.Lock()
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        tried = "list"
        cluster = self._cluster(location, tried)
        if not _is_list(location):
            _find(cluster, location, tried)
            raise NotAContainer(tried, location, "it is a VDI")
        living: set[bytes] = set()
        snapshots: list[Inode] = []
        for inode in cluster.inodes(tried, location):
            if inode.is_snapshot:
                snapshots.append(inode)
            elif inode.name and inode.name not in living:
                living.add(inode.name)
                yield _vdi_entry(location, inode)
        for inode in _in_order(snapshots):  # of VDIs that were deleted, while their snapshots were not
            if inode.name and inode.name not in living:
                whose = location.child(_text(inode.name))
                entry = _snapshot_entry(whose, inode)
                yield replace(entry, name=f"{_text(inode.name)}#{entry.name}", note=entry.note or "a snapshot is left")

    def stat(self, location: Location) -> Entry:
        tried = "look at"
        cluster = self._cluster(location, tried)
        if _is_list(location):
            cluster.greet(tried, location)
            return Entry(location, self.title, Kind.CONTAINER)
        inode = _find(cluster, location, tried)
        entry = _snapshot_entry(location, inode) if inode.is_snapshot else _vdi_entry(location, inode)
        return replace(entry, location=location)

    def open(self, location: Location) -> Reader:
        cluster = self._image(location, "open").held("open", location)
        return VdiReader(cluster, location, _find(cluster, location, "open"))

    def open_for_writing(self, location: Location) -> Writer:
        """Lock the VDI and open its current state. Raises Denied where another client has locked it.

        The lock outlives a broken connection: who opens it again through this very source has it still.
        """
        tried = "write to"
        cluster = self._image(location, tried).held(tried, location)
        inode = _find(cluster, location, tried)
        if inode.is_snapshot:
            raise Denied(tried, location, "it is a snapshot", "only a VDI's current state can be written")
        self.take(cluster, inode.name, inode.vid, location)
        lock = _Lock(self, cluster, inode.name, location)
        try:
            return VdiWriter(cluster, location, inode, lock)
        except BaseException:
            lock.release()
            raise

    def snapshots(self, location: Location) -> Iterator[Entry]:
        """Yield the snapshots of the VDI at `location`, oldest first."""
        tried = "list the snapshots of"
        cluster = self._image(location, tried)
        inode = _find(cluster, location, tried)
        found = [each for each in cluster.inodes(tried, location) if each.name == inode.name and each.is_snapshot]
        for each in _in_order(found):
            yield _snapshot_entry(location, each)

    def in_use(self, location: Location) -> Use:
        """Tell that nobody can be seen: Sheepdog does not say who reads a VDI, and who writes shows by its lock only to
        one who tries to take it, which `open_for_writing` does.
        """
        tried = "see who uses"
        inode = _find(self._image(location, tried), location, tried)
        return Use((), certain=inode.is_snapshot)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        tried = "attach"
        cluster = self._image(location, tried)
        inode = _find(cluster, location, tried)
        with VdiReader(cluster, location, inode) as reader:
            pin = reader.pin
        if qemu.route is RouteWish.DIRECT:
            raise Unsupported(tried, location, _NO_DRIVER, "choose the route auto or bridge")
        why = "the bridge was asked for" if qemu.route is RouteWish.BRIDGE else _NO_DRIVER
        return Attachment(location, Route.BRIDGE, pin, writable=not inode.is_snapshot, trusted=True, why=why)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            clusters, self._clusters = list(self._clusters.values()), {}
            held, self._held = dict(self._held), {}
        for (address, name), vid in held.items():
            _part(address, name, vid)
        for cluster in clusters:
            cluster.close()

    def _image(self, location: Location, tried: str) -> Cluster:
        cluster = self._cluster(location, tried)
        if _is_list(location):
            cluster.greet(tried, location)
            raise NotAnImage(tried, location, "it is the list of VDIs", "choose one of them")
        return cluster

    def _cluster(self, location: Location, tried: str) -> Cluster:
        address = _address(location, tried)
        with self._lock:
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            return self._clusters.setdefault(address, Cluster(address, self.deadline))

    def take(self, cluster: Cluster, name: bytes, vid: int, location: Location) -> None:
        """Lock a VDI, unless that very lock is held. Raises Denied."""
        owned = (cluster.address, name)
        if self._held.get(owned) == vid:
            return
        try:
            cluster.lock(name, "write to", location)
        except Denied as error:
            hint = "`dog vdi lock list` shows who; what a crashed client left, `dog vdi lock unlock` frees"
            raise Denied("write to", location, error.why, hint) from None
        self._held[owned] = vid

    def release(self, cluster: Cluster, name: bytes) -> None:
        """Give a lock back that is held; where that cannot be done it is kept in mind."""
        with self._lock:
            vid = self._held.pop((cluster.address, name), None)
        if vid is not None and not _part(cluster.address, name, vid):
            self._held[cluster.address, name] = vid


class _Lock:
    """The lock of the VDI that one writer has open: `probes.sheepdog.volume.VdiLock`."""

    def __init__(self, source: SheepdogSource, cluster: Cluster, name: bytes, location: Location) -> None:
        self._source = source
        self._cluster = cluster
        self._name = name
        self._location = location

    def move(self, vid: int) -> None:
        self._source.take(self._cluster, self._name, vid, self._location)

    def release(self) -> None:
        self._source.release(self._cluster, self._name)


def _part(address: Address, name: bytes, vid: int) -> bool:
    """Give a lock back, over a connection of its own that hangs on nothing else; whether the sheep heard it."""
    cluster = Cluster(address, _PARTING)
    with contextlib.closing(cluster), contextlib.suppress(FarbootError):  # there is nobody left to tell
        cluster.release(name, vid, "unlock", Location("sheepdog"))
        return True
    return False


def _is_list(location: Location) -> bool:
    return not location.path.strip("/")


def _address(location: Location, tried: str) -> Address:
    if location.scheme == "sheepdog+unix":
        path = parse_qs(location.query, errors="surrogateescape").get("socket", [""])[0]
        if not path.startswith("/"):
            raise BadLocation(tried, location, "it names no socket", "add ?socket=/var/lib/sheepdog/sock")
        return Address("", 0, path)
    return Address(location.host, location.port or PORT)


def _find(cluster: Cluster, location: Location, tried: str) -> Inode:
    """The VDI or the snapshot that `location` names. Raises NotFound."""
    path, mark, which = location.path.partition("#")
    name = unquote(path.strip("/"), errors="surrogateescape")
    wanted = unquote(which, errors="surrogateescape")
    if mark and wanted.isascii() and wanted.isdigit():
        number = int(wanted) if len(wanted) < 10 else 0
        if not number:
            raise NotFound(tried, location, "no snapshot has such a number")
        return cluster.find(_raw(name), b"", number, tried, location)
    return cluster.find(_raw(name), _raw(wanted), 0, tried, location)


def _vdi_entry(location: Location, inode: Inode) -> Entry:
    name = _text(inode.name)
    place = location.child(name) if _is_list(location) else location
    return Entry(place, name, Kind.IMAGE, inode.size, note=inode.fault)


def _snapshot_entry(vdi: Location, inode: Inode) -> Entry:
    """The row of a snapshot, called by its tag, or by its number where a tag would be taken for one."""
    tag = _text(inode.tag)
    name = tag if tag and not (tag.isascii() and tag.isdigit()) else str(inode.snapshot)
    path = vdi.path.partition("#")[0]
    place = replace(vdi, path=f"{path}#{quote(_raw(name), safe='')}")
    return Entry(place, name, Kind.IMAGE, inode.size, inode.taken, inode.fault)


def _in_order(snapshots: list[Inode]) -> list[Inode]:
    return sorted(snapshots, key=lambda inode: (inode.name, inode.snapshot, inode.vid))


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
