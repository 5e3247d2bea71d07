"""NFS servers that fstab names (fstab(5)), and those that are mounted now (proc(5), mountinfo)."""

import os
import re
from collections.abc import Iterator

from probes.known.found import Found, url
from probes.known.root import Root

_NFS = frozenset({"nfs", "nfs4"})
_SOURCE = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:/\s]+):(/.*)", re.DOTALL)


def find(root: Root) -> list[Found]:
    """The exports that fstab names, then those that are only mounted."""
    mounted = ((host, export) for _, host, export in nfs_mounts(root))
    return [*_places(_fstab(root.read("/etc/fstab")), "/etc/fstab"), *_places(mounted, "mounted")]


def nfs_mounts(root: Root) -> list[tuple[str, str, str]]:
    """The NFS mounts of this name space: mount point, host, export (the folder of it that is mounted there)."""
    found = []
    for line in root.read("/proc/self/mountinfo").splitlines():
        before, dash, after = line.partition(" - ")
        parts, (kind, source, *_) = before.split(" "), [*after.split(" "), "", ""]
        match = _SOURCE.fullmatch(unescaped(source))
        if dash and len(parts) > 4 and kind in _NFS and match:
            below = unescaped(parts[3]).strip("/")
            export = match[2].rstrip("/") + (f"/{below}" if below else "")
            found.append((unescaped(parts[4]), match[1].strip("[]"), export or "/"))
    return found


def unescaped(text: str) -> str:
    r"""The text of a field of fstab or mountinfo, where a blank is `\040`."""
    raw = text.encode("utf-8", "surrogateescape")
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8) & 255]), raw))


def _fstab(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 3 and not line.lstrip().startswith("#") and fields[2] in _NFS:
            match = _SOURCE.fullmatch(unescaped(fields[0]))
            if match:
                yield match[1].strip("[]"), match[2]


def _places(exports: "Iterator[tuple[str, str]]", origin: str) -> Iterator[Found]:
    for host, export in exports:
        place = url("nfs", host, export.strip("/") + "/")
        if place is not None:
            yield Found(f"{host}:{export}", place, origin)
