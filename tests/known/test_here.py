"""Who of this host has an image that lies on a server: found by the kernel's own way to it."""

import subprocess
from pathlib import Path

import pytest

from probes.known.here import users_here
from probes.known.root import Root
from probes.location import Location
from tests.known.conftest import Write

IQN = "iqn.2001-04.org.example:disks"


def users(text: str, root: Root) -> tuple[str, ...]:
    return users_here(Location.parse(text)[0], root)


@pytest.mark.parametrize(
    ("mount", "location"),
    [
        ("36 35 0:55 / /mnt/a rw - nfs4 nas:/vol rw", "nfs://nas/vol/dir/a.img"),
        ("36 35 0:55 /dir /mnt/a/dir rw - nfs nas:/vol rw", "nfs://NAS/vol/dir/a.img?uid=0"),
        ("36 35 0:55 / /mnt/a rw - nfs4 nas:/ rw", "nfs://nas/dir/a.img"),
    ],
)
def test_a_file_that_a_program_has_open_on_a_mount_is_in_use(
    mount: str, location: str, write: Write, root: Root
) -> None:
    write("/proc/self/mountinfo", mount + "\n")
    path = write("/mnt/a/dir/a.img", "x")
    assert users(location, root) == ()
    with path.open("rb") as file, subprocess.Popen(["sleep", "600"], stdin=file) as other:
        try:
            assert users(location, root) == (f"open in sleep (process {other.pid}) (here it is /mnt/a/dir/a.img)",)
            for another in ("nfs://nas2/vol/dir/a.img", "nfs://nas/other/dir/a.img", "nfs://nas/vol/dir/b.img"):
                assert users(another, root) == ()
        finally:
            other.kill()


def test_a_lun_that_a_program_has_open_as_a_device_is_in_use(write: Write, root: Root, tmp_path: Path) -> None:
    device = write("/dev/sdx", "x")  # a file stands for it
    link = tmp_path / f"dev/disk/by-path/ip-192.0.2.7:3260-iscsi-{IQN}-lun-3"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../sdx")
    with device.open("rb") as file, subprocess.Popen(["sleep", "600"], stdin=file) as other:
        try:
            (user,) = users(f"iscsi://san.example.org/{IQN}/3", root)
            assert user == f"open in sleep (process {other.pid}) (here it is /dev/sdx)"
            assert users(f"iscsi://san.example.org/{IQN}/4", root) == ()
        finally:
            other.kill()


def test_what_the_kernel_does_not_have_is_used_by_nobody_here(root: Root) -> None:
    for location in ("nfs://nas/vol/a.img", f"iscsi://h/{IQN}/1", "rbd:p/i", "ssh://h/a", "/etc/hostname"):
        assert users(location, root) == ()
