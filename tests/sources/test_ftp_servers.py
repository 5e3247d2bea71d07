"""FTP servers of all kinds: without REST, without MLSD, with few connections, with TLS, and hostile ones."""

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.entry import Kind
from probes.errors import (
    BadAnswer,
    Cancelled,
    Changed,
    Denied,
    FarbootError,
    NotAnImage,
    NotFetched,
    Refused,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.sources import ftp
from probes.sources.ftp import FtpSource
from tests.servers.faults import Listener
from tests.servers.pyftpd import PASSWORD, USER, Pyftpd
from tests.servers.vsftpd import make_certificate, start_vsftpd
from tests.sources.contract import content

IMAGE = content(500_000)
QEMU = QemuFacts((7, 2, 0), frozenset({"ftp", "ftps", "raw"}))
DIRECT = QemuFacts((7, 2, 0), frozenset({"ftp", "ftps", "raw"}), RouteWish.DIRECT)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "image.img").write_bytes(IMAGE)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FARBOOT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return make_certificate(tmp_path)


def at(server: Pyftpd, path: str = "/image.img", scheme: str = "ftp") -> Location:
    return Location(scheme, server.authority, path)


class TestReading:
    def test_a_straight_reader_uses_one_transfer(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source, source.open(at(server)) as reader:
            data = b"".join(reader.pread(offset, 10_000) for offset in range(0, len(IMAGE), 10_000))
        assert data == IMAGE
        assert server.commands.count("RETR") == 1

    def test_a_short_way_ahead_is_read_and_dropped(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source, source.open(at(server)) as reader:
            for offset in (0, 50_000, 200_000, 300_000):
                assert reader.pread(offset, 100) == IMAGE[offset : offset + 100]
        assert server.commands.count("RETR") == 1

    def test_no_more_connections_are_opened_than_the_server_takes(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source, source.open(at(server)) as reader:
            server.server.max_cons_per_ip = 1
            errors: list[BaseException] = []

            def read(number: int) -> None:
                try:
                    for offset in range(number * 1000, 400_000, 77_000):
                        assert reader.pread(offset, 500) == IMAGE[offset : offset + 500]
                except BaseException as error:  # noqa: BLE001  # told by the test's own thread
                    errors.append(error)

            threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert errors == []

    def test_a_server_that_is_full_says_so(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as first:
            first.stat(at(server))
            server.server.max_cons_per_ip = 1
            with FtpSource() as source, pytest.raises(Unreachable, match="no more connections"):
                source.stat(at(server))

    def test_a_connection_that_died_while_it_rested_is_replaced(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source, source.open(at(server)) as reader:
            assert reader.pread(0, 100) == IMAGE[:100]
            for channel in list(server.server.ioloop.socket_map.values()):
                if channel is not server.server:
                    channel.close()
            assert reader.pread(400_000, 100) == IMAGE[400_000:400_100]
            assert source.stat(at(server)).size == len(IMAGE)

    def test_an_image_that_was_replaced_is_changed(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("probes.ftp.reader.TRUST", 0.0)
        with Pyftpd(root) as server, FtpSource() as source, source.open(at(server)) as reader:
            (root / "image.img").write_bytes(IMAGE[::-1])
            os.utime(root / "image.img", (1, 1))
            with pytest.raises(Changed):
                reader.pread(300_000, 100)

    def test_an_image_that_became_shorter_is_changed_and_never_short_data(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source, source.open(at(server)) as reader:
            os.truncate(root / "image.img", 1000)
            with pytest.raises(Changed):
                reader.pread(500, 10_000)

    def test_closing_the_reader_ends_a_read_that_waits_for_a_connection(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource(deadline=120) as source:
            reader = source.open(at(server))
            pool = next(iter(source._pools.values()))
            pool.most = 1
            begun = threading.Event()
            ended: list[BaseException] = []

            def read() -> None:
                begun.set()
                try:
                    reader.pread(0, 100)
                except FarbootError as error:
                    ended.append(error)

            listing = source.entries(at(server, "/"))
            next(listing)  # it keeps the only connection
            thread = threading.Thread(target=read)
            thread.start()
            assert begun.wait(10)
            reader.close()
            thread.join(30)
            assert not thread.is_alive()
            assert all(isinstance(error, Cancelled) for error in ended)

    @pytest.mark.parametrize("without", [("MLST", "MLSD"), ("EPSV",), ("FEAT",), ("FEAT", "EPSV", "MDTM")])
    def test_what_a_server_does_not_know_is_done_otherwise(self, root: Path, without: tuple[str, ...]) -> None:
        with Pyftpd(root, without=without) as server, FtpSource() as source:
            assert [entry.name for entry in source.entries(at(server, "/"))] == ["image.img"]
            assert source.stat(at(server)).size == len(IMAGE)
            with source.open(at(server)) as reader:
                assert reader.pread(123_456, 789) == IMAGE[123_456 : 123_456 + 789]

    def test_over_ipv6(self, root: Path) -> None:
        with Pyftpd(root, host="::1") as server, FtpSource() as source:
            assert server.authority.startswith("[::1]:")
            assert [entry.name for entry in source.entries(at(server, "/"))] == ["image.img"]
            with source.open(at(server)) as reader:
                assert reader.pread(100, 100) == IMAGE[100:200]

    def test_the_address_that_a_pasv_names_is_not_gone_to(self, root: Path) -> None:
        with Pyftpd(root, without=("EPSV",), masquerade_address="192.0.2.1") as server, FtpSource() as source:
            assert [entry.name for entry in source.entries(at(server, "/"))] == ["image.img"]


class TestFolders:
    def test_links_are_what_they_lead_to(self, tmp_path: Path) -> None:
        # pytest's folders are closed to vsftpd's user.
        root = Path(os.path.realpath(tmp_path / "root"))
        root.mkdir()
        (root / "v2.img").write_bytes(b"x" * 77)
        (root / "folder").mkdir()
        for name, target in (("latest.img", "v2.img"), ("dir", "folder"), ("broken", "nowhere")):
            (root / name).symlink_to(target)
        for folder in (root, *root.parents[:3]):
            folder.chmod(folder.stat().st_mode | 0o755)
        server = start_vsftpd(tmp_path / "vsftpd", root)
        with server.server, FtpSource() as source:
            found = {entry.name: entry for entry in source.entries(Location("ftp", server.authority, "/"))}
        assert {name: entry.kind for name, entry in found.items()} == {
            "v2.img": Kind.IMAGE, "folder": Kind.CONTAINER, "latest.img": Kind.IMAGE, "dir": Kind.CONTAINER,
            "broken": Kind.OTHER,
        }  # fmt: skip
        assert found["latest.img"].size == 77
        assert found["broken"].note == "→ nowhere (leads nowhere)"

    def test_a_large_folder_comes_as_it_arrives(self, root: Path) -> None:
        many = root / "many"
        many.mkdir()
        for number in range(2_000):
            (many / f"{number:05}.img").touch()
        with Pyftpd(root) as server, FtpSource() as source:
            rows = source.entries(at(server, "/many/"))
            first = list(itertools.islice(rows, 100))
            assert len({entry.name for entry in first}) == 100
            assert len(list(rows)) == 1_900

    def test_below_the_login_and_from_the_root(self, root: Path) -> None:
        (root / "home" / "dir").mkdir(parents=True)
        (root / "home" / "dir" / "a.img").write_bytes(b"abc")
        with Pyftpd(root) as server, FtpSource() as source:
            assert source.stat(at(server, "/home/dir/a.img")).size == 3
            assert source.stat(at(server, "//home/dir/a.img")).size == 3
            assert source.stat(at(server, "/%2Fhome/dir")).kind is Kind.CONTAINER


class TestCredentials:
    def test_the_user_of_the_location_is_the_one(self, root: Path) -> None:
        with Pyftpd(root, users={USER: PASSWORD}) as server:
            place = Location("ftp", f"{USER}@{server.authority}", "/")
            with FtpSource(Credentials(password=Secret(PASSWORD))) as source:
                assert [entry.name for entry in source.entries(place)] == ["image.img"]
            with FtpSource() as source, pytest.raises(Denied) as caught:
                source.stat(place)
            assert caught.value.wants == ("username", "password")

    def test_the_password_goes_to_the_first_server_alone(self, root: Path) -> None:
        with Pyftpd(root, users={USER: PASSWORD}) as own, FtpSource(Credentials(USER, Secret(PASSWORD))) as source:
            source.stat(at(own))
            told: list[bytes] = []
            with Said(b"220 hello\r\n", told) as foreign, pytest.raises(FarbootError):
                source.stat(Location("ftp", f"localhost:{foreign.port}", "/x"))
            assert PASSWORD.encode() not in b"".join(told)

    def test_a_line_break_in_a_password_is_no_second_command(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource(Credentials("a", Secret("b\r\nDELE image.img"))) as source:
            with pytest.raises(Denied):
                source.stat(at(server))
            assert "DELE" not in server.commands


class TestTls:
    @pytest.mark.parametrize("kind", ["explicit", "implicit"])
    def test_it_is_spoken_as_the_server_speaks_it(self, root: Path, pair: tuple[Path, Path], kind: str) -> None:
        with Pyftpd(root, tls=kind, pair=pair) as server, FtpSource(Credentials(ca_file=str(pair[0]))) as source:
            assert [entry.name for entry in source.entries(at(server, "/", "ftps"))] == ["image.img"]
            with source.open(at(server, scheme="ftps")) as reader:
                assert reader.pread(1000, 5000) == IMAGE[1000:6000]

    def test_an_untrusted_certificate_is_denied_and_an_authority_asked_for(
        self, root: Path, pair: tuple[Path, Path]
    ) -> None:
        with Pyftpd(root, tls="explicit", pair=pair) as server, FtpSource() as source:
            with pytest.raises(Denied) as caught:
                source.stat(at(server, scheme="ftps"))
            assert caught.value.wants == ("ca_file",)
            assert "USER" not in server.commands, "nothing was said to a server that nobody vouches for"

    def test_a_certificate_for_another_host_is_denied(self, root: Path, tmp_path: Path) -> None:
        pair = make_certificate(tmp_path, "192.0.2.1")
        with Pyftpd(root, tls="explicit", pair=pair) as server:
            credentials = Credentials(ca_file=str(pair[0]))
            with FtpSource(credentials) as source, pytest.raises(Denied, match="certificate"):
                source.stat(at(server, scheme="ftps"))

    def test_ftps_never_becomes_plain(self, root: Path) -> None:
        with Pyftpd(root, users={USER: PASSWORD}) as server, FtpSource(Credentials(USER, Secret(PASSWORD))) as source:
            with pytest.raises(Denied, match="no TLS"):
                source.stat(at(server, scheme="ftps"))
            assert "USER" not in server.commands

    def test_a_plain_login_where_tls_is_wanted_says_ftps(self, root: Path, pair: tuple[Path, Path]) -> None:
        with Pyftpd(root, tls="explicit", pair=pair) as server, FtpSource() as source:
            with pytest.raises(Denied) as caught:
                source.stat(at(server))
            assert "ftps://" in caught.value.hint


class TestWithoutRest:
    """A server that cannot read in the middle of a file."""

    @pytest.fixture
    def server(self, root: Path) -> Iterator[Pyftpd]:
        with Pyftpd(root, without=("REST", "FEAT")) as running:
            yield running

    def test_a_small_image_is_read_whole(self, server: Pyftpd) -> None:
        with FtpSource() as source, source.open(at(server)) as reader:
            assert reader.pread(400_000, 1000) == IMAGE[400_000:401_000]

    def test_a_large_one_is_fetched_once(self, server: Pyftpd, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ftp, "WHOLE", 1000)
        told: list[tuple[int, int | None]] = []
        with FtpSource() as source:
            with pytest.raises(NotFetched) as caught:
                source.open(at(server))
            assert caught.value.size == len(IMAGE)
            assert not source.fetched(at(server))
            pin = source.fetch(at(server), lambda came, size: told.append((came, size)))
            assert told[-1] == (len(IMAGE), len(IMAGE))
            assert source.fetched(at(server))
            with source.open(at(server)) as reader:
                assert reader.pin == pin
                assert reader.pread(400_000, 1000) == IMAGE[400_000:401_000]
            found = source.attach(at(server), QEMU, Mode.SNAPSHOT)
            assert found.route is Route.FETCH
            assert Path(found.files[0].path).read_bytes() == IMAGE
            with pytest.raises(Unsupported, match="middle"):
                source.attach(at(server), DIRECT, Mode.SNAPSHOT)
            fetches = server.commands.count("RETR")
            source.fetch(at(server), lambda came, size: None)
            assert server.commands.count("RETR") == fetches

    def test_a_copy_of_what_was_replaced_is_no_good(
        self, server: Pyftpd, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ftp, "WHOLE", 1000)
        with FtpSource() as source:
            source.fetch(at(server), lambda came, size: None)
            os.utime(root / "image.img", (1, 1))
            assert not source.fetched(at(server))
            with pytest.raises(NotFetched):
                source.open(at(server))


class TestAttaching:
    def test_the_bridge_is_the_rule_and_the_driver_a_wish(self, root: Path) -> None:
        with Pyftpd(root, users={USER: PASSWORD}) as server:
            place = Location("ftp", f"{USER}@{server.authority}", "/image.img")
            with FtpSource(Credentials(password=Secret(PASSWORD))) as source:
                ruled = source.attach(place, QEMU, Mode.SNAPSHOT)
                wished = source.attach(place, DIRECT, Mode.SNAPSHOT)
        assert (ruled.route, ruled.node, ruled.trusted, ruled.writable) == (Route.BRIDGE, {}, False, False)
        assert "every read" in ruled.why
        assert wished.route is Route.DRIVER
        assert wished.node["url"] == f"ftp://{server.authority}/image.img"
        assert wished.node["username"] == USER
        assert [(slot.option, slot.secret) for slot in wished.secrets] == [("password-secret", Secret(PASSWORD))]
        assert PASSWORD not in repr(wished)

    def test_anonymously_there_is_no_secret(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source:
            wished = source.attach(at(server), DIRECT, Mode.SNAPSHOT)
        assert wished.secrets == ()
        assert "username" not in wished.node

    def test_a_qemu_without_the_driver(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source:
            poor = QemuFacts((7, 2, 0), frozenset({"raw"}), RouteWish.DIRECT)
            with pytest.raises(Unsupported, match="no ftp driver"):
                source.attach(at(server), poor, Mode.SNAPSHOT)

    def test_explicit_tls_is_nothing_for_qemus_driver(self, root: Path, pair: tuple[Path, Path]) -> None:
        credentials = Credentials(ca_file=str(pair[0]))
        with (
            Pyftpd(root, tls="explicit", pair=pair) as server,
            FtpSource(credentials) as source,
            pytest.raises(Unsupported, match="AUTH TLS"),
        ):
            source.attach(at(server, scheme="ftps"), DIRECT, Mode.SNAPSHOT)

    def test_writing_is_refused(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source, pytest.raises(Refused):
            source.attach(at(server), QEMU, Mode.WRITE)

    def test_a_folder_is_no_image(self, root: Path) -> None:
        with Pyftpd(root) as server, FtpSource() as source, pytest.raises(NotAnImage):
            source.attach(at(server, "/"), QEMU, Mode.SNAPSHOT)


class Said(Listener):
    """Says `greeting`, and then `replies` one after the other to whatever comes; keeps what it was told."""

    def __init__(self, greeting: bytes, told: list[bytes], replies: Callable[[bytes], bytes] = lambda _: b"") -> None:
        self.greeting, self.told, self.replies = greeting, told, replies
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        client.sendall(self.greeting)
        while line := client.recv(4096):
            self.told.append(line)
            client.sendall(self.replies(line) or b"500 no\r\n")


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", BadAnswer),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", BadAnswer),
        (b"x" * 100_000, BadAnswer),
        (b"220-" + b"hello\r\n" * 10_000, BadAnswer),
        (b"220-\xff\x1b[31m\r\n220 ok\r\n", Denied),
        (b"421 too many connections\r\n", Unreachable),
        (b"220", TimedOut),
    ],
)
def test_a_server_that_is_none_costs_an_error(greeting: bytes, error: type[FarbootError]) -> None:
    with Said(greeting, []) as server, FtpSource(NO_CREDENTIALS, 1.0) as source:
        with pytest.raises(error) as caught:
            source.stat(Location("ftp", server.authority, "/x"))
        assert "\x1b" not in str(caught.value)


def test_a_server_that_drips_replies_is_not_waited_for() -> None:
    class Drip(Listener):
        def serve(self, client: socket.socket) -> None:
            client.sendall(b"220-")
            while not self.stopping.wait(0.05):
                client.sendall(b"x\r\n")

    with Drip() as server, FtpSource(NO_CREDENTIALS, 0.7) as source, pytest.raises(TimedOut):
        source.stat(Location("ftp", server.authority, "/x"))
