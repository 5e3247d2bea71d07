"""One connection to a sheep: many requests in flight, from any thread, each reply matched by its id."""

import contextlib
import itertools
import socket
import threading
import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from probes.errors import BadAnswer, Cancelled, FarbootError, TimedOut, Unreachable
from probes.location import Location
from probes.sheepdog.protocol import HEADER_SIZE, Reply, Request

_LONGEST = 6
"""Deadlines that one request may take while the connection makes progress with others."""
_PROGRESS = 16 << 10
"""Bytes that count as progress: a drip does not."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sheep listens: a host and port, or the path of a Unix socket."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        return self.path or f"{self.host} port {self.port}"


@dataclass(slots=True)
class _Pending:
    wanted: int
    began: float
    outcome: "Future[tuple[Reply, bytes]]" = field(default_factory=Future)


class Asked:
    """A request under way."""

    def __init__(self, connection: "Connection", pending: _Pending, tried: str, location: Location) -> None:
        self._connection = connection
        self._pending = pending
        self._tried = tried
        self._location = location

    def answer(self) -> tuple[Reply, bytes]:
        """Wait for the reply and its payload. Raises TimedOut, Unreachable, BadAnswer, Cancelled."""
        return self._connection.wait(self._pending, self._tried, self._location)


class Connection:
    """A TCP or Unix connection, made at once. Raises Unreachable, TimedOut, Cancelled.

    When it breaks, or nothing moves for `deadline` seconds, every request in flight fails, and it `is_broken` for good.
    """

    def __init__(self, address: Address, deadline: float, tried: str, location: Location, hold: "Hold") -> None:
        self._deadline = deadline
        self._numbers = itertools.count(1)
        self._pending: dict[int, _Pending] = {}
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._broken: tuple[type[FarbootError], str, str] | None = None
        self._moved = time.monotonic()
        self._socket = _connected(address, deadline, tried, location, hold)
        threading.Thread(target=self._receive, name="sheepdog", daemon=True).start()

    @property
    def is_broken(self) -> bool:
        """Whether it is of no more use."""
        return self._broken is not None

    def check(self, tried: str, location: Location) -> None:
        """Raise why it is of no more use, if that is so."""
        if self._broken:
            raise self._error(tried, location)

    def ask(self, request: Request, tried: str, location: Location) -> Asked:
        """Send a request, and do not wait for its reply."""
        pending = _Pending(request.wanted, time.monotonic())
        with self._lock:
            if self._broken:
                raise self._error(tried, location)
            if not self._pending:
                self._moved = pending.began
            number = next(self._numbers) & 0xFFFFFFFF
            self._pending[number] = pending
        try:
            with self._sending:
                self._socket.sendall(request.header(number) + request.payload)
        except TimeoutError:
            self._break(TimedOut, f"the sheep took nothing for {self._deadline:g} s", "try again")
        except OSError as error:
            self._break(Unreachable, f"the connection broke: {error.strerror or error}", "try again")
        return Asked(self, pending, tried, location)

    def wait(self, pending: _Pending, tried: str, location: Location) -> tuple[Reply, bytes]:
        """Wait for one request's reply."""
        last = pending.began + _LONGEST * self._deadline
        while True:
            now = time.monotonic()
            left = min(max(pending.began, self._moved) + self._deadline, last) - now
            try:
                return pending.outcome.result(max(left, 0))
            except TimeoutError:
                if time.monotonic() >= min(max(pending.began, self._moved) + self._deadline, last):
                    self._break(TimedOut, f"the sheep did not answer within {self._deadline:g} s", "is it hung?")
            except _Broken:
                raise self._error(tried, location) from None

    def close(self, kind: type[FarbootError] = Cancelled, why: str = "it was closed") -> None:
        """End it, and all that waits for it."""
        self._break(kind, why, "")

    def _error(self, tried: str, location: Location) -> FarbootError:
        kind, why, hint = self._broken or (Cancelled, "it was closed", "")
        return kind(tried, location, why, hint)

    def _break(self, kind: type[FarbootError], why: str, hint: str) -> None:
        with self._lock:
            self._broken = self._broken or (kind, why, hint)
            pending = list(self._pending.values())
            self._pending.clear()
        _shut(self._socket)
        for each in pending:
            with contextlib.suppress(InvalidStateError):  # its answer came at the same moment
                each.outcome.set_exception(_Broken())

    def _receive(self) -> None:
        try:
            while True:
                reply = Reply.parse(bytes(self._exactly(HEADER_SIZE)))
                with self._lock:
                    pending = self._pending.get(reply.number)
                if pending is None or reply.length > pending.wanted:
                    what = "to something that was not asked" if pending is None else f"{reply.length} bytes too many"
                    self._break(BadAnswer, f"it answered {what}", "is that a sheep?")
                    return
                payload = bytes(self._exactly(reply.length))
                with self._lock:
                    self._pending.pop(reply.number, None)
                    self._moved = time.monotonic()
                with contextlib.suppress(InvalidStateError):  # it was given up at the same moment
                    pending.outcome.set_result((reply, payload))
        except EOFError:
            self._break(Unreachable, "the sheep closed the connection", "try again")
        except OSError as error:
            self._break(Unreachable, f"the connection broke: {error.strerror or error}", "try again")
        finally:
            self._socket.close()

    def _exactly(self, length: int) -> bytearray:
        buffer = bytearray(length)
        view = memoryview(buffer)
        moved = 0
        while view:
            try:
                count = self._socket.recv_into(view)
            except TimeoutError:  # the socket's own; who waits for an answer has a deadline
                if self.is_broken:
                    raise EOFError from None
                continue
            if not count:
                raise EOFError
            view = view[count:]
            moved += count
            if moved >= _PROGRESS:
                moved = 0
                self._moved = time.monotonic()
        return buffer


