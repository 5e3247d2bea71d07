"""Proxmox VE's storage.cfg: which storages there are, and where each volume of theirs lies.

The format is that of PVE::SectionConfig: `type: name`, then indented `option value` lines; an empty line ends a
section. Volume ids (`ceph:vm-100-disk-0`, `nas:100/vm-100-disk-0.qcow2`) are those of PVE::Storage's plug-ins.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from probes.known.found import Found, folder, rbd, url
from probes.known.root import Root
from probes.location import Location, rbd_path

CONFIGURATION = "/etc/pve/storage.cfg"
ORIGIN = "Proxmox storage.cfg"

# Storages whose volumes are the same on every node of a cluster.
_SHARED = frozenset({"rbd", "cephfs", "nfs", "cifs", "glusterfs", "iscsi", "iscsidirect", "zfs", "pbs", "esxi"})
_MOUNTED = frozenset({"nfs", "cifs", "glusterfs", "cephfs"})
_SECTION = re.compile(r"([a-z][a-z0-9_-]*):\s*(\S+)\s*")
_LUN = re.compile(r"\d+\.\d+\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Storage:
    """One section: its type ("rbd"), its name, its options as they stand there ("1" for one without a value)."""

    type: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict)

    def get(self, option: str) -> str:
        """The value of an option; empty where it is not set."""
        return self.options.get(option, "")

    @property
    def is_shared(self) -> bool:
        """Whether a volume of it is the same thing on every node."""
        return self.type in _SHARED or self.get("shared") == "1"

    def is_for(self, node: str) -> bool:
        """Whether it is switched on, and meant for the node."""
        nodes = re.split(r"[,;\s]+", self.get("nodes"))
        return self.get("disable") not in {"1", "yes", "on", "true"} and (nodes == [""] or node in nodes)


def storages(text: str) -> dict[str, Storage]:
    """The sections of a storage.cfg by name; what is not one is skipped. `local` is there even if it is not said."""
    found = {"local": Storage("dir", "local", {"path": "/var/lib/vz"})}
    options: dict[str, str] | None = None
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            options = None if not line.strip() else options
        elif not line[0].isspace() and (match := _SECTION.fullmatch(line)):
            options = {}
            found[match[2]] = Storage(match[1], match[2], options)
        elif line[0].isspace() and options is not None:
            name, _, value = line.strip().partition(" ")
            options[name] = value.strip() or "1"
    return found


def read_storages(root: Root) -> dict[str, Storage]:
    """The storages of this machine; none where it has no Proxmox."""
    text = root.read(CONFIGURATION)
    return storages(text) if text or root.exists("/etc/pve/nodes") else {}


def find(root: Root) -> list[Found]:
    """The storages that can be looked at from here."""
    found = []
    for storage in read_storages(root).values():
        place = place_of(storage, root) if storage.is_for(root.hostname) else None
        if place is not None:
            found.append(Found(storage.name, place, ORIGIN))
    return found


def place_of(storage: Storage, root: Root) -> Location | None:
    """Where a storage's volumes are listed; None for those that are no place of their own (lvm, pbs …)."""
    servers = _servers(storage)
    match storage.type:
        case "rbd":
            names = [name for name in (_pool(storage), storage.get("namespace")) if name]
            return rbd(rbd_path(*names, namespace=len(names) == 2), rbd_options(storage, root))
        case "nfs" | "glusterfs" if servers:
            return url(storage.type.removesuffix("fs") if storage.type == "glusterfs" else "nfs",
                       servers[0], (storage.get("export") or storage.get("volume")).strip("/") + "/")  # fmt: skip
        case "iscsi" | "iscsidirect":
            host, port = _portal(storage.get("portal"))
            return url("iscsi", host, storage.get("target") + "/", port, default_port="3260")
        case "dir" | "btrfs" | "cephfs":
            return folder(_path(storage))
    return None


