"""The disks that libvirt's guests name (https://libvirt.org/formatdomain.html), and which of those run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from probes.known.found import parsed, rbd, url
from probes.known.libvirt import Element, attribute, document, rbd_options, read_pools
from probes.known.proxmox_guests import process_runs
from probes.known.root import Root
from probes.location import Location, rbd_parts, rbd_path

DEFINED = ("/etc/libvirt/qemu", "~/.config/libvirt/qemu")
RUNNING = "/run/libvirt/qemu"

_PORTS = {"nbd": "10809", "gluster": "24007", "iscsi": "3260", "ssh": "22", "http": "80", "https": "443",
          "ftp": "21", "ftps": "990", "sheepdog": "7000", "nfs": ""}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LibvirtGuest:
    """A guest of this host, and the `source` elements of its disks, backing files included."""

    name: str
    sources: tuple[tuple[str, Element], ...]
    running: bool


def read_guests(root: Root) -> list[LibvirtGuest]:
    """All guests: as defined, and as they run (a disk may have been plugged in, or a snapshot taken, meanwhile)."""
    found: dict[str, list[LibvirtGuest]] = {}
    for path in files(root):
        for guest in parse(root.read(path)):
            found.setdefault(guest.name, []).append(guest)
    merged = []
    for name, guests in found.items():
        running = process_runs(root, f"{RUNNING}/{name}.pid") or _runs_for_a_user(root, name)
        merged.append(LibvirtGuest(name, tuple(source for guest in guests for source in guest.sources), running))
    return merged


def files(root: Root) -> list[str]:
    """The guests' files: definitions, and the status of those that run."""
    patterns = [f"{folder}/*.xml" for folder in DEFINED]
    return [path for pattern in (*patterns, f"{RUNNING}/*.xml") for path in root.files(pattern)]


def parse(text: str) -> Iterator[LibvirtGuest]:
    """The guest that a domain's XML, or a status file around one, describes."""
    whole = document(text) if text else None
    domain = whole if whole is None or whole.tag == "domain" else whole.find("domain")
    name = (domain.findtext("name") or "").strip() if domain is not None else ""
    if domain is None or not name or "/" in name:
        return
    sources = []
    for disk in domain.findall("devices/disk"):
        if disk.get("device") in {"cdrom", "floppy"}:
            continue
        for holder in (disk, *disk.iter("backingStore"), *disk.iter("mirror")):
            source = holder.find("source")
            if source is not None:
                sources.append((holder.get("type") or disk.get("type") or "", source))
    yield LibvirtGuest(name, tuple(sources), running=False)


def disks(guest: LibvirtGuest, pools: Mapping[str, Element]) -> Iterator[Location]:
    """Where the guest's disks are."""
    for kind, source in guest.sources:
        yield from _places(kind, source, pools)


def known_pools(root: Root) -> Mapping[str, Element]:
    """The pools that disks of type `volume` are named by."""
    return read_pools(root)


def _places(kind: str, source: Element, pools: Mapping[str, Element]) -> Iterator[Location]:
    path = source.get("file") or source.get("dev") or ""
    if kind in {"file", "block"} and path.startswith("/"):
        yield Location("host_device" if path.startswith("/dev/") else "file", path=path)
    elif kind == "network":
        yield from _of_network(source)
    elif kind == "volume":
        pool, volume = pools.get(source.get("pool") or ""), source.get("volume") or ""
        if pool is not None and volume:
            yield from _of_volume(pool, volume)


def _of_network(source: Element) -> Iterator[Location]:
    protocol, name = source.get("protocol") or "", (source.get("name") or "").lstrip("/")
    if protocol == "rbd":
        yield rbd(_rbd_path(name), rbd_options(source))
        return
    if protocol not in _PORTS:
        return
    if protocol == "iscsi":
        name += "" if "/" in name else "/0"
    for host in source.findall("host"):
        socket = host.get("socket") or ""
        if host.get("transport") == "unix" and protocol == "nbd":
            place = parsed(f"nbd+unix:///{name}?socket={socket}")
        else:
            scheme = "nbds" if protocol == "nbd" and source.get("tls") == "yes" else protocol
            place = url(scheme, host.get("name") or "", name, host.get("port") or "", default_port=_PORTS[protocol])
        if place is not None:
            yield place


def _of_volume(pool: Element, volume: str) -> Iterator[Location]:
    source, target = pool.find("source"), (pool.findtext("target/path") or "").strip()
    name = ((source.findtext("name") if source is not None else "") or "").strip().strip("/")
    host, port = attribute(source, "host", "name"), attribute(source, "host", "port")
    kind = pool.get("type") or ""
    if kind == "rbd":
        yield rbd(_rbd_path(f"{name}/{volume}"), rbd_options(source))
    elif kind in {"iscsi", "iscsi-direct"}:  # volumes are called unit:0:0:LUN
        target_name = attribute(source, "device", "path")
        place = url("iscsi", host, f"{target_name}/{volume.rpartition(':')[2]}", port, default_port="3260")
        if place is not None:
            yield place
    elif kind in {"gluster", "sheepdog"}:
        path = f"{name}/{volume}" if kind == "gluster" else volume
        place = url(kind, host, path, port, default_port=_PORTS[kind])
        if place is not None:
            yield place
    elif target.startswith("/"):
        path = f"{target.rstrip('/')}/{volume}"
        yield Location("host_device" if path.startswith("/dev/") else "file", path=path)


def _rbd_path(name: str) -> str:
    """Libvirt writes `pool/image`, `pool/namespace/image` and `image@snapshot` as rbd itself does."""
    names, snapshot, _ = rbd_parts(name)
    return rbd_path(*names, snapshot=snapshot)


def _runs_for_a_user(root: Root, name: str) -> bool:
    """Whether a guest of a user's own libvirt (qemu:///session) runs."""
    pid_files = root.files(f"/run/user/*/libvirt/qemu/run/{name}.pid") if not set(name) & set("*?[") else []
    return any(process_runs(root, path) for path in pid_files)
