"""Files and block devices of this host: real folders, a real loop device, a real unprivileged account."""

import contextlib
import fcntl
import json
import os
import pwd
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from probes.attachment import HostFile, Mode, QemuFacts, Route
from probes.credentials import NO_CREDENTIALS
from probes.entry import Entry, Kind
from probes.errors import (
    BadAnswer,
    Cancelled,
    Changed,
    MissingClient,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
)
from probes.host_devices import entries_of
from probes.host_files import within
from probes.location import Location
from probes.source import TellsUse, Use
from probes.sources.host import DeviceSource, FileSource
from tests.sources.contract import SourceContract, Storage, content, odd_names

QEMU = QemuFacts((7, 2, 22), frozenset({"file", "host_device"}))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices, mounts and other accounts are root's")


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


class TestUse:
    def test_the_sources_tell_it(self) -> None:
        assert isinstance(FileSource(), TellsUse)
        assert isinstance(DeviceSource(), TellsUse)

    def test_an_unused_file_has_no_users_that_can_be_seen(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"x")
        with FileSource() as source:
            assert source.in_use(place(tmp_path / "a.img")) == Use((), certain=False)

    def test_our_own_reading_does_not_count(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"x")
        with FileSource() as source, source.open(place(tmp_path / "a.img")):
            assert source.in_use(place(tmp_path / "a.img")).users == ()

    def test_a_missing_file_is_not_found(self, tmp_path: Path) -> None:
        with FileSource() as source, pytest.raises(NotFound):
            source.in_use(place(tmp_path / "a.img"))

    def test_another_process_that_has_it_open_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.img"
        path.write_bytes(b"x")
        with path.open("rb") as file, subprocess.Popen(["sleep", "600"], stdin=file) as other:
            with FileSource() as source:
                assert source.in_use(place(path)).users == (f"open in sleep (process {other.pid})",)
            other.kill()

    def test_a_qemu_that_locks_it_is_seen_even_where_processes_are_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.img"
        path.write_bytes(b"x" * 1024)
        monkeypatch.setattr("probes.host_use._open_in", lambda _: iter(()))  # as an unprivileged account would see
        with a_qemu_with(path), FileSource() as source:
            assert source.in_use(place(path)).users == ("a QEMU that holds its locks",)


@contextlib.contextmanager
def a_qemu_with(path: Path) -> Iterator[None]:
    """A real QEMU that has the raw image open for writing."""
    node = json.dumps({"driver": "file", "filename": str(path), "node-name": "f"})
    raw = json.dumps({"driver": "raw", "file": "f", "node-name": "r", "read-only": False})
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-S", "-qmp", "stdio"]
    command += ["-blockdev", node, "-blockdev", raw, "-device", "virtio-blk-pci,drive=r"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        try:
            assert b"QMP" in qemu.stdout.readline()
            qemu.stdin.write(b'{"execute": "qmp_capabilities"}')
            qemu.stdin.flush()
            assert b"return" in qemu.stdout.readline()  # answered once everything is open
            yield
        finally:
            qemu.kill()


@dataclass(frozen=True)
class Loop:
    """A loop device and the file behind it."""

    device: str
    backing: Path

    @property
    def location(self) -> Location:
        return Location("host_device", path=self.device)


_ADD, _REMOVE = 0x4C80, 0x4C81  # LOOP_CTL_ADD, LOOP_CTL_REMOVE of linux/loop.h


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    """A loop device of 32 MiB. It is a new one, that no other program takes while it is detached."""
    backing = tmp_path / "behind\x1b loop.img"
    backing.write_bytes(random.Random(1).randbytes(32 << 20))
    with open("/dev/loop-control", "rb") as control:
        number = fcntl.ioctl(control, _ADD, -1)
        device = f"/dev/loop{number}"
        nodes = [device] if not os.path.exists(device) else []
        for node in nodes:  # without devtmpfs
            os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(7, number))
        subprocess.run(["losetup", device, backing], check=True)
        yield Loop(device, backing)
        subprocess.run(["losetup", "--detach", device], check=True)
        for node in nodes:
            os.unlink(node)
        with contextlib.suppress(OSError):  # somebody looks at it right now; it is empty
            fcntl.ioctl(control, _REMOVE, number)


