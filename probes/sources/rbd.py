"""Ceph's block devices: pools, their namespaces, images and snapshots.

Written as QEMU writes them (block/rbd.c): `rbd:` lists the pools, `rbd:pool` a pool's namespaces and images,
`rbd:pool/namespace/` a namespace's; `rbd:pool/image` and `rbd:pool/namespace/image@snapshot` are images. Options follow
after colons: `:id=user:conf=/path:mon_host=address`. A pool that does not have the application `rbd` is not shown.

Nothing here takes a lock or registers a watch: an image may be looked at while a guest writes to it.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import rados
import rbd

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish, SecretSlot
from probes.ceph.cluster import Cluster, Shared, failure
from probes.ceph.images import IMAGES, NAMESPACES, children, has_image, old_images, sizes
from probes.ceph.login import Login, addresses, login
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry, Kind
from probes.errors import BadAnswer, BadLocation, Cancelled, Denied, NotAContainer, NotAnImage, NotFound, Unsupported
from probes.location import Location, rbd_parts, rbd_path
from probes.reader import Pin, Reader
from probes.source import DEADLINE, Source, Use


@dataclass(frozen=True)
class _Place:
    """What a location names; parts that it does not name are empty."""

    pool: str = ""
    namespace: str = ""
    image: str = ""
    snapshot: str = ""

    def at(self, location: Location) -> Location:
        """The location of this place, with the options of `location`."""
        names = [name for name in (self.pool, self.namespace, self.image) if name]
        is_namespace = bool(self.namespace and not self.image)
        return replace(location, path=rbd_path(*names, namespace=is_namespace, snapshot=self.snapshot or None))


class RbdSource(Source):
    """The pools and images that one Ceph user sees, over one connection a cluster."""

    schemes = ("rbd",)
    title = "Ceph RBD"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._clusters: dict[Login, Cluster] = {}
        self._logging_in: dict[Login, threading.Lock] = {}
        self._lock = threading.Lock()
        self._closed = False

    def entries(self, location: Location) -> Iterator[Entry]:
        tried = "list"
        with self._cluster(location, tried) as cluster, _told(tried, location):
            place = _place(cluster, location, tried)
            if place.image:
                raise NotAContainer(tried, location, "it is an image")
            if not place.pool:
                for pool in cluster.pools():
                    yield Entry(_Place(pool).at(location), pool, Kind.CONTAINER)
                return
            with cluster.pool(place.pool, place.namespace) as io:
                if not place.namespace:
                    yield from _namespaces(io, location, place)
                yield from _images(io, location, place)

    def stat(self, location: Location) -> Entry:
        tried = "look at"
        with self._cluster(location, tried) as cluster, _told(tried, location):
            place = _place(cluster, location, tried)
            if not place.image:
                return Entry(location, place.namespace or place.pool or self.title, Kind.CONTAINER)
            with _opened(cluster, place) as image:
                name = place.snapshot or place.image
                return Entry(location, name, Kind.IMAGE, image.size(), _modified(image, place))

    def open(self, location: Location) -> Reader:
        tried = "open"
        with self._cluster(location, tried) as cluster, _told(tried, location):
            return _RbdReader(cluster, location, _image(cluster, location, tried))

    def snapshots(self, location: Location) -> Iterator[Entry]:
        """Yield the snapshots that people took of the image at `location`, oldest first."""
        tried = "list the snapshots of"
        with self._cluster(location, tried) as cluster, _told(tried, location):
            place = _image(cluster, location, tried)
            with _opened(cluster, replace(place, snapshot="")) as image:
                for snapshot in sorted(image.list_snaps(), key=lambda found: int(found["id"])):
                    if snapshot["namespace"] != rbd.RBD_SNAP_NAMESPACE_TYPE_USER:
                        continue  # Ceph's own: the trash, groups, mirroring
                    name, taken = snapshot["name"], _utc(image.get_snap_timestamp(snapshot["id"]))
                    where = replace(place, snapshot=name).at(location)
                    yield Entry(where, name, Kind.IMAGE, snapshot["size"], taken)

    def in_use(self, location: Location) -> Use:
        """Return who has the image at `location` open for writing (they watch it), or holds a lock on it.

        Those who only read leave no trace in Ceph. Nobody can change a snapshot.
        """
        tried = "see who uses"
        with self._cluster(location, tried) as cluster, _told(tried, location):
            place = _image(cluster, location, tried)
            with _opened(cluster, place) as image:
                if place.snapshot:
                    return Use((), certain=True)
                users = {f"client.{watcher['id']}": _host(watcher["addr"]) for watcher in image.watchers_list()}
                locks = image.list_lockers()
                for client, _, address in locks.get("lockers", []) if locks else []:
                    users[client] = f"{_host(address)}, holding a lock"
            return Use(tuple(f"{client} at {where}" for client, where in sorted(users.items())), certain=True)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        """Say QEMU's `rbd` node, which names the monitors and is given the key: a confined QEMU then needs no
        file of this host, neither ceph.conf nor a keyring that only root may read.
        """
        tried = "attach"
        with self.open(location) as reader:
            pin = reader.pin
        with self._cluster(location, tried) as cluster, _told(tried, location):
            place = _image(cluster, location, tried)
            user, key = cluster.user, cluster.key()
            # The bridge has no way to write it: none of the locks that librbd takes for a QEMU is taken here.
            whole = Attachment(location, Route.BRIDGE, pin, trusted=True, why=_why_bridge(place, qemu))
            if whole.why:
                if qemu.route is RouteWish.DIRECT:
                    raise Unsupported(tried, location, whole.why, "choose the route auto or bridge")
                return whole
            monitors = [{"host": host, "port": str(port)} for host, port in cluster.monitors()]
            if not monitors:
                raise BadAnswer(tried, location, "the cluster tells no address of a monitor")
            ways = cluster.authentication()
            if key is None and "none" not in ways:
                raise Denied(tried, location, f"no key of client.{user} was found to give to QEMU", wants=("key",))
        node: dict[str, object] = {"driver": "rbd", "pool": place.pool, "image": place.image, "user": user}
        # An empty configuration, lest a QEMU that is not confined reads another cluster's in /etc/ceph.
        node |= {"conf": "/dev/null", "server": monitors}
        node |= {"namespace": place.namespace} if place.namespace else {}
        node |= {"snapshot": place.snapshot} if place.snapshot else {}
        node |= {"auth-client-required": ways} if ways else {}
        label = f"cephx key of client.{user}"
        found = self.credentials.key is None
        secrets = (SecretSlot("key-secret", key, label, "key", format="base64", found=found),) if key else ()
        return replace(whole, route=Route.DRIVER, writable=not place.snapshot, node=node, secrets=secrets)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            clusters = list(self._clusters.values())
            self._clusters.clear()
        for cluster in clusters:
            cluster.close()

    @contextlib.contextmanager
    def _cluster(self, location: Location, tried: str) -> Iterator[Cluster]:
        """The connection for `location`'s options, made when it is first wanted, alive meanwhile."""
        how = login(location, self.credentials, tried)
        with self._lock:
            one_at_a_time = self._logging_in.setdefault(how, threading.Lock())
        with one_at_a_time:
            with self._lock:
                cluster = self._clusters.get(how)
            if cluster is None:
                cluster = Cluster(how, self.credentials.key, self.deadline, tried, location)
                with self._lock:
                    if not self._closed:
                        self._clusters[how] = cluster
                if self._closed:
                    cluster.close()
                    raise Cancelled(tried, location, "it was closed")
        with cluster.use(tried, location):
            yield cluster


