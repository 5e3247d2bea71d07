"""What an NBD server is asked over one connection: its exports, their sizes, and the bytes of one."""

import ctypes
import errno
import queue
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from probes.credentials import Credentials
from probes.errors import BadAnswer
from probes.location import Location
from probes.nbd import failures
from probes.nbd.driver import Driver, Task
from probes.nbd.library import MAXIMUM, MINIMUM, NOTHING_TO_CALL, Failed, Handle, ListCallback, Listed
from probes.nbd.server import Server, is_possible

_MOST_EXPORTS = 1_000_000
_MOST_TEXT = 256 << 20  # bytes of names and descriptions
_USUAL_MOST = 32 << 20  # bytes; what every server takes, by the protocol
_MOST_BLOCK = 64 << 10  # bytes; the largest minimum block that the protocol allows


@dataclass(frozen=True, slots=True)
class Export:
    """What a server says of an export: sizes in bytes. `block` is the unit of requests, `most` the longest one."""

    size: int
    read_only: bool
    multi_conn: bool
    can_flush: bool
    block: int
    most: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A read that is under way: `probes.reader.Begun`."""

    future: "Future[Any]"
    result: Callable[[], bytes]

    def when_done(self, call: Callable[[], object]) -> None:
        """Have `call` called when it is done."""
        self.future.add_done_callback(lambda _: call())


class Connection(Driver):
    """A connection in the phase of negotiation, until `go` chooses an export."""

    def __init__(self, server: Server, credentials: Credentials, deadline: float, tried: str, on: Location) -> None:
        super().__init__(server, credentials, deadline, tried, on)
        self._names: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._counts = [0, 0]
        self._listed = ListCallback(Listed(self._on_name))

    def exports(self, tried: str, on: Location) -> Iterator[tuple[bytes, bytes]]:
        """Yield the names and descriptions of the exports, as they arrive."""
        task = self._submit(Task(self._begin_list, self._end_option, is_option=True), tried, on)
        task.future.add_done_callback(lambda _: self._names.put(None))
        started = time.monotonic()
        while True:
            try:
                found = self._names.get(timeout=self._left(started))
            except queue.Empty:
                if self._left(started) <= 0:
                    raise self._give_up(tried, on) from None
                continue
            if found is None:
                break
            if is_possible(found[0]):
                yield found
        self._result(task.future, tried, on)

    def info(self, name: bytes, tried: str, on: Location) -> Export:
        """Return what the server says of an export, without opening it (NBD_OPT_INFO). Raises NotFound, Denied,
        Unsupported where the server does not know how.
        """
        return self._ask("aio_opt_info", name, tried, on)

    def go(self, name: bytes, tried: str, on: Location) -> Export:
        """Open an export; afterwards it can be read. Raises NotFound, Denied."""
        return self._ask("aio_opt_go", name, tried, on)

    def read(self, pieces: list[tuple[int, int]], tried: str, on: Location) -> list[bytes]:
        """Return the bytes at each (offset, length): all are asked for at once."""
        buffers = [bytearray(length) for _, length in pieces]
        tasks = [
            self._submit(self._transfer("aio_pread", buffer, offset), tried, on)
            for buffer, (offset, _) in zip(buffers, pieces, strict=True)
        ]
        for task in tasks:
            self._result(task.future, tried, on)
        return [bytes(buffer) for buffer in buffers]

    def begin(self, offset: int, length: int, tried: str, on: Location) -> "Begun":
        """Ask for the bytes there, and do not wait."""
        buffer = bytearray(length)
        task = self._submit(self._transfer("aio_pread", buffer, offset), tried, on)

        def result() -> bytes:
            self._result(task.future, tried, on)
            return bytes(buffer)

        return Begun(task.future, result)

    def write(self, pieces: list[tuple[int, bytes]], tried: str, on: Location) -> None:
        """Write the data at each offset."""
        tasks = [
            self._submit(self._transfer("aio_pwrite", bytearray(data), offset), tried, on) for offset, data in pieces
        ]
        for task in tasks:
            self._result(task.future, tried, on)

    def flush(self, tried: str, on: Location) -> None:
        """Return when all that was written is on stable storage."""
        task = Task(lambda handle: handle("aio_flush", NOTHING_TO_CALL, 0), _nothing)
        self._result(self._submit(task, tried, on).future, tried, on)

    def _ask(self, verb: str, name: bytes, tried: str, on: Location) -> Export:
        def begin(handle: Handle) -> int:
            self._option_error = None
            if handle("aio_is_ready"):  # a server of the old style has one export and nothing to negotiate
                self._option_error = 0
                if name:
                    raise Failed(errno.ENOENT, "an old server's only export has no name")
                return 0
            handle("set_export_name", name)
            return handle(verb, self._completed)

        def finish(handle: Handle) -> Export:
            self._end_option(handle)
            return _export(handle, tried, on)

        task = Task(begin, finish, is_option=True)
        found: Export = self._result(self._submit(task, tried, on).future, tried, on)
        return found

    def _on_name(self, _: object, name: bytes, description: bytes) -> int:
        self._counts[0] += 1
        self._counts[1] += len(name) + len(description)
        if self._counts[0] <= _MOST_EXPORTS and self._counts[1] <= _MOST_TEXT:
            self._names.put((name, description))
        return 0

    def _begin_list(self, handle: Handle) -> int:
        self._option_error = None
        self._counts = [0, 0]
        if handle("aio_is_ready"):
            self._option_error = 0
            self._names.put((b"", b""))
            return 0
        return handle("aio_opt_list", self._listed, self._completed)

    def _end_option(self, handle: Handle) -> None:
        if self._option_error:
            raise failures.last(handle, self._option_error)
        if self._counts[0] > _MOST_EXPORTS or self._counts[1] > _MOST_TEXT:
            raise BadAnswer(self._tried, self._on, f"the server names more than {_MOST_EXPORTS:,} exports")

    def _transfer(self, verb: str, buffer: bytearray, offset: int) -> Task:
        memory = (ctypes.c_char * len(buffer)).from_buffer(buffer)

        def begin(handle: Handle) -> int:
            return handle(verb, memory, len(buffer), offset, NOTHING_TO_CALL, 0)

        return Task(begin, _nothing)


def _export(handle: Handle, tried: str, on: Location) -> Export:
    block = max(1, handle("get_block_size", MINIMUM))
    if block > _MOST_BLOCK or block & (block - 1):
        raise BadAnswer(tried, on, f"the server wants blocks of {block} bytes, which the protocol does not allow")
    return Export(
        size=handle("get_size"),
        read_only=bool(handle("is_read_only")),
        multi_conn=bool(handle("can_multi_conn")),
        can_flush=bool(handle("can_flush")),
        block=block,
        most=max(block, handle("get_block_size", MAXIMUM) or _USUAL_MOST),
    )


def _nothing(_: Handle) -> None:
    return None
