"""An image on an FTP server: reads are REST and RETR, and what comes is read on as long as the next read is near."""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from probes.errors import Cancelled, Changed, Unreachable
from probes.ftp.control import Control, Stream
from probes.ftp.failures import ReplyError
from probes.ftp.pool import Pool
from probes.ftp.replies import reply_error
from probes.location import Location
from probes.network.call import Call
from probes.reader import Pin, Reader

NEAR = 256 << 10
"""Bytes that are rather read and dropped than jumped over: a jump costs five round trips."""
TRUST = 1.0
"""Seconds for which a file that was looked at counts as unchanged."""


BeginCall = Callable[[str, Location], AbstractContextManager[Call]]


class FtpReader(Reader):
    """`path` on the server that `pool` connects to. `call` begins a call of the source's, `look` asks a
    connection for the pin as it is now.
    """

    def __init__(
        self, call: BeginCall, pool: Pool, location: Location, path: str, pin: Pin, look: Callable[[Control], Pin]
    ) -> None:
        self.location = location
        self._call = call
        self._pool = pool
        self._path = path
        self._pin = pin
        self._look = look
        self._looked = time.monotonic()
        self._closed = False
        self._calls: set[Call] = set()
        self._lock = threading.Lock()

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        with self._call("read", self.location) as call:
            with self._lock:
                if self._closed:
                    raise Cancelled("read", self.location, "it was closed")
                self._calls.add(call)
            try:
                if offset >= end:
                    return b""
                return self._pool.run(call, lambda control: self._read(control, offset, end), self._fits(offset))
            finally:
                with self._lock:
                    self._calls.discard(call)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.abort()

    @property
    def _command(self) -> str:
        return f"RETR {self._path}"

    def _fits(self, offset: int) -> Callable[[Control], int | None]:
        def fits(control: Control) -> int | None:
            stream = control.stream
            if stream is None or stream.command != self._command or not 0 <= offset - stream.position <= NEAR:
                return None
            return offset - stream.position

        return fits

    def _read(self, control: Control, offset: int, end: int) -> bytes:
        if self._fits(offset)(control) is None:
            self._look_again(control)
            self._begin(control, offset)
        stream = control.stream
        assert stream is not None, "it was just begun"
        stream.reads += 1
        while stream.position < offset:
            self._take(control, stream, offset - stream.position, end)
        data = bytearray()
        while stream.position < end:
            data += self._take(control, stream, end - stream.position, end)
        if end == self.size:
            control.drop_stream()
        return bytes(data)

    def _begin(self, control: Control, offset: int) -> None:
        control.binary()
        try:
            control.retrieve(self._command, offset)
        except ReplyError as error:
            raise reply_error(control.call, error.reply, control.secrets) from None

    def _take(self, control: Control, stream: Stream, most: int, end: int) -> bytes:
        data = stream.read(most)
        if not data:
            came = stream.position
            control.drop_stream()
            self._looked = 0.0
            self._look_again(control)  # shorter than it was?
            why = f"the connection broke off at {came} of {end} bytes"
            raise Unreachable(control.call.tried, control.call.on, why)
        return data

    def _look_again(self, control: Control) -> None:
        if time.monotonic() - self._looked < TRUST:
            return
        found = self._look(control)
        if found != self._pin:
            why = "it is no longer the image that was opened"
            if found.size != self.size:
                why = f"it has {found.size} bytes now, and had {self.size} when it was opened"
            raise Changed("read", self.location, why, "open it again")
        self._looked = time.monotonic()


class WholeReader(Reader):
    """A small image, read whole."""

    def __init__(self, location: Location, pin: Pin, data: bytes) -> None:
        self.location = location
        self._pin = pin
        self._data = data
        self._closed = False

    def pread(self, offset: int, length: int) -> bytes:
        if self._closed:
            raise Cancelled("read", self.location, "it was closed")
        return self._data[offset : offset + length]

    def close(self) -> None:
        self._closed = True
