"""When two locations are the same disk: by names that do not depend on the way it is reached.

Nothing is contacted: host names are compared as they are written. A file is followed through its symbolic links; one
on an NFS mount is also the server's file, a device of the kernel's initiator also the target's LUN.
"""

import ipaddress
import os
import re
from collections.abc import Iterator
from functools import lru_cache

from probes.ceph.login import CONF_PLACES, addresses
from probes.known.mounts import nfs_mounts
from probes.known.root import Root
from probes.location import Location, rbd_parts

Key = tuple[str, ...]

_BY_PATH = re.compile(r"ip-(?:.*?)-iscsi-(.+)-lun-(\d+)")
_OPTION = re.compile(r"(?s)((?:\\.|[^:\\])+)")


class Identities:
    """Tells keys of locations on this machine, as it is now. Two locations that share a key are one disk.

    Ceph's clusters are compared beside the keys (`monitors`), for one may be known by several addresses.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._mounts = sorted(nfs_mounts(root), key=lambda mount: -len(mount[0]))
        self._luns = dict(self._iscsi_devices())
        self._real_folder = lru_cache(maxsize=256)(root.real)
        self.monitors = lru_cache(maxsize=64)(self._monitors)

    def keys(self, location: Location) -> tuple[Key, ...]:
        """What `location` is called, whichever way it is reached; empty for a place that is no disk."""
        scheme = location.scheme
        if scheme in {"file", "host_device"}:
            return tuple(self._of_path(location.path))
        if scheme == "rbd":
            image, _, is_container = rbd_parts(location.path)
            return () if is_container or len(image) < 2 else (("rbd", *image),)
        names = location.names
        if not names:
            return ()
        host, port = location.host.lower(), str(location.port or "")
        if scheme == "iscsi":
            return (("iscsi", names[0].lower(), names[1]),) if len(names) == 2 else ()
        if scheme in {"nbd", "nbds"}:
            return (("nbd", host, port or "10809", location.decoded_path.strip("/")),)
        if scheme in {"nbd+unix", "nbds+unix"}:
            return (("nbd", location.query, location.decoded_path.strip("/")),)
        if scheme == "sheepdog":
            return (("sheepdog", host, names[0]),)
        return ((_SAME.get(scheme, scheme), host, "/".join(names)),)

    def paths_here(self, location: Location) -> Iterator[str]:
        """The paths at which this machine's kernel has an iSCSI or an NFS server's image, mounted or not."""
        names = location.names
        if location.scheme == "iscsi" and len(names) == 2:
            wanted = (names[0].lower(), names[1])
            yield from (device for device, lun in self._luns.items() if lun == wanted)
        if location.scheme == "nfs" and names:
            for mount, host, export in self._mounts:
                above = [part for part in export.split("/") if part]
                if host.lower() == location.host.lower() and list(names[: len(above)]) == above:
                    yield "/".join([mount.rstrip("/"), *names[len(above) :]])

    def _of_path(self, path: str) -> Iterator[Key]:
        folder, _, name = path.rstrip("/").rpartition("/")
        # Many files of one folder are asked for: its own way is followed once, then the last step.
        real = f"{self._real_folder(folder or '/').rstrip('/')}/{name}"
        real = self._root.real(real) if self._root.is_link(real) else real
        yield ("path", real)
        if real in self._luns:
            yield ("iscsi", *self._luns[real])
        for mount, host, export in self._mounts:
            if real.startswith(mount.rstrip("/") + "/"):
                names = [part for part in (export + real[len(mount.rstrip("/")) :]).split("/") if part]
                yield ("nfs", host.lower(), "/".join(names))
                return

    def _iscsi_devices(self) -> Iterator[tuple[str, tuple[str, str]]]:
        folder = "/dev/disk/by-path"
        for name in self._root.names(folder):
            match = _BY_PATH.fullmatch(name)
            if match:
                yield self._root.real(f"{folder}/{name}"), (match[1].lower(), match[2])

    def _monitors(self, options: str) -> frozenset[str]:
        """The monitors that an rbd location's options lead to; none where that is not known."""
        values = dict(_option(part) for part in _OPTION.findall(options))
        if "mon_host" in values:
            return frozenset(host for host, _ in addresses(values["mon_host"]))
        named = values.get("conf") or os.environ.get("CEPH_CONF")
        for path in (named,) if named else CONF_PLACES:
            match = re.search(r"(?mi)^\s*mon[ _]host\s*=\s*(.+)$", self._root.read(path))
            if match:
                return frozenset(host for host, _ in addresses(match[1]))
        return frozenset()

    def may_be_one_cluster(self, one: Location, other: Location) -> bool:
        """Whether two rbd locations may be of one cluster: only addresses that differ say that they are not."""
        here, there = self.monitors(one.query), self.monitors(other.query)
        return not here or not there or bool(here & there) or not all(_is_address(host) for host in here | there)


_SAME = {"sftp": "ssh", "https": "http", "ftps": "ftp"}


def _option(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return re.sub(r"(?s)\\(.)", r"\1", name).strip(), re.sub(r"(?s)\\(.)", r"\1", value)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