class _Broken(Exception):
    """The connection broke; it knows why."""


class Hold:
    """Ends connections that are still being made, from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: set[socket.socket] = set()
        self._is_closed = False

    def add(self, sock: socket.socket) -> bool:
        """Have `close` end this socket; False if it has been called already."""
        with self._lock:
            self._making.add(sock)
            return not self._is_closed

    def discard(self, sock: socket.socket) -> bool:
        """Leave this socket alone from now on; False if `close` has been called."""
        with self._lock:
            self._making.discard(sock)
            return not self._is_closed

    def close(self) -> None:
        """End what is being made now or later."""
        with self._lock:
            self._is_closed = True
            for sock in self._making:
                _shut(sock)


def _connected(address: Address, deadline: float, tried: str, location: Location, hold: Hold) -> socket.socket:
    end = time.monotonic() + deadline
    ways = _ways(address, tried, location)
    error: OSError | None = None
    for family, where in ways:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(end - time.monotonic(), 0.001))
            if hold.add(sock):
                sock.connect(where)
            if hold.discard(sock):
                sock.settimeout(deadline)
                if family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            sock.close()
            raise Cancelled(tried, location, "it was closed")
        except OSError as failed:
            sock.close()
            error = failed
            if not hold.discard(sock):
                raise Cancelled(tried, location, "it was closed") from None
    hint = f"is a sheep running there, and does a firewall let TCP port {address.port} through?"
    if address.path:
        hint = "a sheep's Unix socket lies in its store's folder and is called sock"
    if isinstance(error, TimeoutError):
        raise TimedOut(tried, location, f"{address} did not answer within {deadline:g} s", hint)
    why = (error.strerror or str(error)) if error else "no address"
    raise Unreachable(tried, location, f"{address}: {why}", hint)


def _ways(address: Address, tried: str, location: Location) -> list[tuple[int, tuple[object, ...] | str]]:
    if address.path:
        return [(socket.AF_UNIX, address.path)]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no host has such a name"
        raise Unreachable(tried, location, f"{address.host}: {why}", "check the host's name") from None
    return [(family, where) for family, _, _, _, where in found]


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # not connected, or gone already
        sock.shutdown(socket.SHUT_RDWR)