class _RbdReader(Reader):
    """An image opened read-only: it takes no lock and is told nothing about changes.

    The pin of a snapshot is strong: its id, and the image's. That of a live image is weak: the image's id, and when it
    was last written as far as Ceph notes it (once a minute, `rbd_mtime_update_interval`).
    """

    def __init__(self, cluster: Cluster, location: Location, place: _Place) -> None:
        self._location = location
        with contextlib.ExitStack() as stack:
            stack.enter_context(cluster.use("open", location))
            self._image = stack.enter_context(_opened(cluster, place))
            self._pin = _pin(self._image, place)
            self._shared = Shared(stack.pop_all().close)

    def pread(self, offset: int, length: int) -> bytes:
        length = min(length, self._pin.size - offset)
        if length <= 0:
            return b""
        with self._shared.use("read", self._location), _told("read", self._location):
            data: bytes = self._image.read(offset, length)
        if len(data) != length:
            raise BadAnswer("read", self._location, f"{len(data)} bytes came instead of {length} at offset {offset}")
        return data

    def close(self) -> None:
        self._shared.close()


def _place(cluster: Cluster, location: Location, tried: str) -> _Place:
    """What `location` names, after a look at the cluster, for `pool/name` may be an image or a namespace.

    Raises BadLocation and NotFound.
    """
    names, snapshot, closed = rbd_parts(location.path)
    if any("\0" in name for name in (*names, snapshot or "")):
        raise NotFound(tried, location, "no name in Ceph has a NUL in it")
    if snapshot is not None and (closed or len(names) < 2):
        raise BadLocation(tried, location, "only an image has snapshots", "rbd:pool/image@snapshot")
    if not names:
        return _Place()
    try:
        with cluster.pool(names[0]) as io:
            return _place_in(cluster, io, names, snapshot or "", closed) or _missing(names, tried, location)
    except rados.ObjectNotFound:
        raise NotFound(
            tried, location, "there is no such pool", f"`farboot ls {replace(location, path='')}` lists them"
        ) from None
    except UnicodeEncodeError:
        raise Unsupported(
            tried, location, "Ceph's Python binding takes no such name of a pool or a namespace"
        ) from None


