"""The disks that Proxmox's virtual machines and containers name (qm.conf(5), pct.conf(5)), and which of those run."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from probes.known.proxmox import Storage, locations_of, read_storages
from probes.known.root import Root
from probes.location import Location

_DISK = re.compile(r"(?:ide|sata|scsi|virtio|efidisk|tpmstate|unused|mp)\d+|rootfs|vmstate")
_CONFIGURATION = re.compile(r"(?:.*/)?nodes/([^/]+)/(qemu-server|lxc)/(\d+)\.conf")


@dataclass(frozen=True, slots=True)
class Config:
    """One guest's file: its name, and the volumes that it names, those of its snapshots and pending changes too."""

    name: str
    volumes: tuple[str, ...]


def parse(text: str) -> Config:
    """Read a guest's file; what is not a disk is skipped, CDs too: nothing is written to those."""
    name, outermost = "", True
    volumes: dict[str, None] = {}
    for line in text.splitlines():
        if line.startswith("["):
            outermost = False
        key, colon, value = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        value = value.strip()
        if key in {"name", "hostname"} and outermost:
            name = value
        elif _DISK.fullmatch(key):
            options = value.split(",")
            first = options[0].removeprefix("file=").removeprefix("volume=")
            if "media=cdrom" not in options and first not in {"none", "cdrom", ""}:
                volumes[first] = None
    return Config(name, tuple(volumes))


@dataclass(frozen=True, slots=True)
class ProxmoxGuest:
    """A guest of the cluster. `running` is None on another node, of which nothing is known here."""

    number: str
    is_container: bool
    node: str
    here: bool
    config: Config
    running: bool | None

    @property
    def kind(self) -> str:
        """What Proxmox calls it."""
        return f"{'CT' if self.is_container else 'VM'} {self.number}"


def read_guests(root: Root) -> list[ProxmoxGuest]:
    """All guests of all nodes."""
    own = root.real("/etc/pve/local").rpartition("/")[2] if root.exists("/etc/pve/local") else root.hostname
    found = []
    for path in files(root):
        match = _CONFIGURATION.fullmatch(path)
        text = root.read(path)
        if match is None or not text:
            continue
        node, folder, number = match.groups()
        here = node == own
        running = _runs(root, folder == "lxc", number) if here else None
        found.append(ProxmoxGuest(number, folder == "lxc", node, here, parse(text), running))
    return found


def files(root: Root) -> list[str]:
    """The guests' files."""
    return [*root.files("/etc/pve/nodes/*/qemu-server/*.conf"), *root.files("/etc/pve/nodes/*/lxc/*.conf")]


def disks(guest: ProxmoxGuest, known: Mapping[str, Storage], root: Root) -> Iterator[Location]:
    """Where the guest's disks are; of another node's guest only such as are the same there and here."""
    for volume in guest.config.volumes:
        storage = known.get(volume.partition(":")[0])
        if guest.here or (storage is not None and storage.is_shared):
            yield from locations_of(volume, known, root)


def known_storages(root: Root) -> Mapping[str, Storage]:
    """The storages that guests' volumes are named by, those included that are switched off or another node's."""
    return read_storages(root)


def _runs(root: Root, is_container: bool, number: str) -> bool:
    if is_container:
        return root.exists(f"/sys/fs/cgroup/lxc/{number}")
    return process_runs(root, f"/run/qemu-server/{number}.pid")


def process_runs(root: Root, pid_file: str) -> bool:
    """Whether the process that a file names is alive. A file that may not be read counts as one that runs."""
    text = root.read(pid_file).strip()
    if not text:
        return pid_file in root.unreadable
    return text.isascii() and text.isdigit() and root.exists(f"/proc/{int(text)}")
