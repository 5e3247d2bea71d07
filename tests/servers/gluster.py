"""A real GlusterFS: one glusterd with its bricks, in a network and mount namespace of the tests' own.

Its port is fixed (24007), it refuses loopback addresses, and its folders are fixed too: hence the namespace. What lies
in a volume is put there by a client, in a process of its own.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.servers.netns import Netns
from tests.servers.server import Server, is_listening, wait_until

PORT = 24007

_COPY = """
import ctypes, os, sys
host, volume, folder = sys.argv[1:]
library = ctypes.CDLL("libgfapi.so.0", use_errno=True)
for name in ("new", "creat"):
    getattr(library, "glfs_" + name).restype = ctypes.c_void_p
P, B, I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
client = library.glfs_new(volume.encode())
library.glfs_set_volfile_server(P(client), b"tcp", host.encode(), 24007)
library.glfs_set_logging(P(client), b"/dev/null", 0)
assert library.glfs_init(P(client)) == 0, os.strerror(ctypes.get_errno())
root = os.fsencode(folder)
for place, folders, files in os.walk(root):
    inside = b"/" + os.path.relpath(place, root) + b"/"
    links = [name for name in folders if os.path.islink(os.path.join(place, name))]
    for name in set(folders) - set(links):
        assert library.glfs_mkdir(P(client), inside + name, 0o755) == 0
    for name in files + links:
        path = os.path.join(place, name)
        if os.path.islink(path):
            assert library.glfs_symlink(P(client), os.readlink(path), inside + name) == 0
            continue
        file = library.glfs_creat(P(client), inside + name, os.O_RDWR, 0o644)
        assert file, (inside + name, os.strerror(ctypes.get_errno()))
        with open(path, "rb") as data:
            while piece := data.read(1 << 20):
                assert library.glfs_write(P(file), piece, ctypes.c_size_t(len(piece)), 0) == len(piece)
        assert library.glfs_close(P(file)) == 0
os._exit(0)
"""


class Gluster:
    """One server, from `start` to `stop`; a context manager. `host` is its address."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fb-gluster-", dir="/var/tmp"))  # bricks want a disk's xattrs
        self._netns = Netns()
        self._server: Server | None = None
        self._bricks: dict[str, Path] = {}

    @property
    def host(self) -> str:
        """Where clients reach it."""
        return self._netns.address

    def start(self) -> Self:
        """Bring it up, without any volume."""
        self._netns.start()
        try:
            for name in ("lib", "logs", "run"):
                (self.folder / name).mkdir()
            argv = self._inside("glusterd", "--no-daemon", "--log-level", "WARNING")
            self._server = Server(argv, self.folder, lambda: is_listening(PORT, self.host)).start()
        except BaseException:
            self.stop()
            raise
        return self

    def volume(self, name: str) -> str:
        """Make a volume of one brick and start it."""
        brick = self.folder / f"brick-{name}"
        brick.mkdir()
        self.cli("volume", "create", name, f"{self.host}:{brick}", "force")
        self._bricks[name] = brick
        self.start_volume(name)
        return name

    def start_volume(self, name: str) -> None:
        """Start a volume, or a brick of it that is down, and wait until it is up."""
        self.cli("volume", "start", name, "force")
        wait_until(lambda: self._port(name) is not None, f"the brick of {name}")

    def fill(self, name: str, folder: Path) -> None:
        """Copy what lies in a folder of this host into a volume, as a client."""
        subprocess.run([sys.executable, "-c", _COPY, self.host, name, str(folder)], check=True, timeout=300)

    def signal_brick(self, name: str, number: signal.Signals) -> None:
        """Send the volume's brick a signal; a killed one is gone when this returns."""
        pid = self._pid(name)
        os.kill(pid, number)
        if number is signal.SIGKILL:
            wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the brick's end")

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nobody is told of volumes and bricks meanwhile."""
        pids = [int(word) for word in self._netns.run(["pidof", "glusterd"]).split()]
        own = [pid for pid in pids if os.readlink(f"/proc/{pid}/cwd") == str(self.folder)]
        for pid in own:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in own:
                os.kill(pid, signal.SIGCONT)

    def cli(self, *arguments: str) -> str:
        """Give the server a command."""
        argv = self._inside("gluster", "--mode=script", *arguments)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout} {done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """End it and its bricks, and remove everything."""
        if self._server is not None:
            self._server.stop()
        self._netns.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _inside(self, *argv: str) -> list[str]:
        binds = {"lib": "/var/lib/glusterd", "logs": "/var/log/glusterfs", "run": "/run"}
        return self._netns.argv(*argv, binds={str(self.folder / name): path for name, path in binds.items()})

    def _pid(self, name: str) -> int:
        (path,) = (self.folder / "run" / "gluster" / "vols" / name).glob("*.pid")
        return int(path.read_text())

    def _port(self, name: str) -> int | None:
        """The port of a volume's brick, once it is up and clients are told of it."""
        words = self.cli("volume", "status", name).split()
        ports = [word for word in words if word.isdigit() and int(word) >= 49152]
        return int(ports[0]) if "Y" in words and ports and is_listening(int(ports[0]), self.host) else None


@pytest.fixture(scope="session")
def gluster() -> Iterator[Gluster]:
    """A server; make volumes of your own in it."""
    with Gluster() as running:
        yield running
