"""Servers that misbehave, on purpose: a black hole, a refused port, a proxy that dies or dawdles, a drip.

All listen on loopback, on ports the kernel chose, and run in threads of the test process.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import pytest


class Listener:
    """Accepts connections and hands each to `serve` in a thread of its own; ends them all when it is closed."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_server((host, 0), backlog=64)
        self.port: int = self.socket.getsockname()[1]
        self.host = host
        self.connections = 0
        self.stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def authority(self) -> str:
        """`host:port`, as a URL has it."""
        return f"{self.host}:{self.port}"

    def serve(self, client: socket.socket) -> None:
        """Deal with one connection; it is closed afterwards."""
        raise NotImplementedError

    def hang_up(self) -> None:
        """Break every open connection with a reset."""
        with self._lock:
            for connection in self._open:
                _reset(connection)

    def close(self) -> None:
        """Stop listening and break every connection."""
        self.stopping.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.hang_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def adopt(self, connection: socket.socket) -> None:
        """Have `hang_up` break this connection too."""
        with self._lock:
            self._open.add(connection)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            self.adopt(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.serve(client)
        with self._lock:
            self._open.discard(client)
        client.close()


class BlackHole(Listener):
    """Accepts, and never says a word."""

    def serve(self, client: socket.socket) -> None:
        while client.recv(65536):
            pass


class Drip(Listener):
    """Sends `start` at once and then one byte of `drop` every `interval` seconds, for ever."""

    def __init__(self, start: bytes = b"", drop: bytes = b"x", interval: float = 0.05) -> None:
        self.start = start
        self.drop = drop
        self.interval = interval
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(self.start)
        while not self.stopping.wait(self.interval):
            client.sendall(self.drop)


class Scripted(Listener):
    """Answers every request (up to its blank line) with what `answer(request)` returns, then hangs up."""

    def __init__(self, answer: Callable[[bytes], bytes]) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (piece := client.recv(65536)):
                return
            request += piece
        self.requests.append(request)
        client.sendall(self.answer(request))
        client.shutdown(socket.SHUT_WR)
        client.recv(1)  # until the client has read it: closing earlier could reset what is on its way


class FaultyProxy(Listener):
    """A TCP proxy to a real server that dies when told to.

    `cut_after` is how many bytes of the server's it passes on in a connection before it resets that connection
    (None: all); `hold_after` likewise, but then it falls silent. `latency` seconds are added on the way to the server.
    `passed` counts the server's bytes since it was last set. `refuse` breaks new connections at once.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.upstream = (host, port)
        self.heal()
        super().__init__()

    def heal(self) -> None:
        """Be a good proxy (again)."""
        self.cut_after: int | None = None
        self.hold_after: int | None = None
        self.latency = 0.0
        self.passed = 0
        self.refuse = False

    def serve(self, client: socket.socket) -> None:
        if self.refuse:
            _reset(client)
            return
        with socket.create_connection(self.upstream) as server:
            self.adopt(server)
            threading.Thread(target=self._requests, args=(client, server), daemon=True).start()
            passed = 0
            while data := server.recv(16384):
                for limit, is_cut in ((self.cut_after, True), (self.hold_after, False)):
                    if limit is not None and passed + len(data) > limit:
                        client.sendall(data[: max(0, limit - passed)])
                        if is_cut:
                            _reset(client)
                        else:
                            self.stopping.wait()
                        return
                passed += len(data)
                self.passed += len(data)
                client.sendall(data)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(16384):
                if self.latency:
                    self.stopping.wait(self.latency)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)


def _reset(connection: socket.socket) -> None:
    """Break a connection so that both sides notice, whoever is blocked in it."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def black_hole() -> Iterator[BlackHole]:
    """A server that accepts and never answers."""
    with BlackHole() as hole:
        yield hole


@pytest.fixture
def refused_port() -> Iterator[int]:
    """A port that refuses connections for as long as the test runs: bound, and not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
