"""Volumes that no tool here makes on a plain file: laid by hand, and blkid is the judge."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from probes.image import Filesystem
from probes.media.filesystems import Volume, find_filesystem, find_filesystems
from tests.formats.images import MiB, run
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.test_filesystems import ID, blkid, ours


def test_an_lvm_volume_is_what_blkid_says(tmp_path: Path) -> None:
    data = bytearray(8 * MiB)
    label = struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001")
    data[512 : 512 + 32] = label
    data[512 + 32 : 512 + 64] = b"abcdefGHIJklmnOPQRstuvWXYZ012345"
    crc = 0xF597A6CF
    for byte in data[512 + 20 : 1024]:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    data[512 + 16 : 512 + 20] = struct.pack("<I", crc)
    path = tmp_path / "image"
    path.write_bytes(data)
    assert ours(path) == blkid(path) == Filesystem("LVM2_member", "", "abcdef-GHIJ-klmn-OPQR-stuv-WXYZ-012345")


@pytest.mark.parametrize("at", [0, 4096])
def test_a_raid_member_is_what_blkid_says(tmp_path: Path, at: int) -> None:
    data = bytearray(8 * MiB)
    data[at : at + 16] = struct.pack("<IIII", 0xA92B4EFC, 1, 0, 0)
    data[at + 16 : at + 32] = bytes.fromhex(ID.replace("-", ""))
    data[at + 32 : at + 40] = b"host:md0"
    data[at + 144 : at + 152] = struct.pack("<Q", at // 512)
    body = bytes(data[at : at + 256])
    total = sum(struct.unpack("<64I", body))
    data[at + 216 : at + 220] = struct.pack("<I", (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    path = tmp_path / "image"
    path.write_bytes(data)
    mine, theirs = ours(path), blkid(path)
    assert (mine.type, mine.label) == (theirs.type, theirs.label) == ("linux_raid_member", "host:md0")
    assert mine.uuid == ID


def blank(path: Path, size: int, *pieces: tuple[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for at, piece in pieces:
            file.seek(at)
            file.write(piece)
    return path


def test_a_raid_member_whose_superblock_lies_at_the_end_is_what_blkid_says(tmp_path: Path) -> None:
    path = blank(tmp_path / "image", 8 * MiB, raid_at_the_end(8 * MiB))
    assert ours(path) == blkid(path) == Filesystem("linux_raid_member", "host:md0", ID)


def raid_at_the_end(size: int) -> tuple[int, bytes]:
    """Where the superblock of an mdraid's metadata 1.0 lies in a volume of `size` bytes, and the superblock."""
    at = (size // 512 - 16) // 8 * 4096
    block = bytearray(256)
    block[:16] = struct.pack("<IIII", 0xA92B4EFC, 1, 0, 0)
    block[16:32] = bytes.fromhex(ID.replace("-", ""))
    block[32:40] = b"host:md0"
    block[144:152] = struct.pack("<Q", at // 512)
    total = sum(struct.unpack("<64I", block))
    block[216:220] = struct.pack("<I", (total & 0xFFFFFFFF) + (total >> 32) & 0xFFFFFFFF)
    return at, bytes(block)


def test_a_raid_member_is_told_from_the_filesystem_in_it_by_its_partition_alone(tmp_path: Path) -> None:
    size = 8 * MiB
    run("mke2fs", "-q", "-t", "ext4", tmp_path / "image", "7M")
    at, block = raid_at_the_end(size)
    with (tmp_path / "image").open("r+b") as file:
        file.truncate(size)
        file.seek(at)
        file.write(block)
    assert blkid(tmp_path / "image").type == "linux_raid_member"
    assert ours(tmp_path / "image").type == "ext4"  # where nobody reads the end for it
    with FileReader(tmp_path / "image") as reader:
        (found,) = find_filesystems(reader, [Volume(0, size, "Linux RAID")])
    assert found == blkid(tmp_path / "image")


def test_a_raid_member_of_the_oldest_kind_is_what_blkid_says(tmp_path: Path) -> None:
    size = 8 * MiB + 4096
    at = size // 65536 * 65536 - 65536
    words = [0xA92B4EFC, 0, 90, 0, 0, 0x11223344, 0, 1, at // 1024, 2, 2, 0, 0, 0x55667788, 0x99AABBCC, 0xDDEEFF00]
    path = blank(tmp_path / "image", size, (at, struct.pack("<16I", *words)))
    assert ours(path) == blkid(path) == Filesystem("linux_raid_member", "", ID)


def nvlist(**values: int | str) -> bytes:
    """An nvlist in XDR, as ZFS lays it in its labels."""
    packed = struct.pack(">BBHII", 1, 1, 0, 0, 1)
    for name, value in values.items():
        body = struct.pack(">I", len(name)) + name.encode() + bytes(-len(name) % 4)
        if isinstance(value, int):
            body += struct.pack(">IIQ", 8, 1, value)
        else:
            body += struct.pack(">III", 9, 1, len(value)) + value.encode() + bytes(-len(value) % 4)
        packed += struct.pack(">II", len(body) + 8, 32) + body
    return packed + bytes(8)


def zfs(path: Path, **values: int | str) -> Path:
    uberblocks = [((128 << 10) + slot * 1024, struct.pack("<QQQ", 0x00BAB10C, 5000, 40 + slot)) for slot in range(8)]
    return blank(path, 64 * MiB, (16 << 10, nvlist(**values)), *uberblocks)


def test_a_device_of_a_zfs_pool_is_what_blkid_says(tmp_path: Path) -> None:
    values: dict[str, int | str] = {
        "version": 5000,
        "name": "rpool",
        "state": 0,
        "txg": 47,
        "pool_guid": 12345678901234567890,
        "guid": 7,
    }
    path = zfs(tmp_path / "image", **values)
    assert ours(path) == blkid(path) == Filesystem("zfs_member", "rpool", "12345678901234567890")


@pytest.mark.parametrize("cut", [4, 13, 20, 24, 60])
def test_an_nvlist_that_is_cut_or_lies_is_no_zfs(tmp_path: Path, cut: int) -> None:
    packed = bytearray(nvlist(version=5000, name="rpool", pool_guid=1))
    packed[cut : cut + 4] = b"\xff\xff\xff\xff"
    with FileReader(blank(tmp_path / "image", MiB, (16 << 10, bytes(packed)))) as reader:
        assert find_filesystem(reader) in {None, Filesystem("zfs_member", "", "1")}


def test_a_vmfs_is_what_blkid_says(tmp_path: Path) -> None:
    body = b"\x0d\xd0\x01\xc0" + struct.pack("<I", 5) + bytes(122) + bytes.fromhex(ID.replace("-", ""))
    path = blank(tmp_path / "image", 8 * MiB, (MiB, body))
    with FileReader(path) as reader:
        found = find_filesystems(reader, [Volume(0, 8 * MiB, "VMware VMFS")])
    assert found == [blkid(path)]
    assert found[0] is not None
    assert found[0].type == "VMFS_volume_member"


def test_refs_is_what_blkid_says(tmp_path: Path) -> None:
    path = blank(tmp_path / "image", 8 * MiB, (0, b"\0\0\0ReFS\0"))
    assert ours(path) == blkid(path) == Filesystem("ReFS")


@pytest.mark.parametrize("jump", ["eb5890", "eb5290"])
def test_bitlocker_is_what_blkid_says(tmp_path: Path, jump: str) -> None:
    header = bytearray(512)
    header[:11] = bytes.fromhex(jump) + b"-FVE-FS-"
    header[11:14] = b"\0\2\x08"
    header[56:64] = struct.pack("<Q", 16)  # Vista's: in clusters
    header[176:184] = struct.pack("<Q", 65536)
    metadata = b"-FVE-FS-" + struct.pack("<HH", 64, 2 if jump == "eb5890" else 1)
    path = blank(tmp_path / "image", 8 * MiB, (0, bytes(header)), (65536, metadata))
    assert ours(path) == blkid(path) == Filesystem("BitLocker")


def test_a_stick_with_bitlocker_is_not_taken_for_the_fat_that_it_looks_like(tmp_path: Path) -> None:
    run("mkfs.vfat", "-F", "32", "-C", tmp_path / "image", "70000")
    with (tmp_path / "image").open("r+b") as file:
        file.write(b"\xeb\x58\x90MSWIN4.1")
        file.seek(424)
        file.write(bytes.fromhex("3bd66749292ed84a8399f6a339e3d001"))
    assert ours(tmp_path / "image").type == "BitLocker"


def test_an_hfs_plus_is_what_blkid_says_but_for_its_label(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    made = ("xorriso", "-as", "mkisofs", "-quiet", "-hfsplus", "-V", "LBL", "-o", tmp_path / "disc", tmp_path / "tree")
    run(*made)
    start, size = 64 << 10, 40 * 512  # as the Apple partition map in it says
    with FileReader(tmp_path / "disc") as reader:
        found = find_filesystem(reader, start, size)
    theirs = blkid(tmp_path / "disc", "-O", str(start), "-S", str(size))
    assert found == replace(theirs, label="")
    assert (theirs.type, theirs.label) == ("hfsplus", "LBL")


def test_bcachefs_is_known_where_blkid_does_not_know_it_yet() -> None:
    data = bytearray(MiB)
    data[4120:4136] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    data[4152:4168] = bytes.fromhex(ID.replace("-", ""))
    data[4168:4171] = b"lbl"
    assert find_filesystem(MemoryReader(bytes(data))) == Filesystem("bcachefs", "lbl", ID)
