"""Block devices, from the list of devices to the guest."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.systems.contract import Listed, Stored, SystemContract


class TestHostDevice(Listed, SystemContract):
    @pytest.fixture
    def device(self, quick_guest: GuestImages, tmp_path: Path) -> Iterator[str]:
        """A loop device that holds the tiny guest."""
        image = tmp_path / "device.img"
        image.write_bytes(quick_guest.raw.read_bytes())
        argv = ["losetup", "--find", "--show", str(image)]
        found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
        os.chmod(found, 0o600)  # for root alone, as disks are for its group: QEMU's account gets it as a descriptor
        yield found
        subprocess.run(["losetup", "--detach", found], check=True)

    @pytest.fixture
    def stored(self, device: str) -> Stored:
        return Stored(f"host_device:{device}", "host_device:", device)
