"""Block devices of this host: a real loop device, and what lsblk tells on other machines."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from probes.attachment import HostFile, Mode, QemuFacts
from probes.credentials import NO_CREDENTIALS
from probes.entry import Kind
from probes.errors import (
    BadAnswer,
    MissingClient,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
)
from probes.host.devices import entries_of
from probes.location import Location
from probes.sources.host import DeviceSource, FileSource
from tests.servers.loop import LoopDevice

QEMU = QemuFacts((7, 2, 22), frozenset({"file", "host_device"}))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and mounts are root's")


def place(path: Path | str) -> Location:
    return Location("file", path=str(path))


@needs_root
class TestDevices:
    def test_a_device_is_listed_with_its_size_and_what_is_behind_it(self, loop_device: LoopDevice) -> None:
        with DeviceSource() as source:
            found = {entry.name: entry for entry in source.entries(Location("host_device"))}[loop_device.device]
        assert (found.kind, found.size, found.location) == (Kind.IMAGE, 32 << 20, loop_device.location)
        assert r"behind\x1b loop.img" in found.note
        assert Location.parse(str(found.location))[0] == found.location

    def test_partitions_follow_their_disk(self, loop_device: LoopDevice, partitions: tuple[str, str]) -> None:
        with DeviceSource() as source:
            names = [entry.name for entry in source.entries(Location("host_device"))]
            assert source.stat(Location("host_device", path=partitions[0])).size == 8 << 20
        start = names.index(loop_device.device)
        assert names[start : start + 3] == [loop_device.device, *partitions]

    def test_it_is_read_exactly(self, loop_device: LoopDevice) -> None:
        with DeviceSource() as source, source.open(loop_device.location) as reader:
            whole = loop_device.backing.read_bytes()
            assert reader.size == len(whole)
            for offset, length in [(0, 512), (1, 70_001), (len(whole) - 5, 100), (len(whole), 1), (1 << 20, 4 << 20)]:
                assert reader.pread(offset, length) == whole[offset : offset + length]

    def test_the_file_source_reads_it_too_and_sends_one_there(self, loop_device: LoopDevice) -> None:
        with FileSource() as source:
            assert source.stat(place(loop_device.device)).location == loop_device.location
            with source.open(place(loop_device.device)) as reader:
                assert reader.size == 32 << 20
            found = {entry.name: entry for entry in source.entries(Location("file", path="/dev/"))}
        assert found[os.path.basename(loop_device.device)].location == loop_device.location
        assert found["null"].kind is Kind.OTHER

    def test_the_pin_changes_with_what_is_behind_it(self, loop_device: LoopDevice, tmp_path: Path) -> None:
        with DeviceSource() as source:
            with source.open(loop_device.location) as reader:
                before = reader.pin
            subprocess.run(["losetup", "--detach", loop_device.device], check=True)
            other = tmp_path / "other.img"
            other.write_bytes(bytes(32 << 20))
            subprocess.run(["losetup", loop_device.device, other], check=True)
            with source.open(loop_device.location) as reader:
                assert reader.pin != before

    def test_it_is_attached_as_a_device(self, loop_device: LoopDevice) -> None:
        with DeviceSource() as source:
            found = source.attach(loop_device.location, QEMU, Mode.SNAPSHOT)
        assert found.node == {"driver": "host_device", "filename": loop_device.device}
        assert found.files == (HostFile("filename", loop_device.device, exclusive=True),)
        assert found.writable
        assert found.trusted

    def test_a_plain_path_to_a_device_is_attached_as_a_device(self, loop_device: LoopDevice) -> None:
        with FileSource() as source:
            assert source.attach(place(loop_device.device), QEMU, Mode.SNAPSHOT).node["driver"] == "host_device"

    def test_a_read_only_device_says_so(self, loop_device: LoopDevice) -> None:
        subprocess.run(["blockdev", "--setro", loop_device.device], check=True)
        try:
            with DeviceSource() as source:
                assert not source.attach(loop_device.location, QEMU, Mode.SNAPSHOT).writable
                notes = {entry.name: entry.note for entry in source.entries(Location("host_device"))}
            assert "read-only" in notes[loop_device.device]
        finally:
            subprocess.run(["blockdev", "--setrw", loop_device.device], check=True)

    def test_qemu_takes_its_descriptor(self, loop_device: LoopDevice) -> None:
        """With the driver that we name, and from an account that could not open the device itself."""
        node = json.dumps({"driver": "host_device", "filename": "/dev/fdset/7", "node-name": "n", "read-only": True})
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "qemu-system-x86_64"]
        command += ["-nodefaults", "-display", "none", "-accel", "tcg", "-S", "-qmp", "stdio", "-blockdev", node]
        descriptor = os.open(loop_device.device, os.O_RDONLY)
        try:
            command += ["-add-fd", f"fd={descriptor},set=7"]
            done = subprocess.run(
                command, pass_fds=[descriptor], input=b'{"execute":"qmp_capabilities"}{"execute":"quit"}',
                capture_output=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            os.close(descriptor)
        assert done.returncode == 0, done.stderr

    def test_who_uses_it(self, loop_device: LoopDevice, partitions: tuple[str, str], tmp_path: Path) -> None:
        subprocess.run(["mke2fs", "-q", partitions[0]], check=True)
        mount = tmp_path / "mounted here"
        mount.mkdir()
        subprocess.run(["mount", partitions[0], mount], check=True)
        try:
            with DeviceSource() as source, FileSource() as files:
                for device in (loop_device.device, partitions[0]):
                    assert source.in_use(Location("host_device", path=device)).users == (f"mounted at {mount}",)
                assert source.in_use(Location("host_device", path=partitions[1])).users == ()
                users = files.in_use(place(loop_device.backing)).users
                assert users[:2] == (f"loop device {loop_device.device}", f"mounted at {mount}")
                notes = {entry.name: entry.note for entry in source.entries(Location("host_device"))}
                assert f"mounted at {mount}" in notes[partitions[0]]
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_who_has_a_part_or_the_whole_of_it_open_uses_it_too(
        self, loop_device: LoopDevice, partitions: tuple[str, str]
    ) -> None:
        with (
            open(loop_device.device, "rb") as whole,
            subprocess.Popen(["sleep", "600"], stdin=whole) as other,
            DeviceSource() as source,
        ):
            try:
                for device in (loop_device.device, *partitions):
                    users = source.in_use(Location("host_device", path=device)).users
                    assert users == (f"open in sleep (process {other.pid})",)
            finally:
                other.kill()
        with (
            open(partitions[0], "rb") as part,
            subprocess.Popen(["sleep", "600"], stdin=part) as other,
            DeviceSource() as source,
        ):
            try:
                users = source.in_use(loop_device.location).users
                assert users == (f"open in sleep (process {other.pid})",)
                assert source.in_use(Location("host_device", path=partitions[1])).users == ()
            finally:
                other.kill()

    def test_who_uses_the_file_behind_it_uses_it_too(
        self, loop_device: LoopDevice, partitions: tuple[str, str]
    ) -> None:
        with (
            loop_device.backing.open("rb") as file,
            subprocess.Popen(["sleep", "600"], stdin=file) as other,
            DeviceSource() as source,
        ):
            try:
                for device in (loop_device.device, partitions[0]):
                    users = source.in_use(Location("host_device", path=device)).users
                    assert [user.partition(", which is behind it: ")[2] for user in users] == [
                        f"open in sleep (process {other.pid})"
                    ]
            finally:
                other.kill()
        with DeviceSource() as source:
            assert source.in_use(loop_device.location).users == ()

    def test_a_file_is_used_by_its_loop_device_whichever_of_its_names_is_asked_about(
        self, loop_device: LoopDevice
    ) -> None:
        other = loop_device.backing.with_name("another name")
        os.link(loop_device.backing, other)
        with FileSource() as source:
            assert source.in_use(place(other)).users == (f"loop device {loop_device.device}",)

    def test_a_device_that_is_gone_is_not_found(self) -> None:
        with DeviceSource() as source:
            for operation in (source.stat, source.open, lambda where: list(source.entries(where))):
                with pytest.raises(NotFound):
                    operation(Location("host_device", path="/dev/nothing-of-the-kind"))

    def test_a_loop_device_without_its_file_is_no_image(self, loop_device: LoopDevice) -> None:
        backing = loop_device.backing
        subprocess.run(["losetup", "--detach", loop_device.device], check=True)
        try:
            with DeviceSource() as source:
                assert source.stat(loop_device.location).kind is Kind.OTHER
                assert "empty" in source.stat(loop_device.location).note
        finally:
            subprocess.run(["losetup", loop_device.device, backing], check=True)

    def test_a_file_is_no_device(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"x")
        with DeviceSource() as source, pytest.raises(NotAnImage, match=str(tmp_path)):
            source.open(Location("host_device", path=str(tmp_path / "a.img")))

    def test_the_list_itself(self, loop_device: LoopDevice) -> None:
        with DeviceSource() as source:
            assert source.stat(Location("host_device")).kind is Kind.CONTAINER
            with pytest.raises(NotAnImage):
                source.open(Location("host_device"))
            with pytest.raises(NotAContainer):
                list(source.entries(loop_device.location))

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
