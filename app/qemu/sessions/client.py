"""The other end of a session's control socket: see `app.qemu.sessions.control` for what is spoken on it."""

import os
import select
import signal
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from app.qemu.sessions import folders
from app.qemu.sessions.roster import known
from app.qemu.sessions.wire import from_line, to_line
from probes.errors import TimedOut, Unreachable

ANSWER = 20.0
"""Seconds that a supervisor has to answer."""


def dial(identity: str, patience: float) -> socket.socket:
    """Connect to a session's control socket; every call on it is bounded by `patience` seconds."""
    info = known(identity)
    over = f"the guest has ended{f': {info.error}' if info.error else ''}"
    if info.is_over:
        raise Unreachable("talk to", info.id, over)
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(patience)
    try:
        with folders.runtime_root() as root:
            folder = folders.open_in(root, info.id)
            if folder is None:
                raise Unreachable("talk to", info.id, over)
            with folder:
                line.connect(folder.reach(folders.CONTROL))
    except (TimeoutError, BlockingIOError):
        line.close()
        raise TimedOut("talk to", info.id, "its supervisor does not answer") from None
    except OSError:
        line.close()
        raise Unreachable("talk to", info.id, over) from None
    except BaseException:
        line.close()
        raise
    return line


def ask(identity: str, request: Mapping[str, object], patience: float) -> dict[str, Any]:
    """Send one request and return the answer, within `patience` seconds. Raises what the supervisor raised."""
    with dial(identity, patience) as line:
        return converse(line, request, identity)


def converse(line: socket.socket, request: Mapping[str, object], identity: str) -> dict[str, Any]:
    """Send a request on a connection and read the answer, and not a byte more."""
    with suppress(OSError):  # who is turned away finds the reason in what there is to read
        line.sendall(to_line(request))
    return from_line(_read_line(line, identity), identity)


def _read_line(line: socket.socket, identity: str) -> bytes:
    """Read one line. Raises TimedOut, Unreachable."""
    pieces: list[bytes] = []
    deadline = time.monotonic() + (line.gettimeout() or 0)
    try:
        while not (pieces and pieces[-1].endswith(b"\n")):
            line.settimeout(max(0.001, deadline - time.monotonic()))
            coming = line.recv(1 << 20, socket.MSG_PEEK)
            if not coming:
                raise Unreachable("talk to", identity, "the guest has ended")
            end = coming.find(b"\n") + 1
            pieces.append(line.recv(end or len(coming)))
    except TimeoutError:
        raise TimedOut("talk to", identity, "its supervisor does not answer") from None
    except OSError as error:
        raise Unreachable("talk to", identity, error.strerror or "it has hung up") from None
    return b"".join(pieces)


def kill_supervisor(identity: str) -> None:
    """Kill a supervisor that does not answer: QEMU goes with it, and the next listing clears away."""
    with dial(identity, ANSWER) as line:
        pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        if not select.select([handle], [], [], ANSWER)[0]:
            raise TimedOut("stop", identity, "its supervisor cannot be killed")
    finally:
        os.close(handle)
