"""NBD against real servers: nbdkit and qemu-nbd."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.entry import Kind
from probes.errors import (
    BadAnswer,
    BadLocation,
    Denied,
    FarbootError,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.registry import open_source
from probes.source import CanWrite, TellsUse, Use
from probes.sources.nbd import NAMELESS, NbdSource
from tests.servers.nbdkit import Nbd, Pki, make_pki, start_nbdkit, start_nbdkit_on_socket, start_qemu_nbd
from tests.servers.server import Server, free_port, is_listening, wait_until
from tests.sources.contract import (
    CredentialContract,
    Faults,
    Lock,
    NetworkContract,
    ProxyFaults,
    SourceContract,
    Storage,
    content,
    locations,
    odd_names,
)

QEMU = QemuFacts((7, 2, 0), frozenset({"nbd", "raw"}))
USER, KEY = "alice", "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder of exports with the contract's names."""
    root = tmp_path_factory.mktemp("exports")
    files = {name: content(600 + index, index) for index, name in enumerate(odd_names())}
    files |= {"image.img": content(300_001, 99), "empty.img": b""}
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root, files


@pytest.fixture(scope="module")
def nbdkit(served: tuple[Path, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nbd]:
    running = start_nbdkit(tmp_path_factory.mktemp("nbdkit"), "-r", "file", f"dir={served[0]}")
    yield running
    running.server.stop()


@pytest.fixture
def source() -> Iterator[NbdSource]:
    with NbdSource() as made:
        yield made


def top(running: Nbd, scheme: str = "nbd", host: str = "127.0.0.1") -> Location:
    return Location(scheme, f"{host}:{running.port}", "/")


def nameless(running: Nbd, scheme: str = "nbd") -> Location:
    return Location(scheme, running.authority)


def storage_at(container: Location, files: dict[str, bytes], credentials: Credentials = NO_CREDENTIALS) -> Storage:
    return Storage(
        make=lambda credentials, deadline: open_source(container, credentials, deadline),
        container=container,
        files=files,
        image="image.img",
        missing=container.child("missing.img"),
        credentials=credentials,
        exact_sizes=False,
    )


class _Nbd(SourceContract):
    """NBD's own way of being empty: exports hold no exports, but a server may have none."""

    def test_an_empty_container_lists_nothing(self, storage: Storage) -> None:
        """Exports hold no exports: see `test_a_server_without_exports_lists_nothing`."""
        with storage.source() as source:
            assert all(entry.kind is Kind.IMAGE for entry in source.entries(storage.container))


class TestNbd(_Nbd, NetworkContract):
    @pytest.fixture
    def storage(self, nbdkit: Nbd, served: tuple[Path, dict[str, bytes]]) -> Storage:
        return storage_at(top(nbdkit), served[1])

    @pytest.fixture
    def faults(self, nbdkit: Nbd, refused_port: int) -> Iterator[Faults]:
        faults = ProxyFaults("nbd", nbdkit.port, refused_port, listing=500)
        yield faults
        faults.close()


class TestNbdOverAUnixSocket(_Nbd):
    @pytest.fixture(scope="class")
    def path(self, served: tuple[Path, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
        home = tmp_path_factory.mktemp("nbdkit")
        path = f"{home}/odd, name=%41&.sock"
        server = start_nbdkit_on_socket(home, path, "-r", "file", f"dir={served[0]}")
        yield path
        server.stop()

    @pytest.fixture
    def storage(self, path: str, served: tuple[Path, dict[str, bytes]]) -> Storage:
        from urllib.parse import quote

        container, _ = Location.parse(f"nbd+unix:///?socket={quote(path)}")
        return storage_at(container, served[1])


class _Locked(_Nbd, CredentialContract):
    """A server that speaks TLS only."""

    kind: str

    @pytest.fixture
    def storage(self, secure: Nbd, served: tuple[Path, dict[str, bytes]], lock: Lock) -> Storage:
        return storage_at(top(secure, "nbds", "localhost"), served[1], lock.right)

    def test_without_tls_it_is_denied_and_told_how_to_open_it(self, secure: Nbd, source: NbdSource) -> None:
        where = top(secure)
        for call in (lambda: list(source.entries(where)), lambda: source.open(where.child("image.img"))):
            with pytest.raises(Denied, match=rf"wants TLS.*nbds://127\.0\.0\.1:{secure.port}/"):
                call()


class TestNbdByASharedKey(_Locked):
    @pytest.fixture(scope="class")
    def secure(self, served: tuple[Path, dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nbd]:
        home = tmp_path_factory.mktemp("nbdkit")
        (home / "keys.psk").write_text(f"{USER}:{KEY}\n")
        options = ("-r", "--tls=require", f"--tls-psk={home / 'keys.psk'}")
        running = start_nbdkit(home, *options, "file", f"dir={served[0]}")
        yield running
        running.server.stop()

    @pytest.fixture
    def lock(self, secure: Nbd) -> Lock:
        container = top(secure, "nbds", "localhost")
        return Lock(
            container=container,
            image=container.child("image.img"),
            right=Credentials(username=USER, key=Secret(KEY)),
            wrong=Credentials(username=USER, key=Secret("ff" * 32)),
            wants=("username", "key"),
        )

    @pytest.mark.parametrize(
        "credentials",
        [
            Credentials(key=Secret(KEY)),
            Credentials(username="a:b", key=Secret(KEY)),
            Credentials(username=USER, key=Secret("not hex")),
            Credentials(username=USER, key=Secret("0f1")),
        ],
    )
    def test_what_can_be_no_shared_key_is_denied_before_anything_is_sent(
        self, secure: Nbd, credentials: Credentials
    ) -> None:
        with NbdSource(credentials) as source, pytest.raises(Denied) as caught:
            list(source.entries(top(secure, "nbds")))
        assert caught.value.wants == ("username", "key")
        assert "not hex" not in str(caught.value)


class TestNbdByCertificates(_Locked):
    @pytest.fixture(scope="class")
    def secure(
        self, served: tuple[Path, dict[str, bytes]], pki: Pki, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Nbd]:
        options = ("-r", "--tls=require", f"--tls-certificates={pki.server}", "--tls-verify-peer")
        running = start_nbdkit(tmp_path_factory.mktemp("nbdkit"), *options, "file", f"dir={served[0]}")
        yield running
        running.server.stop()

    @pytest.fixture
    def lock(self, secure: Nbd, pki: Pki) -> Lock:
        container = top(secure, "nbds", "localhost")
        return Lock(
            container=container,
            image=container.child("image.img"),
            right=Credentials(ca_file=pki.ca, client_cert=pki.client_cert, client_key=pki.client_key),
            wrong=Credentials(client_cert=pki.client_cert, client_key=pki.client_key),
            wants=("ca_file",),
        )


class TestTls:
    def test_a_certificate_for_another_name_is_denied(
        self, pki: Pki, served: tuple[Path, dict[str, bytes]], tmp_path: Path
    ) -> None:
        foreign = make_pki(tmp_path / "pki", "subjectAltName=DNS:elsewhere.example")
        running = start_nbdkit(tmp_path, "--tls=require", f"--tls-certificates={foreign.server}", "memory", "1M")
        try:
            with NbdSource(Credentials(ca_file=foreign.ca)) as source, pytest.raises(Denied, match="another name"):
                list(source.entries(top(running, "nbds", "localhost")))
        finally:
            running.server.stop()

    def test_without_a_given_authority_the_systems_vouch_and_not_nobody(self, pki: Pki, tmp_path: Path) -> None:
        running = start_nbdkit(tmp_path, "--tls=require", f"--tls-certificates={pki.server}", "memory", "1M")
        try:
            with NbdSource() as source, pytest.raises(Denied) as caught:
                source.stat(nameless(running, "nbds"))
            assert caught.value.wants == ("ca_file",)
            with NbdSource(Credentials(ca_file=pki.ca)) as source:
                assert source.stat(nameless(running, "nbds")).size == 1 << 20
        finally:
            running.server.stop()

    def test_a_server_without_tls_is_not_spoken_to_in_plain(self, nbdkit: Nbd, source: NbdSource) -> None:
        with pytest.raises(Denied, match="speaks no TLS"):
            list(source.entries(top(nbdkit, "nbds")))

    def test_half_a_client_certificate_and_a_missing_file_are_told(self, nbdkit: Nbd, pki: Pki) -> None:
        with NbdSource(Credentials(client_cert=pki.client_cert)) as source, pytest.raises(Denied, match="key"):
            source.stat(top(nbdkit, "nbds"))
        with NbdSource(Credentials(ca_file="/nonexistent/ca.pem")) as source, pytest.raises(NotFound, match=r"ca\.pem"):
            source.stat(top(nbdkit, "nbds"))

    def test_nothing_secret_is_left_in_a_file(
        self, nbdkit: Nbd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        for credentials in (Credentials(username=USER, key=Secret(KEY)), Credentials()):
            with NbdSource(credentials) as source, pytest.raises(Denied):
                list(source.entries(top(nbdkit, "nbds")))
        assert list(tmp_path.iterdir()) == []


class TestListing:
    def test_a_server_without_exports_lists_nothing(self, empty_nbdkit: Nbd, source: NbdSource) -> None:
        assert list(source.entries(top(empty_nbdkit))) == []

    def test_sizes_come_with_the_rows_as_far_as_there_is_time_for_them(
        self, nbdkit: Nbd, served: tuple[Path, dict[str, bytes]], source: NbdSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("probes.sources.nbd.SIZES_WITHIN", 60.0)
        found = {entry.name: entry.size for entry in source.entries(top(nbdkit))}
        assert found == {name: len(data) for name, data in served[1].items()}
        monkeypatch.setattr("probes.sources.nbd.SIZES_WITHIN", -1.0)
        found = {entry.name: entry.size for entry in source.entries(top(nbdkit))}
        assert found == dict.fromkeys(served[1])

    def test_an_export_that_is_read_only_is_noted(self, nbdkit: Nbd, source: NbdSource) -> None:
        assert {entry.note for entry in source.entries(top(nbdkit))} == {"read-only"}

    def test_the_export_without_a_name_is_the_server_without_a_slash(self, tmp_path: Path, source: NbdSource) -> None:
        running = start_nbdkit(tmp_path, "memory", "1M")
        try:
            (entry,) = source.entries(top(running))
            assert (entry.name, entry.kind, entry.size) == (NAMELESS, Kind.IMAGE, 1 << 20)
            assert str(entry.location) == f"nbd://{running.authority}"
            again, _ = Location.parse(str(entry.location))
            assert again == entry.location
            assert again.parent == top(running)
            assert source.stat(again) == replace(entry, note="")
            with source.open(again) as reader:
                assert reader.pread((1 << 20) - 2, 10) == bytes(2)
        finally:
            running.server.stop()

    def test_a_server_without_it_is_its_list_however_it_is_written(self, nbdkit: Nbd, source: NbdSource) -> None:
        entry = source.stat(nameless(nbdkit))
        assert (entry.kind, entry.location) == (Kind.CONTAINER, top(nbdkit))
        assert list(source.entries(nameless(nbdkit))) == list(source.entries(top(nbdkit)))

    def test_a_name_with_slashes_is_one_export(self, tmp_path: Path, source: NbdSource) -> None:
        (tmp_path / "image").write_bytes(content(100_000))
        running = start_qemu_nbd(
            tmp_path, tmp_path / "image", "-f", "raw", "-x", "a/b//c", "-D", "A description \x1b[31m"
        )
        try:
            (entry,) = source.entries(top(running))
            assert (entry.name, entry.size, entry.note) == ("a/b//c", 100_352, r"A description \x1b[31m")
            typed, _ = Location.parse(f"nbd://{running.authority}/a/b//c")
            assert source.stat(typed).location == entry.location
            assert entry.location.parent == top(running)
            for where in (typed, entry.location):
                with source.open(where) as reader:
                    assert reader.pread(0, 100_000) == content(100_000)
        finally:
            running.server.stop()

    def test_an_ipv6_address_stands_in_brackets(self, tmp_path: Path, source: NbdSource) -> None:
        port = free_port("::1")
        argv = ["nbdkit", "-f", "-i", "::1", "-p", str(port), "memory", "1M"]
        with Server(argv, tmp_path, lambda: is_listening(port, "::1")):
            (entry,) = source.entries(Location.parse(f"nbd://[::1]:{port}/")[0])
            assert entry.size == 1 << 20
            node = source.attach(entry.location, QEMU, Mode.SNAPSHOT).node
            assert node["server"] == {"type": "inet", "host": "::1", "port": str(port)}
            info = ["qemu-img", "info", "json:" + json.dumps({"driver": "raw", "file": dict(node)})]
            assert "virtual size: 1 MiB" in subprocess.run(info, capture_output=True, text=True, check=True).stdout

    def test_a_server_of_the_old_style_has_its_one_export(self, tmp_path: Path, source: NbdSource) -> None:
        running = start_nbdkit(tmp_path, "--oldstyle", "memory", "1M")
        try:
            assert [(entry.name, entry.size) for entry in source.entries(top(running))] == [(NAMELESS, 1 << 20)]
            with source.open(nameless(running)) as reader:
                assert reader.pread(0, 3) == bytes(3)
            with pytest.raises(NotFound):
                source.open(top(running).child("other"))
        finally:
            running.server.stop()

    def test_a_server_that_lets_one_client_in_at_a_time_can_be_browsed(self, tmp_path: Path, source: NbdSource) -> None:
        (tmp_path / "image").write_bytes(content(100_000))
        running = start_qemu_nbd(tmp_path, tmp_path / "image", "-f", "raw", "--shared=1")
        try:
            for _ in range(3):
                assert len(list(source.entries(top(running)))) == 1
                assert source.stat(nameless(running)).size == 100_352
                with source.open(nameless(running)) as reader:
                    assert reader.pread(5, 5) == content(10)[5:]
            with (
                source.open(nameless(running)),
                NbdSource(deadline=0.5) as second,
                pytest.raises(TimedOut, match="--shared"),
            ):
                second.stat(nameless(running))
        finally:
            running.server.stop()


class TestUnixSockets:
    def test_a_location_must_name_one(self, source: NbdSource) -> None:
        for query in ("", "socket=relative", "socket=", "socket=/x%00y", "socket=/" + "x" * 108):
            with pytest.raises(BadLocation):
                source.stat(Location("nbd+unix", "", "/", query))

    def test_one_that_is_not_there_or_not_ours_is_told(self, source: NbdSource, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for name in ("absent", "file"):
            with pytest.raises(Unreachable):
                source.stat(Location("nbd+unix", "", "/", f"socket={tmp_path / name}"))


class TestReading:
    def test_blocks_that_the_server_insists_on_are_kept_to(self, tmp_path: Path, source: NbdSource) -> None:
        size = 64 * 4096
        (tmp_path / "image").write_bytes(content(size))
        policy = ("--filter=blocksize-policy", "blocksize-minimum=4096", "blocksize-preferred=4096",
                  "blocksize-maximum=8192", "blocksize-error-policy=error")  # fmt: skip
        running = start_nbdkit(tmp_path, policy[0], "file", str(tmp_path / "image"), *policy[1:])
        try:
            with source.open_for_writing(nameless(running)) as writer:
                for offset, length in ((0, 1), (4095, 2), (5000, 100_000), (size - 1, 9), (0, size)):
                    assert writer.pread(offset, length) == content(size)[offset : offset + length]
                writer.pwrite(4090, b"twelve bytes")
                writer.pwrite(size - 3, b"end")
                writer.flush()
            expected = bytearray(content(size))
            expected[4090:4102], expected[-3:] = b"twelve bytes", b"end"
            assert (tmp_path / "image").read_bytes() == expected
        finally:
            running.server.stop()

    def test_closing_while_others_read_ends_them_with_an_error_and_nothing_worse(
        self, nbdkit: Nbd, served: tuple[Path, dict[str, bytes]]
    ) -> None:
        source = NbdSource()
        reader = source.open(top(nbdkit).child("image.img"))
        reading = threading.Barrier(5)

        def read_on() -> FarbootError:
            reading.wait(30)
            try:
                while True:
                    assert reader.pread(0, 300_001) == served[1]["image.img"]
            except FarbootError as error:
                return error

        with ThreadPoolExecutor(4) as threads:
            ends = [threads.submit(read_on) for _ in range(4)]
            reading.wait(30)
            source.close()
            assert {end.result(30).why for end in ends} == {"it was closed"}

    def test_no_thread_or_descriptor_is_left(self, nbdkit: Nbd) -> None:
        def ours() -> int:
            return sum(thread.name == "nbd" for thread in threading.enumerate())

        before, open_before = ours(), len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with NbdSource() as source:
                found = locations(source, top(nbdkit))
                source.open(found["image.img"])
                with pytest.raises(NotFound):
                    source.open(top(nbdkit).child("missing"))
        wait_until(lambda: ours() == before, "the connections' threads to end")
        wait_until(lambda: len(os.listdir("/proc/self/fd")) <= open_before, "their descriptors to be closed")

    def test_a_source_that_was_closed_says_so(self, nbdkit: Nbd) -> None:
        source = NbdSource()
        source.close()
        for call in (source.stat, source.open):
            with pytest.raises(FarbootError, match="closed"):
                call(top(nbdkit).child("image.img"))


class TestWriting:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        path = tmp_path / "image"
        path.write_bytes(content(3 << 20))
        return path

    def test_what_is_written_lies_there_after_a_flush(self, tmp_path: Path, image: Path, source: NbdSource) -> None:
        running = start_qemu_nbd(tmp_path, image, "-f", "raw")
        try:
            assert isinstance(source, CanWrite)
            with source.open_for_writing(nameless(running)) as writer:
                writer.pwrite(1001, content(2 << 20, 7))
                assert writer.pread(1001, 2 << 20) == content(2 << 20, 7)
                writer.flush()
                assert image.read_bytes()[1001 : 1001 + (2 << 20)] == content(2 << 20, 7)
                for offset in (-1, (3 << 20) - 1):
                    with pytest.raises(BadAnswer):
                        writer.pwrite(offset, b"xx")
        finally:
            running.server.stop()

    def test_what_the_server_offers_for_reading_only_is_denied(self, nbdkit: Nbd, source: NbdSource) -> None:
        with pytest.raises(Denied, match="reading only"):
            source.open_for_writing(top(nbdkit).child("image.img"))

    def test_who_else_uses_it_is_not_known(self, nbdkit: Nbd, source: NbdSource) -> None:
        assert isinstance(source, TellsUse)
        assert source.in_use(top(nbdkit).child("image.img")) == Use((), certain=False)

    def test_a_server_for_several_writers_is_noted_where_it_matters(
        self, tmp_path: Path, image: Path, source: NbdSource
    ) -> None:
        running = start_nbdkit(tmp_path, "file", str(image))
        try:
            assert source.attach(nameless(running), QEMU, Mode.SNAPSHOT).notes == ()
            (note,) = source.attach(nameless(running), QEMU, Mode.WRITE).notes
            assert "several clients" in note
        finally:
            running.server.stop()


class TestAttach:
    def test_it_is_qemus_own_driver(self, nbdkit: Nbd, source: NbdSource) -> None:
        found = source.attach(top(nbdkit).child("a,b.img"), QEMU, Mode.SNAPSHOT)
        assert found.route is Route.DRIVER
        assert found.node == {
            "driver": "nbd",
            "server": {"type": "inet", "host": "127.0.0.1", "port": str(nbdkit.port)},
            "export": "a,b.img",
            "reconnect-delay": 30,
            "open-timeout": 5,
        }
        assert (found.writable, found.trusted, found.secrets, found.reads, found.tls) == (False, True, (), (), None)
        assert (
            "open-timeout"
            not in source.attach(top(nbdkit).child("a,b.img"), replace(QEMU, version=(6, 2)), Mode.SNAPSHOT).node
        )

    def test_the_bridge_serves_where_qemu_has_no_driver_or_it_is_wished_or_the_name_is_not_text(
        self, nbdkit: Nbd, source: NbdSource
    ) -> None:
        image = top(nbdkit).child("image.img")
        for where, qemu in (
            (image, replace(QEMU, drivers=frozenset())),
            (image, replace(QEMU, route=RouteWish.BRIDGE)),
            (top(nbdkit).child("gr\udcfcn.img"), QEMU),
        ):
            found = source.attach(where, qemu, Mode.SNAPSHOT)
            assert (found.route, found.node, found.pin.size > 0) == (Route.BRIDGE, {}, True)
            assert found.why

    def test_the_direct_route_is_unsupported_where_qemu_has_no_driver(self, nbdkit: Nbd, source: NbdSource) -> None:
        with pytest.raises(Unsupported, match="nbd driver"):
            source.attach(
                top(nbdkit).child("image.img"), QemuFacts((7, 2), frozenset(), RouteWish.DIRECT), Mode.SNAPSHOT
            )

    def test_a_list_cannot_be_attached(self, nbdkit: Nbd, source: NbdSource) -> None:
        with pytest.raises(NotAnImage):
            source.attach(top(nbdkit), QEMU, Mode.SNAPSHOT)

    def test_a_unix_socket_is_shown_to_a_qemu_that_may_use_it(self, tmp_path: Path, source: NbdSource) -> None:
        path = str(tmp_path / "nbd.sock")
        server = start_nbdkit_on_socket(tmp_path, path, "memory", "1M")
        where = Location("nbd+unix", "", "", f"socket={path}")
        try:
            os.chmod(path, 0o777)
            found = source.attach(where, QEMU, Mode.SNAPSHOT)
            assert (found.route, found.reads) == (Route.DRIVER, (path,))
            assert found.node["server"] == {"type": "unix", "path": path}
            os.chmod(path, 0o700)
            found = source.attach(where, QEMU, Mode.SNAPSHOT)
            assert found.route is (Route.BRIDGE if os.geteuid() == 0 else Route.DRIVER)
        finally:
            server.stop()

    def test_tls_stands_beside_the_node_and_no_secret_in_it(
        self, pki: Pki, tmp_path: Path, served: tuple[Path, dict[str, bytes]]
    ) -> None:
        (tmp_path / "keys.psk").write_text(f"{USER}:{KEY}\n")
        by_key = start_nbdkit(tmp_path / "1", "--tls=require", f"--tls-psk={tmp_path / 'keys.psk'}", "memory", "1M")
        by_name = start_nbdkit(tmp_path / "2", "--tls=require", f"--tls-certificates={pki.server}", "memory", "1M")
        try:
            with NbdSource(Credentials(username=USER, key=Secret(KEY))) as source:
                found = source.attach(nameless(by_key, "nbds"), QEMU, Mode.SNAPSHOT)
            assert found.tls is not None
            assert found.tls.psk is not None
            assert (found.tls.username, found.tls.psk.secret.reveal(), found.tls.files) == (USER, KEY, ())
            assert KEY not in repr(found)
            own = Credentials(ca_file=pki.ca, client_cert=pki.client_cert, client_key=pki.client_key)
            with NbdSource(own) as source:
                found = source.attach(nameless(by_name, "nbds"), QEMU, Mode.SNAPSHOT)
            assert found.tls is not None
            assert found.tls.hostname == "127.0.0.1"
            assert dict(found.tls.files) == {
                "ca-cert.pem": pki.ca,
                "client-cert.pem": pki.client_cert,
                "client-key.pem": pki.client_key,
            }
        finally:
            by_key.server.stop()
            by_name.server.stop()

    @pytest.mark.parametrize("name", ["odd,name=\"'grün a//b.img", "plain.img"])
    def test_qemu_reads_through_it(self, tmp_path: Path, source: NbdSource, name: str) -> None:
        (tmp_path / "image").write_bytes(content(3 << 20))
        running = start_qemu_nbd(tmp_path, tmp_path / "image", "-f", "raw", "-x", name)
        try:
            node = dict(source.attach(top(running).child(name), QEMU, Mode.SNAPSHOT).node)
            argv = ["qemu-img", "convert", "-O", "raw", "json:" + json.dumps({"driver": "raw", "file": node})]
            done = subprocess.run([*argv, str(tmp_path / "read")], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
            assert (tmp_path / "read").read_bytes() == content(3 << 20)
        finally:
            running.server.stop()
