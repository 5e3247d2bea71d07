"""One NBD client's socket: whole messages in, whole messages out."""

import asyncio
import socket

_RECEIVED_AT_ONCE = 4096


class Gone(Exception):
    """The client left, or stopped making sense: nothing more to say to it."""


class Wire:
    """A non-blocking socket."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._sending = asyncio.Lock()

    async def take(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises Gone at the end of the stream."""
        while len(self._received) < count:
            await self._receive()
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    async def take_data(self, count: int) -> bytes:
        """Return the next `count` bytes of many: straight from the socket, not in small portions."""
        data = bytearray(count)
        have = min(count, len(self._received))
        data[:have] = self._received[:have]
        del self._received[:have]
        view = memoryview(data)[have:]
        while view:
            got = await self._loop.sock_recv_into(self._client, view)
            if not got:
                raise Gone
            view = view[got:]
        return bytes(data)

    async def skip(self, count: int) -> None:
        """Let `count` bytes pass by."""
        while count > len(self._received):
            count -= len(self._received)
            self._received.clear()
            await self._receive()
        del self._received[:count]

    async def send(self, head: bytes, body: bytes = b"") -> None:
        """Send both, never mixed with another message. `body` is not copied."""
        async with self._sending:
            try:
                sent = self._client.sendmsg((head, body))
            except BlockingIOError:
                sent = 0
            if sent < len(head):
                await self._loop.sock_sendall(self._client, head[sent:])
                sent = len(head)
            if sent < len(head) + len(body):
                await self._loop.sock_sendall(self._client, memoryview(body)[sent - len(head) :])

    async def _receive(self) -> None:
        # Few bytes at a time, and a turn for everyone else: a busy client must not hold the loop.
        chunk = await self._loop.sock_recv(self._client, _RECEIVED_AT_ONCE)
        if not chunk:
            raise Gone
        self._received += chunk
        if len(chunk) == _RECEIVED_AT_ONCE:
            await asyncio.sleep(0)
