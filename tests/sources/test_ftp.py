"""FTP against real servers: vsftpd (LIST) and pyftpdlib (MLSD, users, TLS)."""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.location import Location
from probes.sources.ftp import FtpSource
from tests.servers.ftp_proxy import FtpProxy
from tests.servers.pyftpd import PASSWORD, USER, Pyftpd
from tests.servers.vsftpd import Vsftpd, make_certificate, start_vsftpd
from tests.sources.contract import (
    CredentialContract,
    Faults,
    Lock,
    NetworkContract,
    ProxyFaults,
    SourceContract,
    Storage,
    content,
    odd_names,
)

LONG_AGO = 1_700_000_000


def fill(root: Path, without: Iterable[str] = ()) -> dict[str, bytes]:
    """Lay the contract's tree into a folder: odd names, an image, an empty and a nested folder."""
    files = {name: content(100 + number, seed=number) for number, name in enumerate(odd_names(without))}
    files["image.img"] = content(300_001, seed=1000)
    files["empty.img"] = b""
    files["notes.txt"] = b"hello"
    for name, data in files.items():
        (root / name).write_bytes(data)
    (root / "nothing").mkdir()
    (root / "deeper [x] #1").mkdir()
    (root / "deeper [x] #1" / "inner.iso").write_bytes(content(4096, seed=7))
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return files


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # vsftpd serves as another user, who cannot enter pytest's own folders.
    with tempfile.TemporaryDirectory(prefix="farboot-ftp-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def tree(home: Path) -> tuple[Path, dict[str, bytes]]:
    root = home / "tree"
    root.mkdir()
    # A line break cannot be part of a command; vsftpd lists nothing that begins with a dot.
    return root, fill(root, ("newline", "dots"))


@pytest.fixture(scope="module")
def pair(home: Path) -> tuple[Path, Path]:
    return make_certificate(home)


Tree = tuple[Path, dict[str, bytes]]


def storage_at(authority: str, tree: Tree, scheme: str = "ftp", credentials: Credentials = NO_CREDENTIALS) -> Storage:
    container = Location(scheme, authority, "/")
    return Storage(
        make=FtpSource,
        container=container,
        files=tree[1],
        image="image.img",
        missing=container.child("missing.img"),
        containers={"nothing": {}, "deeper [x] #1": {"inner.iso": content(4096, seed=7)}},
        credentials=credentials,
    )


@pytest.fixture(scope="module")
def vsftpd(home: Path, tree: Tree) -> Iterator[Vsftpd]:
    (home / "vsftpd").mkdir()
    running = start_vsftpd(home / "vsftpd", tree[0])
    yield running
    running.server.stop()


@pytest.fixture(scope="module")
def pyftpd(tree: Tree) -> Iterator[Pyftpd]:
    with Pyftpd(tree[0]) as running:
        yield running


@pytest.fixture(scope="module")
def locked(tree: Tree) -> Iterator[Pyftpd]:
    with Pyftpd(tree[0], users={USER: PASSWORD}) as running:
        yield running


Begin = Callable[[int], Faults]


@pytest.fixture
def begin_faults(refused_port: int) -> Iterator[Begin]:
    made: list[ProxyFaults] = []

    def begin(port: int) -> Faults:
        made.append(ProxyFaults("ftp", port, refused_port, listing=1500, proxy=FtpProxy(port)))
        return made[-1]

    yield begin
    for faults in made:
        faults.close()


class TestVsftpd(SourceContract, NetworkContract):
    """LIST, SIZE, MDTM and CWD."""

    @pytest.fixture
    def storage(self, vsftpd: Vsftpd, tree: Tree) -> Storage:
        return storage_at(vsftpd.authority, tree)

    @pytest.fixture
    def faults(self, vsftpd: Vsftpd, begin_faults: Begin) -> Faults:
        return begin_faults(vsftpd.port)


class TestPyftpd(SourceContract, NetworkContract, CredentialContract):
    """MLSD and MLST."""

    @pytest.fixture
    def storage(self, pyftpd: Pyftpd, tree: Tree) -> Storage:
        return storage_at(pyftpd.authority, tree)

    @pytest.fixture
    def faults(self, pyftpd: Pyftpd, begin_faults: Begin) -> Faults:
        return begin_faults(pyftpd.port)

    @pytest.fixture
    def lock(self, locked: Pyftpd) -> Lock:
        container = Location("ftp", locked.authority, "/")
        return Lock(
            container,
            container.child("image.img"),
            right=Credentials(USER, Secret(PASSWORD)),
            wrong=Credentials(USER, Secret("wrong-and-unique-4711")),
            wants=("username", "password"),
        )


class TestExplicitTls(SourceContract):
    """AUTH TLS, at a vsftpd that wants the data connections to resume the session."""

    @pytest.fixture(scope="class")
    def server(self, home: Path, tree: Tree, pair: tuple[Path, Path]) -> Iterator[Vsftpd]:
        (home / "explicit").mkdir()
        running = start_vsftpd(home / "explicit", tree[0], _tls(pair))
        yield running
        running.server.stop()

    @pytest.fixture
    def storage(self, server: Vsftpd, tree: Tree, pair: tuple[Path, Path]) -> Storage:
        return storage_at(server.authority, tree, "ftps", Credentials(ca_file=str(pair[0])))


class TestImplicitTls(SourceContract):
    """TLS from the first byte."""

    @pytest.fixture(scope="class")
    def server(self, home: Path, tree: Tree, pair: tuple[Path, Path]) -> Iterator[Vsftpd]:
        (home / "implicit").mkdir()
        running = start_vsftpd(home / "implicit", tree[0], _tls(pair) + "implicit_ssl=YES\n")
        yield running
        running.server.stop()

    @pytest.fixture
    def storage(self, server: Vsftpd, tree: Tree, pair: tuple[Path, Path]) -> Storage:
        return storage_at(server.authority, tree, "ftps", Credentials(ca_file=str(pair[0])))


def _tls(pair: tuple[Path, Path]) -> str:
    return (
        f"ssl_enable=YES\nallow_anon_ssl=YES\nforce_anon_logins_ssl=YES\nforce_anon_data_ssl=YES\n"
        f"require_ssl_reuse=YES\nrsa_cert_file={pair[0]}\nrsa_private_key_file={pair[1]}\nssl_ciphers=HIGH\n"
    )
