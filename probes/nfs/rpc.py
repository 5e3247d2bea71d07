"""ONC RPC over TCP (RFC 5531) and its data representation (RFC 4506), as far as asking a server takes it.

Every call is bounded by a deadline. libnfs has the same calls and waits for their answers for ever.
"""

import contextlib
import errno
import os
import random
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

_LONGEST = 16 << 20  # bytes of an answer
_ACCEPTED, _SUCCESS = 0, 0
_REFUSALS = {1: "the program is not there", 2: "another version of the program is there", 3: "no such procedure"}
_AUTH_SYS = 1
_LOW_PORTS = range(700, 1024)
_PORT_IS_TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL})


class RpcError(Exception):
    """The server answered, and it was no answer to what was asked."""


class RpcRefused(RpcError):
    """The server does not do what was asked of it (it has no such program, version or procedure)."""


class RpcDenied(RpcRefused):
    """The server does not listen to us: who we are, or the port that we ask from, is not to its liking."""


@dataclass(frozen=True, slots=True)
class Program:
    """An RPC program and its version."""

    number: int
    version: int


class Deadline:
    """A moment on the monotonic clock by which all must be done."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left. Raises TimeoutError when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def part(self, share: float) -> "Deadline":
        """One that ends after this share of what is left."""
        return Deadline(self.left * share)


class Words:
    """An answer, taken apart from its front. Raises RpcError where it is too short for what it claims."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """An unsigned integer of 32 bits."""
        return int.from_bytes(self.take(4), "big")

    def opaque(self, limit: int = 1 << 16) -> bytes:
        """Bytes with their count before them, at most `limit`."""
        count = self.number()
        if count > limit:
            raise RpcError(f"a string of {count} bytes")
        value = self.take(count)
        self.take(-count % 4)
        return value

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self._data) - self._at:
            raise RpcError("the answer is cut short")
        value = self._data[self._at : self._at + count]
        self._at += count
        return value

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next words, as `layout` has them."""
        if layout.size > len(self._data) - self._at:
            raise RpcError("the answer is cut short")
        self._at += layout.size
        return layout.unpack_from(self._data, self._at - layout.size)


def opaque(data: bytes) -> bytes:
    """Bytes as RPC sends them: their count, themselves, and zeros up to a multiple of 4."""
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


class Connection:
    """A TCP connection on which procedures are called, one after the other; a context manager.

    `identity` is the uid and gid to present (AUTH_SYS); None presents nobody (AUTH_NONE).
    """

    def __init__(self, host: str, port: int, deadline: Deadline, identity: tuple[int, int] | None = None) -> None:
        """Connect. Raises OSError (TimeoutError after the deadline)."""
        self._credential = _credential(identity)
        self._socket = _connected(host, port, deadline)
        self._number = int.from_bytes(os.urandom(4), "big")

    def call(self, program: Program, procedure: int, arguments: bytes, deadline: Deadline) -> Words:
        """Call a procedure and return its results. Raises OSError, and RpcError for what is no answer."""
        self._number = (self._number + 1) % 2**32
        head = struct.pack(">6I", self._number, 0, 2, program.number, program.version, procedure)
        message = head + self._credential + struct.pack(">2I", 0, 0) + arguments
        self._socket.settimeout(deadline.left)
        self._socket.sendall(struct.pack(">I", 1 << 31 | len(message)) + message)
        return _results(self._number, _record(self._socket, deadline))

    def close(self) -> None:
        """Let go of it; another thread's call then fails."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def call(
    host: str,
    port: int,
    program: Program,
    procedure: int,
    arguments: bytes,
    deadline: Deadline,
    identity: tuple[int, int] | None = None,
) -> Words:
    """Call one procedure over a connection of its own. Raises what `Connection` raises."""
    with Connection(host, port, deadline, identity) as connection:
        return connection.call(program, procedure, arguments, deadline)


def _credential(identity: tuple[int, int] | None) -> bytes:
    if identity is None:
        return struct.pack(">2I", 0, 0)
    body = struct.pack(">I", 0) + opaque(b"farboot") + struct.pack(">3I", *identity, 0)
    return struct.pack(">I", _AUTH_SYS) + opaque(body)


def _connected(host: str, port: int, deadline: Deadline) -> socket.socket:
    """A connection from a port below 1024 where this process may have one: servers ask for that by default."""
    failure: OSError | None = None
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        for source in (*random.sample(_LOW_PORTS, len(_LOW_PORTS)), 0):
            connection = socket.socket(family, socket.SOCK_STREAM)
            try:
                if source and not _bind(connection, source):
                    connection.close()
                    continue
                connection.settimeout(deadline.left)
                connection.connect(address)
            except OSError as error:
                connection.close()
                failure = error
                if source and error.errno in _PORT_IS_TAKEN:  # the last connection from there is not forgotten yet
                    continue
                break
            return connection
    raise failure or OSError(f"{host} has no address")


def _bind(connection: socket.socket, source: int) -> bool:
    """Whether the connection can begin at that port, or at any that the kernel chooses, where we may not say."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        connection.bind(("::" if connection.family == socket.AF_INET6 else "", source))
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _record(connection: socket.socket, deadline: Deadline) -> bytes:
    """One message, put together from its fragments."""
    parts, total, is_last = [], 0, False
    while not is_last:
        mark = int.from_bytes(_exactly(connection, 4, deadline), "big")
        is_last, length = bool(mark >> 31), mark & 0x7FFFFFFF
        total += length
        if total > _LONGEST:
            raise RpcError("an answer of impossible length")
        parts.append(_exactly(connection, length, deadline))
    return b"".join(parts)


def _exactly(connection: socket.socket, count: int, deadline: Deadline) -> bytes:
    data = bytearray()
    while len(data) < count:
        connection.settimeout(deadline.left)
        piece = connection.recv(min(count - len(data), 1 << 16))
        if not piece:
            raise ConnectionResetError("the server closed the connection")
        data += piece
    return bytes(data)


def _results(xid: int, message: bytes) -> Words:
    words = Words(message)
    if words.number() != xid or words.number() != 1:
        raise RpcError("it is no answer to what was asked")
    if words.number() != _ACCEPTED:
        raise RpcDenied("the server rejects the call")
    words.number()
    words.opaque()
    status = words.number()
    if status != _SUCCESS:
        raise RpcRefused(_REFUSALS.get(status, f"the call failed with status {status}"))
    return words
