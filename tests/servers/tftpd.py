"""Real TFTP servers: tftpd-hpa, which takes one block at a time, and atftpd, which speaks windowsize (RFC 7440).

As packages the two conflict, so atftpd is taken out of its package, which `apt-get download` puts into the cache of
this project's tests (or lies as `atftpd_*.deb` in $FARBOOT_TEST_PACKAGES already).
"""

import os
import socket
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from app.demo.show import cache_folder
from tests.servers.server import Server, ServerFailed

_ATTEMPTS = 5


@dataclass
class Tftpd:
    """A running TFTP server that serves `root`."""

    server: Server
    port: int
    root: Path
    host: str = "127.0.0.1"

    @property
    def authority(self) -> str:
        """`host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def start_tftpd_hpa(home: Path, root: Path, host: str = "127.0.0.1", more: tuple[str, ...] = ()) -> Tftpd:
    """Start tftpd-hpa in `home`, serving `root`, whose files must be readable for everybody. `more` are its options."""
    address = f"[{host}]" if ":" in host else host

    def argv(port: int) -> list[str]:
        family = "-6" if ":" in host else "-4"
        where = ["-a", f"{address}:{port}", "-s", os.fspath(root)]
        return ["/usr/sbin/in.tftpd", "-L", family, "-u", "root", *more, *where]

    return _start(argv, home, root, host)


def start_atftpd(home: Path, root: Path) -> Tftpd:
    """Start atftpd in `home`, serving `root`."""
    program = os.fspath(atftpd_program())

    def argv(port: int) -> list[str]:
        options = ["--daemon", "--no-fork", "--user", "root", "--group", "root", "--logfile", "-"]
        return [program, *options, "--port", str(port), "--bind-address", "127.0.0.1", os.fspath(root)]

    return _start(argv, home, root, "127.0.0.1")


def atftpd_program() -> Path:
    """The program of Debian's package, which is not installed."""
    folder = cache_folder().parent / "atftpd"
    program = folder / "usr/sbin/atftpd"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            own = os.environ.get("FARBOOT_TEST_PACKAGES", "")
            found = sorted(Path(own).glob("atftpd_*.deb")) if own else []
            if not found:
                subprocess.run(["apt-get", "-q", "download", "atftpd"], cwd=scratch, check=True, capture_output=True)
                found = sorted(Path(scratch).glob("atftpd_*.deb"))
            subprocess.run(["dpkg", "-x", found[0], scratch + "/tree"], check=True)
            program.parent.mkdir(parents=True, exist_ok=True)
            os.rename(scratch + "/tree/usr/sbin/atftpd", program)
    return program


def _start(argv: Callable[[int], list[str]], home: Path, root: Path, host: str) -> Tftpd:
    home.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _ATTEMPTS + 1):
        port = free_udp_port(host)
        try:
            return Tftpd(Server(argv(port), home, partial(_answers, port, host)).start(), port, root, host)
        except ServerFailed:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def free_udp_port(host: str = "127.0.0.1") -> int:
    """Return a UDP port that nobody uses right now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


def _answers(port: int, host: str) -> bool:
    """Whether a request for a file that does not exist is refused, as it should."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(0.3)
        asker.sendto(b"\0\1no such file\0octet\0", (host, port))
        try:
            return asker.recvfrom(600)[0].startswith(b"\0\5")
        except OSError:
            return False
