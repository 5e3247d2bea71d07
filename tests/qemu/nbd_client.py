"""A small NBD client that can also say what no decent client says, and a server around any export."""

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from app.qemu.bridge.nbd import Export, serve_clients

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED_REPLY, META_CONTEXT = 1, 2, 3, 5, 6, 7, 8, 10
READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
ACK, SERVER, REPLY_INFO = 1, 2, 3
UNSUPPORTED, INVALID, UNKNOWN = 0x80000001, 0x80000003, 0x80000006


@contextlib.asynccontextmanager
async def serving(export: Export, path: Path) -> AsyncIterator[Path]:
    """The export, served on the Unix socket `path`, in this event loop."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        task = asyncio.create_task(serve_clients(listener, export))
        try:
            yield path
        finally:
            task.cancel()
            await asyncio.wait({task})


@dataclass(frozen=True)
class Reply:
    cookie: int
    error: int
    data: bytes


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.size = 0
        self.flags = 0
        self.structured = False
        self._cookies = itertools.count(1)
        self._lengths: dict[int, int] = {}
        self._offsets: dict[int, int] = {}

    @classmethod
    async def connected(cls, path: Path) -> Self:
        """Connected, greeted, nothing negotiated."""
        client = cls(*await asyncio.open_unix_connection(str(path)))
        assert await client.reader.readexactly(18) == b"NBDMAGICIHAVEOPT\0\3"
        client.writer.write(struct.pack(">I", 3))
        return client

    @classmethod
    async def ready(cls, path: Path, structured: bool = False) -> Self:
        """Negotiated: ready to read."""
        client = await cls.connected(path)
        if structured:
            assert await client.option(STRUCTURED_REPLY) == [(ACK, b"")]
            client.structured = True
        replies = await client.option(GO, struct.pack(">IH", 0, 0))
        assert replies[-1] == (ACK, b"")
        _, client.size, client.flags = struct.unpack(">HQH", replies[0][1])
        return client

    async def option(self, option: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        """Ask for an option; the replies up to the last one."""
        self.writer.write(struct.pack(">8sII", b"IHAVEOPT", option, len(data)) + data)
        replies = []
        while True:
            magic, about, kind, length = struct.unpack(">QIII", await self.reader.readexactly(20))
            assert (magic, about) == (0x3E889045565A9, option)
            replies.append((kind, await self.reader.readexactly(length)))
            if kind == ACK or kind & 0x80000000:
                return replies

    def send(self, command: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0) -> int:
        """Send a request; its cookie."""
        cookie = next(self._cookies)
        self._lengths[cookie] = length if command == READ else 0
        self._offsets[cookie] = offset
        self.writer.write(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length) + payload)
        return cookie

    async def reply(self) -> Reply:
        """The next reply, whichever request it answers."""
        magic, error, cookie = struct.unpack(">IIQ", await self.reader.readexactly(16))
        if magic == 0x668E33EF:
            return await self._chunk(error, cookie)
        assert magic == 0x67446698
        assert not self.structured or not self._lengths[cookie], "a read is answered by a chunk once that is agreed"
        return Reply(cookie, error, b"" if error else await self.reader.readexactly(self._lengths.pop(cookie)))

    async def _chunk(self, flags_and_type: int, cookie: int) -> Reply:
        assert self.structured
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        body = await self.reader.readexactly(length)
        if flags_and_type == 0x1_8001:
            assert body[4:] == b"\0\0"
            return Reply(cookie, int.from_bytes(body[:4], "big"), b"")
        assert flags_and_type == 0x1_0001
        assert int.from_bytes(body[:8], "big") == self._offsets[cookie]
        assert length == 8 + self._lengths.pop(cookie)
        return Reply(cookie, 0, body[8:])

    async def ask(self, command: int, offset: int = 0, length: int = 0, payload: bytes = b"", flags: int = 0) -> Reply:
        """Send a request and wait for its reply, the only one due."""
        cookie = self.send(command, offset, length, payload, flags)
        reply = await self.reply()
        assert reply.cookie == cookie
        return reply

    async def is_closed(self) -> bool:
        """Whether the server has ended the connection without another word."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True
        finally:
            self.close()

    def close(self) -> None:
        self.writer.close()


async def qemu(*command: str) -> tuple[int, str]:
    """Run one of QEMU's tools; its exit status and everything it said."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()
