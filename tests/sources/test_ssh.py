"""SSH against a real sshd: the contract, by a key in a file; and what only SFTP has."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from probes.credentials import Credentials, Secret
from probes.entry import Kind
from probes.errors import Cancelled, Changed, Denied, FarbootError, NotAnImage, TimedOut, Unreachable
from probes.location import Location
from probes.source import CanWrite
from probes.sources.ssh import SshSource
from probes.ssh.replies import FSTAT, OPEN, READ, STAT
from probes.ssh.session import Session
from tests.servers.faults import BlackHole, FaultyProxy
from tests.servers.sshd import USER, Sshd, SshHome, start_sshd
from tests.sources.contract import Faults, NetworkContract, SourceContract, Storage, content, odd_names


def fill(root: Path) -> dict[str, bytes]:
    """Lay the contract's tree into a folder: odd names, an image, an empty and a nested folder."""
    files = {name: content(100 + number, seed=number) for number, name in enumerate(odd_names())}
    files["image.img"] = content(300_001, seed=1000)
    files["empty.img"] = b""
    files["notes.txt"] = b"hello"
    for name, data in files.items():
        (root / name).write_bytes(data)
    (root / "nothing").mkdir()
    (root / "deeper [x] #1").mkdir()
    (root / "deeper [x] #1" / "inner.iso").write_bytes(content(4096, seed=7))
    for path in root.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return files


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    root = tmp_path_factory.mktemp("tree")
    return root, fill(root)


Tree = tuple[Path, dict[str, bytes]]


@pytest.fixture
def home(ssh_home: SshHome, sshd: Sshd) -> SshHome:
    """A person whose key the server takes, and who knows the server's key."""
    sshd.authorize(ssh_home.key())
    ssh_home.trust(sshd.known())
    return ssh_home


def at(sshd: Sshd, path: Path | str, port: int = 0) -> Location:
    """The location of a folder or file of this machine by way of the server."""
    place = Location("ssh", f"{USER}@127.0.0.1:{port or sshd.port}", "/")
    names = [name for name in str(path).split("/") if name]
    for index, name in enumerate(names):
        place = place.child(name, container=index < len(names) - 1 or Path(path).is_dir())
    return place


class SshFaults(Faults):
    """The sshd behind a proxy that breaks."""

    def __init__(self, sshd: Sshd, root: Path, refused: int) -> None:
        self.sshd = sshd
        self.root = root
        self.proxy = FaultyProxy(sshd.port)
        self.black_hole = BlackHole()
        self.refused_port = refused

    def close(self) -> None:
        self.proxy.close()
        self.black_hole.close()

    @property
    def refused(self) -> Location:
        return at(self.sshd, self.root, self.refused_port)

    @property
    def hole(self) -> Location:
        return at(self.sshd, self.root, self.black_hole.port)

    @property
    def container(self) -> Location:
        return at(self.sshd, self.root, self.proxy.port)

    @property
    def image(self) -> Location:
        return self.container.child("image.img")

    def break_listing(self) -> None:
        self.proxy.cut_after = 7000  # logging in takes some 4,000 bytes of the server's

    def break_reads(self) -> None:
        self.proxy.cut_after = 120_000

    def mend(self) -> None:
        self.proxy.heal()


@pytest.fixture
def faults(sshd: Sshd, home: SshHome, tree: Tree, refused_port: int) -> Iterator[Faults]:
    faults = SshFaults(sshd, tree[0], refused_port)
    home.trust(sshd.known(), sshd.known(port=faults.proxy.port))
    yield faults
    faults.close()


class TestSsh(SourceContract, NetworkContract):
    @pytest.fixture
    def storage(self, sshd: Sshd, home: SshHome, tree: Tree) -> Storage:
        container = at(sshd, tree[0])
        return Storage(
            make=SshSource,
            container=container,
            files=tree[1],
            image="image.img",
            missing=container.child("missing.img"),
            containers={"nothing": {}, "deeper [x] #1": {"inner.iso": content(4096, seed=7)}},
        )


# What only a host's own files have


@pytest.fixture
def source(home: SshHome) -> Iterator[SshSource]:
    assert home.ssh.is_dir()
    with SshSource() as found:
        yield found


def test_links_are_followed_and_what_is_no_file_is_told(source: SshSource, sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "disk.img").write_bytes(bytes(1234))
    (tmp_path / "link.img").symlink_to("disk.img")
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling.img").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.img")
    found = {entry.name: entry for entry in source.entries(at(sshd, tmp_path))}
    assert found["link.img"].size == 1234
    assert found["link"].kind is Kind.CONTAINER
    assert found["dangling.img"].kind is found["pipe.img"].kind is Kind.OTHER
    assert found["dangling.img"].note
    with pytest.raises(NotAnImage):
        source.open(found["pipe.img"].location)  # where a plain open would wait for ever
    with pytest.raises(FarbootError):
        source.open(found["dangling.img"].location)


def test_what_the_account_may_not_read_is_denied(
    home: SshHome, tmp_path_factory: pytest.TempPathFactory, sshd: Sshd
) -> None:
    folder = tmp_path_factory.mktemp("sshd-of-alice")
    server = start_sshd(folder, "PasswordAuthentication yes", passwords={"alice": "s3cret"})
    with server.server:
        home.trust(server.known())
        with SshSource(Credentials(password=Secret("s3cret"))) as source:
            alice = f"alice@127.0.0.1:{server.port}"
            with pytest.raises(Denied, match="permission") as caught:
                source.open(Location("ssh", alice, "/etc/shadow"))
            assert caught.value.wants == ()
            with pytest.raises(Denied, match="permission"):
                list(source.entries(Location("ssh", alice, "/root/")))


