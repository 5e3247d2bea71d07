"""Ceph RBD, against a real cluster."""

import contextlib
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import rados
import rbd

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.credentials import Credentials, Secret
from probes.entry import Kind
from probes.errors import (
    BadAnswer,
    BadLocation,
    Denied,
    FarbootError,
    NotAContainer,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location, rbd_path
from probes.registry import open_source
from probes.source import HasSnapshots, TellsUse
from probes.sources.rbd import RbdSource
from tests.servers.ceph import Ceph
from tests.sources.contract import (
    CredentialContract,
    Faults,
    Lock,
    NetworkContract,
    SourceContract,
    Storage,
    content,
    odd_names,
)

QEMU = QemuFacts((7, 2, 0), frozenset({"rbd", "raw", "qcow2"}))
FOREIGN_KEY = "AQCqKARrqVD2FBAAZ8H9bYUS3uKq1u4VXzTYdg=="


class Place:
    """Locations in one cluster."""

    def __init__(self, cluster: Ceph) -> None:
        self.options = f"conf={cluster.conf}"

    def __call__(self, *names: str, namespace: bool = False, snapshot: str | None = None, more: str = "") -> Location:
        path = rbd_path(*names, namespace=namespace, snapshot=snapshot)
        return Location("rbd", path=path, query=self.options + more)


@pytest.fixture(scope="module")
def place(ceph: Ceph) -> Place:
    return Place(ceph)


@pytest.fixture
def pool(ceph: Ceph) -> str:
    return ceph.fresh_pool()


@pytest.fixture
def source() -> Iterator[RbdSource]:
    with RbdSource() as made:
        yield made


def bytes_of(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def contract_storage(ceph: Ceph, place: Place) -> Storage:
    pool = ceph.fresh_pool()
    files = {name: content(600 + index, index) for index, name in enumerate(odd_names())}
    files |= {"image.img": content(300_000, 99), "empty.img": b"", "a/b.img": b"slash", "@a": b"at", "..": b"dots"}
    for name, data in files.items():
        ceph.image(pool, bytes_of(name), data)
    containers: dict[str, dict[str, bytes]] = {"plain": {}, "a/b@c:d=e\\f [bold]\x1b[31m,": {"in.img": b"inside"}}
    for namespace, images in containers.items():
        ceph.namespace(pool, namespace)
        for name, data in images.items():
            ceph.image(pool, name, data, namespace=namespace)
    return Storage(
        make=lambda credentials, deadline: open_source(Location("rbd"), credentials, deadline),
        container=place(pool),
        files=files,
        image="image.img",
        missing=place(pool, "missing.img"),
        containers=containers,
    )


class PausedOsd(Faults):
    """Ceph's own way to fail: an OSD that does not answer. Its clients keep asking until their time is up."""

    def __init__(self, ceph: Ceph, container: Location, port: int, deaf: int, stack: contextlib.ExitStack) -> None:
        self._ceph = ceph
        self._container = container
        self._port = port
        self._deaf = deaf
        self._stack = stack

    @property
    def refused(self) -> Location:
        return replace(self._container, query=f"{self._container.query}:mon_host=127.0.0.1\\:{self._port}")

    @property
    def hole(self) -> Location:
        return replace(self._container, query=f"{self._container.query}:mon_host=127.0.0.1\\:{self._deaf}")

    @property
    def container(self) -> Location:
        return self._container

    @property
    def image(self) -> Location:
        return replace(self._container, path=self._container.path + "/image.img")

    def break_listing(self) -> None:
        self._stack.enter_context(self._ceph.paused_osd())

    def break_reads(self) -> None:
        self._stack.enter_context(self._ceph.paused_osd())

    def mend(self) -> None:
        self._stack.close()


class TestRbdContract(SourceContract, NetworkContract, CredentialContract):
    """Run as the application runs it: in a child process."""

    @pytest.fixture
    def storage(self, contract_storage: Storage) -> Storage:
        return contract_storage

    @pytest.fixture
    def faults(self, ceph: Ceph, storage: Storage) -> Iterator[Faults]:
        # One socket is bound and does not listen: it refuses, and nobody else can take its port meanwhile.
        with contextlib.ExitStack() as stack, socket.socket() as refusing, socket.socket() as deaf:
            refusing.bind(("127.0.0.1", 0))
            deaf.bind(("127.0.0.1", 0))
            deaf.listen()
            yield PausedOsd(ceph, storage.container, refusing.getsockname()[1], deaf.getsockname()[1], stack)

    @pytest.fixture
    def lock(self, ceph: Ceph, storage: Storage) -> Lock:
        # With its protocol: librados tries the other one as well at a port that is not Ceph's own, for ever.
        query = f"conf=/dev/null:keyring=/nonexistent:mon_host=v2\\:127.0.0.1\\:{ceph.ports[0]}"
        container = replace(storage.container, query=query)
        return Lock(
            container=container,
            image=replace(container, path=container.path + "/image.img"),
            right=Credentials(key=Secret(ceph.key)),
            wrong=Credentials(key=Secret(FOREIGN_KEY)),
            wants=("key",),
        )


class TestListing:
    def test_pools_without_the_application_rbd_are_not_shown(self, ceph: Ceph, source: RbdSource, place: Place) -> None:
        shown = ceph.fresh_pool()
        bare, gateway = ceph.pool(f"bare-{uuid.uuid4().hex}", None), ceph.pool(f"rgw-{uuid.uuid4().hex}", "rgw")
        found = {entry.name: entry for entry in source.entries(place())}
        assert shown in found
        assert not {bare, gateway} & set(found)
        assert found[shown].location == place(shown)
        assert found[shown].kind is Kind.CONTAINER

    def test_pool_names_may_be_odd(self, ceph: Ceph, source: RbdSource, place: Place) -> None:
        name = ceph.pool(f"a/b@c:\x1b[31m {uuid.uuid4().hex}")
        ceph.image(name, "image", b"inside")
        pools = {entry.name: entry.location for entry in source.entries(place())}
        again, _ = Location.parse(str(pools[name]))
        assert [entry.name for entry in source.entries(again)] == ["image"]

    def test_a_pool_that_never_held_an_image_is_empty(self, ceph: Ceph, source: RbdSource, place: Place) -> None:
        assert list(source.entries(place(ceph.pool(f"bare-{uuid.uuid4().hex}", None)))) == []

    def test_a_pool_that_is_not_there_is_not_found(self, source: RbdSource, place: Place) -> None:
        for call in (source.stat, source.open, lambda where: list(source.entries(where))):
            with pytest.raises(NotFound, match="no such pool"):
                call(place("nonesuch"))

    def test_a_name_without_a_slash_is_an_image_first_and_else_a_namespace(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        for name in ("both", "space"):
            ceph.namespace(pool, name)
        ceph.image(pool, "both", b"")
        ceph.image(pool, "inside", b"", namespace="space")
        assert [entry.name for entry in source.entries(place(pool, "space"))] == ["inside"]
        assert source.stat(place(pool, "space")).kind is Kind.CONTAINER
        assert source.stat(place(pool, "both")).kind is Kind.IMAGE
        assert source.stat(place(pool, "both", namespace=True)).kind is Kind.CONTAINER

    def test_a_namespace_that_is_not_there_is_not_found(self, source: RbdSource, place: Place, pool: str) -> None:
        with pytest.raises(NotFound):
            list(source.entries(place(pool, "nonesuch", namespace=True)))

    def test_options_are_handed_down(self, ceph: Ceph, source: RbdSource, place: Place, pool: str) -> None:
        ceph.namespace(pool, "space")
        ceph.image(pool, "image", b"")
        found = list(source.entries(place(pool, more=":id=admin")))
        assert {entry.location.query for entry in found} == {place.options + ":id=admin"}

    def test_a_thousand_images_come_with_their_sizes_in_pages(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda i: ceph.image(pool, f"image-{i:04}", (i + 1) << 12), range(1100)))
        found = source.entries(place(pool))
        assert [(entry.name, entry.size) for entry in found] == [(f"image-{i:04}", (i + 1) << 12) for i in range(1100)]

    def test_an_osd_that_stops_in_the_middle_of_a_listing_times_out(self, ceph: Ceph, place: Place, pool: str) -> None:
        for index in range(80):
            ceph.image(pool, f"image-{index:04}", 4096)
        with RbdSource(deadline=2.0) as source:
            found = source.entries(place(pool))
            first = next(found)
            with ceph.paused_osd(), pytest.raises(TimedOut):
                list(found)
        assert first.name == "image-0000"

    def test_what_lies_in_the_trash_is_not_listed(self, ceph: Ceph, source: RbdSource, place: Place, pool: str) -> None:
        ceph.image(pool, "kept", b"")
        ceph.image(pool, "thrown-away", b"")
        ceph.cli("rbd", "trash", "mv", f"{pool}/thrown-away")
        assert [entry.name for entry in source.entries(place(pool))] == ["kept"]

    def test_an_image_whose_header_is_gone_is_listed_as_broken(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        ceph.image(pool, "broken", 4096)
        with ceph.cluster.open_ioctx(pool) as io:
            with rbd.Image(io, "broken", read_only=True) as image:
                identity = image.id()
            io.remove_object(f"rbd_header.{identity}")
        (entry,) = source.entries(place(pool))
        assert (entry.size, entry.note) == (None, "broken: its header is missing")
        with pytest.raises(FarbootError):
            source.open(place(pool, "broken"))

    def test_images_of_the_old_format_are_listed_with_their_sizes(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        """Written by hand, object by object: today's librbd reads them and makes none."""
        ceph.image(pool, "new", 4096)
        with ceph.cluster.open_ioctx(pool) as io:
            header = struct.pack("<40s24s4s8sBBBBQQII", b"<<< Rados Block Device Image >>>\n", b"rb.0.1.2", b"RBD",
                                 b"001.005", 22, 0, 0, 0, 12345678, 0, 0, 0) + bytes(8)  # fmt: skip
            io.write_full("old.rbd", header)
            io.write_full("rbd_directory", struct.pack("<II I3s I", 0, 1, 3, b"old", 0))
        found = {entry.name: entry.size for entry in source.entries(place(pool))}
        assert found == {"new": 4096, "old": 12345678}
        assert source.stat(place(pool, "old")).size == 12345678
        with source.open(place(pool, "old")) as reader:
            assert reader.pread(12345678 - 3, 100) == bytes(3)


class TestSnapshots:
    def test_snapshots_come_oldest_first_and_hold_what_was_there_then(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        assert isinstance(source, HasSnapshots)
        ceph.image(pool, "image", b"first")
        ceph.snapshot(pool, "image", "z@/:\x1b first")
        with ceph.cluster.open_ioctx(pool) as io, rbd.Image(io, "image") as image:
            image.resize(10)
            image.write(b"second", 0)
        ceph.snapshot(pool, "image", "a second")
        found = list(source.snapshots(place(pool, "image")))
        assert [(entry.name, entry.size, entry.kind) for entry in found] == [
            ("z@/:\x1b first", 5, Kind.IMAGE),
            ("a second", 10, Kind.IMAGE),
        ]
        assert all(entry.modified and entry.modified.tzinfo for entry in found)
        again, _ = Location.parse(str(found[0].location))
        assert source.stat(again).size == 5
        with source.open(again) as reader:
            assert reader.pread(0, 100) == b"first"

    def test_an_image_without_snapshots_has_none(self, ceph: Ceph, source: RbdSource, place: Place, pool: str) -> None:
        ceph.image(pool, "image", b"")
        assert list(source.snapshots(place(pool, "image"))) == []

    def test_an_image_cannot_be_listed_nor_can_its_snapshot(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        ceph.image(pool, "image", b"")
        ceph.snapshot(pool, "image", "snap")
        for where in (place(pool, "image"), place(pool, "image", snapshot="snap")):
            with pytest.raises(NotAContainer):
                list(source.entries(where))

    def test_a_snapshot_that_is_not_there_is_not_found(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        ceph.image(pool, "image", b"")
        for call in (source.stat, source.open, source.in_use, lambda where: source.attach(where, QEMU, Mode.SNAPSHOT)):
            with pytest.raises(NotFound):
                call(place(pool, "image", snapshot="nonesuch"))

    def test_only_an_image_has_snapshots(self, source: RbdSource, place: Place, pool: str) -> None:
        with pytest.raises(BadLocation):
            source.stat(place(pool, snapshot="snap"))

    def test_a_clone_reads_what_its_parent_holds(self, ceph: Ceph, source: RbdSource, place: Place, pool: str) -> None:
        ceph.image(pool, "parent", content(100_000))
        ceph.snapshot(pool, "parent", "base", protect=True)
        ceph.clone(pool, "parent", "base", "child")
        with source.open(place(pool, "child")) as reader:
            assert reader.pread(0, 100_000) == content(100_000)

    def test_the_pin_of_a_snapshot_is_strong_and_of_a_taken_again_one_another(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        ceph.image(pool, "image", b"bytes")
        pins = []
        for _ in range(2):
            ceph.snapshot(pool, "image", "snap")
            with source.open(place(pool, "image", snapshot="snap")) as reader:
                pins.append(reader.pin)
            ceph.cli("rbd", "snap", "rm", f"{pool}/image@snap")
        assert all(pin.strong for pin in pins)
        assert pins[0] != pins[1]

    def test_the_pin_of_a_live_image_is_weak_and_tells_one_that_was_made_anew(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str
    ) -> None:
        pins = []
        for _ in range(2):
            ceph.image(pool, "image", b"bytes")
            with source.open(place(pool, "image")) as reader:
                pins.append(reader.pin)
            ceph.cli("rbd", "rm", "--no-progress", f"{pool}/image")
        assert not any(pin.strong for pin in pins)
        assert pins[0] != pins[1]


class TestUse:
    @pytest.fixture
    def image(self, ceph: Ceph, pool: str) -> str:
        ceph.image(pool, "image", content(5000))
        return "image"

    def test_nobody_uses_an_image_that_is_only_read(
        self, source: RbdSource, place: Place, pool: str, image: str
    ) -> None:
        assert isinstance(source, TellsUse)
        with source.open(place(pool, image)) as reader, RbdSource() as other:
            reader.pread(0, 512)
            use = other.in_use(place(pool, image))
        assert (use.users, use.certain) == ((), True)

    def test_who_has_it_open_for_writing_is_told_with_the_address(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str, image: str
    ) -> None:
        with ceph.cluster.open_ioctx(pool) as io, rbd.Image(io, image):
            use = source.in_use(place(pool, image))
        assert use.users == (f"client.{ceph.cluster.get_instance_id()} at 127.0.0.1",)

    def test_who_holds_a_lock_is_told(self, ceph: Ceph, source: RbdSource, place: Place, pool: str, image: str) -> None:
        with ceph.cluster.open_ioctx(pool) as io:
            with rbd.Image(io, image) as opened:
                opened.lock_exclusive("cookie")
            use = source.in_use(place(pool, image))  # it lasts, though nobody has the image open any more
        assert use.users == (f"client.{ceph.cluster.get_instance_id()} at 127.0.0.1, holding a lock",)

    def test_nobody_can_change_a_snapshot(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str, image: str
    ) -> None:
        ceph.snapshot(pool, image, "snap")
        with ceph.cluster.open_ioctx(pool) as io, rbd.Image(io, image):
            assert source.in_use(place(pool, image, snapshot="snap")).users == ()

    def test_looking_at_it_takes_no_lock_from_who_writes_to_it(
        self, ceph: Ceph, source: RbdSource, place: Place, pool: str, image: str
    ) -> None:
        with ceph.cluster.open_ioctx(pool) as io, rbd.Image(io, image) as writer:
            writer.write(b"written", 0)
            held = writer.list_lockers()
            with source.open(place(pool, image)) as reader:
                assert reader.pread(0, 7) == b"written"
                source.attach(place(pool, image), QEMU, Mode.SNAPSHOT)
                writer.write(b"again..", 0)
                assert reader.pread(0, 7) == b"again.."
            assert writer.list_lockers() == held
            assert writer.is_exclusive_lock_owner()


class TestLogin:
    def test_without_a_configuration_it_says_how_to_name_one(
        self, place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("CEPH_CONF", str(tmp_path / "none"))
        with RbdSource() as source, pytest.raises(NotFound, match="conf="):
            list(source.entries(Location("rbd")))

    def test_the_environment_names_the_configuration(
        self, ceph: Ceph, source: RbdSource, pool: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CEPH_CONF", ceph.conf)
        assert pool in {entry.name for entry in source.entries(Location("rbd"))}

    @pytest.mark.parametrize("text", [b"[glo\n\x00\x1b[31m", b"\xff\xfe"])
    def test_a_broken_configuration_is_told(self, source: RbdSource, tmp_path: Path, text: bytes) -> None:
        conf = tmp_path / "ceph.conf"
        conf.write_bytes(text)
        with pytest.raises((BadAnswer, NotFound)) as caught:
            list(source.entries(Location("rbd", query=f"conf={conf}")))
        assert str(conf) in str(caught.value)

    def test_a_configuration_without_monitors_is_told(self, source: RbdSource, tmp_path: Path) -> None:
        conf = tmp_path / "ceph.conf"
        conf.write_text("[global]\n")
        with pytest.raises(NotFound, match="names no monitor"):
            list(source.entries(Location("rbd", query=f"conf={conf}")))

    def test_an_option_that_could_reach_the_host_is_refused(self, source: RbdSource, place: Place) -> None:
        for option in (
            "keyfile=/etc/shadow",
            "plugin_dir=/tmp",
            "rbd_plugins=x",
            "admin_socket=/tmp/x",
            "run_dir=/tmp",
        ):
            with pytest.raises(BadLocation, match=option.partition("=")[0]):
                list(source.entries(place(more=f":{option}")))

    def test_tuning_pasted_from_a_qemu_command_line_is_left_out(self, source: RbdSource, place: Place) -> None:
        assert list(source.entries(place(more=":rbd_cache=true:auth_supported=cephx\\;none")))

    def test_a_key_that_is_no_key_is_denied_before_anybody_is_asked(self, place: Place) -> None:
        with RbdSource(Credentials(key=Secret("hunter2"))) as source, pytest.raises(Denied) as caught:
            list(source.entries(place()))
        assert caught.value.wants == ("key",)
        assert "hunter2" not in str(caught.value)

    def test_a_user_that_does_not_exist_is_denied(self, source: RbdSource, place: Place) -> None:
        with pytest.raises(Denied, match=r"client\.nobody"):
            list(source.entries(place(more=":id=nobody")))

    def test_a_user_with_rights_in_one_pool_is_denied_the_others(self, ceph: Ceph, place: Place, pool: str) -> None:
        user = f"reader-{uuid.uuid4().hex}"
        key = Secret(ceph.user(user, pool))
        ceph.image(pool, "image", b"bytes")
        closed = ceph.fresh_pool()
        ceph.image(closed, "image", b"bytes")
        with RbdSource(Credentials(username=user, key=key)) as source:
            assert {pool, closed} <= {entry.name for entry in source.entries(place())}
            assert [entry.name for entry in source.entries(place(pool))] == ["image"]
            with source.open(place(pool, "image")) as reader:
                assert reader.pread(0, 5) == b"bytes"
            assert source.attach(place(pool, "image"), QEMU, Mode.SNAPSHOT).node["user"] == user
            for call in (source.open, source.stat, lambda where: list(source.entries(where))):
                with pytest.raises(Denied) as caught:
                    call(place(closed, "image"))
                assert caught.value.wants == ("key",)
            with pytest.raises(Denied):
                list(source.entries(place(closed)))

    def test_a_user_with_rights_in_one_namespace_can_list_that_one(self, ceph: Ceph, place: Place, pool: str) -> None:
        ceph.namespace(pool, "mine")
        ceph.image(pool, "image", b"bytes", namespace="mine")
        user = f"tenant-{uuid.uuid4().hex}"
        key = Secret(ceph.user(user, f"{pool} namespace=mine"))
        with RbdSource(Credentials(username=user, key=key)) as source:
            assert [entry.name for entry in source.entries(place(pool, "mine", namespace=True))] == ["image"]
            with source.open(place(pool, "mine", "image")) as reader:
                assert reader.pread(0, 5) == b"bytes"

    def test_two_users_of_one_source_have_a_connection_each(self, ceph: Ceph, place: Place, pool: str) -> None:
        user = f"reader-{uuid.uuid4().hex}"
        keyring = Path(ceph.keyring).with_name(f"{user}.keyring")
        keyring.write_text(f"[client.{user}]\n\tkey = {ceph.user(user, pool)}\n")
        closed = ceph.fresh_pool()
        ceph.image(closed, "image", b"")
        with RbdSource() as source:
            assert list(source.entries(place(closed)))
            with pytest.raises(Denied):
                list(source.entries(place(closed, more=f":id={user}:keyring={keyring}")))

    def test_a_silent_monitor_times_out_and_a_new_try_works(self, ceph: Ceph, place: Place) -> None:
        with RbdSource(deadline=2.0) as source:
            with ceph.paused_monitor(), pytest.raises(TimedOut):
                list(source.entries(place()))
            with RbdSource() as patient:
                assert list(patient.entries(place()))

    def test_a_monitor_nobody_can_find_is_unreachable(self, source: RbdSource) -> None:
        where = Location("rbd", query="conf=/dev/null:mon_host=no-such-host.invalid")
        with pytest.raises(Unreachable, match=r"no-such-host\.invalid"):
            list(source.entries(where))

    def test_nothing_is_written_to_the_terminal(
        self, ceph: Ceph, place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        conf = tmp_path / "loud.conf"
        loud = "log to stderr = true\nerr to stderr = true\ndebug monc = 20\ndebug ms = 5\nadmin socket = {0}/asok\n"
        conf.write_text(Path(ceph.conf).read_text().replace("log to stderr = false", loud.format(tmp_path)))
        with RbdSource() as source:
            assert list(source.entries(Location("rbd", query=f"conf={conf}")))
            with pytest.raises(NotFound):
                source.open(Location("rbd", path="rbd/none", query=f"conf={conf}"))
            with pytest.raises(Denied):
                list(source.entries(Location("rbd", query=f"conf={conf}:keyring=/nonexistent")))
        assert capfd.readouterr() == ("", "")
        assert [path.name for path in tmp_path.iterdir()] == ["loud.conf"]


class TestReading:
    def test_an_osd_that_stops_times_out_and_reading_goes_on_when_it_is_back(
        self, ceph: Ceph, place: Place, pool: str
    ) -> None:
        ceph.image(pool, "image", content(100_000))
        with RbdSource(deadline=2.0) as source, source.open(place(pool, "image")) as reader:
            with ceph.paused_osd(), pytest.raises(TimedOut):
                reader.pread(0, 4096)
            assert reader.pread(0, 4096) == content(4096)

    def test_closing_while_others_read_ends_them_with_an_error_and_nothing_worse(
        self, ceph: Ceph, place: Place, pool: str
    ) -> None:
        ceph.image(pool, "image", content(100_000))
        source = RbdSource()
        reader = source.open(place(pool, "image"))
        reading = threading.Barrier(5)

        def read_on() -> FarbootError:
            reading.wait(30)
            try:
                while True:
                    assert reader.pread(0, 100_000) == content(100_000)
            except FarbootError as error:
                return error

        with ThreadPoolExecutor(4) as threads:
            ends = [threads.submit(read_on) for _ in range(4)]
            reading.wait(30)
            source.close()
            reader.close()
            assert {end.result(30).why for end in ends} == {"it was closed"}

    def test_a_source_that_was_closed_says_so(self, place: Place) -> None:
        source = RbdSource()
        source.close()
        with pytest.raises(FarbootError, match="closed"):
            source.stat(place("rbd"))


class TestAttach:
    @pytest.fixture
    def attach(self, place: Place, pool: str, source: RbdSource) -> Callable[..., Attachment]:
        def attach(*names: str, qemu: QemuFacts = QEMU, **more: str) -> Attachment:
            return source.attach(place(pool, *names, **more), qemu, Mode.SNAPSHOT)  # type: ignore[arg-type]  # strings only

        return attach

    @pytest.fixture(autouse=True)
    def image(self, ceph: Ceph, pool: str) -> None:
        ceph.image(pool, "image", content(100_000))

    def test_it_is_qemus_own_driver_with_the_monitors_and_the_key_beside_it(
        self, ceph: Ceph, pool: str, attach: Callable[..., Attachment]
    ) -> None:
        found = attach("image")
        assert found.route is Route.DRIVER
        assert found.node == {
            "driver": "rbd",
            "pool": pool,
            "image": "image",
            "user": "admin",
            "conf": "/dev/null",
            "server": [{"host": "127.0.0.1", "port": str(ceph.ports[0])}],
            "auth-client-required": ["cephx"],
        }
        (slot,) = found.secrets
        assert (slot.option, slot.asked, slot.format) == ("key-secret", "key", "base64")
        assert slot.secret.reveal() == ceph.key
        assert (found.writable, found.trusted, found.reads, found.files, found.pin.size) == (
            True,
            True,
            (),
            (),
            100_000,
        )
        assert ceph.key not in repr(found)
        assert pickle.loads(pickle.dumps(found)) == found

    def test_a_snapshot_cannot_be_written(self, ceph: Ceph, pool: str, attach: Callable[..., Attachment]) -> None:
        ceph.snapshot(pool, "image", "snap")
        found = attach("image", snapshot="snap")
        assert (found.node["snapshot"], found.writable, found.pin.strong) == ("snap", False, True)

    def test_a_given_key_goes_before_the_keyrings(self, ceph: Ceph, place: Place, pool: str) -> None:
        user = f"reader-{uuid.uuid4().hex}"
        key = Secret(ceph.user(user, pool))
        with RbdSource(Credentials(username=user, key=key)) as source:
            found = source.attach(place(pool, "image"), QEMU, Mode.SNAPSHOT)
        assert [slot.secret for slot in found.secrets] == [key]

    def test_the_bridge_serves_where_qemu_has_no_driver_or_it_is_wished_or_the_name_is_not_text(
        self, ceph: Ceph, pool: str, attach: Callable[..., Attachment]
    ) -> None:
        ceph.image(pool, b"\xff", b"bytes")
        for found in (
            attach("image", qemu=replace(QEMU, drivers=frozenset())),
            attach("image", qemu=replace(QEMU, route=RouteWish.BRIDGE)),
            attach("\udcff"),
        ):
            assert (found.route, found.node, found.secrets) == (Route.BRIDGE, {}, ())
            assert found.why

    def test_the_direct_route_is_unsupported_where_qemu_has_no_driver(self, attach: Callable[..., Attachment]) -> None:
        with pytest.raises(Unsupported, match="rbd driver"):
            attach("image", qemu=QemuFacts((7, 2, 0), frozenset(), RouteWish.DIRECT))

    @pytest.mark.parametrize("image_format", ["raw", "qcow2"])
    @pytest.mark.parametrize("port", [0, 1], ids=["msgr2", "msgr1"])
    def test_qemu_reads_through_it_though_it_sees_no_file_of_the_clusters(
        self, ceph: Ceph, place: Place, pool: str, tmp_path: Path, image_format: str, port: int
    ) -> None:
        local = tmp_path / "local"
        local.write_bytes(content(3 << 20))
        shutil.copy(local, tmp_path / "made")
        if image_format != "raw":
            convert = ["qemu-img", "convert", "-f", "raw", "-O", image_format, str(local), str(tmp_path / "made")]
            subprocess.run(convert, check=True)
        name = "odd,name=\\a/b@c:\"' \x1b[31m grün"
        ceph.namespace(pool, "space")
        ceph.image(pool, name, tmp_path / "made", namespace="space")
        ceph.snapshot(pool, name, "s@/:,=", namespace="space")
        with RbdSource() as source:
            found = source.attach(place(pool, "space", name, snapshot="s@/:,="), QEMU, Mode.SNAPSHOT)
        node = dict(found.node) | {
            "key-secret": "key0",
            "server": [{"host": "127.0.0.1", "port": str(ceph.ports[port])}],
        }
        graph = {"driver": image_format, "file": node} | ({"backing": None} if image_format == "qcow2" else {})
        (tmp_path / "secret").write_text(found.secrets[0].secret.reveal())
        hidden = ["bwrap", "--bind", "/", "/", "--dev", "/dev", "--tmpfs", str(ceph.folder), "--unsetenv", "CEPH_CONF"]
        secret = f"secret,id=key0,file={tmp_path}/secret,format={found.secrets[0].format}"
        argv = ["qemu-img", "convert", "--object", secret, "-O", "raw", "json:" + json.dumps(graph), f"{tmp_path}/read"]
        done = subprocess.run([*hidden, *argv], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert (tmp_path / "read").read_bytes()[: 3 << 20] == content(3 << 20)


def test_the_application_runs_it_in_a_child_process_with_its_abilities(ceph: Ceph, place: Place, pool: str) -> None:
    ceph.image(pool, "image", b"bytes")
    ceph.snapshot(pool, "image", "snap")
    with open_source(place(pool)) as source:
        assert not isinstance(source, RbdSource)
        assert isinstance(source, HasSnapshots)
        assert isinstance(source, TellsUse)
        assert [entry.name for entry in source.snapshots(place(pool, "image"))] == ["snap"]
        assert source.in_use(place(pool, "image")).certain
        assert source.attach(place(pool, "image"), QEMU, Mode.SNAPSHOT).secrets[0].secret.reveal() == ceph.key


def test_the_clusters_folder_and_daemons_are_gone_after_it_stops() -> None:
    cluster = Ceph()
    with cluster:
        pids = [daemon.pid for daemon in cluster._daemons.values()]
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
        cluster.kill("osd")
        assert isinstance(cluster.cluster, rados.Rados)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not cluster.folder.exists()
