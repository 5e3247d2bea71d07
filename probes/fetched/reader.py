"""Reading a copy in its place on this host."""

import os
import threading

from probes.errors import Cancelled, Changed, NotFound, Unreachable
from probes.fetched.cache import Copy
from probes.location import Location
from probes.reader import Pin, Reader


class CopyReader(Reader):
    """Reads a copy; `pin` is that of the image itself."""

    def __init__(self, location: Location, copy: Copy, pin: Pin) -> None:
        self._location = location
        self._pin = pin
        try:
            self._file = open(copy.path, "rb", buffering=0)  # noqa: SIM115  # closed by `close`
        except OSError as error:
            raise NotFound("open the copy of", location, error.strerror or "it is gone", "fetch it again") from None
        self._lock = threading.Lock()
        self._busy = 0
        self._is_closed = False

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        with self._lock:
            if self._is_closed:
                raise Cancelled("read", self._location, "it was closed")
            self._busy += 1
        try:
            data = bytearray()
            while offset + len(data) < end:
                piece = os.pread(self._file.fileno(), end - offset - len(data), offset + len(data))
                if not piece:
                    raise Changed("read", self._location, "its copy was cut short", "fetch it again")
                data += piece
            return bytes(data)
        except OSError as error:
            raise Unreachable("read the copy of", self._location, error.strerror or "it failed") from None
        finally:
            with self._lock:
                self._busy -= 1
                self._end()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._end()

    def _end(self) -> None:
        if self._is_closed and not self._busy:
            self._file.close()
