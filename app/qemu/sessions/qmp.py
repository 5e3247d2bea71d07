"""QEMU's monitor, as the supervisor uses it: connect, command, listen, and see that QEMU opened what was planned.

The QMP reference is https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html.
"""

import asyncio
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise

from qemu.qmp import EventListener, ExecInterruptedError, QMPClient, QMPError
from qemu.qmp.qmp_client import ExecuteError

from app.qemu.sessions.child import Child
from probes.errors import FarbootError, TimedOut, Unreachable

SOCKET = "qmp.sock"
COMMAND_DEADLINE = 15.0
_GREETING = 25.0  # seconds; it answers once it has opened every image
_POLL = 0.02

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it reports comes as exceptions, too

Event = Mapping[str, object]


class Monitor:
    """A QMP connection. `pid` is the QEMU process at its other end, in this host's numbers."""

    def __init__(self, client: QMPClient, listener: EventListener, pid: int) -> None:
        self._client = client
        self._listener = listener
        self.pid = pid

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Run one command. Raises FarbootError with QEMU's words, TimedOut, or Unreachable when QEMU is gone."""
        try:
            async with asyncio.timeout(COMMAND_DEADLINE):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise FarbootError("ask QEMU for", command, str(error)) from None
        except TimeoutError:
            raise TimedOut("ask QEMU for", command, f"no answer within {COMMAND_DEADLINE:g} seconds") from None
        except (ExecInterruptedError, QMPError, OSError) as error:
            raise Unreachable("ask QEMU for", command, str(error) or "QEMU is gone") from None

    async def events(self) -> AsyncIterator[Event]:
        """Yield what QEMU tells, from the greeting on."""
        async for event in self._listener:
            yield event

    async def close(self) -> None:
        """Hang up."""
        with suppress(QMPError, OSError, EOFError, TimeoutError):
            async with asyncio.timeout(2):
                await self._client.disconnect()


async def connect(path: str, qemu: Child) -> Monitor | None:
    """Connect to the QMP socket at `path` as soon as it is there, and await QEMU's greeting, which comes once it has
    opened everything. None if QEMU ends first. The caller bounds it.
    """
    attempt = asyncio.create_task(_connect(path))
    ended = asyncio.create_task(qemu.ended.wait())
    try:
        await asyncio.wait((attempt, ended), return_when=asyncio.FIRST_COMPLETED)
        return attempt.result() if attempt.done() else None
    finally:
        for task in (attempt, ended):
            task.cancel()
            with suppress(asyncio.CancelledError, QMPError, OSError, EOFError):
                await task


async def _connect(path: str) -> Monitor:
    while True:
        line = await _dial(path)
        pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        client = QMPClient("farboot")
        listener = EventListener()
        client.register_listener(listener)
        try:
            async with asyncio.timeout(_GREETING):
                await client.connect(line)
        except (TimeoutError, QMPError, OSError, EOFError):  # a QEMU that has ended is seen by the caller
            with suppress(QMPError, OSError, EOFError):
                await client.disconnect()
            await asyncio.sleep(_POLL)
            continue
        return Monitor(client, listener, pid)


async def _dial(path: str) -> socket.socket:
    """Connect to QEMU's socket once it is there."""
    while True:
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.setblocking(False)
        try:
            # Only a socket: QEMU's account may write to the folder where it lies.
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                line.connect(path)  # at once, or never: asyncio would take a full backlog for a connection under way
                return line
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            pass
        except BaseException:
            line.close()
            raise
        line.close()
        await asyncio.sleep(_POLL)  # QEMU announces its socket by nothing else


def planned_nodes(argv: Sequence[str]) -> dict[str, str]:
    """The block nodes in QEMU's arguments: node-name to driver."""
    nodes: dict[str, str] = {}
    for word, value in pairwise(argv):
        if word == "-blockdev":
            node = json.loads(value)
            nodes[str(node["node-name"])] = str(node["driver"])
    return nodes


def compare_nodes(planned: Mapping[str, str], opened: Sequence[Mapping[str, object]]) -> str:
    """Say in what QEMU's open nodes (`query-named-block-nodes`) differ from those planned; empty if in nothing.

    A node too many is how a backing file, an extent or a data file shows that nobody judged.
    """
    found = {str(node.get("node-name")): node for node in opened}
    for name, node in found.items():
        if name not in planned:
            return f"QEMU opened something that was not planned: {node.get('drv')} {node.get('file')}"
        if node.get("drv") != planned[name]:
            return f"QEMU opened {name} as {node.get('drv')}, not as {planned[name]}"
    missing = sorted(set(planned) - set(found))
    return f"QEMU did not open {', '.join(missing)}" if missing else ""


def node_size(name: str, opened: Sequence[Mapping[str, object]]) -> int | None:
    """The size in bytes of the node `name` as its user sees it, or None if there is no such node."""
    for node in opened:
        image = node.get("image")
        if node.get("node-name") == name and isinstance(image, Mapping):
            size = image.get("virtual-size")
            return size if isinstance(size, int) else None
    return None
