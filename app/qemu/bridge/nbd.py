"""The server's side of NBD: what the bridge speaks with QEMU.

Follows https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md: one export named "", simple or structured
replies. (With simple ones QEMU 7.2 loses its place in the stream when it reads the last sector of an image whose size
is no multiple of 512.) Several connections may be served at once, the requests of each run side by side, and replies go
out as they are ready. Whatever a client sends costs its own connection at most.

A connection holds at most `IN_FLIGHT` requests or `IN_FLIGHT_BYTES`, whichever comes first, and there are at most
`CONNECTIONS` of them. QEMU opens one and keeps 16 requests in flight.

An export that can be written has FLUSH, FUA and WRITE_ZEROES, and no TRIM: what a guest discards stays.
"""

import asyncio
import contextlib
import errno
import functools
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol, runtime_checkable

from app.qemu.bridge.handshake import LONGEST, negotiate
from app.qemu.bridge.wire import Gone, Wire
from probes.errors import FarbootError

CONNECTIONS = 32
IN_FLIGHT = 16
IN_FLIGHT_BYTES = 32 << 20
HANDSHAKE_SECONDS = 30.0

_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
_REPLY = struct.Struct(">IIQ")
_REPLY_MAGIC = 0x67446698
_CHUNK_HEADER = struct.Struct(">IHHQI")
_CHUNK_MAGIC = 0x668E33EF
_CHUNK_DONE = 1
_CHUNK_OFFSET_DATA, _CHUNK_ERROR = 1, 0x8001

_CMD_READ, _CMD_WRITE, _CMD_DISC, _CMD_FLUSH, _CMD_TRIM, _CMD_WRITE_ZEROES = 0, 1, 2, 3, 4, 6
_HAS_FLAGS, _READ_ONLY, _SEND_FLUSH, _SEND_FUA = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_SEND_WRITE_ZEROES, _CAN_MULTI_CONN = 1 << 6, 1 << 8
_FLAG_FUA, _FLAG_NO_HOLE, _FLAG_DF = 1 << 0, 1 << 1, 1 << 2  # of a read none asks for what we would not do anyway


class Export(Protocol):
    """What is served."""

    @property
    def size(self) -> int:
        """In bytes; it never changes."""
        ...

    def read(self, offset: int, length: int) -> bytes | Awaitable[bytes]:
        """Return exactly these bytes, all of which lie inside, at once if they are in memory.

        Called in the order in which a client asks. A FarbootError becomes the client's EIO.
        """
        ...


@runtime_checkable
class WritableExport(Export, Protocol):
    """What can be written as well. The first two are called in the order in which a client asks."""

    def write(self, offset: int, data: bytes) -> Awaitable[None]:
        """Write all of it, which lies inside. A FarbootError becomes the client's EIO."""
        ...

    def zero(self, offset: int, length: int) -> Awaitable[None]:
        """Write zeros."""
        ...

    def flush(self) -> Awaitable[None]:
        """Be done once everything that was done before will survive a crash."""
        ...


async def serve_clients(listener: socket.socket, export: Export) -> None:
    """Accept clients on the non-blocking `listener` and serve them all until cancelled."""
    loop = asyncio.get_running_loop()
    clients: set[asyncio.Task[None]] = set()
    try:
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # the client left again, or descriptors ran out: neither ends the service
                await asyncio.sleep(0.05)
                continue
            if len(clients) >= CONNECTIONS:
                client.close()
                continue
            client.setblocking(False)
            task = loop.create_task(converse(client, export))
            clients.add(task)
            task.add_done_callback(clients.discard)
    finally:
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)


async def converse(client: socket.socket, export: Export) -> None:
    """Speak NBD on the non-blocking socket `client` until it leaves, then close it."""
    wire = Wire(client)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            structured = await negotiate(wire, export.size, _flags(export))
        await _Transmission(wire, export, structured).run()
    except (Gone, OSError, TimeoutError):
        pass  # its own doing, or its own end: other clients are none the wiser
    finally:
        client.close()


def _flags(export: Export) -> int:
    if isinstance(export, WritableExport):  # one cache for all connections, and one flush
        return _HAS_FLAGS | _SEND_FLUSH | _SEND_FUA | _SEND_WRITE_ZEROES | _CAN_MULTI_CONN
    return _HAS_FLAGS | _READ_ONLY | _CAN_MULTI_CONN


