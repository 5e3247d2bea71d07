"""A loop device of the test's own, and its partitions: for root, on a machine that has the loop driver."""

import contextlib
import fcntl
import os
import random
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from probes.location import Location


@dataclass(frozen=True)
class LoopDevice:
    """A loop device and the file behind it."""

    device: str
    backing: Path

    @property
    def location(self) -> Location:
        return Location("host_device", path=self.device)


_ADD, _REMOVE = 0x4C80, 0x4C81  # LOOP_CTL_ADD, LOOP_CTL_REMOVE of linux/loop.h


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[LoopDevice]:
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
        yield LoopDevice(device, backing)
        subprocess.run(["losetup", "--detach", device], check=True)
        for node in nodes:
            os.unlink(node)
        with contextlib.suppress(OSError):  # somebody looks at it right now; it is empty
            fcntl.ioctl(control, _REMOVE, number)


@pytest.fixture
def partitions(loop_device: LoopDevice) -> Iterator[tuple[str, str]]:
    """The device's two partitions. (This kernel reads no partition tables: partx tells it.)"""
    script = "label: gpt\n,8M,L\n,,L\n"
    subprocess.run(["sfdisk", "-q", loop_device.backing], input=script, text=True, check=True, capture_output=True)
    subprocess.run(["partx", "--add", loop_device.device], check=True, capture_output=True)
    first, second = f"{loop_device.device}p1", f"{loop_device.device}p2"
    nodes = [node for node in (first, second) if not os.path.exists(node)]
    for node in nodes:  # without devtmpfs
        with open(f"/sys/class/block/{os.path.basename(node)}/dev", encoding="ascii") as file:
            major, minor = map(int, file.read().split(":"))
        os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(major, minor))
    yield first, second
    subprocess.run(["partx", "--delete", loop_device.device], check=True, capture_output=True)
    for node in nodes:
        os.unlink(node)
