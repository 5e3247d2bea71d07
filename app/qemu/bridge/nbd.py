"""The server's side of NBD, read-only: what the bridge speaks with QEMU.

Follows https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md: fixed newstyle negotiation without TLS, one
export named "", simple or structured replies. (With simple ones QEMU 7.2 loses its place in the stream when it reads
the last sector of an image whose size is no multiple of 512.) Several connections may read at once, the requests of
each run side by side, and replies go out as they are ready. Whatever a client sends costs its own connection at most.

A connection holds at most `IN_FLIGHT` requests or `IN_FLIGHT_BYTES`, whichever comes first, and there are at most
`CONNECTIONS` of them. QEMU opens one and keeps 16 requests in flight.
"""

import asyncio
import contextlib
import errno
import functools
import socket
import struct
from collections.abc import Awaitable
from typing import Protocol

from probes.errors import FarbootError

CONNECTIONS = 32
IN_FLIGHT = 16
IN_FLIGHT_BYTES = 32 << 20
LONGEST_READ = 32 << 20
"""Bytes that one request may ask for: what the protocol lets a client assume."""
PREFERRED_READ = 4096
HANDSHAKE_SECONDS = 30.0

_GREETING = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0b11)  # fixed newstyle, no zeroes
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_OPTION_REPLY_MAGIC = 0x0003E889045565A9
_REQUEST = struct.Struct(">IHHQQI")
_REQUEST_MAGIC = 0x25609513
_REPLY = struct.Struct(">IIQ")
_REPLY_MAGIC = 0x67446698
_CHUNK_HEADER = struct.Struct(">IHHQI")
_CHUNK_MAGIC = 0x668E33EF
_CHUNK_DONE = 1
_CHUNK_OFFSET_DATA, _CHUNK_ERROR = 1, 0x8001
_LONGEST_OPTION = 8192
_RECEIVED_AT_ONCE = 4096

_OPT_EXPORT_NAME, _OPT_ABORT, _OPT_LIST, _OPT_INFO, _OPT_GO, _OPT_STRUCTURED_REPLY = 1, 2, 3, 6, 7, 8
_REP_ACK, _REP_SERVER, _REP_INFO = 1, 2, 3
_REP_ERR_UNSUP, _REP_ERR_INVALID, _REP_ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3
_CMD_READ, _CMD_WRITE, _CMD_DISC, _CMD_FLUSH, _CMD_TRIM, _CMD_WRITE_ZEROES = 0, 1, 2, 3, 4, 6
_HAS_FLAGS, _READ_ONLY, _SEND_DF, _CAN_MULTI_CONN = 1 << 0, 1 << 1, 1 << 7, 1 << 8
_EXPORT_FLAGS = _HAS_FLAGS | _READ_ONLY | _CAN_MULTI_CONN
_FLAG_FUA, _FLAG_DF = 1 << 0, 1 << 2  # neither asks for anything that we would not do anyway


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


class _Gone(Exception):
    """The client left, or stopped making sense: nothing more to say to it."""


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
    wire = _Wire(client)
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            structured = await _negotiate(wire, export.size)
        await _Transmission(wire, export, structured).run()
    except (_Gone, OSError, TimeoutError):
        pass  # its own doing, or its own end: other clients are none the wiser
    finally:
        client.close()


class _Wire:
    """One client's socket: whole messages in, whole messages out."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._sending = asyncio.Lock()

    async def take(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises _Gone at the end of the stream."""
        while len(self._received) < count:
            await self._receive()
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

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
            raise _Gone
        self._received += chunk
        if len(chunk) == _RECEIVED_AT_ONCE:
            await asyncio.sleep(0)


