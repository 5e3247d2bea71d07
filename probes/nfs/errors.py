"""libnfs's and RPC's errors as ours, each with what a sysadmin would look at."""

import errno
import os
import socket

from probes.errors import BadAnswer, Changed, Denied, FarbootError, NotFound, TimedOut, Unreachable
from probes.location import Location
from probes.nfs.rpc import RpcError

_DENIED = frozenset({errno.EACCES, errno.EPERM})
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EILSEQ})
_BROKEN = frozenset(
    {errno.EIO, errno.EFAULT, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED, errno.ENETRESET}
)
_NOBODY = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL})
_TIME = frozenset({errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN})


def is_of_the_server(error: OSError) -> bool:
    """Whether the server itself said so, over a connection that is sound."""
    words = str(error.strerror or "")
    return (
        "NFS3ERR_" in words
        or "NFS4ERR_" in words
        or "ACCESS denied" in words
        or error.errno in (_DENIED | _MISSING | {errno.EISDIR})
    )


def mount_failure(error: OSError, tried: str, location: Location, path: str, denial: str = "") -> FarbootError:
    """Why the export at `path` could not be mounted; `denial` is what the server said when it was asked for that."""
    if error.errno in _DENIED or denial:
        hint = "name this host in the server's /etc/exports (exportfs -v shows what holds)"
        return Denied(
            tried, location, f"the server does not let this host mount {path}", hint + _ports(), denial or str(error)
        )
    return failure(error, tried, location)


def failure(
    error: OSError | RpcError, tried: str, location: Location, who: tuple[int, int] | None = None
) -> FarbootError:
    """The error of the family. `who` are the uid and gid that were presented."""
    detail = str(error)
    if isinstance(error, RpcError):
        return BadAnswer(tried, location, f"the server's answer makes no sense: {error}", detail=detail)
    if isinstance(error, socket.gaierror):
        hint = "check the spelling, and this host's name resolution"
        return Unreachable(tried, location, f"the name {location.host} is not known", hint, detail)
    code = error.errno
    if "_GRACE" in detail or "_JUKEBOX" in detail or "_DELAY" in detail:
        why = "the server is busy, or waits after a restart for those who were connected before"
        return TimedOut(tried, location, why, "try again in a minute or two", detail)
    if isinstance(error, TimeoutError) or code in _TIME:
        return TimedOut(
            tried, location, "the server does not answer in time", "is it up, and no firewall between?", detail
        )
    if code in _DENIED:
        return _denied(tried, location, who, detail)
    if code == errno.EROFS:
        return Denied(tried, location, "the export is read-only", "the export option rw allows writing", detail)
    if code in _MISSING:
        return NotFound(tried, location, _MISSING_WORDS.get(code or 0, "there is no such thing"), detail=detail)
    if code == errno.ESTALE:
        return Changed(tried, location, "it was deleted or replaced on the server meanwhile", "open it again", detail)
    if code in {errno.ENOSPC, errno.EDQUOT}:
        return Denied(tried, location, "the server has no room left for it", detail=detail)
    if code in _NOBODY:
        hint = "NFS answers on port 2049, the portmapper on 111: is the server running, and no firewall between?"
        return Unreachable(tried, location, (os.strerror(code or 0)).lower(), hint, detail)
    if code in _BROKEN and "ERR_IO" not in detail:
        return Unreachable(tried, location, "the connection to the server broke", "try again", detail)
    return BadAnswer(tried, location, f"the server says: {error.strerror or code}", detail=detail)


_MISSING_WORDS = {
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.ENAMETOOLONG: "no name there is that long",
    errno.ELOOP: "its links lead in a circle",
}


def _denied(tried: str, location: Location, who: tuple[int, int] | None, detail: str) -> FarbootError:
    if who is None:
        return Denied(tried, location, "the server does not let this host in", detail=detail)
    uid, gid = who
    why = f"the server does not let uid {uid}, gid {gid} do that"
    if uid == 0:
        hint = "the server may take root for nobody: the export option no_root_squash, or the owner's ?uid=…&gid=…"
    else:
        hint = "add the owner's ?uid=…&gid=… to the location (libnfs presents one group only)"
    return Denied(tried, location, why, hint + _ports(), detail)


def _ports() -> str:
    """What to say besides where this process may not use the ports that servers ask for by default."""
    if may_use_low_ports():
        return ""
    return "; or be root, or the export option insecure, for servers want a source port below 1024"


def may_use_low_ports() -> bool:
    """Whether this process may connect from ports below 1024, as servers demand by default."""
    with socket.socket() as probe:
        for port in range(1023, 1013, -1):
            try:
                probe.bind(("127.0.0.1", port))
            except PermissionError:
                return False
            except OSError:
                continue
            return True
    return True
