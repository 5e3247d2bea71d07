"""What a server tells about itself: the portmapper's ports (RFC 1833), MOUNT's exports (RFC 1813, appendix I), and
whether NFS answers.

All raise what `probes.nfs.rpc.call` raises.
"""

import struct
from dataclasses import dataclass

from probes.nfs.rpc import Deadline, Program, RpcError, RpcRefused, call, opaque

PORTMAPPER_PORT = 111
NFS_PORT = 2049

PORTMAPPER = Program(100000, 2)
RPCBIND = Program(100000, 3)
MOUNT = Program(100005, 3)
NFS3 = Program(100003, 3)
NFS4 = Program(100003, 4)

_NULL, _GETPORT, _MNT, _EXPORT = 0, 3, 1, 5  # GETPORT is called GETADDR since version 3
_TCP = 6
_MOST_EXPORTS = 100_000
_MOUNT_REASONS = {
    1: "permission denied",
    2: "no such folder",
    5: "an input/output error on the server",
    13: "access denied",
    20: "not a folder",
    22: "the server calls it invalid",
    63: "the name is too long",
    10004: "the server does not support it",
    10006: "the server has a fault",
}


@dataclass(frozen=True, slots=True)
class ExportLine:
    """A line of the export list: the path, as the server spells it, and who may mount it (empty: everyone)."""

    path: str
    clients: tuple[str, ...] = ()


def port_of(host: str, program: Program, deadline: Deadline) -> int:
    """Ask the portmapper for the TCP port of a program; 0 where it is not registered."""
    arguments = struct.pack(">4I", program.number, program.version, _TCP, 0)
    try:
        port = call(host, PORTMAPPER_PORT, PORTMAPPER, _GETPORT, arguments, deadline).number()
    except RpcRefused:  # rpcbind speaks the old version over IPv4 only
        port = _port_of_rpcbind(host, program, deadline)
    if port > 65535:
        raise RpcError(f"the portmapper tells the port {port}")
    return port


def _port_of_rpcbind(host: str, program: Program, deadline: Deadline) -> int:
    arguments = struct.pack(">2I", program.number, program.version) + opaque(b"tcp6") + opaque(b"") + opaque(b"")
    address = call(host, PORTMAPPER_PORT, RPCBIND, _GETPORT, arguments, deadline).opaque(256)
    high, _, low = address.rpartition(b".")
    high = high.rpartition(b".")[2]
    return int(high) * 256 + int(low) if high.isdigit() and low.isdigit() else 0


def answers(host: str, port: int, program: Program, deadline: Deadline) -> None:
    """Return once the program has answered to nothing at all (every program has that procedure)."""
    call(host, port, program, _NULL, b"", deadline)


def exports(host: str, mount_port: int, deadline: Deadline) -> tuple[ExportLine, ...]:
    """The export list, in the server's order."""
    words = call(host, mount_port, MOUNT, _EXPORT, b"", deadline)
    found: list[ExportLine] = []
    while words.number():
        path, clients = _text(words.opaque(4096)), []
        while words.number():
            clients.append(_text(words.opaque(4096)))
        found.append(ExportLine(path, tuple(clients)))
        if len(found) > _MOST_EXPORTS:
            raise RpcError("an export list without an end")
    return tuple(found)


def mount(host: str, mount_port: int, path: str, identity: tuple[int, int], deadline: Deadline) -> tuple[bytes, str]:
    """Mount a folder; return its file handle, or b"" and the server's reason against it.

    The server is not told of the end (UMNT), which no client needs to: libnfs and QEMU do not either.
    """
    words = call(host, mount_port, MOUNT, _MNT, opaque(path.encode("utf-8", "surrogateescape")), deadline, identity)
    status = words.number()
    if status:
        return b"", _MOUNT_REASONS.get(status, f"MOUNT status {status}")
    return words.opaque(64), ""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
