"""The targets that the kernel's iSCSI initiator knows: open-iscsi's database of nodes.

It is a tree, `nodes/IQN/ADDRESS,PORT,TPGT/IFACE` (older ones have a file where IFACE's folder is), under /etc/iscsi or
/var/lib/iscsi. The passwords in it are not read.
"""

import re

from probes.known.found import Found, url
from probes.known.root import Root

FOLDERS = ("/etc/iscsi/nodes", "/var/lib/iscsi/nodes")
_PORTAL = re.compile(r"([^,]+),(\d+)(?:,-?\d+)?")
_USER = re.compile(r"(?m)^node\.session\.auth\.username\s*=\s*(\S+)\s*$")


def find(root: Root) -> list[Found]:
    """One place for each target and portal."""
    found = []
    for folder in FOLDERS:
        for target in root.names(folder):
            for portal in root.names(f"{folder}/{target}"):
                match = _PORTAL.fullmatch(portal)
                user = _USER.search(_record(root, f"{folder}/{target}/{portal}"))
                place = match and url(
                    "iscsi", match[1], f"{target}/", match[2], user[1] if user else "", default_port="3260"
                )
                if place:
                    found.append(Found(target, place, folder))
    return found


def _record(root: Root, path: str) -> str:
    return root.read(path) or next((text for name in root.names(path)[:4] if (text := root.read(f"{path}/{name}"))), "")
