"""Whose disk a location is: the guests of Proxmox and libvirt that this machine's definitions name it in."""

from collections.abc import Iterator
from dataclasses import dataclass

from probes.known import libvirt_guests, proxmox_guests
from probes.known.identity import Identities, Key
from probes.known.proxmox import CONFIGURATION
from probes.known.root import Root
from probes.location import Location
from probes.text import clean

_LIBVIRT = "libvirt guest"
_WATCHED = (CONFIGURATION, "/run/qemu-server", "/sys/fs/cgroup/lxc", "/proc/self/mountinfo", "/dev/disk/by-path")


@dataclass(frozen=True, slots=True)
class Owner:
    """A guest that has the disk in its definition: `name` ("web01"), `kind` ("Proxmox VM 100", "libvirt guest").

    `running` is None where that cannot be known from here: the guest is on another node (`node`) of its cluster.
    """

    name: str
    kind: str
    running: bool | None
    node: str = ""

    @property
    def may_run(self) -> bool:
        """Whether it uses its disks now, or may do so."""
        return self.running is not False

    def __str__(self) -> str:
        """Who it is, and whether it runs: "Proxmox VM 100 (web01), which runs"."""
        name = clean(self.name, 60)
        named = f"{self.kind} {name}" if self.kind == _LIBVIRT else f"{self.kind} ({name})"
        who = named if name else self.kind
        if self.running is None:
            return f"{who}, which may run on {clean(self.node, 60)}"
        return f"{who}, which {'runs' if self.running else 'does not run'}"

    @property
    def note(self) -> str:
        """The same in a few words, for a row: "VM 100 web01's, running"."""
        kind = self.kind.removeprefix("Proxmox ")
        who = clean(self.name, 60) if kind == _LIBVIRT else f"{kind} {clean(self.name, 60)}".strip()
        state = {True: ", running", False: "", None: f", on {clean(self.node, 60)}"}[self.running]
        return f"{who}'s{state}"


def owners(location: Location, root: Root | None = None) -> tuple[Owner, ...]:
    """The guests whose definitions name the image at `location`: read anew, for one that was started just now.

    Blocks as long as the files' own file system does (/etc/pve is a cluster's). Never raises for what it cannot read.
    """
    return Owners.read(root or Root()).of(location)


class Owners:
    """All guests' disks, read once; asked for many rows."""

    def __init__(self, root: Root, entries: Iterator[tuple[Owner, Location]], stamp: object = None) -> None:
        self._identities = Identities(root)
        self.stamp = stamp
        self._by_key: dict[Key, list[tuple[Owner, Location]]] = {}
        for owner, location in entries:
            for key in self._identities.keys(location):
                self._by_key.setdefault(key, []).append((owner, location))

    @staticmethod
    def read(root: Root) -> "Owners":
        """Read every guest's definition that this account may read."""
        return Owners(root, _disks(root), stamp(root))

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def of(self, location: Location) -> tuple[Owner, ...]:
        """The guests that have the disk at `location`; a snapshot belongs to whom its image does."""
        if not self._by_key:
            return ()
        found: dict[Owner, None] = {}
        for key in self._identities.keys(location):
            for owner, disk in self._by_key.get(key, ()):
                if location.scheme != "rbd" or self._identities.may_be_one_cluster(location, disk):
                    found[owner] = None
        return tuple(found)


def stamp(root: Root) -> object:
    """What changes when guests come, go, start or stop: compare it before reading everything again."""
    paths = [*proxmox_guests.files(root), *libvirt_guests.files(root)]
    return tuple((path, root.stamp(path)) for path in (*paths, *_WATCHED, libvirt_guests.RUNNING))


def _disks(root: Root) -> Iterator[tuple[Owner, Location]]:
    virtual_machines = proxmox_guests.read_guests(root)
    storages = proxmox_guests.known_storages(root) if virtual_machines else {}
    for guest in virtual_machines:
        owner = Owner(guest.config.name, f"Proxmox {guest.kind}", guest.running, guest.node)
        for place in proxmox_guests.disks(guest, storages, root):
            yield owner, place
    domains = libvirt_guests.read_guests(root)
    pools = libvirt_guests.known_pools(root) if domains else {}
    for domain in domains:
        for place in libvirt_guests.disks(domain, pools):
            yield Owner(domain.name, _LIBVIRT, domain.running), place