def _image(cluster: Cluster, location: Location, tried: str) -> _Place:
    """What `location` names, which must be an image. Raises NotAnImage."""
    place = _place(cluster, location, tried)
    if not place.image:
        what = "a namespace" if place.namespace else "a pool" if place.pool else "the list of pools"
        raise NotAnImage(tried, location, f"it is {what}", "choose one of its images")
    return place


def _place_in(cluster: Cluster, io: Any, names: tuple[str, ...], snapshot: str, closed: bool) -> _Place | None:
    pool = names[0]
    if len(names) == 1:
        return _Place(pool)
    if len(names) == 3:
        with cluster.pool(pool, names[1]) as inner:
            return _Place(*names, snapshot) if has_image(inner, _raw(names[2])) else None
    if not closed and has_image(io, _raw(names[1])):
        return _Place(pool, "", names[1], snapshot)
    return _Place(pool, names[1]) if not snapshot and _has_namespace(io, names[1]) else None


def _has_namespace(io: Any, name: str) -> bool:
    try:
        return bool(rbd.RBD().namespace_exists(io, name))
    except rbd.PermissionError:  # who may see one namespace only may not ask the pool which there are
        return True


def _missing(names: tuple[str, ...], tried: str, location: Location) -> _Place:
    what = "image" if len(names) == 3 else "image or namespace"
    raise NotFound(tried, location, f"there is no such {what} in {names[-2]}")


def _namespaces(io: Any, location: Location, place: _Place) -> Iterator[Entry]:
    with contextlib.suppress(rados.PermissionError):  # the images may be open to this user all the same
        for page in children(io, *NAMESPACES):
            for raw, _ in page:
                name = _text(raw)
                yield Entry(_Place(place.pool, name).at(location), name, Kind.CONTAINER)


def _images(io: Any, location: Location, place: _Place) -> Iterator[Entry]:
    for page in children(io, *IMAGES):
        for (raw, _), size in zip(page, sizes(io, [identity for _, identity in page]), strict=True):
            yield _entry(location, place, raw, size)
    for raw, size in old_images(io).items():
        yield _entry(location, place, raw, size)


def _entry(location: Location, place: _Place, raw: bytes, size: int | None) -> Entry:
    name = _text(raw)
    note = "broken: its header is missing" if size is None else ""
    return Entry(replace(place, image=name).at(location), name, Kind.IMAGE, size, note=note)


@contextlib.contextmanager
def _opened(cluster: Cluster, place: _Place) -> Iterator[Any]:
    """A `rbd.Image`, read-only: it takes no lock, and whoever writes to it is not asked for theirs."""
    snapshot = _raw(place.snapshot) if place.snapshot else None
    with (
        cluster.pool(place.pool, place.namespace) as io,
        rbd.Image(io, _raw(place.image), snapshot=snapshot, read_only=True) as image,
    ):
        yield image


def _pin(image: Any, place: _Place) -> Pin:
    identity = image.block_name_prefix()  # holds the image's id, and images of format 1 have one too
    if place.snapshot:
        validator = f"snapshot:{identity}:{image.snap_get_id(_raw(place.snapshot))}"
    else:
        written = _modified(image, place)
        validator = f"image:{identity}:{written.isoformat() if written else ''}"
    return Pin(int(image.size()), validator, strong=bool(place.snapshot))


def _modified(image: Any, place: _Place) -> datetime | None:
    try:
        if place.snapshot:
            return _utc(image.get_snap_timestamp(image.snap_get_id(_raw(place.snapshot))))
        return _utc(image.modify_timestamp())
    except rbd.Error:  # images of format 1 and of very old clusters have none
        return None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # older bindings give UTC and do not say so


def _why_bridge(place: _Place, qemu: QemuFacts) -> str:
    if qemu.route is RouteWish.BRIDGE:
        return "the bridge was asked for"
    if "rbd" not in qemu.drivers:
        return "this QEMU has no rbd driver (Debian's is in qemu-block-extra)"
    if any("\udc80" <= character <= "\udcff" for character in place.image + place.snapshot):
        return "QEMU cannot be given a name that is not UTF-8"
    return ""


def _host(address: str) -> str:
    """The host in an address of Ceph's: "192.0.2.7" in "v1:192.0.2.7:0/3486919267"."""
    found = addresses(address)
    return found[0][0] if found else address


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def _told(tried: str, location: Location) -> Iterator[None]:
    """Raise Ceph's errors as ours."""
    try:
        yield
    except (rados.Error, rbd.Error, UnicodeError) as error:
        raise failure(error, tried, location) from None
