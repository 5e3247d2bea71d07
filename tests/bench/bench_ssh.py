"""SSH: listing 10,000 and 100,000 entries against sftp(1), here and 30 ms away; and reading an image 30 ms away."""

import contextlib
import os
import queue
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from probes.location import Location
from probes.reader import Reader
from probes.sources.ssh import SshSource
from tests.bench.measure import alternately, report
from tests.servers.faults import Listener
from tests.servers.sshd import Sshd, SshHome, make_home, start_sshd

ROUND_TRIP = 0.030
IMAGE = 64 << 20


class FarAway(Listener):
    """A proxy to a port that is then `ROUND_TRIP` away: every byte is late by half of it, each way, and as many bytes
    as like are under way at once.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.upstream = host, port
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(self.upstream) as server:
            self.adopt(server)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            way_there = threading.Thread(target=self._delayed, args=(client, server), daemon=True)
            way_there.start()
            self._delayed(server, client)
            way_there.join()

    def _delayed(self, source: socket.socket, target: socket.socket) -> None:
        late: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def deliver() -> None:
            with contextlib.suppress(OSError):
                while True:
                    due, data = late.get()
                    self.stopping.wait(max(0.0, due - time.monotonic()))
                    if not data:
                        target.shutdown(socket.SHUT_WR)
                        return
                    target.sendall(data)

        threading.Thread(target=deliver, daemon=True).start()
        data = b"more"
        while data:
            try:
                data = source.recv(1 << 18)
            except OSError:
                data = b""
            late.put((time.monotonic() + ROUND_TRIP / 2, data))


def main() -> None:
    """Print the comparisons."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        home = make_home(folder / "home")
        os.environ["HOME"] = str(home.path)
        os.environ.pop("SSH_AUTH_SOCK", None)
        sshd = start_sshd(folder / "sshd")
        with sshd.server, FarAway(sshd.port) as far:
            sshd.authorize(home.key())
            home.trust(sshd.known(), sshd.known(port=far.port))
            for count in (10_000, 100_000):
                (folder / str(count)).mkdir()
                for number in range(count):
                    (folder / str(count) / f"image-{number:06}.qcow2").touch()
            for where, port in (("", sshd.port), ("30 ms away, ", far.port)):
                for count in (10_000, 100_000):
                    _list(f"{where}list {count:,}", sshd, home, port, folder / str(count), count)
            (folder / "image.raw").write_bytes(os.urandom(IMAGE))
            for where, port in (("", sshd.port), ("30 ms away, ", far.port)):
                _read(where, sshd, home, port, folder / "image.raw")


def _list(what: str, sshd: Sshd, home: SshHome, port: int, folder: Path, count: int) -> None:
    location = _at(sshd, port, f"{folder}/")

    def ours() -> None:
        with SshSource(deadline=60) as source:
            assert sum(1 for _ in source.entries(location)) == count

    def theirs() -> None:
        assert _sftp(sshd, home, port, f"ls -ln {folder}").count("\n") >= count

    times = alternately(ours, theirs, runs=3)
    report(f"{what}, from nothing", *times, "sftp -b, ls -ln")
    with SshSource(deadline=60) as source:

        def first() -> None:
            with contextlib.closing(source.entries(location)) as entries:  # type: ignore[type-var]  # a generator
                next(entries)

        def again() -> None:
            assert sum(1 for _ in source.entries(location)) == count

        times = alternately(again, theirs, runs=3)
        report(f"{what}, once connected", *times, "sftp -b, ls -ln")
        times = alternately(first, theirs, runs=3)
        report(f"{what}, its first row", *times, "sftp -b, ls -ln")
    if port == sshd.port:
        ls = [sys.executable, "-m", "app", "ls", str(location)]
        times = alternately(lambda: subprocess.run(ls, check=True, stdout=subprocess.DEVNULL), theirs, runs=3)
        report(f"farboot ls, {what}, whole process", *times, "sftp -b, ls -ln")


def _read(where: str, sshd: Sshd, home: SshHome, port: int, image: Path) -> None:
    def fetch() -> None:
        _sftp(sshd, home, port, f"get {image} /dev/null")

    with SshSource(deadline=60) as source, source.open(_at(sshd, port, str(image))) as reader:
        pieces = range(0, IMAGE, 2 << 20)
        times = alternately(lambda: [reader.pread(at, 2 << 20) for at in pieces], fetch, runs=3)
        report(f"{where}read 64 MiB by 2 MiB, one at a time", *times, "sftp get, all of it")
        times = alternately(lambda: _at_once(reader, list(pieces), 2 << 20), fetch, runs=3)
        report(f"{where}read 64 MiB by 2 MiB, 16 at a time", *times, "sftp get, all of it")
        places = [random.Random(number).randrange(IMAGE >> 12) << 12 for number in range(640)]
        one = _time(lambda: [reader.pread(at, 4096) for at in places[:64]]) / 64
        sixteen = _time(lambda: _at_once(reader, places, 4096)) / 640
        report(f"{where}a scattered 4k read, 16 at a time", sixteen, one, "one at a time")


def _at_once(reader: Reader, places: list[int], size: int) -> None:
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda at: reader.pread(at, size), places):
            pass


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _at(sshd: Sshd, port: int, path: str) -> Location:
    user = sshd.address.partition("@")[0]
    return Location("ssh", f"{user}@127.0.0.1:{port}", path)


def _sftp(sshd: Sshd, home: SshHome, port: int, command: str) -> str:
    options = [
        f"-oUserKnownHostsFile={home.ssh}/known_hosts",
        f"-oIdentityFile={home.ssh}/id_ed25519",
        f"-oPort={port}",
    ]
    argv = ["sftp", "-q", "-b", "-", *options, sshd.address.partition(":")[0]]
    return subprocess.run(argv, input=command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
