"""Files and folders of this host."""

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.attachment import HostFile, Mode, QemuFacts, Route
from probes.entry import Entry, Kind
from probes.errors import (
    Cancelled,
    Changed,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
)
from probes.host.files import within
from probes.location import Location
from probes.sources.host import FileSource
from tests.sources.contract import SourceContract, Storage, content, odd_names

QEMU = QemuFacts((7, 2, 22), frozenset({"file", "host_device"}))


def place(path: Path | str, folder: bool = False) -> Location:
    return Location("file", path=str(path) + ("/" if folder else ""))


def listed(path: Path) -> dict[str, Entry]:
    with FileSource() as source:
        return {entry.name: entry for entry in source.entries(place(path, folder=True))}


def build(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, held in files.items():
        (folder / name).write_bytes(held)


class TestFiles(SourceContract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        names = [name for name in odd_names() if "/" not in name]  # the one character that no file's name has
        files = {name: content(5000 + number, number) for number, name in enumerate(names)}
        files |= {"big.img": content(300_000, 99), "empty.img": b"", "notes.txt": b"hello"}
        containers = {name.removesuffix(".img") + ".d": {"in.img": content(100)} for name in names}
        containers["nothing"] = {}
        folder = tmp_path / "images"
        build(folder, files)
        for name, held in containers.items():
            build(folder / name, dict(held))
        return Storage(
            make=FileSource,
            container=place(folder, folder=True),
            files=files,
            image="big.img",
            missing=place(folder / "missing.img"),
            containers=containers,
        )


@pytest.fixture
def memory_folder() -> Iterator[Path]:
    """A folder in memory, for very many files: on a busy disk they take a minute."""
    place_in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="farboot-", dir=place_in_memory) as folder:
        yield Path(folder)


class TestFolders:
    def test_a_folder_can_be_given_without_its_slash(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").touch()
        with FileSource() as source:
            assert [entry.name for entry in source.entries(place(tmp_path))] == ["a.img"]
            assert source.stat(place(tmp_path)).location == place(tmp_path, folder=True)

    def test_the_root_folder_is_a_place_too(self) -> None:
        with FileSource() as source:
            found = source.stat(Location("file", path="/"))
            assert (found.kind, found.location.path) == (Kind.CONTAINER, "/")
            assert {"usr", "etc"} <= {entry.name for entry in source.entries(found.location)}

    def test_times_carry_their_zone(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").touch()
        os.utime(tmp_path / "a.img", (86400, 86400))
        modified = listed(tmp_path)["a.img"].modified
        assert modified is not None
        assert modified.isoformat() == "1970-01-02T00:00:00+00:00"

    @pytest.mark.parametrize(
        ("name", "size", "kind"),
        [
            ("disk.qcow2", 0, Kind.IMAGE),
            ("vm-100-disk-0", 2 << 20, Kind.IMAGE),
            ("base.1", 2 << 20, Kind.IMAGE),
            ("README", 2000, Kind.OTHER),
            (".hidden", 2 << 20, Kind.IMAGE),
            ("syslog.log", 2 << 20, Kind.OTHER),
            ("clip.mp4", 2 << 20, Kind.OTHER),
        ],
    )
    def test_which_files_may_be_images(self, tmp_path: Path, name: str, size: int, kind: Kind) -> None:
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
        assert listed(tmp_path)[name].kind is kind

    def test_a_file_that_was_named_counts_as_an_image_whatever_it_is_called(self, tmp_path: Path) -> None:
        (tmp_path / "README").write_text("hello")
        with FileSource() as source:
            assert source.stat(place(tmp_path / "README")).kind is Kind.IMAGE

    def test_links_are_followed_and_say_where_to(self, tmp_path: Path) -> None:
        (tmp_path / "real.img").write_bytes(b"x" * 7)
        (tmp_path / "latest.img").symlink_to("real.img")
        (tmp_path / "up").symlink_to("..")
        (tmp_path / "dead.img").symlink_to("nowhere\x1b[31m")
        (tmp_path / "round.img").symlink_to("round.img")
        found = listed(tmp_path)
        assert (found["latest.img"].kind, found["latest.img"].size) == (Kind.IMAGE, 7)
        assert found["latest.img"].note == "→ real.img"
        assert found["up"].kind is Kind.CONTAINER
        assert found["dead.img"].kind is found["round.img"].kind is Kind.OTHER
        assert found["dead.img"].note == r"→ nowhere\x1b[31m (leads nowhere)"
        with FileSource() as source, source.open(found["latest.img"].location) as reader:
            assert reader.pread(0, 10) == b"x" * 7
        for name in ("dead.img", "round.img"):
            with FileSource() as source, pytest.raises(NotFound):
                source.open(found[name].location)

    def test_what_is_no_image_is_told_and_never_opened(self, tmp_path: Path) -> None:
        """A FIFO would wait for its writer, for ever."""
        os.mkfifo(tmp_path / "fifo.img")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "socket.img"))
            found = listed(tmp_path)
        assert {name: (entry.kind, entry.note) for name, entry in found.items()} == {
            "fifo.img": (Kind.OTHER, "FIFO"),
            "socket.img": (Kind.OTHER, "socket"),
        }
        for path in (tmp_path / "fifo.img", tmp_path / "socket.img", Path("/dev/zero")):
            with FileSource() as source, pytest.raises(NotAnImage):
                source.open(place(path))

    def test_a_file_is_no_folder_even_with_a_slash(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").touch()
        with FileSource() as source:
            with pytest.raises(NotAContainer):
                list(source.entries(place(tmp_path / "a.img")))
            for wrong in (place(tmp_path / "a.img", folder=True), place(tmp_path / "a.img" / "b")):
                with pytest.raises(NotFound):
                    list(source.entries(wrong))

    def test_a_name_too_long_is_not_found(self, tmp_path: Path) -> None:
        with FileSource() as source, pytest.raises(NotFound):
            source.stat(place(tmp_path / ("x" * 300)))

    def test_a_nul_in_a_path_is_not_found(self) -> None:
        with FileSource() as source:
            for operation in (source.stat, source.open, lambda where: list(source.entries(where))):
                with pytest.raises(NotFound):
                    operation(Location("file", path="/tmp/a\0b"))

    def test_a_hundred_thousand_files_come_lazily_and_completely(self, memory_folder: Path) -> None:
        for number in range(100_000):
            os.mknod(memory_folder / f"{number}.img")
        with FileSource() as source:
            rows = source.entries(place(memory_folder, folder=True))
            first = next(rows)
            for path in memory_folder.iterdir():
                path.unlink()
            rest = list(rows)
            assert len(rest) < 99_999, "the whole folder was looked at before the first entry came"
            assert all(row.size in {0, None} for row in [first, *rest])

    @pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1000, 2345])
    def test_every_entry_comes_once_whatever_their_number(self, memory_folder: Path, count: int) -> None:
        for number in range(count):
            (memory_folder / f"{number}.img").touch()
        with FileSource() as source:
            names = [entry.name for entry in source.entries(place(memory_folder))]
        assert sorted(names) == sorted(f"{number}.img" for number in range(count))


