"""A guest's serial line: kept in a capped file, and given to any number of consoles.

QEMU's end is a pair of pipes (`-chardev stdio`). What the guest says is always read at once, whoever listens: a guest
must not stall because a client is slow. All of it runs in the supervisor's event loop.
"""

import asyncio
import os
from collections.abc import Callable

from app.qemu.sessions.folders import LOG, LOG_LIMIT, Folder

HISTORY = 64 << 10
"""Bytes of the log's end that a new console is shown first."""
_TYPED_AHEAD = 64 << 10
_UART_PATIENCE = 30.0

Listener = Callable[[bytes], None]


class SerialLog:
    """The file. What the guest wrote is in it as it was, escape sequences included.

    When it grows over its limit its middle goes: the first quarter is kept, and the last half.
    """

    def __init__(self, folder: Folder, limit: int = LOG_LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._size = 0
        self._left_out = 0
        folder.create(LOG)
        self._file = self._open()

    def append(self, data: bytes) -> None:
        """Add `data`, and cut the middle out if there is too much. A full disk loses it and nothing else."""
        try:
            self._size += os.write(self._file, data)
            if self._size > self._limit:
                self._cut()
        except OSError:
            self._left_out += len(data)

    def tail(self, length: int) -> bytes:
        """The last `length` bytes."""
        return self._folder.read(LOG, length, -length)

    def contains(self, text: bytes) -> bool:
        """Whether `text` is in what is kept."""
        return text in self._folder.read(LOG, self._limit * 2)

    def close(self) -> None:
        """Close the file, which stays."""
        os.close(self._file)
        self._file = -1

    def _cut(self) -> None:
        content = self._folder.read(LOG, self._size)
        head, tail = content[: self._limit // 4], content[-self._limit // 2 :]
        self._left_out += len(content) - len(head) - len(tail)
        gap = f"\r\n[farboot: {self._left_out} bytes left out here]\r\n".encode()
        self._folder.write(LOG, head + gap + tail)
        os.close(self._file)
        self._file = self._open()
        self._size = len(head) + len(gap) + len(tail)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(LOG, flags, dir_fd=self._folder.descriptor)


class SerialLine(asyncio.Protocol):
    """The line itself: what the guest says goes to the log and to all listeners, what is typed goes to the guest."""

    def __init__(self, log: SerialLog) -> None:
        self.log = log
        self.ended = asyncio.Event()
        self._listeners: list[Listener] = []
        self._keys: asyncio.WriteTransport | None = None
        self._room = asyncio.Event()
        self._room.set()

    async def attach(self, keys: int, output: int) -> None:
        """Take over the descriptors of QEMU's standard input and output."""
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: self, os.fdopen(output, "rb", buffering=0))
        writer, _ = await loop.connect_write_pipe(lambda: _Keys(self._room), os.fdopen(keys, "wb", buffering=0))
        writer.set_write_buffer_limits(high=_TYPED_AHEAD, low=0)
        self._keys = writer

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with all that comes from now on; gives the function that ends this."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def type(self, data: bytes) -> None:
        """Send `data` to the guest. Waits while the guest does not read; then it is lost, as a UART loses it."""
        try:
            async with asyncio.timeout(_UART_PATIENCE):
                await self._room.wait()
        except TimeoutError:
            return
        if self._keys is not None and not self._keys.is_closing():
            self._keys.write(data)

    async def wait_for(self, text: bytes) -> None:
        """Return once `text` was said: since the beginning, as far as it is kept, or from now on."""
        if self.log.contains(text):
            return
        found = asyncio.Event()
        recent = self.log.tail(len(text))

        def look(data: bytes) -> None:
            nonlocal recent
            recent += data
            if text in recent:
                found.set()
            recent = recent[-len(text) :]

        forget = self.listen(look)
        try:
            await found.wait()
        finally:
            forget()

    def close(self) -> None:
        """Let go of the pipes and of the log."""
        if self._keys is not None and not self._keys.is_closing():
            self._keys.abort()
        self.log.close()

    def data_received(self, data: bytes) -> None:
        """What the guest said."""
        self.log.append(data)
        for listener in tuple(self._listeners):
            listener(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """QEMU closed its end."""
        self.ended.set()


class _Keys(asyncio.BaseProtocol):
    """Tells whether the pipe to the guest has room."""

    def __init__(self, room: asyncio.Event) -> None:
        self._room = room

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def connection_lost(self, _error: Exception | None) -> None:
        self._room.set()
