"""Real NBD servers: nbdkit, which serves a folder's files as exports, and qemu-nbd, which serves one image.

`start_nbdkit` and `start_qemu_nbd` start one for a test; `pki` makes certificates, `psk` shared keys, for TLS.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.server import Server, is_listening, start_on_free_port

AT_ONCE = signal.SIGKILL
"""Told to end, nbdkit waits for its clients to leave: a guest that a test left running, for one."""


@dataclass
class Nbd:
    """A running server: `authority` is what an nbd URL has."""

    server: Server
    port: int

    @property
    def authority(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Pki:
    """A certificate authority of the tests' own, and what it signed; all paths of PEM files.

    `server` is a folder as nbdkit and qemu-nbd want it, for the names localhost and 127.0.0.1.
    """

    ca: str
    server: str
    client_cert: str
    client_key: str


def start_nbdkit(folder: Path, *arguments: str) -> Nbd:
    """Start `nbdkit ARGUMENTS` on a free TCP port of the loopback; `folder` keeps its log."""
    folder.mkdir(parents=True, exist_ok=True)

    def make(port: int) -> Server:
        argv = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), *arguments]
        return Server(argv, folder, lambda: is_listening(port), stop_signal=AT_ONCE)

    return Nbd(*start_on_free_port(make))


def start_nbdkit_on_socket(folder: Path, socket: str, *arguments: str) -> Server:
    """Start it on a Unix socket."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["nbdkit", "-f", "-U", socket, *arguments]
    return Server(argv, folder, lambda: os.path.exists(socket), stop_signal=AT_ONCE).start()


def start_qemu_nbd(folder: Path, image: Path, *arguments: str) -> Nbd:
    """Start `qemu-nbd ARGUMENTS IMAGE` on a free TCP port, for any number of clients."""
    folder.mkdir(parents=True, exist_ok=True)

    def make(port: int) -> Server:
        argv = ["qemu-nbd", "-t", "--shared=0", "-b", "127.0.0.1", "-p", str(port), *arguments, str(image)]
        return Server(argv, folder, lambda: is_listening(port))

    return Nbd(*start_on_free_port(make))


def make_pki(folder: Path, names: str = "subjectAltName=DNS:localhost,IP:127.0.0.1") -> Pki:
    """Make the authority and what it signs, in `folder`; `names` are the server's."""
    folder.mkdir(parents=True, exist_ok=True)
    server = folder / "server"
    server.mkdir()
    ca, ca_key = server / "ca-cert.pem", folder / "ca-key.pem"
    _openssl("req", "-x509", "-subj", "/CN=The authority of the tests", "-addext", "keyUsage=critical,keyCertSign",
             "-keyout", str(ca_key), "-out", str(ca))  # fmt: skip
    _signed(folder, "server", "serverAuth", ca, ca_key, names)
    (folder / "server.pem").rename(server / "server-cert.pem")
    (folder / "server-key.pem").rename(server / "server-key.pem")
    _signed(folder, "client", "clientAuth", ca, ca_key, "subjectAltName=DNS:client")
    return Pki(str(ca), str(server), str(folder / "client.pem"), str(folder / "client-key.pem"))


def _signed(folder: Path, name: str, purpose: str, ca: Path, ca_key: Path, names: str) -> None:
    usage = "keyUsage=digitalSignature,keyEncipherment"
    _openssl("req", "-x509", "-CA", str(ca), "-CAkey", str(ca_key), "-subj", f"/CN={name}", "-addext", names,
             "-addext", f"extendedKeyUsage={purpose}", "-addext", usage, "-addext", "basicConstraints=CA:FALSE",
             "-keyout", str(folder / f"{name}-key.pem"), "-out", str(folder / f"{name}.pem"))  # fmt: skip


def _openssl(command: str, *arguments: str) -> None:
    argv = ["openssl", command, "-newkey", "rsa:2048", "-nodes", "-days", "30", *arguments]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Certificates for TLS."""
    return make_pki(tmp_path_factory.mktemp("pki") / "made")


@pytest.fixture(scope="session")
def empty_nbdkit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nbd]:
    """A server with no export at all."""
    home = tmp_path_factory.mktemp("nbdkit")
    (home / "served").mkdir()
    running = start_nbdkit(home, "file", f"dir={home / 'served'}")
    yield running
    running.server.stop()