class TestReader:
    def test_what_is_written_meanwhile_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "a.img"
        path.write_bytes(b"a" * 1000)
        with FileSource() as source, source.open(place(path)) as reader:
            assert reader.pread(0, 4) == b"aaaa"
            path.write_bytes(b"b" * 1000)
            os.utime(path, ns=(1, 1))
            with pytest.raises(Changed):
                reader.pread(0, 4)

    @pytest.mark.parametrize("size", [0, 500, 5000])
    def test_what_is_cut_off_or_grows_is_noticed(self, tmp_path: Path, size: int) -> None:
        path = tmp_path / "a.img"
        path.write_bytes(b"a" * 1000)
        with FileSource() as source, source.open(place(path)) as reader:
            os.truncate(path, size)
            with pytest.raises(Changed):
                reader.pread(0, 1000)

    def test_a_file_put_in_its_place_does_not_disturb_an_open_one_and_has_another_pin(self, tmp_path: Path) -> None:
        path = tmp_path / "a.img"
        path.write_bytes(b"a" * 1000)
        with FileSource() as source, source.open(place(path)) as before:
            (tmp_path / "b.img").write_bytes(b"b" * 1000)
            (tmp_path / "b.img").rename(path)
            with source.open(place(path)) as after:
                assert before.pin != after.pin

    def test_a_closed_reader_keeps_no_descriptor(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"a")
        before = len(os.listdir("/proc/self/fd"))
        with FileSource() as source:
            readers = [source.open(place(tmp_path / "a.img")) for _ in range(50)]
            for reader in readers:
                reader.close()
        assert len(os.listdir("/proc/self/fd")) == before
        with pytest.raises(Cancelled):
            readers[0].pread(0, 1)

    def test_a_call_that_the_kernel_does_not_finish_is_given_up(self, tmp_path: Path) -> None:
        """A FIFO's opening stands for a dead file server's: it waits just as long."""
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(TimedOut, match="alive"):
            within(0.05, "open", place(tmp_path / "fifo"), lambda: os.open(tmp_path / "fifo", os.O_RDONLY))
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))  # let the thread go


class TestAttach:
    def test_a_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a,b=\x1b.img"
        path.write_bytes(b"x" * 600)
        with FileSource() as source:
            found = source.attach(place(path), QEMU, Mode.SNAPSHOT)
            assert found.pin == source.open(place(path)).pin
        assert found.route is Route.DRIVER
        assert found.node == {"driver": "file", "filename": str(path)}
        assert found.files == (HostFile("filename", str(path), writable=False),)
        assert found.trusted
        assert found.writable
        assert not found.secrets

    def test_writing_asks_for_a_writable_descriptor(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"x")
        with FileSource() as source:
            assert source.attach(place(tmp_path / "a.img"), QEMU, Mode.WRITE).files[0].writable

    def test_a_folder_cannot_be_attached(self, tmp_path: Path) -> None:
        with FileSource() as source, pytest.raises(NotAnImage):
            source.attach(place(tmp_path), QEMU, Mode.SNAPSHOT)
