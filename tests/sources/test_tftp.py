"""TFTP against real servers: tftpd-hpa (a block at a time) and atftpd (windows of blocks)."""

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.location import Location
from probes.sources.tftp import TftpSource
from tests.servers.tftpd import Tftpd, free_udp_port, start_atftpd, start_tftpd_hpa
from tests.servers.udp_faults import UdpProxy
from tests.sources.contract import Faults, NetworkContract, SourceContract, Storage, content, odd_names

WITHOUT = ("newline", "edge-spaces", "escape")
"""Kinds of names that a list of one a line cannot hold, or that make it no text."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FARBOOT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="farboot-tftp-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


Tree = tuple[Path, dict[str, bytes]]


@pytest.fixture(scope="module")
def tree(home: Path) -> Tree:
    root = home / "root"
    root.mkdir()
    files = {name: content(100 + number, seed=number) for number, name in enumerate(odd_names(WITHOUT))}
    files["image.img"] = content(300_001, seed=1000)
    files["empty.img"] = b""
    files["whole-blocks.img"] = content(1428 * 40, seed=3)
    for name, data in files.items():
        (root / name).write_bytes(data)
    lines = [*files, "nothing/", "more/", "# a remark", ""]
    (root / "list").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    (root / "nothing").write_bytes(b"")
    (root / "more").write_bytes(b"folder/inner.iso\n")
    (root / "folder").mkdir()
    (root / "folder" / "inner.iso").write_bytes(content(4096, seed=7))
    return root, files


@pytest.fixture(scope="module")
def hpa(home: Path, tree: Tree) -> Iterator[Tftpd]:
    running = start_tftpd_hpa(home / "hpa", tree[0])
    yield running
    running.server.stop()


@pytest.fixture(scope="module")
def atftpd(home: Path, tree: Tree) -> Iterator[Tftpd]:
    running = start_atftpd(home / "atftpd", tree[0])
    yield running
    running.server.stop()


def storage_at(authority: str, tree: Tree) -> Storage:
    return Storage(
        make=TftpSource,
        container=Location("tftp", authority, "/list/"),
        files=tree[1],
        image="image.img",
        missing=Location("tftp", authority, "/missing.img"),
        containers={"nothing": {}, "more": {"inner.iso": content(4096, seed=7)}},
        exact_sizes=False,
    )


class TftpFaults(Faults):
    """A server behind a proxy that falls silent: UDP has no connection that could break."""

    def __init__(self, port: int) -> None:
        self.proxy = UdpProxy(port)
        self.refused_port = free_udp_port()
        self.hole_socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.hole_socket.bind(("127.0.0.1", 0))

    def close(self) -> None:
        self.proxy.close()
        self.hole_socket.close()

    @property
    def refused(self) -> Location:
        return Location("tftp", f"127.0.0.1:{self.refused_port}", "/list/")

    @property
    def hole(self) -> Location:
        return Location("tftp", f"127.0.0.1:{self.hole_socket.getsockname()[1]}", "/list/")

    @property
    def container(self) -> Location:
        return Location("tftp", self.proxy.authority, "/list/")

    @property
    def image(self) -> Location:
        return Location("tftp", self.proxy.authority, "/image.img")

    def break_listing(self) -> None:
        self._lose_after(1)

    def break_reads(self) -> None:
        self._lose_after(80)

    def mend(self) -> None:
        self.proxy.heal()

    def _lose_after(self, count: int) -> None:
        self.proxy.fate = lambda number, packet, from_server: [] if from_server and number > count else [(0.0, packet)]


class TestTftpdHpa(SourceContract, NetworkContract):
    @pytest.fixture
    def storage(self, hpa: Tftpd, tree: Tree) -> Storage:
        return storage_at(hpa.authority, tree)

    @pytest.fixture
    def faults(self, hpa: Tftpd) -> Iterator[Faults]:
        faults = TftpFaults(hpa.port)
        yield faults
        faults.close()


class TestAtftpd(SourceContract, NetworkContract):
    @pytest.fixture
    def storage(self, atftpd: Tftpd, tree: Tree) -> Storage:
        return storage_at(atftpd.authority, tree)

    @pytest.fixture
    def faults(self, atftpd: Tftpd) -> Iterator[Faults]:
        faults = TftpFaults(atftpd.port)
        yield faults
        faults.close()
