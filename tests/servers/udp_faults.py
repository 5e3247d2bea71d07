"""A UDP proxy that loses, repeats, swaps and delays packets, for TFTP: each transfer's ports are its own."""

import contextlib
import heapq
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

Fate = Callable[[int, bytes, bool], list[tuple[float, bytes]]]
"""From a packet's number in its transfer and direction, its bytes, and whether the server sent it, to what is passed
on: (seconds later, bytes) each.
"""


class UdpProxy:
    """Stands before the TFTP server at `port`. `fate` decides about each packet; `latency` is a round trip's."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.upstream = (host, port)
        self.heal()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.port: int = self.socket.getsockname()[1]
        self.authority = f"{host}:{self.port}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def heal(self) -> None:
        """Be a good proxy (again)."""
        self.latency = 0.0
        self.fate: Fate = lambda number, packet, is_from_server: [(0.0, packet)]

    def close(self) -> None:
        """Stop it."""
        self._stopping.set()
        self._thread.join(10)
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        clients: dict[Any, _Client] = {}
        ways: dict[
            socket.socket, tuple[_Client, Any]
        ] = {}  # whose socket, and which of the server's ports it stands for
        waiting: list[tuple[float, int, socket.socket, bytes, Any]] = []
        serial = 0
        while not self._stopping.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, through, packet, to = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    through.sendto(packet, to)
            pause = min(0.02, waiting[0][0] - now) if waiting else 0.02
            ready, _, _ = select.select([self.socket, *ways], [], [], max(0, pause))
            for one in ready:
                with contextlib.suppress(OSError):
                    packet, sender = one.recvfrom(70_000)
                    if one is self.socket:
                        client = clients.setdefault(sender, _Client(sender))  # a request that was lost comes once more
                        ways[client.far] = (client, None)
                        through, to = client.far, self.upstream
                    else:
                        client, port = ways[one]
                        through, to = client.far, port
                        if port is None:
                            through, to = client.near(sender), client.address
                            ways[through] = (client, sender)
                    is_from_server = to is client.address
                    client.counts[is_from_server] += 1
                    for later, data in self.fate(client.counts[is_from_server], packet, is_from_server):
                        serial += 1
                        due = time.monotonic() + later + self.latency / 2
                        heapq.heappush(waiting, (due, serial, through, data, to))
        for one in ways:
            one.close()


class _Client:
    """A client's side: one socket towards the server, and one towards the client for each port of the server's."""

    def __init__(self, address: Any) -> None:
        self.address = address
        self.far = _socket()
        self.counts = [0, 0]
        self._near: dict[Any, socket.socket] = {}

    def near(self, port: Any) -> socket.socket:
        """What the client is to take for that port of the server's."""
        if port not in self._near:
            self._near[port] = _socket()
        return self._near[port]


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    return made
