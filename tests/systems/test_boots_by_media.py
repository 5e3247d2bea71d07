"""Every kind of medium boots as what it is, to the guest's marker, without a question or an option."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.formats.images import MiB, patch, run
from tests.test_boot import boots

pytestmark = pytest.mark.boots

_PARTITION = MiB  # where the guest's one partition starts, in bytes
_GPT_END = 34  # sectors: the first one after a GPT


@pytest.fixture
def folder(open_folder: Callable[[str], Path]) -> Path:
    return open_folder("media")


def bios_only(guest: GuestImages, path: Path) -> Path:
    """The guest's disk without what UEFI starts."""
    shutil.copy(guest.raw, path)
    run("mdeltree", "-i", f"{path}@@{_PARTITION}", "::/EFI")
    run("sfdisk", "-q", "--part-type", path, "1", "c")
    return path


def uefi_only(guest: GuestImages, path: Path) -> Path:
    """The guest's disk without what a BIOS starts: its boot sector's code, and GRUB behind it."""
    shutil.copy(guest.raw, path)
    patch(path, 512, bytes(_PARTITION - 512))
    return patch(path, 0, bytes(440))


def on_gpt(guest: GuestImages, path: Path) -> Path:
    """The guest's disk with a GPT: GRUB moves into a BIOS boot partition, and is told so."""
    data = guest.raw.read_bytes()
    boot, core, partition = data[:440], data[512:_PARTITION], data[_PARTITION:]
    with path.open("wb") as file:
        file.truncate(len(data) + MiB)
    last = _PARTITION // 512 + len(partition) // 512 - 1
    run("sgdisk", "-a", "1", "-n", f"1:{_GPT_END}:2047", "-t", "1:ef02", "-n", f"2:2048:{last}", "-t", "2:ef00", path)
    patch(path, _PARTITION, partition)
    patch(path, _GPT_END * 512, core[: _PARTITION - _GPT_END * 512])
    patch(path, _GPT_END * 512 + 0x1F4, struct.pack("<Q", _GPT_END + 1))  # where the rest of GRUB's core is
    patch(path, 0, boot)
    return patch(path, 0x5C, struct.pack("<Q", _GPT_END))  # where its first sector is


def in_big_sectors(guest: GuestImages, path: Path) -> Path:
    """What UEFI starts of the guest's disk, with a GPT and a filesystem in sectors of 4096 bytes."""
    with path.open("wb") as file:
        file.truncate(64 * MiB)
    run("fdisk", "-b", "4096", path, stdin="g\nn\n1\n256\n12288\nt\n1\nw\n")
    held, partition = path.with_name("held"), f"{path}@@{_PARTITION}"
    run("mkfs.vfat", "-S", "4096", "-s", "1", f"--offset={_PARTITION // 4096}", path, str(12033 * 4))
    held.mkdir()
    for folder in ("::/EFI", "::/farboot"):
        run("mcopy", "-s", "-i", f"{guest.raw}@@{_PARTITION}", folder, held)
        run("mcopy", "-s", "-i", partition, held / folder.rpartition("/")[2], "::/")
    return path


def hybrid_iso(guest: GuestImages, path: Path) -> Path:
    shutil.copy(guest.iso, path)
    return path


MEDIA = {
    "a disk that only BIOS starts": (bios_only, "disk", "mbr", ["bios"]),
    "a disk that only UEFI starts": (uefi_only, "disk", "mbr", ["uefi"]),
    "a disk with a GPT": (on_gpt, "disk", "gpt", ["bios", "uefi"]),
    "a disk of 4096-byte sectors": (in_big_sectors, "disk", "gpt", ["uefi"]),
    "a hybrid ISO": (hybrid_iso, "cd", None, ["bios", "uefi"]),
}


@pytest.mark.parametrize("name", MEDIA)
def test_a_medium_boots_as_what_it_is(farboot: Farboot, quick_guest: GuestImages, folder: Path, name: str) -> None:
    make, kind, table, firmware = MEDIA[name]
    path = make(quick_guest, folder / "image")
    path.chmod(0o644)
    media = inspect(farboot, path)["media"]
    assert (media["kind"], media["table"], media["firmware"]) == (kind, table, firmware)
    assert ("pflash0" in farboot("command", str(path)).stdout) is (firmware == ["uefi"])
    boots(farboot, str(path))


@pytest.mark.parametrize(
    ("driver", "make"),
    [*((driver, bios_only) for driver in ("qcow2", "vmdk", "vdi", "vhdx", "vpc")), ("qcow2", uefi_only)],
)
def test_a_disk_inside_a_format_boots_as_it_would_outside(
    farboot: Farboot,
    quick_guest: GuestImages,
    folder: Path,
    driver: str,
    make: Callable[[GuestImages, Path], Path],
) -> None:
    raw = make(quick_guest, folder / "raw")
    path = folder / f"image.{driver}"
    run("qemu-img", "convert", "-f", "raw", "-O", driver, raw, path)
    path.chmod(0o644)
    outside, inside = inspect(farboot, raw), inspect(farboot, path)
    assert (inside["format"], inside["verdict"]) == (driver, "ok")
    assert inside["media"] == outside["media"]
    boots(farboot, str(path))


def inspect(farboot: Farboot, path: Path) -> dict[str, Any]:
    asked = farboot("inspect", str(path), "--json")
    assert asked.returncode == 0, asked.stderr
    told: dict[str, Any] = json.loads(asked.stdout)
    return told
