"""Reading an image's beginning over TFTP, where the image itself was not fetched."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from probes.errors import Cancelled, NotFetched
from probes.location import Location
from probes.network.call import Call
from probes.reader import Pin, Reader
from probes.words import human_size

HEAD = 64 << 10
"""Bytes read when an image is opened that was not fetched."""
PREFIX = 4 << 20
"""Bytes from the beginning that are read without fetching the image."""

BeginCall = Callable[[str, Location], AbstractContextManager[Call]]
ReadPrefix = Callable[[Call, Location, int, int], bytes]


class TftpReader(Reader):
    """The beginning of an image that was not fetched; what lies beyond `PREFIX` raises NotFetched.

    `call` begins a call of the source's; `read_prefix` gives the first bytes of an image of a size, as many as are
    asked for, or a few more.
    """

    def __init__(self, call: BeginCall, read_prefix: ReadPrefix, location: Location, size: int) -> None:
        self.location = location
        self._call = call
        self._read_prefix = read_prefix
        self._pin = Pin(size)
        self._data = b""
        self._is_closed = False
        self._calls: set[Call] = set()
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def begin(self, call: Call) -> None:
        """Read what most images tell all by."""
        self._data = self._read_prefix(call, self.location, self.size, min(self.size, HEAD))

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        with self._call("read", self.location) as call:
            with self._lock:
                if self._is_closed:
                    raise Cancelled("read", self.location, "it was closed")
                self._calls.add(call)
            try:
                if offset >= end:
                    return b""
                return self._prefix(call, end)[offset:end]
            finally:
                with self._lock:
                    self._calls.discard(call)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            calls = list(self._calls)
        for call in calls:
            call.abort()

    def _prefix(self, call: Call, end: int) -> bytes:
        if end > PREFIX:
            raise not_fetched("read", self.location, self.size)
        if end > len(self._data):
            with self._reading:  # one transfer brings it for all
                if end > len(self._data):
                    wanted = min(max(end, 2 * len(self._data)), self.size)
                    self._data = self._read_prefix(call, self.location, self.size, wanted)
        return self._data


def not_fetched(tried: str, location: Location, size: int | None) -> NotFetched:
    """That an image has to be fetched first."""
    amount = f" ({human_size(size)})" if size is not None else ""
    why = f"TFTP cannot be read in the middle: it has to be fetched whole first{amount}"
    return NotFetched(tried, location, why, "booting it does that, and so does farboot fetch", size=size)
