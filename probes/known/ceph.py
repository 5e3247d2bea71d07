"""Ceph's clusters, by their configuration files, and the users that there are keyrings for."""

import os
import re

from probes.known.found import Found, rbd
from probes.known.root import Root

PATTERNS = ("/etc/ceph/*.conf", "/etc/pve/ceph.conf", "/etc/pve/priv/ceph/*.conf")
_NAMES_A_CLUSTER = re.compile(r"(?mi)^\s*(?:mon[ _-]host|fsid)\s*=\s*\S")


def is_cluster(text: str) -> bool:
    """Whether a configuration file says where a cluster is (rbdmap and client sections alone do not)."""
    return _NAMES_A_CLUSTER.search(text) is not None


def find(root: Root) -> list[Found]:
    """One place for each file and each user with a keyring beside it; a file that is a link comes once."""
    found, seen = [], set()
    for path in (path for pattern in PATTERNS for path in root.files(pattern)):
        real = root.real(path)
        if real in seen or not is_cluster(root.read(path)):
            continue
        seen.add(real)
        cluster = os.path.basename(path).removesuffix(".conf")
        for user in _users(root, os.path.dirname(path), cluster):
            title = cluster if user in {"", "admin"} else f"{cluster}, {user}"
            options = {"conf": path, "id": "" if user == "admin" else user}
            found.append(Found(title, rbd("", options), path))
    return found


def _users(root: Root, folder: str, cluster: str) -> list[str]:
    """The users of `CLUSTER.client.USER.keyring`, admin first; one without a name where there is no such file."""
    start, end = f"{cluster}.client.", ".keyring"
    names = [name[len(start) : -len(end)] for name in root.names(folder) if name.startswith(start)
             and name.endswith(end) and len(name) > len(start) + len(end)]  # fmt: skip
    return sorted(names, key=lambda name: (name != "admin", name)) or [""]