def test_a_file_cut_short_while_it_is_read_has_changed(source: SshSource, sshd: Sshd, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(content(400_000))
    with source.open(at(sshd, image)) as reader:
        os.truncate(image, 100_000)
        assert reader.pread(0, 4096) == content(4096)
        with pytest.raises(Changed):
            reader.pread(90_000, 50_000)


def test_the_first_bytes_come_with_the_opening(
    source: SshSource, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(content(400_000))
    asked: list[list[int]] = []
    send = Session.send

    def counted(session: Session, requests: Sequence[tuple[int, bytes]], *rest: Any) -> list[int]:
        asked.append([kind for kind, _ in requests])
        return send(session, requests, *rest)

    with source.open(at(sshd, image)):  # which also logs in
        monkeypatch.setattr(Session, "send", counted)
        with source.open(at(sshd, image)) as reader:
            assert asked[:3] == [[STAT], [OPEN], [FSTAT]]
            assert {kind for kinds in asked[3:] for kind in kinds} == {READ}
            asked.clear()
            assert reader.pread(0, 64 << 10) == content(400_000)[: 64 << 10]
            assert not asked
            assert reader.pread(60_000, 10_000) == content(400_000)[60_000:70_000]


def test_an_empty_file_can_be_opened(source: SshSource, sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "empty.img").touch()
    with source.open(at(sshd, tmp_path / "empty.img")) as reader:
        assert reader.size == 0
        assert reader.pread(0, 512) == b""


def test_the_pin_tells_a_file_that_was_written(source: SshSource, sshd: Sshd, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    os.utime(image, (1_700_000_000, 1_700_000_000))
    with source.open(at(sshd, image)) as reader:
        before = reader.pin
    os.utime(image, (1_700_000_001, 1_700_000_001))
    with source.open(at(sshd, image)) as reader:
        assert reader.pin != before
        assert not reader.pin.strong


def test_an_image_can_be_written(source: SshSource, sshd: Sshd, tmp_path: Path) -> None:
    assert isinstance(source, CanWrite)
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(2_000_000))
    data = content(1_000_000)
    with source.open_for_writing(at(sshd, image)) as writer, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda at: writer.pwrite(300_000 + at, data[at : at + 100_000]), range(0, len(data), 100_000)))
        writer.pwrite(1_999_999, b"!")
        writer.flush()
        assert writer.pread(300_000, len(data)) == data
        with pytest.raises(FarbootError):
            writer.pwrite(1_999_999, b"!!")
    assert image.read_bytes() == bytes(300_000) + data + bytes(699_999) + b"!"


def test_home_is_where_the_user_is_at_home(source: SshSource, sshd: Sshd) -> None:
    home = os.path.expanduser(f"~{USER}")
    place = Location("ssh", sshd.address, "/~/")
    assert source.stat(place).kind is Kind.CONTAINER
    assert str(source.stat(place).location) == sshd.url(home + "/")
    assert {entry.name for entry in source.entries(place)} == set(os.listdir(home))


def test_sftp_is_another_word_for_it(home: SshHome, sshd: Sshd, tmp_path: Path) -> None:
    assert home.ssh.is_dir()
    (tmp_path / "disk.img").touch()
    place, _ = Location.parse(sshd.url(f"{tmp_path}/").replace("ssh:", "sftp:"))
    with SshSource() as source:
        (entry,) = source.entries(place)
    assert str(entry.location) == f"sftp://{sshd.address}{tmp_path}/disk.img"


# When the connection ends


def test_a_connection_that_died_is_made_anew(source: SshSource, sshd: Sshd, home: SshHome, tree: Tree) -> None:
    with FaultyProxy(sshd.port) as proxy:
        home.trust(sshd.known(port=proxy.port))
        place = at(sshd, tree[0], proxy.port)
        assert source.stat(place)
        proxy.hang_up()
        for _ in range(100):  # until the end has come through
            try:
                assert source.stat(place).kind is Kind.CONTAINER
            except Unreachable:
                continue
            break
        else:
            pytest.fail("it never came back")
        assert proxy.connections == 2


def test_a_server_that_falls_silent_while_it_is_read_times_out(home: SshHome, sshd: Sshd, tree: Tree) -> None:
    with FaultyProxy(sshd.port) as proxy, SshSource(deadline=2.0) as source:
        home.trust(sshd.known(port=proxy.port))
        with source.open(at(sshd, tree[0] / "image.img", proxy.port)) as reader:
            proxy.hold_after = 1000
            with pytest.raises(TimedOut) as caught:
                reader.pread(0, 300_000)
            assert caught.value.on == str(at(sshd, tree[0] / "image.img", proxy.port))


def test_closing_the_source_ends_a_read_that_waits(home: SshHome, sshd: Sshd, tree: Tree) -> None:
    with FaultyProxy(sshd.port) as proxy:
        home.trust(sshd.known(port=proxy.port))
        source = SshSource(deadline=120.0)
        reader = source.open(at(sshd, tree[0] / "image.img", proxy.port))
        proxy.hold_after = 1000
        waiting = threading.Event()

        def read() -> bytes:
            waiting.set()
            return reader.pread(0, 300_000)

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(read)
            assert waiting.wait(30)
            source.close()
            with pytest.raises(Cancelled):
                asked.result(30)
