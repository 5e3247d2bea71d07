"""What the two ends of an isolated source say to each other, and how it looks on the socket between them.

A frame is a header of two lengths, a pickle of one of the values below, and a payload of plain bytes (what a
`pread` read or a `pwrite` writes, so that it is never copied into a pickle). The parent unpickles nothing but
Farboot's own values and those of the standard library that they are made of: a child whose C library was subverted
can lie, and it can do no more than that.
"""

import io
import pickle
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any

from probes.credentials import Credentials
from probes.entry import Entry
from probes.errors import FarbootError
from probes.location import Location

CALLS = 32
"""How many calls run at a time: the child has as many threads, and the parent sends no more."""

_HEADER = struct.Struct("!IQ")
_LIMIT = 256 << 20  # bytes; an answer that claims more comes from a child that has lost its mind
_MODULES = frozenset(
    "probes." + name
    for name in ("attachment", "credentials", "entry", "errors", "isolation.wire", "location", "reader", "source")
)
_PLAIN = frozenset(
    [("builtins", "set"), ("builtins", "frozenset")]
    + [("datetime", name) for name in ("datetime", "date", "timedelta", "timezone")]
)


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message: the class to run (`module:Class`), what it is made with, and the child's memory limit in
    bytes. The answer to it has the number 0.
    """

    source: str
    credentials: Credentials
    deadline: float
    memory: int


@dataclass(frozen=True, slots=True)
class Call:
    """Do `verb` with `args` (and with the frame's payload, for "pwrite") and answer with the same `number`."""

    number: int
    verb: str
    args: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class Unexpected:
    """An error outside the family: its type and text, and the line of code it came from."""

    text: str
    where: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call: a value, or the error that it raised."""

    number: int
    value: object = None
    error: FarbootError | Unexpected | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to "open" and "open_for_writing": `handle` is the reader's name from now on."""

    handle: int
    size: int
    pin: object


class Wire:
    """One end of the socket. Any thread may send; one thread receives."""

    def __init__(self, connection: socket.socket, patience: float | None = None) -> None:
        """With `patience` a send raises TimeoutError when the other end takes nothing for so many seconds."""
        if patience is not None:
            # Of sends alone: Python's own timeout would be one of `receive` as well.
            seconds, rest = divmod(patience, 1)
            timeout = struct.pack("@ll", int(seconds), int(rest * 1e6) or 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._connection = connection
        self._sending = threading.Lock()
        self._posted: deque[object] = deque()

    def send(self, message: object, payload: bytes = b"") -> None:
        """Send one frame. Raises OSError when the other end is gone, and what pickle raises."""
        body = _dumped(message)
        with self._sending:
            self._write(body, payload)
        self._send_posted()

    def post(self, message: object) -> None:
        """Send one frame now, or right after the one that is being sent, and in no case wait for that.

        For clean-up: the garbage collector may call for it in the middle of this very thread's `send`.
        """
        self._posted.append(message)
        self._send_posted()

    def receive(self) -> tuple[bytes, bytes] | None:
        """Return the next frame's pickle and payload, None at the end. Raises ValueError for nonsense."""
        header = self._exactly(_HEADER.size)
        if header is None:
            return None
        lengths = _HEADER.unpack(header)
        if sum(lengths) > _LIMIT:
            raise ValueError("an answer of an impossible size")
        body, payload = self._exactly(lengths[0]), self._exactly(lengths[1])
        return None if body is None or payload is None else (body, payload)

    def end_of_sending(self) -> None:
        """Tell the other end that nothing more will come."""
        self._shut(socket.SHUT_WR)

    def end(self) -> None:
        """End both ways, and free a `receive` that waits in another thread."""
        self._shut(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the descriptor: only for the thread that receives."""
        self._connection.close()

    def _send_posted(self) -> None:
        while self._posted and self._sending.acquire(blocking=False):
            try:
                self._write(_dumped(self._posted.popleft()))
            except IndexError:
                pass  # another thread was quicker
            finally:
                self._sending.release()

    def _write(self, body: bytes, payload: bytes = b"") -> None:
        parts = [memoryview(_HEADER.pack(len(body), len(payload)) + body), memoryview(payload)]
        while parts:
            try:
                sent = self._connection.sendmsg(parts)
            except BlockingIOError:
                raise TimeoutError("the other end takes nothing") from None
            while parts and sent >= len(parts[0]):
                sent -= len(parts[0])
                del parts[0]
            if parts:
                parts[0] = parts[0][sent:]

    def _shut(self, how: int) -> None:
        try:
            self._connection.shutdown(how)
        except OSError:
            return  # the other end was quicker

    def _exactly(self, length: int) -> bytes | None:
        if not length:
            return b""
        parts, missing = [], length
        while missing:
            try:
                part = self._connection.recv(missing, socket.MSG_WAITALL)
            except OSError:
                return None
            if not part:
                return None
            parts.append(part)
            missing -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def answer_of(body: bytes) -> Answer:
    """Unpickle what a child sent. Raises pickle.UnpicklingError for anything but our own values."""
    answer = _Unpickler(io.BytesIO(body)).load()
    if not isinstance(answer, Answer):
        raise pickle.UnpicklingError("not an answer")
    return answer


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """Return the class called `name` if it is one of ours."""
        if module in _MODULES or (module, name) in _PLAIN:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not a value that a source may answer with")


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: object) -> Any:
        """Pickle rows by their constructors, which is quicker, and enumerations by their values (Python 3.11 would call
        getattr, which the other end rightly refuses).
        """
        if type(value) is Location:
            return Location, (value.scheme, value.authority, value.path, value.query)
        if type(value) is Entry:
            row = value
            return Entry, (row.location, row.name, row.kind, row.size, row.modified, row.note, row.rounded)
        if isinstance(value, Enum):
            return type(value), (value.value,)
        return NotImplemented


def _dumped(message: object) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(message)
    return buffer.getvalue()