class _Transmission:
    """The phase in which a client reads, and writes where it may."""

    def __init__(self, wire: Wire, export: Export, structured: bool) -> None:
        self._wire = wire
        self._export = export
        self._writable = export if isinstance(export, WritableExport) else None
        self._structured = structured
        self._running: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Answer requests until the client says goodbye (then finish what it asked for) or is gone."""
        try:
            while await self._next_request():
                pass
            await asyncio.gather(*self._running)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def _next_request(self) -> bool:
        magic, flags, command, cookie, offset, length = _REQUEST.unpack(await self._wire.take(_REQUEST.size))
        if magic != _REQUEST_MAGIC:
            raise Gone
        if command == _CMD_DISC:
            return False
        if command == _CMD_READ:
            await self._read(flags, cookie, offset, length)
        elif command == _CMD_WRITE:
            await self._write(flags, cookie, offset, length)
        elif command == _CMD_WRITE_ZEROES:
            await self._write_zeroes(flags, cookie, offset, length)
        elif command == _CMD_FLUSH:
            await self._flush(cookie)
        else:
            await self._done(cookie, errno.EPERM if command == _CMD_TRIM else errno.EINVAL)
        return True

    async def _read(self, flags: int, cookie: int, offset: int, length: int) -> None:
        known = _FLAG_FUA | (_FLAG_DF if self._structured else 0)
        if flags & ~known or not 0 < length <= LONGEST or offset + length > self._export.size:
            await self._fail(cookie, errno.EINVAL)
            return
        await self._until_there_is_room(length)
        try:
            answer = self._export.read(offset, length)
        except FarbootError:
            await self._fail(cookie, errno.EIO)
            return
        if isinstance(answer, bytes):
            await self._give(cookie, offset, answer)
            return
        self._go_on_with(self._answer_later(cookie, offset, answer), length)

    async def _write(self, flags: int, cookie: int, offset: int, length: int) -> None:
        error = self._why_not(flags & ~_FLAG_FUA, offset, length, LONGEST)
        if self._writable is None or error:
            await self._wire.skip(length)
            await self._done(cookie, error)
            return
        await self._until_there_is_room(length)
        data = await self._wire.take_data(length)
        self._carry_out(cookie, functools.partial(self._writable.write, offset, data), flags, length)

    async def _write_zeroes(self, flags: int, cookie: int, offset: int, length: int) -> None:
        error = self._why_not(flags & ~(_FLAG_FUA | _FLAG_NO_HOLE), offset, length, self._export.size)
        if self._writable is None or error:
            await self._done(cookie, error)
            return
        await self._until_there_is_room(0)
        self._carry_out(cookie, functools.partial(self._writable.zero, offset, length), flags, 0)

    async def _flush(self, cookie: int) -> None:
        if self._writable is None:
            await self._done(cookie, 0)  # there is never anything to flush
            return
        await self._until_there_is_room(0)
        self._carry_out(cookie, self._writable.flush, 0, 0)

    def _why_not(self, unknown_flags: int, offset: int, length: int, longest: int) -> int:
        """The error that a write is answered with at once; 0 if it may be tried."""
        if self._writable is None:
            return errno.EPERM
        if unknown_flags or not 0 < length <= longest:
            return errno.EINVAL
        return errno.ENOSPC if offset + length > self._export.size else 0

    async def _until_there_is_room(self, length: int) -> None:
        while len(self._running) >= IN_FLIGHT or (self._running and self._bytes + length > IN_FLIGHT_BYTES):
            self._room.clear()
            await self._room.wait()

    def _carry_out(self, cookie: int, call: Callable[[], Awaitable[None]], flags: int, length: int) -> None:
        """Begin a write or a flush now, for their order matters, and answer it when it is done."""
        try:
            doing = call()
        except FarbootError:
            self._go_on_with(self._done(cookie, errno.EIO), length)
            return
        self._go_on_with(self._done_later(cookie, doing, bool(flags & _FLAG_FUA)), length)

    def _go_on_with(self, answer: Coroutine[object, object, None], length: int) -> None:
        self._bytes += length
        task = asyncio.create_task(answer)
        self._running.add(task)
        task.add_done_callback(functools.partial(self._finished, length))

    def _finished(self, length: int, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._bytes -= length
        self._room.set()

    async def _answer_later(self, cookie: int, offset: int, answer: Awaitable[bytes]) -> None:
        with contextlib.suppress(OSError):  # of our socket: the client is gone, which the reading side sees as well
            try:
                data = await answer
            except FarbootError:
                await self._fail(cookie, errno.EIO)
            except Exception:  # a mistake of ours, which asyncio tells: the guest must not wait for ever
                await self._fail(cookie, errno.EIO)
                raise
            else:
                await self._give(cookie, offset, data)

    async def _done_later(self, cookie: int, doing: Awaitable[None], durably: bool) -> None:
        with contextlib.suppress(OSError):  # as above
            try:
                await doing
                if durably and self._writable is not None:
                    await self._writable.flush()
            except FarbootError:
                await self._done(cookie, errno.EIO)
            except Exception:  # as above
                await self._done(cookie, errno.EIO)
                raise
            else:
                await self._done(cookie, 0)

    async def _done(self, cookie: int, error: int) -> None:
        """Answer anything but a read."""
        await self._wire.send(_REPLY.pack(_REPLY_MAGIC, error, cookie))

    async def _give(self, cookie: int, offset: int, data: bytes) -> None:
        if self._structured:
            kind, length = _CHUNK_OFFSET_DATA, 8 + len(data)
            head = _CHUNK_HEADER.pack(_CHUNK_MAGIC, _CHUNK_DONE, kind, cookie, length) + offset.to_bytes(8, "big")
        else:
            head = _REPLY.pack(_REPLY_MAGIC, 0, cookie)
        await self._wire.send(head, data)

    async def _fail(self, cookie: int, error: int) -> None:
        """Answer a read with an error."""
        if self._structured:
            head = _CHUNK_HEADER.pack(_CHUNK_MAGIC, _CHUNK_DONE, _CHUNK_ERROR, cookie, 6)
            await self._wire.send(head, struct.pack(">IH", error, 0))
        else:
            await self._done(cookie, error)
