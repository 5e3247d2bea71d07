"""GlusterFS against a real glusterd and its bricks."""

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.entry import Kind
from probes.errors import (
    FarbootError,
    MissingClient,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.gluster import library
from probes.location import Location
from probes.reader import Reader
from probes.registry import open_source
from probes.source import CanWrite, Source
from probes.sources.gluster import GlusterSource
from tests.servers.faults import BlackHole
from tests.servers.gluster import Gluster
from tests.sources.contract import Faults, NetworkContract, SourceContract, Storage, content, odd_names

ODD = "a,b=c \"d' 100%20:@?#[x] grün-日本.img"
QEMU = QemuFacts((7, 2, 0), frozenset({"gluster", "raw"}))


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    found = {name: content(600 + index, index) for index, name in enumerate(odd_names())}
    return found | {"image.img": content(300_001, 99), "empty.img": b"", "notes.txt": b"hello"}


@pytest.fixture(scope="module")
def volume(gluster: Gluster, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A volume with the contract's tree in the folder /tree, and links in /links."""
    root = tmp_path_factory.mktemp("tree")
    (root / "tree" / "nothing").mkdir(parents=True)
    (root / "tree" / "deeper [x] #1").mkdir()
    (root / "tree" / "deeper [x] #1" / "inner.iso").write_bytes(content(4096, 7))
    for name, data in files.items():
        (root / "tree" / name).write_bytes(data)
    (root / "whole").mkdir()
    (root / "whole" / ODD).write_bytes(content(1 << 20, 5))
    (root / "links").mkdir()
    for name, target in {"image.img": "../tree/image.img", "folder": "../tree", "nowhere.img": "gone"}.items():
        (root / "links" / name).symlink_to(target)
    name = gluster.volume("contract")
    gluster.fill(name, root)
    return name


@pytest.fixture
def tree(gluster: Gluster, volume: str) -> Location:
    return Location("gluster", gluster.host, f"/{volume}/tree/")


@pytest.fixture
def source(tree: Location) -> Iterator[Source]:
    with open_source(tree) as made:
        yield made


class BrickFaults(Faults):
    """Gluster's own way to fail: its clients speak to the bricks themselves, so a brick has to die."""

    def __init__(self, gluster: Gluster, volume: str, tree: Location, refused: int) -> None:
        self.black_hole = BlackHole()
        self._gluster = gluster
        self._volume = volume
        self._tree = tree
        self._refused = refused

    @property
    def refused(self) -> Location:
        return Location("gluster", f"127.0.0.1:{self._refused}", "/volume/")

    @property
    def hole(self) -> Location:
        return Location("gluster", self.black_hole.authority, "/volume/")

    @property
    def container(self) -> Location:
        return self._tree

    @property
    def image(self) -> Location:
        return self._tree.child("image.img")

    def break_listing(self) -> None:
        self._gluster.signal_brick(self._volume, signal.SIGKILL)

    def break_reads(self) -> None:
        self._gluster.signal_brick(self._volume, signal.SIGKILL)

    def mend(self) -> None:
        self._gluster.start_volume(self._volume)


class TestGlusterContract(SourceContract, NetworkContract):
    """Run as the application runs it: in a child process."""

    @pytest.fixture
    def storage(self, tree: Location, files: dict[str, bytes]) -> Storage:
        return Storage(
            make=lambda credentials, deadline: open_source(tree, credentials, deadline),
            container=tree,
            files=files,
            image="image.img",
            missing=tree.child("missing.img"),
            containers={"nothing": {}, "deeper [x] #1": {"inner.iso": content(4096, 7)}},
        )

    @pytest.fixture
    def faults(self, gluster: Gluster, volume: str, tree: Location, refused_port: int) -> Iterator[Faults]:
        faults = BrickFaults(gluster, volume, tree, refused_port)
        yield faults
        faults.black_hole.close()


class TestVolumes:
    def test_they_are_listed_and_are_containers(self, gluster: Gluster, volume: str, source: Source) -> None:
        found = {entry.name: entry for entry in source.entries(Location("gluster", gluster.host, "/"))}
        assert (found[volume].kind, found[volume].location.path) == (Kind.CONTAINER, f"/{volume}/")
        assert source.stat(Location("gluster", gluster.host, "/")).kind is Kind.CONTAINER

    def test_without_gluster_s_program_it_names_the_package_and_a_volume_still_works(
        self, gluster: Gluster, tree: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda *_, **__: None)
        with GlusterSource() as source:
            with pytest.raises(MissingClient, match="glusterfs-cli"):
                list(source.entries(Location("gluster", gluster.host, "/")))
            assert source.stat(tree).kind is Kind.CONTAINER

    def test_another_port_can_be_used_but_not_asked_for_its_volumes(self, gluster: Gluster, source: Source) -> None:
        with pytest.raises(Unsupported, match="24007"):
            list(source.entries(Location("gluster", f"{gluster.host}:24008", "/")))

    def test_nobody_at_home_is_unreachable(self, source: Source, refused_port: int) -> None:
        nobody = Location("gluster", f"127.0.0.1:{refused_port}", "/")
        for call in (source.stat, source.open):
            with pytest.raises(Unreachable):
                call(nobody)
        with pytest.raises(Unreachable):
            list(source.entries(Location("gluster", "127.0.0.1", "/")))

    def test_the_list_of_them_is_no_image(self, gluster: Gluster, source: Source) -> None:
        with pytest.raises(NotAnImage):
            source.open(Location("gluster", gluster.host, "/"))

    def test_one_that_is_not_there_or_not_started_is_not_found(
        self, gluster: Gluster, volume: str, source: Source
    ) -> None:
        gluster.volume("stopped")
        gluster.cli("volume", "stop", "stopped")
        for name in ("nonesuch", "stopped"):
            for call in (source.stat, source.open, lambda where: list(source.entries(where))):
                with pytest.raises(NotFound, match="no volume"):
                    call(Location("gluster", gluster.host, f"/{name}/"))

    def test_a_glusterd_that_is_silent_times_out(self, gluster: Gluster, volume: str) -> None:
        where = Location("gluster", gluster.host, "/")
        with gluster.paused(), open_source(where, deadline=1.0) as source:
            with pytest.raises(TimedOut):
                list(source.entries(where))
            with pytest.raises(TimedOut):
                list(source.entries(where.child(volume, container=True)))
        with open_source(where) as source:
            assert volume in [entry.name for entry in source.entries(where)]


class TestFolders:
    def test_links_are_what_they_lead_to(self, tree: Location, source: Source) -> None:
        links = replace(tree, path=tree.path.replace("/tree/", "/links/"))
        found = {entry.name: entry for entry in source.entries(links)}
        assert (found["image.img"].kind, found["image.img"].size) == (Kind.IMAGE, 300_001)
        assert found["folder"].kind is Kind.CONTAINER
        assert (found["nowhere.img"].kind, found["nowhere.img"].note) == (Kind.OTHER, "a link that leads nowhere")
        assert "image.img" in [entry.name for entry in source.entries(found["folder"].location)]
        with source.open(found["image.img"].location) as reader:
            assert reader.pread(0, 600) == content(600, 99)

    def test_a_reader_tells_whether_a_link_may_lead_out_of_a_folder(self, tree: Location, source: Source) -> None:
        links = replace(tree, path=tree.path.replace("/tree/", "/links/"))
        for name in ("image.img", "folder/image.img"):
            with source.open(replace(links, path=links.path + name)) as reader:
                assert not reader.lies_below(links)
                assert not reader.lies_below(tree)
        with source.open(replace(tree, path=tree.path + "image.img")) as reader:
            assert reader.lies_below(tree)
            assert reader.lies_below(replace(tree, path=tree.path.replace("tree/", "")))

    def test_a_file_written_as_a_folder_cannot_be_listed(self, tree: Location, source: Source) -> None:
        with pytest.raises(NotAContainer):
            list(source.entries(replace(tree, path=tree.path + "image.img/")))
        with pytest.raises(NotAContainer):
            list(source.entries(replace(tree, path=tree.path + "image.img/inside")))

    def test_times_are_told(self, tree: Location, source: Source) -> None:
        assert all(entry.modified and entry.modified.tzinfo for entry in source.entries(tree))


class TestReadingAndWriting:
    def test_what_is_written_is_there_and_the_next_pin_is_another(
        self, gluster: Gluster, tree: Location, source: Source, tmp_path: Path
    ) -> None:
        (tmp_path / "own.img").write_bytes(content(2 << 20))
        volume = gluster.volume("written")
        gluster.fill(volume, tmp_path)
        where = Location("gluster", gluster.host, f"/{volume}/own.img")
        assert isinstance(source, CanWrite)
        with source.open(where) as reader:
            before = reader.pin
        with source.open_for_writing(where) as writer:
            writer.pwrite(1001, content(1_500_000, 7))
            writer.flush()
            assert writer.pread(1001, 1_500_000) == content(1_500_000, 7)
            for offset in (-1, (2 << 20) - 1):
                with pytest.raises(FarbootError, match="not inside"):
                    writer.pwrite(offset, b"xx")
        with source.open(where) as reader:
            assert reader.pread(0, 2 << 20)[1001:1_501_001] == content(1_500_000, 7)
            assert (reader.pin.size, reader.pin != before) == (2 << 20, True)

    def test_a_folder_cannot_be_written(self, tree: Location, source: Source) -> None:
        assert isinstance(source, CanWrite)
        with pytest.raises(NotAnImage):
            source.open_for_writing(tree)

    def test_a_brick_that_falls_silent_times_out_and_a_new_try_works(
        self, gluster: Gluster, volume: str, tree: Location
    ) -> None:
        image = tree.child("image.img")
        with open_source(tree, deadline=1.0) as source, source.open(image) as reader:
            gluster.signal_brick(volume, signal.SIGSTOP)
            try:
                with pytest.raises(TimedOut):
                    reader.pread(0, 4096)
            finally:
                gluster.signal_brick(volume, signal.SIGCONT)
            with source.open(image) as again:
                assert again.pread(0, 600) == content(600, 99)

    def test_closing_while_others_read_ends_them_with_an_error_and_nothing_worse(self, tree: Location) -> None:
        """In this very process: a crash of the library would be seen."""
        source = GlusterSource()
        reader = source.open(tree.child("image.img"))
        with ThreadPoolExecutor(8) as threads:
            reading = [threads.submit(lambda: _read_on(reader)) for _ in range(8)]
            assert reader.pread(0, 1) == content(1, 99)
            reader.close()
            assert {done.result(30) for done in reading} == {"it was closed"}
        source.close()
        with pytest.raises(FarbootError, match="closed"):
            source.stat(tree)


def _read_on(reader: Reader) -> str:
    try:
        while True:
            assert reader.pread(0, 300_001) == content(300_001, 99)
    except FarbootError as error:
        return error.why


class TestAttach:
    def test_it_is_qemus_own_driver(self, gluster: Gluster, volume: str, tree: Location, source: Source) -> None:
        found = source.attach(tree.child("empty.img"), QEMU, Mode.SNAPSHOT)
        assert found.route is Route.DRIVER
        assert found.node == {
            "driver": "gluster",
            "volume": volume,
            "path": "tree/empty.img",
            "server": [{"type": "inet", "host": gluster.host, "port": "24007"}],
        }
        assert (found.writable, found.trusted, found.notes) == (True, True, ())

    def test_its_end_is_told_where_qemu_announced_it(self, tree: Location, source: Source) -> None:
        found = source.attach(tree.child("empty.img"), replace(QEMU, version=(10, 0, 13)), Mode.SNAPSHOT)
        assert found.route is Route.DRIVER
        assert "deprecated" in found.notes[0]

    def test_the_bridge_serves_where_qemu_has_no_driver_or_it_is_wished_or_the_name_is_not_text(
        self, tree: Location, source: Source
    ) -> None:
        image = tree.child("empty.img")
        for where, qemu in (
            (image, replace(QEMU, drivers=frozenset())),
            (image, replace(QEMU, route=RouteWish.BRIDGE)),
            (tree.child("gr\udcfcn.img"), QEMU),
        ):
            found = source.attach(where, qemu, Mode.SNAPSHOT)
            assert (found.route, found.node) == (Route.BRIDGE, {})
            assert found.why
        with pytest.raises(Unsupported, match="no gluster driver"):
            source.attach(image, QemuFacts((7, 2), frozenset(), RouteWish.DIRECT), Mode.SNAPSHOT)

    def test_the_bridge_serves_what_qemus_driver_cannot_read_to_its_end(self, tree: Location, source: Source) -> None:
        found = source.attach(tree.child("image.img"), QEMU, Mode.SNAPSHOT)
        assert found.pin.size % 512
        assert (found.route, found.node) == (Route.BRIDGE, {})
        assert "multiple of 512" in found.why

    def test_qemu_reads_through_it(self, tree: Location, source: Source, tmp_path: Path) -> None:
        where = replace(tree, path=tree.path.replace("/tree/", "/whole/")).child(ODD)
        node = dict(source.attach(where, QEMU, Mode.SNAPSHOT).node)
        graph = json.dumps({"driver": "raw", "file": node})
        argv = ["qemu-img", "convert", "-O", "raw", f"json:{graph}", str(tmp_path / "read")]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "read").read_bytes() == content(1 << 20, 5)


class TestThisMachinesStat:
    """`struct stat` differs by processor."""

    def test_the_layout_that_is_found_tells_what_python_knows(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x" * 12345)
        os.utime(tmp_path / "file", ns=(1, 1_234_567_890_123_456_789))
        found = library.stat_layout()()
        libc = ctypes.CDLL(None)
        assert libc.stat(os.fsencode(tmp_path / "file"), ctypes.byref(found)) == 0
        known = os.stat(tmp_path / "file")
        assert (found.size, found.mode, found.ino) == (12345, known.st_mode, known.st_ino)
        assert (found.mtime, found.mtime_ns) == (1_234_567_890, 123_456_789)

    def test_a_processor_with_another_is_told_and_nothing_is_guessed(
        self, tree: Location, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(library, "LAYOUTS", library.LAYOUTS[1:] if os.uname().machine == "x86_64" else ())
        with pytest.raises(LookupError):
            library.stat_layout()
        with GlusterSource() as source, pytest.raises(Unsupported, match="processor"):
            source.stat(tree)
