"""A small sheep: no package has a real one. It speaks Sheepdog's wire protocol over a `Store`, in a process of its own.

    python -m tests.servers.sheep PORT FOLDER        (a Unix socket, FOLDER/sock, too, as a real sheep has)

Requests of one connection run side by side, and their replies go out as they are ready. A file FOLDER/unformatted makes
it a cluster that nobody has formatted.
"""

import contextlib
import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.server import Server, is_listening, start_on_free_port
from tests.servers.sheep_store import INODE_SIZE, Store, Vdi

_HEADER = struct.Struct("<BBHIII32s")
_OBJECT = struct.Struct("<QQBBBxIIxxxx")
_VDI = struct.Struct("<QIBBBBIIxxxxxxxx")
CREATE_AND_WRITE, READ, WRITE, LOCK, RELEASE, GET_VDI_INFO, READ_VDIS = 1, 2, 3, 0x12, 0x13, 0x14, 0x15
OK, NO_OBJECT, BAD_PARAMETERS, LOCKED, NO_VDI, NO_TAG, WRONG_VERSION, UNFORMATTED, READ_ONLY = (
    0, 2, 5, 7, 8, 0xE, 0x14, 0x16, 0x1A
)  # fmt: skip


@dataclass(frozen=True)
class _Request:
    version: int
    op: int
    flags: int
    number: int
    length: int
    specific: bytes
    payload: bytes


class _Sheep:
    """One node, which is the whole cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "obj")
        self.locked: set[int] = set()
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(16)

    def converse(self, client: socket.socket) -> None:
        """Serve one connection until it ends."""
        sending = threading.Lock()
        with contextlib.suppress(OSError), client:
            while (head := _exactly(client, 48)) is not None:
                version, op, flags, _, number, length, specific = _HEADER.unpack(head)
                payload = _exactly(client, length) if flags & 1 else b""
                if payload is None:
                    return
                request = _Request(version, op, flags, number, length, specific, payload)
                self.pool.submit(self._serve, client, sending, request)

    def _serve(self, client: socket.socket, sending: threading.Lock, request: _Request) -> None:
        try:
            result, vid, data = self._answer(request)
        except FileNotFoundError:
            result, vid, data = NO_OBJECT, 0, b""
        reply = struct.pack("<BBHIIIIIIIIIII", 1, request.op, 0, 1, request.number, len(data), result, 0, vid, *5 * [0])
        with contextlib.suppress(OSError), sending:
            client.sendall(reply + data)

    def _answer(self, request: _Request) -> tuple[int, int, bytes]:
        if request.version != 1:
            return WRONG_VERSION, 0, b""
        if (self.folder / "unformatted").exists():
            return UNFORMATTED, 0, b""
        match request.op:
            case 1 | 2 | 3:
                return self._object(request)
            case 0x12 | 0x13 | 0x14:
                return self._vdi(request)
            case 0x15:
                bitmap = bytearray(1 << 21)
                for vid in self.store.vids():
                    bitmap[vid >> 3] |= 1 << (vid & 7)
                return OK, 0, bytes(bitmap)[: request.length]
        return BAD_PARAMETERS, 0, b""

    def _object(self, request: _Request) -> tuple[int, int, bytes]:
        oid, copy_of, _, _, _, _, offset = _OBJECT.unpack(request.specific)
        if request.op == READ:
            return OK, 0, self.store.read(oid, offset, request.length)
        with self.lock:
            if not oid >> 63 and self.store.vdi(oid >> 32).taken:
                return READ_ONLY, 0, b""
            if request.op == WRITE:
                self.store.write(oid, offset, request.payload)
            else:
                size = INODE_SIZE if oid >> 63 else 1 << self.store.vdi(oid >> 32).shift
                self.store.make(oid, size, offset, request.payload, copy_of if request.flags & 2 else 0)
        return OK, 0, b""

    def _vdi(self, request: _Request) -> tuple[int, int, bytes]:
        _, vid, _, _, _, _, number, _ = _VDI.unpack(request.specific)
        with self.lock:
            if request.op == RELEASE:
                held = vid in self.locked
                self.locked.discard(vid)  # whoever asks, as a real sheep does
                return OK if held else 0x10, vid, b""
            found = self._find(request.payload[:256].rstrip(b"\0"), request.payload[256:].rstrip(b"\0"), number)
            if isinstance(found, int):
                return found, 0, b""
            if request.op == LOCK:
                if found.vid in self.locked:
                    return LOCKED, 0, b""
                self.locked.add(found.vid)
            return OK, found.vid, b""

    def _find(self, name: bytes, tag: bytes, number: int) -> Vdi | int:
        try:
            if tag or number:
                return self.store.snapshot_of(name, tag, number)
            return self.store.current(name)
        except KeyError:
            return NO_TAG if (tag or number) and any(vdi.name == name for vdi in self.store.vdis()) else NO_VDI


def _exactly(client: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        part = client.recv(min(length - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


def main(port: int, folder: Path) -> None:
    """Serve for ever."""
    sheep = _Sheep(folder)

    def listen(listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            if client.family == socket.AF_INET:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=sheep.converse, args=(client,), daemon=True).start()

    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / "sock")
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(folder / "sock"))
    local.listen(64)
    threading.Thread(target=listen, args=(local,), daemon=True).start()
    listen(socket.create_server(("127.0.0.1", port), backlog=64))


@dataclass
class Sheep:
    """A running sheep: where it listens, and what it has."""

    server: Server
    port: int
    folder: Path

    @property
    def store(self) -> Store:
        """Its objects, for tests to fill and to look at."""
        return Store(self.folder / "obj")

    @property
    def url(self) -> str:
        """Its list of VDIs."""
        return f"sheepdog://127.0.0.1:{self.port}/"

    def vdi(self, name: str) -> str:
        """The location of a VDI with a plain name."""
        return self.url + name


def start_sheep(folder: Path) -> Sheep:
    """Start a sheep on the store in `folder`, on a port of its own."""
    folder.mkdir(exist_ok=True)

    def make(where: int) -> Server:
        argv = [sys.executable, "-m", "tests.servers.sheep", str(where), str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        return Server(argv, folder, lambda: is_listening(where), environment)

    server, found = start_on_free_port(make)
    return Sheep(server, found, folder)


@pytest.fixture
def sheep() -> Iterator[Sheep]:
    """A sheep without a single VDI."""
    folder = Path(tempfile.mkdtemp(prefix="farboot-sheep-", dir="/var/tmp"))
    running = start_sheep(folder)
    yield running
    running.server.stop()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
