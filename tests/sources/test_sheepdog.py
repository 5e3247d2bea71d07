"""Sheepdog, against a small sheep that speaks its protocol (tests/servers/sheep.py: no package has a real one)."""

import os
import random
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.entry import Entry, Kind
from probes.errors import (
    BadAnswer,
    BadLocation,
    Denied,
    FarbootError,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.source import CanWrite, HasSnapshots, TellsUse
from probes.sources.sheepdog import SheepdogSource
from tests.servers.faults import BlackHole, FaultyProxy, Listener
from tests.servers.server import wait_until
from tests.servers.sheep import Sheep, start_sheep
from tests.sources.contract import Faults, NetworkContract, SourceContract, Storage, content, odd_names

IMAGE = "image.img"
SMALL = 16  # objects of 64 KiB, so that little data needs many
BITMAP = 1 << 21  # bytes


@pytest.fixture(scope="module")
def filled() -> Iterator[Sheep]:
    """A sheep whose VDIs are those of the contract, between clones, snapshots and what was deleted."""
    folder = Path(tempfile.mkdtemp(prefix="farboot-sheep-", dir="/var/tmp"))
    running = start_sheep(folder)
    for name, data in _files().items():
        running.store.create(os.fsencode(name), data, shift=SMALL)
    running.store.snapshot(IMAGE, "before")
    running.store.delete(running.store.create("deleted.img", b"x"))
    yield running
    running.server.stop()
    shutil.rmtree(folder)


def _files() -> dict[str, bytes]:
    names = odd_names()
    # Some of the VDI's objects are zeros, and do not exist.
    image = content(150_000) + bytes(300_000) + content(150_001, seed=1)
    return {name: content(700 + number) for number, name in enumerate(names)} | {IMAGE: image}


class _SheepFaults(Faults):
    def __init__(self, port: int, refused: int) -> None:
        self.proxy = FaultyProxy(port)
        self.silent = BlackHole()
        self.refused_port = refused

    @property
    def refused(self) -> Location:
        return parsed(f"sheepdog://127.0.0.1:{self.refused_port}/")

    @property
    def hole(self) -> Location:
        return parsed(f"sheepdog://{self.silent.authority}/")

    @property
    def container(self) -> Location:
        return parsed(f"sheepdog://{self.proxy.authority}/")

    @property
    def image(self) -> Location:
        return parsed(f"sheepdog://{self.proxy.authority}/{IMAGE}")

    def break_listing(self) -> None:
        self.proxy.cut_after = BITMAP + 3000

    def break_reads(self) -> None:
        self.proxy.hang_up()
        self.proxy.cut_after = 20_000

    def mend(self) -> None:
        self.proxy.heal()


class TestSheepdog(SourceContract, NetworkContract):
    @pytest.fixture
    def storage(self, filled: Sheep) -> Storage:
        return Storage(
            make=SheepdogSource,
            container=parsed(filled.url),
            files=_files(),
            image=IMAGE,
            missing=parsed(filled.vdi("missing.img")),
        )

    @pytest.fixture
    def faults(self, filled: Sheep, refused_port: int) -> Iterator[Faults]:
        made = _SheepFaults(filled.port, refused_port)
        yield made
        made.proxy.close()
        made.silent.close()

    def test_an_empty_container_lists_nothing(self, storage: Storage) -> None:
        """A cluster has no containers within: the empty one is a cluster of its own."""
        folder = Path(tempfile.mkdtemp(prefix="farboot-sheep-", dir="/var/tmp"))
        empty = start_sheep(folder)
        with empty.server, SheepdogSource() as source:
            assert list(source.entries(parsed(empty.url))) == []
        shutil.rmtree(folder)


def parsed(text: str) -> Location:
    location, _ = Location.parse(text)
    return location


@pytest.fixture
def source() -> Iterator[SheepdogSource]:
    with SheepdogSource() as made:
        yield made


def rows(found: Iterator[Entry]) -> list[tuple[str, str]]:
    return [(row.name, str(row.location).rpartition("/")[2]) for row in found]


def whole(source: SheepdogSource, location: str) -> bytes:
    with source.open(parsed(location)) as reader:
        return reader.pread(0, reader.size)


# Snapshots and clones


def test_snapshots_are_told_oldest_first_and_hold_what_was_there_then(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", content(200_000), shift=SMALL)
    sheep.store.snapshot("disk", "first/#1 ü")
    with source.open_for_writing(parsed(sheep.vdi("disk"))) as writer:
        writer.pwrite(70_000, b"second")
    sheep.store.snapshot("disk", "7")
    sheep.store.snapshot("disk")
    found = list(source.snapshots(parsed(sheep.vdi("disk"))))
    assert [row.name for row in found] == ["first/#1 ü", "2", "3"]
    assert all(row.kind is Kind.IMAGE and row.size == 200_000 and row.modified for row in found)
    assert {row.modified.tzinfo for row in found if row.modified} == {UTC}
    again = [parsed(str(row.location)) for row in found]
    assert again == [row.location for row in found]
    assert whole(source, str(again[0])) == content(200_000)
    assert whole(source, str(again[1])) == content(200_000)[:70_000] + b"second" + content(200_000)[70_006:]
    assert [source.stat(place).name for place in again] == ["first/#1 ü", "2", "3"]
    assert again[0].parent == parsed(sheep.vdi("disk"))


def test_a_vdi_without_snapshots_has_none(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", b"x")
    assert list(source.snapshots(parsed(sheep.vdi("disk")))) == []


def test_snapshots_do_not_stand_among_the_vdis_but_where_nothing_else_is_left(
    sheep: Sheep, source: SheepdogSource
) -> None:
    sheep.store.create("kept", b"1")
    sheep.store.snapshot("kept", "s")
    sheep.store.create("gone", b"22")
    sheep.store.snapshot("gone", "s")
    sheep.store.delete(sheep.store.current(b"gone"))
    found = list(source.entries(parsed(sheep.url)))
    assert rows(iter(found)) == [("kept", "kept"), ("gone#s", "gone#s")]
    assert found[1].note == "a snapshot is left"
    assert whole(source, str(found[1].location)) == b"22"


@pytest.mark.parametrize("which", ["#nothing", "#9", "#0", "#99999999999999999999", "#" + "x" * 300])
def test_a_snapshot_that_is_not_there_is_not_found(sheep: Sheep, source: SheepdogSource, which: str) -> None:
    sheep.store.create("disk", b"x")
    with pytest.raises(NotFound):
        source.open(parsed(sheep.vdi("disk") + which))


def test_a_clone_reads_through_to_what_it_was_made_of(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("base", content(200_000), shift=SMALL)
    clone = sheep.store.clone(sheep.store.snapshot("base", "s"), "clone")
    assert whole(source, sheep.vdi("clone")) == content(200_000)
    with source.open_for_writing(parsed(sheep.vdi("clone"))) as writer:
        writer.pwrite(131_000, b"y" * 200)
        changed = content(200_000)[:131_000] + b"y" * 200 + content(200_000)[131_200:]
        assert writer.pread(130_999, 202) == changed[130_999:131_201]
    assert sheep.store.content(clone) == changed
    assert whole(source, sheep.vdi("clone")) == changed
    assert whole(source, sheep.vdi("base")) == content(200_000)
    base, own = sheep.store.vdi(clone.parent).vid, clone.vid
    assert sheep.store.objects(clone) == [base, own, own, base], "what was not written is still shared"


# Reading


def test_a_sparse_vdi_costs_nothing_to_read(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("empty", size=(1 << 40) + 5)
    with source.open(parsed(sheep.vdi("empty"))) as reader:
        assert reader.size == (1 << 40) + 5
        assert reader.pread((1 << 40) - 100, 4096) == bytes(105)
        assert reader.pread(1 << 39, 8 << 20) == bytes(8 << 20)


def test_objects_of_the_usual_size_are_read_across_their_border(sheep: Sheep, source: SheepdogSource) -> None:
    data = content(9 << 20)
    sheep.store.create("disk", data)
    assert whole(source, sheep.vdi("disk")) == data
    with source.open(parsed(sheep.vdi("disk"))) as reader:
        assert reader.pread((4 << 20) - 3, 4 << 20) == data[(4 << 20) - 3 : (8 << 20) - 3]


def test_the_pin_tells_a_snapshot_for_sure_and_a_vdi_by_what_is_known(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", content(200_000), size=400_000, shift=SMALL)
    place = parsed(sheep.vdi("disk"))
    with source.open(place) as reader:
        before = reader.pin
    with source.open_for_writing(place) as writer:
        assert writer.pin == before
        writer.pwrite(300_000, b"x")
    with source.open(place) as reader:
        assert reader.pin != before
        assert not reader.pin.strong
    sheep.store.snapshot("disk", "s")
    with source.open(parsed(sheep.vdi("disk#s"))) as reader:
        assert reader.pin.strong
        assert reader.pin.size == 400_000


def test_a_sheep_on_a_unix_socket_is_asked_as_well(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", b"here")
    place = parsed(f"sheepdog+unix:///?socket={sheep.folder}/sock")
    (row,) = source.entries(place)
    assert str(row.location) == f"sheepdog+unix:///disk?socket={sheep.folder}/sock"
    assert whole(source, str(row.location)) == b"here"
    sheep.store.snapshot("disk", "s")
    (row,) = source.snapshots(row.location)
    assert str(row.location) == f"sheepdog+unix:///disk?socket={sheep.folder}/sock#s"
    assert whole(source, str(row.location)) == b"here"
    with pytest.raises(Unreachable, match="nowhere"):
        source.stat(parsed("sheepdog+unix:///disk?socket=/nowhere"))
    with pytest.raises(BadLocation, match="socket"):
        source.stat(parsed("sheepdog+unix:///disk"))


def test_a_hyper_volume_is_shown_and_refused(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("huge", size=1 << 45, store_policy=1)
    (row,) = source.entries(parsed(sheep.url))
    assert (row.name, row.size) == ("huge", 1 << 45)
    assert "hyper volume" in row.note
    with pytest.raises(Unsupported, match="hyper volume"):
        source.open(row.location)
    with pytest.raises(Unsupported, match="hyper volume"):
        source.open_for_writing(row.location)


@pytest.mark.parametrize(("shift", "size"), [(99, 5), (0, 5), (22, 1 << 62)])
def test_an_inode_that_makes_no_sense_is_refused_and_hides_nothing_else(
    sheep: Sheep, source: SheepdogSource, shift: int, size: int
) -> None:
    sheep.store.create("odd", size=size, shift=shift)
    sheep.store.create("sound", b"x")
    found = list(source.entries(parsed(sheep.url)))
    assert [row.name for row in found] == ["odd", "sound"]
    assert "makes no sense" in found[0].note
    with pytest.raises(BadAnswer, match="makes no sense"):
        source.open(found[0].location)


def test_an_object_that_is_missing_is_an_error_and_not_zeros(sheep: Sheep, source: SheepdogSource) -> None:
    vdi = sheep.store.create("disk", content(200_000), shift=SMALL)
    with source.open(parsed(sheep.vdi("disk"))) as reader:
        sheep.store.path(vdi.vid << 32 | 1).unlink()
        with pytest.raises(BadAnswer, match="missing"):
            reader.pread(0, 200_000)
        assert reader.pread(0, 1000) == content(1000)


def test_a_cluster_that_is_not_formatted_says_so(sheep: Sheep, source: SheepdogSource) -> None:
    (sheep.folder / "unformatted").touch()
    for call in (source.stat, lambda place: list(source.entries(place))):
        with pytest.raises(Unreachable, match="not formatted"):
            call(parsed(sheep.url))


def test_a_slash_after_a_vdi_is_no_list(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", b"x")
    with pytest.raises(NotAContainer):
        list(source.entries(parsed(sheep.vdi("disk/"))))
    with pytest.raises(NotAnImage):
        source.open(parsed(sheep.url))


# Writing


def test_writes_land_where_they_belong_whatever_the_borders(sheep: Sheep, source: SheepdogSource) -> None:
    data = bytearray(content(300_000) + bytes(200_000))
    vdi = sheep.store.create("disk", bytes(data), shift=SMALL)
    sheep.store.snapshot("disk", "s")
    chance = random.Random(11)
    with source.open_for_writing(parsed(sheep.vdi("disk"))) as writer:
        for _ in range(60):
            start = chance.randrange(len(data))
            new = chance.randbytes(chance.choice([1, 511, 4096, 70_000, 140_000]))[: len(data) - start]
            writer.pwrite(start, new)
            data[start : start + len(new)] = new
        writer.flush()
        assert writer.pread(0, len(data)) == data
    assert sheep.store.content(sheep.store.current(b"disk")) == data
    assert sheep.store.content(vdi) == content(300_000) + bytes(200_000), "the snapshot stays"


def test_many_threads_that_write_into_new_objects_lose_nothing(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("base", content(1 << 20), shift=SMALL)
    sheep.store.clone(sheep.store.snapshot("base", "s"), "disk")
    pieces = list(range(0, 1 << 20, 4096))
    random.Random(3).shuffle(pieces)
    with source.open_for_writing(parsed(sheep.vdi("disk"))) as writer, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda at: writer.pwrite(at + 7, at.to_bytes(4, "big") * 100), pieces))
    expected = bytearray(content(1 << 20))
    for at in pieces:
        expected[at + 7 : at + 407] = at.to_bytes(4, "big") * 100
    assert sheep.store.content(sheep.store.current(b"disk")) == expected


def test_zeros_where_there_is_nothing_make_no_object(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", content(65_536), size=200_000, shift=SMALL)
    with source.open_for_writing(parsed(sheep.vdi("disk"))) as writer:
        writer.pwrite(60_000, bytes(140_000))
        assert writer.pread(0, 200_000) == content(60_000) + bytes(140_000)
    assert sheep.store.objects(sheep.store.current(b"disk"))[1:] == [0, 0, 0]


def test_a_snapshot_that_is_taken_meanwhile_is_left_alone(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", content(200_000), shift=SMALL)
    with source.open_for_writing(parsed(sheep.vdi("disk"))) as writer:
        writer.pwrite(10, b"before")
        taken = sheep.store.snapshot("disk", "s")
        writer.pwrite(20, b"after")
        writer.pwrite(150_000, b"after")
        assert writer.pread(10, 15) == b"before" + content(20)[16:20] + b"after"
        with SheepdogSource() as other, pytest.raises(Denied, match="locked"):
            other.open_for_writing(parsed(sheep.vdi("disk")))
    before = bytearray(content(200_000))
    before[10:16] = b"before"
    assert sheep.store.content(taken) == before
    before[20:25] = before[150_000:150_005] = b"after"
    assert sheep.store.content(sheep.store.current(b"disk")) == before


def test_a_snapshot_cannot_be_written(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", b"x" * 1000)
    sheep.store.snapshot("disk", "s")
    with pytest.raises(Denied, match="it is a snapshot"):
        source.open_for_writing(parsed(sheep.vdi("disk#s")))


@pytest.mark.parametrize(("offset", "length"), [(900, 200), (1000, 1), (-1, 5)])
def test_nothing_is_written_outside(sheep: Sheep, source: SheepdogSource, offset: int, length: int) -> None:
    vdi = sheep.store.create("disk", b"x" * 1000)
    with source.open_for_writing(parsed(sheep.vdi("disk"))) as writer, pytest.raises(BadAnswer):
        writer.pwrite(offset, b"y" * length)
    assert sheep.store.content(vdi) == b"x" * 1000


def test_two_cannot_write_at_once_and_closing_lets_the_other(sheep: Sheep, source: SheepdogSource) -> None:
    place = parsed(sheep.vdi("disk"))
    sheep.store.create("disk", b"x" * 1000)
    with SheepdogSource() as other:
        first = other.open_for_writing(place)
        with pytest.raises(Denied, match=r"locked it.*dog vdi lock"):
            source.open_for_writing(place)
        assert whole(source, str(place)) == b"x" * 1000, "reading asks for no lock"
        first.close()
        first.close()
        with source.open_for_writing(place), pytest.raises(FarbootError):
            first.pwrite(0, b"y")
    with SheepdogSource() as third:
        third.open_for_writing(place)
    source.open_for_writing(place).close()


def test_closing_a_writer_twice_does_not_open_the_lock_of_the_next(sheep: Sheep, source: SheepdogSource) -> None:
    place = parsed(sheep.vdi("disk"))
    sheep.store.create("disk", b"x" * 1000)
    other = SheepdogSource()
    first = other.open_for_writing(place)
    first.close()
    with source.open_for_writing(place):
        first.close()
        other.close()
        with SheepdogSource() as third, pytest.raises(Denied):
            third.open_for_writing(place)


def test_nobody_gets_the_lock_while_a_write_is_under_way(sheep: Sheep) -> None:
    disk = sheep.store.create("disk", b"x" * 1000)
    place = parsed(sheep.vdi("disk"))
    with FaultyProxy(sheep.port) as proxy, SheepdogSource(deadline=60) as source, SheepdogSource() as other:
        writer = source.open_for_writing(parsed(f"sheepdog://{proxy.authority}/disk"))
        proxy.hold_after = 0
        with ThreadPoolExecutor(1) as pool:
            written = pool.submit(writer.pwrite, 0, b"y")
            wait_until(lambda: sheep.store.content(disk)[:1] == b"y", "the write, whose answer does not come")
            proxy.heal()
            writer.close()
            with pytest.raises(Denied, match="locked"):
                other.open_for_writing(place)
            proxy.hang_up()
            assert isinstance(written.exception(30), FarbootError)
            other.open_for_writing(place).close()


def test_the_lock_outlives_a_broken_connection_and_is_still_ours(sheep: Sheep) -> None:
    sheep.store.create("disk", b"x" * 1000)
    with FaultyProxy(sheep.port) as proxy, SheepdogSource(deadline=2) as source:
        place = parsed(f"sheepdog://{proxy.authority}/disk")
        writer = source.open_for_writing(place)
        proxy.refuse = True
        proxy.hang_up()
        with pytest.raises(Unreachable):
            writer.pwrite(0, b"y")
        writer.close()
        proxy.heal()
        with source.open_for_writing(place) as again:
            again.pwrite(0, b"z")
    with SheepdogSource() as other:
        other.open_for_writing(parsed(sheep.vdi("disk"))).close()


def test_a_source_says_what_it_can(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", b"x" * 1000)
    sheep.store.snapshot("disk", "s")
    for ability in (HasSnapshots, TellsUse, CanWrite):
        assert isinstance(source, ability)
    assert source.in_use(parsed(sheep.vdi("disk"))).certain is False
    assert source.in_use(parsed(sheep.vdi("disk#s"))).certain is True
    with pytest.raises(NotFound):
        source.in_use(parsed(sheep.vdi("nothing")))


def test_it_is_always_the_bridge(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create("disk", b"x" * 1000)
    sheep.store.snapshot("disk", "s")
    for drivers in (frozenset({"sheepdog", "nbd"}), frozenset({"nbd"})):
        found = source.attach(parsed(sheep.vdi("disk")), QemuFacts((7, 2), drivers), Mode.SNAPSHOT)
        assert (found.route, found.node, found.writable, found.trusted) == (Route.BRIDGE, {}, True, True)
        assert "no sheepdog driver" in found.why
    assert not source.attach(parsed(sheep.vdi("disk#s")), QemuFacts((7, 2), frozenset()), Mode.SNAPSHOT).writable
    with pytest.raises(Unsupported, match="no sheepdog driver"):
        source.attach(parsed(sheep.vdi("disk")), QemuFacts((7, 2), frozenset(), RouteWish.DIRECT), Mode.SNAPSHOT)


# Many, and the hostile


def test_thousands_of_vdis_are_listed_as_they_come(sheep: Sheep, source: SheepdogSource) -> None:
    sheep.store.create_many(f"vdi-{number:05}" for number in range(2000))
    found = source.entries(parsed(sheep.url))
    assert next(found).name == "vdi-00000"
    assert sum(1 for _ in found) == 1999


class _Nonsense(Listener):
    """Answers every request with the same header, which has the request's id where it has nothing but ones."""

    def __init__(self, header: bytes) -> None:
        self.header = header
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        with client.makefile("rb") as stream:
            while len(request := stream.read(48)) == 48:
                if request[2] & 1:
                    stream.read(int.from_bytes(request[12:16], "little"))
                client.sendall(self.header.replace(b"\xff" * 4, request[8:12], 1))


def header(number: int = 0xFFFFFFFF, length: int = 0, result: int = 0) -> bytes:
    return struct.pack("<BBHIIII28x", 1, 0, 0, 0, number, length, result)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (header(length=0x7FFFFFFF), "too many"),
        (header(number=77), "not asked"),
        (header(result=0xDEAD), "error 0xdead"),
        (b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\nxxxxxxxxxxxx", "a sheep"),
        (header(result=0x14), "another version"),
    ],
    ids=["too long", "unasked", "unknown result", "no sheep", "version"],
)
def test_what_no_sheep_would_say_is_an_error(answer: bytes, words: str) -> None:
    with _Nonsense(answer) as nonsense, SheepdogSource(deadline=5) as source:
        for call in (source.stat, lambda place: list(source.entries(place))):
            with pytest.raises(FarbootError, match=words):
                call(parsed(f"sheepdog://{nonsense.authority}/"))


def test_a_sheep_that_falls_silent_in_the_middle_times_out_and_the_image_can_be_opened_again(sheep: Sheep) -> None:
    sheep.store.create("disk", content(1 << 20))
    with FaultyProxy(sheep.port) as proxy, SheepdogSource(deadline=0.7) as source:
        place = parsed(f"sheepdog://{proxy.authority}/disk")
        proxy.hold_after = 100_000
        with source.open(place) as reader:
            for _ in range(2):
                with pytest.raises(TimedOut):
                    reader.pread(0, 1 << 20)
        proxy.heal()
        with source.open(place) as reader:
            assert reader.pread(0, 1 << 20) == content(1 << 20)


def test_a_reader_stays_broken_when_its_connection_broke_and_the_source_does_not(
    sheep: Sheep, source: SheepdogSource
) -> None:
    sheep.store.create("disk", content(100_000))
    with FaultyProxy(sheep.port) as proxy:
        place = f"sheepdog://{proxy.authority}/disk"
        with source.open(parsed(place)) as reader:
            assert reader.pread(0, 10) == content(10)
            sheep.server.kill()
            again = start_sheep(sheep.folder)
            with again.server:
                proxy.upstream = ("127.0.0.1", again.port)
                for _ in range(2):
                    with pytest.raises(Unreachable):
                        reader.pread(0, 10)
                assert whole(source, place) == content(100_000)