def rbd_options(storage: Storage, root: Root) -> dict[str, str]:
    """What rbd: takes after the image, as Proxmox itself gives it to QEMU (PVE::Storage::RBDPlugin).

    A storage without monitors is the cluster that Proxmox runs itself.
    """
    monitors = ",".join(re.split(r"[,;\s]+", storage.get("monhost").strip()))
    options = {"id": storage.get("username") or "admin"}
    own = f"/etc/pve/priv/ceph/{storage.name}.conf"
    if not monitors:
        options["conf"] = "/etc/pve/ceph.conf"
    else:
        options["conf"] = own if root.exists(own) else ""
        options["mon_host"] = monitors
    keyring = f"/etc/pve/priv/ceph/{storage.name}.keyring"
    options["keyring"] = keyring if root.exists(keyring) else ""
    return options


def locations_of(volume: str, known: Mapping[str, Storage], root: Root) -> Iterator[Location]:
    """Every place where a volume (`storage:name`, or a path) can be got at: through its protocol, and on this host.

    A volume that several storages or servers offer is at each of them.
    """
    if volume.startswith("/"):
        yield Location("host_device" if volume.startswith("/dev/") else "file", path=volume)
        return
    name, _, rest = volume.partition(":")
    storage = known.get(name)
    if storage is None or not rest:
        return
    last = rest.rpartition("/")[2]
    match storage.type:
        case "rbd":
            names = [part for part in (_pool(storage), storage.get("namespace"), last) if part]
            yield rbd(rbd_path(*names), rbd_options(storage, root))
            yield Location("host_device", path="/dev/rbd/" + "/".join(names))
            yield Location("host_device", path="/dev/rbd-pve/" + "/".join(names))
        case "lvm" | "lvmthin":
            yield Location("host_device", path=f"/dev/{storage.get('vgname')}/{last}")
        case "zfspool":
            yield Location("host_device", path=f"/dev/zvol/{storage.get('pool')}/{last}")
        case "iscsi" | "iscsidirect":
            yield from _lun(storage, rest)
        case _:
            yield from _file(storage, rest)


def _lun(storage: Storage, rest: str) -> Iterator[Location]:
    """`0.0.1.scsi-36001405…` of the kernel's initiator, `lun1` of libiscsi's."""
    match = _LUN.fullmatch(rest)
    number = match[1] if match else rest.removeprefix("lun")
    host, port = _portal(storage.get("portal"))
    place = url("iscsi", host, f"{storage.get('target')}/{number}", port, default_port="3260")
    if place is not None and number.isdigit():
        yield place
    if match:
        yield Location("host_device", path=f"/dev/disk/by-id/{match[2]}")


def _file(storage: Storage, rest: str) -> Iterator[Location]:
    """`100/vm-100-disk-0.qcow2`, below the storage's folder for images; before it, in a linked clone, its base."""
    parts = rest.split("/")
    if len(parts) == 4:  # 9000/base-9000-disk-0.qcow2/100/vm-100-disk-0.qcow2: writing into the base breaks it, too
        yield from _file(storage, "/".join(parts[:2]))
        parts = parts[2:]
    if len(parts) != 2 or ".." in parts:
        return
    below = re.search(r"(?:^|,)images=([^,]+)", storage.get("content-dirs"))
    path = f"{below[1].strip('/') if below else 'images'}/{parts[0]}/{parts[1]}"
    if storage.type == "btrfs":
        path = path.removesuffix(".raw") + "/disk.raw" if path.endswith(".raw") else path
    if base := _path(storage):
        yield Location("file", path=f"{base.rstrip('/')}/{path}")
    if storage.type in {"nfs", "glusterfs"}:
        base = (storage.get("export") or storage.get("volume")).strip("/")
        for server in _servers(storage):
            place = url("nfs" if storage.type == "nfs" else "gluster", server, f"{base}/{path}")
            if place is not None:
                yield place


def _pool(storage: Storage) -> str:
    return storage.get("pool") or "rbd"


def _path(storage: Storage) -> str:
    return storage.get("path") or (f"/mnt/pve/{storage.name}" if storage.type in _MOUNTED else "")


def _servers(storage: Storage) -> list[str]:
    return [storage.get(option) for option in ("server", "server2") if storage.get(option)]


def _portal(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"\[?([^\[\]]+?)\]?(?::(\d+))?", text) if text.count(":") <= 1 or "[" in text else None
    return (match[1], match[2] or "") if match else (text, "")