@pytest.fixture
def parted(loop: Loop) -> Iterator[tuple[str, str]]:
    """The device's two partitions. (This kernel reads no partition tables: partx tells it.)"""
    script = "label: gpt\n,8M,L\n,,L\n"
    subprocess.run(["sfdisk", "-q", loop.backing], input=script, text=True, check=True, capture_output=True)
    subprocess.run(["partx", "--add", loop.device], check=True, capture_output=True)
    first, second = f"{loop.device}p1", f"{loop.device}p2"
    nodes = [node for node in (first, second) if not os.path.exists(node)]
    for node in nodes:  # without devtmpfs
        with open(f"/sys/class/block/{os.path.basename(node)}/dev", encoding="ascii") as file:
            major, minor = map(int, file.read().split(":"))
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
    yield first, second
    subprocess.run(["partx", "--delete", loop.device], check=True, capture_output=True)
    for node in nodes:
        os.unlink(node)


@needs_root
class TestDevices:
    def test_a_device_is_listed_with_its_size_and_what_is_behind_it(self, loop: Loop) -> None:
        with DeviceSource() as source:
            found = {entry.name: entry for entry in source.entries(Location("host_device"))}[loop.device]
        assert (found.kind, found.size, found.location) == (Kind.IMAGE, 32 << 20, loop.location)
        assert r"behind\x1b loop.img" in found.note
        assert Location.parse(str(found.location))[0] == found.location

    def test_partitions_follow_their_disk(self, loop: Loop, parted: tuple[str, str]) -> None:
        with DeviceSource() as source:
            names = [entry.name for entry in source.entries(Location("host_device"))]
            assert source.stat(Location("host_device", path=parted[0])).size == 8 << 20
        start = names.index(loop.device)
        assert names[start : start + 3] == [loop.device, *parted]

    def test_it_is_read_exactly(self, loop: Loop) -> None:
        with DeviceSource() as source, source.open(loop.location) as reader:
            whole = loop.backing.read_bytes()
            assert reader.size == len(whole)
            for offset, length in [(0, 512), (1, 70_001), (len(whole) - 5, 100), (len(whole), 1), (1 << 20, 4 << 20)]:
                assert reader.pread(offset, length) == whole[offset : offset + length]

    def test_the_file_source_reads_it_too_and_sends_one_there(self, loop: Loop) -> None:
        with FileSource() as source:
            assert source.stat(place(loop.device)).location == loop.location
            with source.open(place(loop.device)) as reader:
                assert reader.size == 32 << 20
            found = {entry.name: entry for entry in source.entries(Location("file", path="/dev/"))}
        assert found[os.path.basename(loop.device)].location == loop.location
        assert found["null"].kind is Kind.OTHER

    def test_the_pin_changes_with_what_is_behind_it(self, loop: Loop, tmp_path: Path) -> None:
        with DeviceSource() as source:
            with source.open(loop.location) as reader:
                before = reader.pin
            subprocess.run(["losetup", "--detach", loop.device], check=True)
            other = tmp_path / "other.img"
            other.write_bytes(bytes(32 << 20))
            subprocess.run(["losetup", loop.device, other], check=True)
            with source.open(loop.location) as reader:
                assert reader.pin != before

    def test_it_is_attached_as_a_device(self, loop: Loop) -> None:
        with DeviceSource() as source:
            found = source.attach(loop.location, QEMU, Mode.SNAPSHOT)
        assert found.node == {"driver": "host_device", "filename": loop.device}
        assert found.files == (HostFile("filename", loop.device),)
        assert found.writable
        assert found.trusted

    def test_a_plain_path_to_a_device_is_attached_as_a_device(self, loop: Loop) -> None:
        with FileSource() as source:
            assert source.attach(place(loop.device), QEMU, Mode.SNAPSHOT).node["driver"] == "host_device"

    def test_a_read_only_device_says_so(self, loop: Loop) -> None:
        subprocess.run(["blockdev", "--setro", loop.device], check=True)
        try:
            with DeviceSource() as source:
                assert not source.attach(loop.location, QEMU, Mode.SNAPSHOT).writable
                notes = {entry.name: entry.note for entry in source.entries(Location("host_device"))}
            assert "read-only" in notes[loop.device]
        finally:
            subprocess.run(["blockdev", "--setrw", loop.device], check=True)

    def test_qemu_takes_its_descriptor(self, loop: Loop) -> None:
        """With the driver that we name, and from an account that could not open the device itself."""
        node = json.dumps({"driver": "host_device", "filename": "/dev/fdset/7", "node-name": "n", "read-only": True})
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "qemu-system-x86_64"]
        command += ["-nodefaults", "-display", "none", "-accel", "tcg", "-S", "-qmp", "stdio", "-blockdev", node]
        descriptor = os.open(loop.device, os.O_RDONLY)
        try:
            command += ["-add-fd", f"fd={descriptor},set=7"]
            done = subprocess.run(
                command, pass_fds=[descriptor], input=b'{"execute":"qmp_capabilities"}{"execute":"quit"}',
                capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            os.close(descriptor)
        assert done.returncode == 0, done.stderr

    def test_who_uses_it(self, loop: Loop, parted: tuple[str, str], tmp_path: Path) -> None:
        subprocess.run(["mke2fs", "-q", parted[0]], check=True)
        mount = tmp_path / "mounted here"
        mount.mkdir()
        subprocess.run(["mount", parted[0], mount], check=True)
        try:
            with DeviceSource() as source, FileSource() as files:
                for device in (loop.device, parted[0]):
                    assert source.in_use(Location("host_device", path=device)).users == (f"mounted at {mount}",)
                assert source.in_use(Location("host_device", path=parted[1])).users == ()
                users = files.in_use(place(loop.backing)).users
                assert users[:2] == (f"loop device {loop.device}", f"mounted at {mount}")
                notes = {entry.name: entry.note for entry in source.entries(Location("host_device"))}
                assert f"mounted at {mount}" in notes[parted[0]]
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_a_device_that_is_gone_is_not_found(self) -> None:
        with DeviceSource() as source:
            for operation in (source.stat, source.open, lambda where: list(source.entries(where))):
                with pytest.raises(NotFound):
                    operation(Location("host_device", path="/dev/nothing-of-the-kind"))

    def test_a_loop_device_without_its_file_is_no_image(self, loop: Loop) -> None:
        backing = loop.backing
        subprocess.run(["losetup", "--detach", loop.device], check=True)
        try:
            with DeviceSource() as source:
                assert source.stat(loop.location).kind is Kind.OTHER
                assert "empty" in source.stat(loop.location).note
        finally:
            subprocess.run(["losetup", loop.device, backing], check=True)

    def test_a_file_is_no_device(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"x")
        with DeviceSource() as source, pytest.raises(NotAnImage, match=str(tmp_path)):
            source.open(Location("host_device", path=str(tmp_path / "a.img")))

    def test_the_list_itself(self, loop: Loop) -> None:
        with DeviceSource() as source:
            assert source.stat(Location("host_device")).kind is Kind.CONTAINER
            with pytest.raises(NotAnImage):
                source.open(Location("host_device"))
            with pytest.raises(NotAContainer):
                list(source.entries(loop.location))

    def test_without_lsblk_it_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with DeviceSource() as source, pytest.raises(MissingClient, match="util-linux"):
            list(source.entries(Location("host_device")))

    @pytest.mark.parametrize(
        ("script", "error"),
        [("exec sleep 600", TimedOut), ("echo '{\"blockdevices\": [3]}'", BadAnswer), ("echo {", BadAnswer)],
    )
    def test_an_lsblk_that_misbehaves_is_told(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, error: type[Exception]
    ) -> None:
        fake = tmp_path / "lsblk"
        fake.write_text(f"#!/bin/sh\n{script}\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        with DeviceSource(NO_CREDENTIALS, 1.0) as source, pytest.raises(error):
            list(source.entries(Location("host_device")))


def a_row(name: str, kind: str = "disk", **more: object) -> dict[str, object]:
    return {"name": name, "type": kind, "size": 1 << 30, "mountpoints": [None], **more}


class TestWhatLsblkTells:
    """Shapes of other machines, as lsblk prints them there."""

    def test_a_disk_with_everything_on_it(self) -> None:
        root = a_row("/dev/mapper/vg-root", "lvm", mountpoints=["/"], fstype="ext4", label="r\x1b[31m")
        physical = a_row("/dev/sda2", "part", fstype="LVM2_member", children=[root])
        disk = a_row("/dev/sda", model="QEMU HARDDISK ", tran="sata", children=[a_row("/dev/sda1", "part"), physical])
        entries = list(entries_of([disk]))
        assert [entry.name for entry in entries] == ["/dev/sda", "/dev/sda1", "/dev/sda2", "/dev/mapper/vg-root"]
        assert [entry.note for entry in entries] == [
            "QEMU HARDDISK · sata · holds the running system",
            "partition",
            "partition · LVM2_member · holds the running system · used by vg-root",
            r"LVM volume · ext4 “r\x1b[31m” · mounted at / · holds the running system",
        ]

    def test_a_raid_comes_once(self) -> None:
        array = a_row("/dev/md0", "raid1")
        disks = [a_row(f"/dev/sd{letter}", children=[array]) for letter in "ab"]
        entries = list(entries_of(disks))
        assert [entry.name for entry in entries] == ["/dev/sda", "/dev/md0", "/dev/sdb"]
        assert [entry.note for entry in entries] == ["used by md0", "raid1", "used by md0"]

    def test_an_empty_card_reader(self) -> None:
        (entry,) = entries_of([a_row("/dev/sdc", size=0, rm=True)])
        assert (entry.kind, entry.note) == (Kind.OTHER, "no medium · removable")

    def test_a_device_that_is_not_set_up(self) -> None:
        (entry,) = entries_of([a_row("/dev/zram0", size=0)])
        assert (entry.kind, entry.note) == (Kind.OTHER, "empty")

    def test_swap(self) -> None:
        (entry,) = entries_of([a_row("/dev/sdc", mountpoints=["[SWAP]"])])
        assert entry.note == "swap in use · holds the running system"

    def test_no_devices_at_all(self) -> None:
        assert list(entries_of([])) == []


@needs_root
class TestUnprivileged:
    """The same calls from an account that owns nothing."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Iterator[Path]:
        """A folder that any account can reach (pytest's own are 0700)."""
        folder = Path("/var/tmp") / f"farboot-test-{os.getpid()}-{tmp_path.name}"
        folder.mkdir(mode=0o755)
        yield folder
        shutil.rmtree(folder)

    def as_nobody(self, expression: str) -> str:
        """Evaluate it as the account nobody, and return its text, or the name of the error and its text."""
        nobody = pwd.getpwnam("nobody")
        program = (
            "from probes.sources.host import *; from probes.errors import FarbootError\n"
            f"try: print({expression})\n"
            "except FarbootError as error: print(type(error).__name__, error)\n"
        )
        identity = ["--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups"]
        command = ["setpriv", *identity, sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert not done.stderr, done.stderr
        return done.stdout.strip()

    def test_an_unreadable_folder_is_denied(self, outside: Path) -> None:
        (outside / "closed").mkdir(mode=0o700)
        told = self.as_nobody(f"list(FileSource().entries(Location('file', path='{outside}/closed/')))")
        assert told.startswith("Denied cannot list")
        assert "become root" in told

    def test_an_unreadable_file_is_listed_and_denied_when_opened(self, outside: Path) -> None:
        (outside / "closed.img").write_bytes(b"x")
        (outside / "closed.img").chmod(0o600)
        told = self.as_nobody(f"[row.size for row in FileSource().entries(Location('file', path='{outside}/'))]")
        assert told == "[1]"
        told = self.as_nobody(f"FileSource().open(Location('file', path='{outside}/closed.img'))")
        assert told.startswith("Denied")

    def test_a_file_it_may_only_read_is_not_writable(self, outside: Path) -> None:
        (outside / "open.img").write_bytes(b"x")
        (outside / "open.img").chmod(0o644)
        facts = "QemuFacts((7, 2, 0), frozenset())"
        where = f"Location('file', path='{outside}/open.img')"
        assert self.as_nobody(f"FileSource().attach({where}, {facts}, Mode.SNAPSHOT).writable") == "False"

    def test_devices_are_listed_but_not_opened(self, loop: Loop) -> None:
        told = self.as_nobody("[row.name for row in DeviceSource().entries(Location('host_device'))]")
        assert loop.device in told
        told = self.as_nobody(f"DeviceSource().open(Location('host_device', path='{loop.device}'))")
        assert told.startswith("Denied")
