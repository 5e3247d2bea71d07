"""The options of an `nfs://` location, which are those of libnfs's URLs (its README, "URL-FORMAT")."""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from probes.errors import BadLocation
from probes.location import Location

_MOST = 2**32 - 1
_IGNORED = frozenset({"auto-traverse-mounts", "dircache", "autoreconnect"})  # how libnfs is used is ours to say
_LIMITS = {
    "uid": (0, _MOST),
    "gid": (0, _MOST),
    "version": (3, 4),
    "nfsport": (1, 65535),
    "mountport": (1, 65535),
    "readahead": (0, 1 << 30),
    "pagecache": (0, 1 << 30),
    "debug": (0, 9),
    "tcp-syncnt": (0, 255),
}
# What they are called in QEMU's node (QMP reference, BlockdevOptionsNfs).
_IN_QEMU = {
    "readahead": "readahead-size",
    "pagecache": "page-cache-size",
    "debug": "debug",
    "tcp-syncnt": "tcp-syn-count",
}


@dataclass(frozen=True, slots=True)
class Options:
    """Whom to present (None: who we are), which version of NFS, and ports where they are not the portmapper's to tell.

    `tuning` are QEMU's names and values for what only matters to a guest.
    """

    uid: int | None = None
    gid: int | None = None
    version: int | None = None
    nfs_port: int | None = None
    mount_port: int | None = None
    tuning: tuple[tuple[str, int], ...] = ()


def options_of(location: Location, tried: str) -> Options:
    """Read the options of `location`. Raises BadLocation for what libnfs would not understand."""
    values: dict[str, int] = {}
    for name, text in parse_qsl(location.query, keep_blank_values=True):
        if name in _IGNORED:
            continue
        limits = _LIMITS.get(name)
        if limits is None:
            hint = f"libnfs knows {', '.join(sorted(_LIMITS))}"
            raise BadLocation(tried, location, f"nfs has no option {name!r}", hint)
        if not (text.isascii() and text.isdigit() and limits[0] <= int(text[:12]) <= limits[1]):
            why = f"the option {name} is not a number from {limits[0]} to {limits[1]}"
            raise BadLocation(tried, location, why)
        values[name] = int(text)
    if location.port is not None and values.setdefault("nfsport", location.port) != location.port:
        raise BadLocation(tried, location, "it names two ports for NFS", "leave nfsport= out")
    tuning = tuple((_IN_QEMU[name], value) for name, value in values.items() if name in _IN_QEMU)
    return Options(
        values.get("uid"),
        values.get("gid"),
        values.get("version"),
        values.get("nfsport"),
        values.get("mountport"),
        tuning,
    )
