"""iSCSI, against a real target daemon."""

import os
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.credentials import Credentials, Secret
from probes.entry import Entry, Kind
from probes.errors import (
    BadAnswer,
    BadLocation,
    Cancelled,
    Denied,
    FarbootError,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.iscsi.commands import Command
from probes.iscsi.names import own_initiator
from probes.location import Location
from probes.reader import Reader
from probes.registry import open_source
from probes.source import Source, TellsUse
from probes.sources.iscsi import IscsiSource
from tests.servers.faults import FaultyProxy
from tests.servers.tgt import Tgt, TgtTarget
from tests.sources.contract import (
    CredentialContract,
    Faults,
    Lock,
    NetworkContract,
    SourceContract,
    Storage,
    content,
)

QEMU = QemuFacts((7, 2, 0), frozenset({"iscsi", "raw", "qcow2"}))
IQN = "iqn.2026-01.org.example"
PASSWORD = "s3cret-CHAP-w0rd"


def fresh(name: str = "target") -> str:
    """A target's name that nobody else has."""
    return f"{IQN}:{name}-{uuid.uuid4().hex[:8]}"


class Place:
    """Locations at one portal."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.authority = f"{host}:{port}"

    def __call__(self, *names: str | int, query: str = "", user: str = "") -> Location:
        path = "/" + "/".join(str(name) for name in names)
        return Location("iscsi", f"{user}@{self.authority}" if user else self.authority, path, query)


@pytest.fixture
def place(tgt: Tgt) -> Place:
    return Place(tgt.port)


@pytest.fixture
def source() -> Iterator[IscsiSource]:
    with IscsiSource() as made:
        yield made


@pytest.fixture
def target(tgt: Tgt) -> TgtTarget:
    """A target of the test's own, without LUNs."""
    return tgt.target(fresh())


class WithoutControllers(Source):
    """A source whose listings leave out what cannot be read.

    tgt puts a controller at LUN 0 of every target; the contract speaks of containers and files alone.
    """

    schemes = ("iscsi",)
    title = "iSCSI"

    def __init__(self, credentials: Credentials, deadline: float) -> None:
        super().__init__(credentials, deadline)
        self.inner = open_source(Location("iscsi"), credentials, deadline)

    def entries(self, location: Location) -> Iterator[Entry]:
        return (entry for entry in self.inner.entries(location) if entry.kind is not Kind.OTHER)

    def stat(self, location: Location) -> Entry:
        return self.inner.stat(location)

    def open(self, location: Location) -> Reader:
        return self.inner.open(location)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        return self.inner.attach(location, qemu, mode)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(scope="module")
def portal() -> Iterator[Tgt]:
    """A daemon whose targets are the contract's, and no others."""
    with Tgt() as server:
        yield server


@pytest.fixture(scope="module")
def contract_storage(portal: Tgt) -> Storage:
    files = {
        "1": content(300_032, 1),
        "2": content(81_920, 2),
        "3": content(204_800, 3),
        "255": content(512, 255),
        "256": content(1024, 256),
        "16000": content(512, 16000),
    }
    names = [f"{IQN}:contract", f"{IQN}:other", f"{IQN}:empty", "eui.02004567a425678d"]
    target, other, *_ = (portal.target(name) for name in names)
    for number, data in files.items():
        target.lun(int(number), data, "cd" if number == "3" else "disk", block=4096 if number == "2" else 0)
    other.lun(9, content(512, 9))
    return Storage(
        make=WithoutControllers,
        container=Place(portal.port)(names[0], ""),
        files=files,
        image="1",
        missing=Place(portal.port)(names[0], 99),
        containers={names[0]: files, names[1]: {"9": content(512, 9)}, names[2]: {}, names[3]: {}},
        outer=Place(portal.port)(),
    )


class Proxied(Faults):
    """A proxy before the target that dies."""

    def __init__(self, proxy: FaultyProxy, refused: int, hole: int) -> None:
        self._proxy = proxy
        self._refused = refused
        self._hole = hole

    @property
    def refused(self) -> Location:
        return Place(self._refused)(f"{IQN}:contract", "")

    @property
    def hole(self) -> Location:
        return Place(self._hole)(f"{IQN}:contract", "")

    @property
    def container(self) -> Location:
        return Place(self._proxy.port)(f"{IQN}:contract", "")

    @property
    def image(self) -> Location:
        return Place(self._proxy.port)(f"{IQN}:contract", 1)

    def break_listing(self) -> None:
        self._proxy.cut_after = 900  # past the login

    def break_reads(self) -> None:
        self._proxy.cut_after = 0
        self._proxy.hang_up()

    def mend(self) -> None:
        self._proxy.heal()


class TestIscsiContract(SourceContract, NetworkContract, CredentialContract):
    """Run as the application runs it: in a child process."""

    @pytest.fixture
    def storage(self, contract_storage: Storage) -> Storage:
        return contract_storage

    @pytest.fixture
    def faults(self, portal: Tgt, storage: Storage, refused_port: int) -> Iterator[Faults]:
        with FaultyProxy(portal.port) as proxy, socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            yield Proxied(proxy, refused_port, deaf.getsockname()[1])

    @pytest.fixture
    def lock(self, tgt: Tgt, place: Place) -> Lock:
        locked = tgt.target(fresh("locked"), user="alice", password=PASSWORD)
        locked.lun(1, content(512))
        return Lock(
            container=place(locked.name, ""),
            image=place(locked.name, 1),
            right=Credentials("alice", Secret(PASSWORD)),
            wrong=Credentials("alice", Secret("an0ther-CHAP-w0rd")),
            wants=("username", "password"),
        )

    def test_lists_every_file_once_with_its_name_and_kind(self, storage: Storage) -> None:
        # LUNs are numbers: no name of theirs ends in .img, by which the contract knows an image.
        with storage.source() as source:
            found = list(source.entries(storage.container))
        assert [entry.name for entry in found] == sorted(storage.files, key=int)
        assert {entry.kind for entry in found} == {Kind.IMAGE}


class TestPortals:
    def test_only_targets_that_the_initiator_may_see_are_listed(
        self, tgt: Tgt, source: IscsiSource, place: Place
    ) -> None:
        me, other = f"{IQN}:me", f"{IQN}:other"
        mine, theirs = tgt.target(fresh(), initiators=(me,)), tgt.target(fresh(), initiators=(other,))
        found = {entry.name: entry for entry in source.entries(place(query=f"initiator={me}"))}
        assert mine.name in found
        assert theirs.name not in found
        assert found[mine.name].location == place(mine.name, "", query=f"initiator={me}")

    def test_a_portal_asked_by_its_name_keeps_its_name(self, tgt: Tgt, target: TgtTarget, source: IscsiSource) -> None:
        named = Place(tgt.port, "localhost")
        entry = next(entry for entry in source.entries(named()) if entry.name == target.name)
        assert entry.location == named(target.name, "")
        assert source.stat(entry.location).kind is Kind.CONTAINER

    def test_a_target_that_is_elsewhere_is_listed_where_it_is(
        self, tgt: Tgt, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        with FaultyProxy(tgt.port) as proxy:  # which the target knows nothing of
            entry = next(entry for entry in source.entries(Place(proxy.port)()) if entry.name == target.name)
        assert entry.location == place(target.name, "")
        assert f"at 127.0.0.1:{tgt.port}" in entry.note

    def test_portals_are_reached_over_ipv6(self, tgt: Tgt, target: TgtTarget, source: IscsiSource) -> None:
        target.lun(1, content(1024))
        six = Place(tgt.portal("::1"), "[::1]")
        entry = next(entry for entry in source.entries(six()) if entry.name == target.name)
        assert entry.location == six(target.name, "")
        with source.open(six(target.name, 1)) as reader:
            assert reader.pread(0, 2000) == content(1024)
        assert source.attach(six(target.name, 1), QEMU, Mode.SNAPSHOT).node["portal"] == six.authority

    def test_two_hundred_targets_are_listed(self, source: IscsiSource) -> None:
        with Tgt() as busy:
            names = [f"{IQN}:storage.with-a-long-name.{number:03}" for number in range(200)]
            for name in names:
                busy.target(name)
            assert [entry.name for entry in source.entries(Place(busy.port)())] == names

    def test_a_daemon_without_any_target_hangs_up_and_that_is_said(self, source: IscsiSource) -> None:
        with Tgt() as idle, pytest.raises(Unreachable, match="has it any targets"):
            list(source.entries(Place(idle.port)()))

    def test_a_portal_cannot_be_opened(self, source: IscsiSource, place: Place) -> None:
        with pytest.raises(NotAnImage, match="it is a portal"):
            source.open(place())

    def test_a_host_without_an_address_is_unreachable(self, source: IscsiSource) -> None:
        with pytest.raises(Unreachable, match="address"):
            list(source.entries(Location("iscsi", "no-such-host.invalid", "/")))

    def test_a_server_of_another_kind_is_told_as_such(self, source: IscsiSource) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:

            def greet() -> None:
                client, _ = listener.accept()
                with client:
                    client.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n" * 9)
                    client.recv(1000)

            pool.submit(greet)
            with pytest.raises((BadAnswer, Unreachable)):
                list(source.entries(Place(listener.getsockname()[1])()))


class TestUnits:
    def test_each_kind_of_unit_is_told_and_only_disks_and_cds_are_images(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, 1 << 20)
        target.lun(2, 1 << 20, block=4096)
        target.lun(3, 20_480, "cd")
        target.lun(4, None, "cd")
        target.tape(5)
        found = {entry.name: entry for entry in source.entries(place(target.name, ""))}
        rows = {name: (entry.kind.value, entry.size, entry.note) for name, entry in found.items()}
        assert rows == {
            "0": ("other", None, "IET Controller, controller"),
            "1": ("image", 1 << 20, "IET VIRTUAL-DISK, disk"),
            "2": ("image", 1 << 20, "IET VIRTUAL-DISK, disk, blocks of 4096"),
            "3": ("image", 20_480, "IET VIRTUAL-CDROM, CD drive"),
            "4": ("other", None, "IET VIRTUAL-CDROM, CD drive, no medium"),
            "5": ("other", None, "IET VIRTUAL-TAPE, tape drive"),
        }

    @pytest.mark.parametrize(("lun", "why"), [(0, "it is a controller"), (4, "no medium"), (5, "it is a tape drive")])
    def test_what_has_no_blocks_cannot_be_opened_nor_booted(
        self, target: TgtTarget, source: IscsiSource, place: Place, lun: int, why: str
    ) -> None:
        target.lun(4, None, "cd")
        target.tape(5)
        for call in (source.open, source.open_for_writing, lambda at: source.attach(at, QEMU, Mode.SNAPSHOT)):
            with pytest.raises(NotAnImage, match=why):
                call(place(target.name, lun))
        assert source.stat(place(target.name, lun)).kind is Kind.OTHER

    def test_vendors_choose_their_words_and_they_harm_nobody(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, 1 << 20)
        target.update(1, "vendor_id=\x1b[31mAC,product_id=\x07[bold]disk")
        entry = next(entry for entry in source.entries(place(target.name, "")) if entry.name == "1")
        assert entry.note == "\\x1b[31mAC \\x07[bold]disk, disk"

    def test_large_numbers_are_those_that_people_count_by_and_qemu_gets_its_own(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(300, content(1024))
        assert [entry.name for entry in source.entries(place(target.name, ""))] == ["0", "300"]
        assert source.attach(place(target.name, 300), QEMU, Mode.SNAPSHOT).node["lun"] == 0x4000 | 300
        with source.open(place(target.name, 0x4000 | 300)) as reader:  # as iscsi-ls and QEMU's users write it
            assert reader.pread(0, 1024) == content(1024)

    def test_two_hundred_units_are_listed_in_order(self, target: TgtTarget, source: IscsiSource, place: Place) -> None:
        path = target.lun(1, 1 << 20)
        for number in range(2, 301):
            target.adm("--op", "new", "--mode", "logicalunit", "--lun", str(number), "--backing-store", str(path))
        found = [entry for entry in source.entries(place(target.name, "")) if entry.kind is Kind.IMAGE]
        assert [entry.name for entry in found] == [str(number) for number in range(1, 301)]
        assert {entry.size for entry in found} == {1 << 20}

    @pytest.mark.parametrize("name", ["x", "1x", "-1", "99999", "1/2", "０"])
    def test_what_is_no_number_is_no_unit(
        self, target: TgtTarget, source: IscsiSource, place: Place, name: str
    ) -> None:
        with pytest.raises(NotFound):
            source.stat(place(target.name, name))


class TestReading:
    @pytest.mark.parametrize("block", [512, 4096])
    def test_whatever_the_block_size_any_bytes_can_be_read(
        self, target: TgtTarget, source: IscsiSource, place: Place, block: int
    ) -> None:
        whole = content(40_960)
        target.lun(1, whole, block=block)
        with source.open(place(target.name, 1)) as reader:
            for offset, length in ((0, 1), (1, 4095), (4095, 2), (511, 514), (40_959, 5), (12_288, 4096), (0, 99_999)):
                assert reader.pread(offset, length) == whole[offset : offset + length]

    def test_a_large_read_comes_in_many_pieces(self, target: TgtTarget, source: IscsiSource, place: Place) -> None:
        whole = content(9_000_448)
        target.lun(1, whole)
        with source.open(place(target.name, 1)) as reader:
            assert reader.pread(700, 1 << 25) == whole[700:]

    def test_one_connection_serves_listings_and_all_readers(self, portal: Tgt, contract_storage: Storage) -> None:
        with FaultyProxy(portal.port) as proxy, IscsiSource() as source:
            there = Place(proxy.port)
            target = contract_storage.container.names[0]
            list(source.entries(there(target, "")))
            readers = [source.open(there(target, number)) for number in (1, 2, 3)]
            assert [reader.pread(0, 8) for reader in readers] == [contract_storage.files[n][:8] for n in "123"]
            assert proxy.connections == 1

    def test_a_session_that_broke_is_made_again(self, portal: Tgt, contract_storage: Storage) -> None:
        with FaultyProxy(portal.port) as proxy, IscsiSource() as source:
            image = Place(proxy.port)(contract_storage.container.names[0], 1)
            reader = source.open(image)
            proxy.hang_up()
            with pytest.raises(Unreachable):
                reader.pread(0, 512)
            with source.open(image) as again:
                assert again.pread(0, 512) == contract_storage.files["1"][:512]

    def test_a_target_that_falls_silent_times_out_and_is_asked_anew(self, contract_storage: Storage) -> None:
        with Tgt() as mine, IscsiSource(deadline=1.0) as source:
            mine.target(f"{IQN}:mine").lun(1, content(4096))
            image = Place(mine.port)(f"{IQN}:mine", 1)
            reader = source.open(image)
            with mine.paused(), pytest.raises(TimedOut, match=r"did not answer within 1 s"):
                reader.pread(0, 512)
            with source.open(image) as again:
                assert again.pread(0, 4096) == content(4096)

    def test_closing_frees_a_read_that_waits(self) -> None:
        with Tgt() as mine:
            mine.target(f"{IQN}:mine").lun(1, content(4096))
            source = IscsiSource(deadline=120.0)
            reader = source.open(Place(mine.port)(f"{IQN}:mine", 1))
            with mine.paused(), ThreadPoolExecutor(1) as pool:
                begun = threading.Event()

                def read() -> bytes:
                    begun.set()
                    return reader.pread(0, 512)

                reading = pool.submit(read)
                assert begun.wait(30)
                source.close()
                with pytest.raises(Cancelled):
                    reading.result(timeout=60)

    def test_a_slow_target_is_waited_for_as_long_as_it_answers_something(
        self, portal: Tgt, contract_storage: Storage
    ) -> None:
        spans = [(number * 2048, 512) for number in range(140)]
        with (
            FaultyProxy(portal.port) as proxy,
            IscsiSource(deadline=2.0) as source,
            source.open(Place(proxy.port)(contract_storage.container.names[0], 1)) as reader,
            ThreadPoolExecutor(16) as pool,
        ):
            proxy.latency = 0.02
            pieces = list(pool.map(lambda span: reader.pread(*span), spans))
        whole = contract_storage.files["1"]
        assert pieces == [whole[offset : offset + length] for offset, length in spans]

    def test_the_pin_tells_one_unit_from_another_and_a_changed_size(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        for number, size in ((1, 4096), (2, 4096)):
            target.lun(number, size)
        pins = [source.open(place(target.name, number)).pin for number in (1, 2, 1)]
        assert pins[0] == pins[2] != pins[1]
        assert not pins[0].strong
        target.remove(1)
        target.lun(1, 8192)
        assert source.open(place(target.name, 1)).pin.size == 8192

    def test_no_descriptor_and_no_thread_is_left(self, portal: Tgt, contract_storage: Storage) -> None:
        def held() -> tuple[int, int]:
            return len(os.listdir("/proc/self/fd")), threading.active_count()

        before = held()
        for _ in range(5):
            with IscsiSource() as source:
                list(source.entries(contract_storage.outer or contract_storage.container))
                source.open(contract_storage.container.child("1")).close()
                with pytest.raises(NotFound):
                    source.stat(Place(portal.port)(fresh(), 1))
        assert held() == before


class TestWriting:
    @pytest.mark.parametrize("block", [512, 4096])
    def test_any_bytes_can_be_written(self, target: TgtTarget, source: IscsiSource, place: Place, block: int) -> None:
        path = target.lun(1, content(1_048_576), block=block)
        expected = bytearray(content(1_048_576))
        with source.open_for_writing(place(target.name, 1)) as writer:
            for offset, length in (
                (0, 512),
                (5, 1),
                (511, 2),
                (4096, 8192),
                (4000, 10_000),
                (1_048_575, 1),
                (65_536, 700_000),
            ):
                data = os.urandom(length)
                writer.pwrite(offset, data)
                expected[offset : offset + length] = data
            writer.pwrite(7, b"")
            writer.flush()
            assert writer.pread(0, 1 << 21) == expected
        assert path is not None
        assert path.read_bytes() == expected

    def test_threads_that_write_into_the_same_block_do_not_undo_each_other(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, 4096)
        with source.open_for_writing(place(target.name, 1)) as writer, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: writer.pwrite(number, bytes([number % 251 + 1])), range(1024)))
            assert writer.pread(0, 1024) == bytes(number % 251 + 1 for number in range(1024))

    def test_nothing_is_written_beyond_the_end(self, target: TgtTarget, source: IscsiSource, place: Place) -> None:
        target.lun(1, content(4096))
        with source.open_for_writing(place(target.name, 1)) as writer:
            for offset in (4096, 4000, -1):
                with pytest.raises(BadAnswer):
                    writer.pwrite(offset, bytes(512))
            assert writer.pread(0, 4096) == content(4096)

    def test_a_protected_unit_is_not_opened_for_writing_and_not_attached_writable(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, content(4096), readonly=True)
        with pytest.raises(Denied, match="write-protected"):
            source.open_for_writing(place(target.name, 1))
        assert not source.attach(place(target.name, 1), QEMU, Mode.SNAPSHOT).writable
        with source.open(place(target.name, 1)) as reader:
            assert reader.pread(0, 4096) == content(4096)

    def test_a_closed_writer_writes_nothing(self, target: TgtTarget, source: IscsiSource, place: Place) -> None:
        target.lun(1, 4096)
        writer = source.open_for_writing(place(target.name, 1))
        writer.close()
        for call in (lambda: writer.pwrite(0, b"x"), writer.flush, lambda: writer.pread(0, 1)):
            with pytest.raises(Cancelled):
                call()


class TestWhoLogsIn:
    def test_chap_works_with_the_user_in_the_location(self, tgt: Tgt, place: Place) -> None:
        locked = tgt.target(fresh("locked"), user="bob", password=PASSWORD)
        locked.lun(1, content(512))
        with IscsiSource(Credentials(password=Secret(PASSWORD))) as source:
            assert source.stat(place(locked.name, 1, user="bob")).size == 512
            listed = [entry.location for entry in source.entries(place(locked.name, "", user="bob"))]
            assert listed == [place(locked.name, number, user="bob") for number in (0, 1)]

    def test_credentials_that_a_target_does_not_ask_for_do_no_harm(self, target: TgtTarget, place: Place) -> None:
        with IscsiSource(Credentials("nobody", Secret(PASSWORD))) as source:
            assert source.stat(place(target.name, "")).kind is Kind.CONTAINER

    def test_a_secret_that_libiscsi_would_cut_off_is_refused(self, target: TgtTarget, place: Place) -> None:
        with IscsiSource(Credentials("alice", Secret("x" * 256))) as source, pytest.raises(Unsupported):
            source.stat(place(target.name, ""))

    def test_an_initiator_that_is_not_let_in_is_named(self, tgt: Tgt, source: IscsiSource, place: Place) -> None:
        closed = tgt.target(fresh("closed"), initiators=(f"{IQN}:other",))
        with pytest.raises(FarbootError) as caught:
            source.stat(place(closed.name, ""))
        assert own_initiator() in str(caught.value)
        assert "?initiator=" in caught.value.hint
        with pytest.raises(FarbootError, match=f"{IQN}:me"):
            source.stat(place(closed.name, "", query=f"initiator={IQN}:me"))
        assert source.stat(place(closed.name, "", query=f"initiator={IQN}:other")).kind is Kind.CONTAINER

    def test_the_targets_own_chap_secret_is_checked_and_takes_the_bridge(self, tgt: Tgt, place: Place) -> None:
        proven = tgt.target(fresh("proven"), user="carol", password=PASSWORD)
        proven.account("target", "the-targets-own", outgoing=True)
        proven.lun(1, content(512))

        def credentials(own: str) -> Credentials:
            return Credentials("carol", Secret(PASSWORD), query=Secret(f"target_user=target&target_password={own}"))

        with IscsiSource(credentials("the-targets-own")) as source:
            with source.open(place(proven.name, 1)) as reader:
                assert reader.pread(0, 512) == content(512)
            attachment = source.attach(place(proven.name, 1), QEMU, Mode.SNAPSHOT)
            assert attachment.route is Route.BRIDGE
            assert "target's own CHAP secret" in attachment.why
        with IscsiSource(credentials("somebody-else")) as source, pytest.raises(Denied) as caught:
            source.open(place(proven.name, 1))
        assert "did not prove who it is" in str(caught.value)
        assert "somebody-else" not in str(caught.value) + caught.value.detail

    @pytest.mark.parametrize(
        ("query", "error"),
        [
            ("initiator=nonsense", BadLocation),
            ("initiator=iqn.2026-01.org.example:a%0Ab", BadLocation),
            ("initiator=iqn.2026-01.org.example:" + "a" * 223, BadLocation),
            ("lun=3", BadLocation),
            ("header_digest=md5", BadLocation),
            ("iser", Unsupported),
        ],
    )
    def test_options_that_make_no_sense_are_told(
        self, source: IscsiSource, place: Place, query: str, error: type[FarbootError]
    ) -> None:
        for where in (place(query=query), place(f"{IQN}:x", "", query=query), place(f"{IQN}:x", 1, query=query)):
            with pytest.raises(error):
                source.stat(where)

    @pytest.mark.parametrize("name", ["a%20b", "a%00b", "a%0Ab", "a" * 224])
    def test_names_that_no_target_has_never_reach_the_wire(self, source: IscsiSource, place: Place, name: str) -> None:
        with pytest.raises(BadLocation):
            source.stat(place(name, ""))

    def test_the_header_digest_is_asked_for_when_wanted(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, content(4096))
        image = place(target.name, 1, query="header_digest=crc32c")
        with source.open(image) as reader:
            assert reader.pread(0, 4096) == content(4096)
        assert source.attach(image, QEMU, Mode.SNAPSHOT).node["header-digest"] == "crc32c"


class TestUse:
    def test_it_is_never_certain_that_nobody_uses_it(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, 4096)
        assert isinstance(source, TellsUse)
        use = source.in_use(place(target.name, 1))
        assert (use.users, use.certain) == ((), False)

    def test_a_persistent_reservation_is_told(self, target: TgtTarget, source: IscsiSource, place: Place) -> None:
        target.lun(1, content(4096))
        image = place(target.name, 1)
        with IscsiSource() as cluster:
            node = place(target.name, 1, query=f"initiator={IQN}:node1")
            reserve(cluster, node, key=0xABCDEF, register=True)
            assert len(source.in_use(image).users) == 1
            assert "registered for a persistent reservation" in source.in_use(image).users[0]
            reserve(cluster, node, key=0xABCDEF)
            (user,) = source.in_use(image).users
            assert "holding a persistent reservation" in user
            with pytest.raises(Denied, match="reservation"):
                source.open_for_writing(image).pwrite(0, bytes(512))
            with pytest.raises(Denied, match="reservation"):
                source.open(image).pread(0, 512)

    def test_what_is_no_unit_has_no_users(self, target: TgtTarget, source: IscsiSource, place: Place) -> None:
        with pytest.raises(NotFound):
            source.in_use(place(target.name, 9))
        with pytest.raises(NotAnImage):
            source.in_use(place(target.name, ""))


def reserve(source: IscsiSource, image: Location, key: int, register: bool = False) -> None:
    """Register `key` as a cluster's node does, or take the reservation: exclusive access (SPC-4, 6.16)."""
    session, lun = source._lun(image, "reserve")
    data = struct.pack(">QQ8x", 0, key) if register else struct.pack(">QQ8x", key, 0)
    cdb = struct.pack(">BBBxxIBx", 0x5F, 0 if register else 1, 0 if register else 3, len(data), 0)
    for _ in range(3):  # the first command after a login meets a unit attention
        (answer,) = session.run([(lun.wire, Command(cdb, data=data))], "reserve", image)
        if answer.good:
            return
    raise AssertionError(answer)


class TestAttaching:
    def test_the_node_is_complete_and_logs_in_as_we_do(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, content(4096))
        attachment = source.attach(place(target.name, 1), QEMU, Mode.SNAPSHOT)
        assert attachment.route is Route.DRIVER
        assert attachment.node == {
            "driver": "iscsi",
            "transport": "tcp",
            "portal": place.authority,
            "target": target.name,
            "lun": 1,
            "initiator-name": own_initiator(),
            "timeout": 20,
        }
        assert (attachment.writable, attachment.trusted, attachment.scsi, attachment.cd) == (True, True, True, False)
        assert attachment.pin.size == 4096

    def test_a_cd_is_told_and_cannot_be_written(self, target: TgtTarget, source: IscsiSource, place: Place) -> None:
        target.lun(3, 20_480, "cd")
        attachment = source.attach(place(target.name, 3), QEMU, Mode.SNAPSHOT)
        assert (attachment.cd, attachment.scsi, attachment.writable) == (True, True, False)

    def test_the_chap_secret_is_a_slot_beside_the_node(self, tgt: Tgt, place: Place) -> None:
        locked = tgt.target(fresh("locked"), user="dave", password=PASSWORD)
        locked.lun(1, content(512))
        with IscsiSource(Credentials("dave", Secret(PASSWORD))) as source:
            attachment = source.attach(place(locked.name, 1), QEMU, Mode.SNAPSHOT)
        assert attachment.node["user"] == "dave"
        assert PASSWORD not in repr(attachment)
        (slot,) = attachment.secrets
        assert (slot.option, slot.asked, slot.secret) == ("password-secret", "password", Secret(PASSWORD))
        assert "dave" in slot.label

    def test_without_the_driver_it_is_the_bridge_and_it_says_why(
        self, target: TgtTarget, source: IscsiSource, place: Place
    ) -> None:
        target.lun(1, content(512))
        image = place(target.name, 1)
        lacking = replace(QEMU, drivers=frozenset({"raw"}))
        attachment = source.attach(image, lacking, Mode.SNAPSHOT)
        assert (attachment.route, attachment.node) == (Route.BRIDGE, {})
        assert "qemu-block-extra" in attachment.why
        with pytest.raises(Unsupported, match="no iscsi driver"):
            source.attach(image, replace(lacking, route=RouteWish.DIRECT), Mode.SNAPSHOT)
        assert source.attach(image, replace(QEMU, route=RouteWish.BRIDGE), Mode.SNAPSHOT).route is Route.BRIDGE

    def test_qemu_gets_the_address_that_works_where_it_would_try_another(
        self, tgt: Tgt, target: TgtTarget, source: IscsiSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The resolver of a machine that has both families: libiscsi would take the first address only.
        answers = [(socket.AF_INET6, ("::1", tgt.port, 0, 0)), (socket.AF_INET, ("127.0.0.1", tgt.port))]
        found = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in answers]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        target.lun(1, content(512))
        named = Place(tgt.port, "storage.example")
        assert source.attach(named(target.name, 1), QEMU, Mode.SNAPSHOT).node["portal"] == f"127.0.0.1:{tgt.port}"

    def test_qemu_reads_it_by_this_node(
        self, target: TgtTarget, source: IscsiSource, place: Place, tmp_path: Path
    ) -> None:
        whole = content(65_536)
        target.lun(300, whole)
        node = source.attach(place(target.name, 300), QEMU, Mode.SNAPSHOT).node
        source_of = ",".join(["driver=raw", *(f"file.{name}={value}" for name, value in node.items())])
        image = tmp_path / "copy"
        copy = ["qemu-img", "convert", "-U", "--image-opts", "-O", "raw", source_of]
        subprocess.run([*copy, str(image)], check=True, timeout=60)
        assert image.read_bytes() == whole