async def _negotiate(wire: _Wire, size: int) -> bool:
    """Answer options until the client enters transmission; return whether it wants structured replies.

    Raises _Gone when it enters nothing.
    """
    await wire.send(_GREETING)
    flags = int.from_bytes(await wire.take(4), "big")
    if flags & ~0b11:
        raise _Gone
    structured = False
    while True:
        magic, option, length = _OPTION.unpack(await wire.take(_OPTION.size))
        if magic != b"IHAVEOPT" or length > _LONGEST_OPTION:
            raise _Gone
        data = await wire.take(length)
        export = struct.pack(">QH", size, _EXPORT_FLAGS | (_SEND_DF if structured else 0))
        if option == _OPT_EXPORT_NAME:
            if data:
                raise _Gone  # the only way in which this option can say that there is no such export
            await wire.send(export, b"" if flags & 0b10 else bytes(124))
            return structured
        replies = _option_replies(option, data, export)
        for kind, reply in replies:
            await wire.send(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(reply)), reply)
        accepted = replies[-1][0] == _REP_ACK
        if option == _OPT_ABORT:
            raise _Gone
        if option == _OPT_GO and accepted:
            return structured
        structured = structured or (option == _OPT_STRUCTURED_REPLY and accepted)


def _option_replies(option: int, data: bytes, export: bytes) -> list[tuple[int, bytes]]:
    """Return the replies to one option, as (type, data); `export` is our size and flags."""
    if option == _OPT_ABORT:
        return [(_REP_ACK, b"")]
    if option == _OPT_STRUCTURED_REPLY:
        return [(_REP_ERR_INVALID if data else _REP_ACK, b"")]
    if option == _OPT_LIST:
        return [(_REP_ERR_INVALID, b"")] if data else [(_REP_SERVER, bytes(4)), (_REP_ACK, b"")]
    if option not in (_OPT_INFO, _OPT_GO):
        return [(_REP_ERR_UNSUP, b"")]
    name_length = int.from_bytes(data[:4], "big")
    wishes = data[4 + name_length :]
    if len(wishes) < 2 or len(wishes) != 2 + 2 * int.from_bytes(wishes[:2], "big"):
        return [(_REP_ERR_INVALID, b"")]
    if name_length:
        return [(_REP_ERR_UNKNOWN, b"")]
    return [
        (_REP_INFO, struct.pack(">H", _INFO_EXPORT) + export),
        (_REP_INFO, struct.pack(">HIII", _INFO_BLOCK_SIZE, 1, PREFERRED_READ, LONGEST_READ)),
        (_REP_ACK, b""),
    ]


class _Transmission:
    """The phase in which a client reads."""

    def __init__(self, wire: _Wire, export: Export, structured: bool) -> None:
        self._wire = wire
        self._export = export
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
            raise _Gone
        if command == _CMD_DISC:
            return False
        if command == _CMD_READ:
            await self._read(flags, cookie, offset, length)
            return True
        error = errno.EINVAL
        if command == _CMD_WRITE:
            await self._wire.skip(length)
        if command in (_CMD_WRITE, _CMD_TRIM, _CMD_WRITE_ZEROES):
            error = errno.EPERM
        elif command == _CMD_FLUSH:
            error = 0  # there is never anything to flush
        await self._wire.send(_REPLY.pack(_REPLY_MAGIC, error, cookie))
        return True

    async def _read(self, flags: int, cookie: int, offset: int, length: int) -> None:
        known = _FLAG_FUA | (_FLAG_DF if self._structured else 0)
        if flags & ~known or not 0 < length <= LONGEST_READ or offset + length > self._export.size:
            await self._fail(cookie, errno.EINVAL)
            return
        while len(self._running) >= IN_FLIGHT or (self._running and self._bytes + length > IN_FLIGHT_BYTES):
            self._room.clear()
            await self._room.wait()
        try:
            answer = self._export.read(offset, length)
        except FarbootError:
            await self._fail(cookie, errno.EIO)
            return
        if isinstance(answer, bytes):
            await self._give(cookie, offset, answer)
            return
        self._bytes += length
        task = asyncio.create_task(self._answer_later(cookie, offset, answer))
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
            await self._wire.send(_REPLY.pack(_REPLY_MAGIC, error, cookie))
