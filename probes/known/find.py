"""Everything that this machine knows already, in the order in which it is worth looking at."""

from probes.known import ceph, initiator, libvirt, mounts, proxmox, ssh_config
from probes.known.found import Found, without_doubles
from probes.known.root import Root

_FINDERS = (proxmox.find, libvirt.find, ceph.find, mounts.find, initiator.find, ssh_config.find)


def find(root: Root | None = None) -> list[Found]:
    """The sources that this machine's files name. Reads files only; nothing is contacted. Never raises for a file."""
    root = root or Root()
    return without_doubles(found for finder in _FINDERS for found in finder(root))
