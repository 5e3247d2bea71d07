"""Filesystems made by their own mkfs are what blkid says they are.

Where we know less than blkid it is listed in `UNTOLD`: it would cost a further read only for a label.
"""

import struct
from pathlib import Path

import pytest

from probes.image import Filesystem
from probes.media.filesystems import find_filesystem
from tests.formats.images import MiB, judge, run, sparse
from tests.formats.readers import FileReader, MemoryReader

ID = "11223344-5566-7788-99aa-bbccddeeff00"

# How each is made, in a file of so many MiB.
MAKERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "ext2": (8, ("mke2fs", "-q", "-t", "ext2", "-L", "lbl", "-U", ID)),
    "ext3": (8, ("mke2fs", "-q", "-t", "ext3", "-L", "lbl", "-U", ID)),
    "ext4": (8, ("mke2fs", "-q", "-t", "ext4", "-L", "a label", "-U", ID)),
    "ext4, no journal": (8, ("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal")),
    "ext4, 1 KiB blocks": (8, ("mke2fs", "-q", "-t", "ext4", "-b", "1024")),
    "ext4, full label": (8, ("mke2fs", "-q", "-t", "ext4", "-L", "0123456789abcdef")),
    "ext journal": (8, ("mke2fs", "-q", "-O", "journal_dev", "-L", "jnl")),
    "xfs": (320, ("mkfs.xfs", "-q", "-f", "-L", "lbl", "-m", f"uuid={ID}")),
    "btrfs": (128, ("mkfs.btrfs", "-q", "-L", "a longer label", "-U", ID)),
    "fat12": (2, ("mkfs.vfat", "-F", "12", "-n", "LBL", "-i", "1234abcd")),
    "fat16": (20, ("mkfs.vfat", "-F", "16", "-n", "LBL", "-i", "1234abcd")),
    "fat32": (40, ("mkfs.vfat", "-F", "32", "-n", "LBL", "-i", "1234abcd")),
    "fat, no label": (20, ("mkfs.vfat",)),
    "fat, 4 KiB sectors": (40, ("mkfs.vfat", "-S", "4096", "-n", "LBL")),
    "exfat": (8, ("mkfs.exfat", "-L", "lbl")),
    "ntfs": (8, ("mkfs.ntfs", "-q", "-F", "-f", "-L", "lbl")),
    "swap": (4, ("mkswap", "-L", "lbl", "-U", ID)),
    "swap, 8 KiB pages": (4, ("mkswap", "-p", "8192", "-L", "lbl", "-U", ID)),
    "f2fs": (64, ("mkfs.f2fs", "-q", "-l", "lbl", "-U", ID)),
}
UNTOLD = {"exfat": {"label"}, "ntfs": {"label"}}


def blkid(path: Path, *options: str) -> Filesystem:
    told = run("blkid", "-p", "-o", "export", *options, path)
    pairs = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    label = pairs.get("LABEL", "").replace("\\ ", " ")
    return Filesystem(pairs.get("TYPE", ""), label, pairs.get("UUID", ""))


def ours(path: Path) -> Filesystem:
    with FileReader(path) as reader:
        found = find_filesystem(reader)
        assert reader.trips <= 2
    assert found is not None
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_what_mkfs_makes_is_what_blkid_says(tmp_path: Path, name: str) -> None:
    size, command = MAKERS[name]
    path = sparse(tmp_path / "image", size * MiB)
    run(*command, path)
    mine, theirs = ours(path), blkid(path)
    assert mine.type == theirs.type
    assert mine.uuid == theirs.uuid
    if "label" not in UNTOLD.get(name, ()):
        assert mine.label == theirs.label
    assert judge(path).media.filesystem == mine


@pytest.mark.parametrize("version", ["luks1", "luks2"])
def test_a_luks_volume_is_what_blkid_says(tmp_path: Path, version: str) -> None:
    path = sparse(tmp_path / "image", 32 * MiB)
    (tmp_path / "key").write_text("abc")
    fast = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    run("cryptsetup", "-q", "luksFormat", "--type", version, *fast, path, tmp_path / "key")
    assert ours(path) == blkid(path)


def test_a_squashfs_is_what_blkid_says(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("text")
    run("mksquashfs", tmp_path / "tree", tmp_path / "image", "-quiet", "-no-progress")
    assert ours(tmp_path / "image") == blkid(tmp_path / "image")


def test_an_erofs_is_what_blkid_says(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    run("mkfs.erofs", "-U", ID, tmp_path / "image", tmp_path / "tree")
    assert ours(tmp_path / "image") == blkid(tmp_path / "image")


def test_an_iso_is_what_blkid_says(tmp_path: Path) -> None:
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "A_LABEL", "-o", tmp_path / "image", "/usr/share/doc/xorriso")
    assert ours(tmp_path / "image") == blkid(tmp_path / "image")


# No tool here makes these on a plain file, so their superblocks are laid by hand and blkid is the judge.


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


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096, 32768, 32769, 70000])
def test_zeros_and_scraps_are_no_filesystem(size: int) -> None:
    assert find_filesystem(MemoryReader(bytes(size))) is None


def test_a_filesystem_is_looked_for_only_within_its_partition(tmp_path: Path) -> None:
    path = sparse(tmp_path / "image", 128 * MiB)
    run("mkfs.btrfs", "-q", path)
    with FileReader(path) as reader:
        assert find_filesystem(reader, 0, 64 << 10) is None
        assert find_filesystem(reader, 0, 128 << 10) is not None


def test_labels_of_other_alphabets_are_read(tmp_path: Path) -> None:
    # blkid prints those in caret notation: nothing to compare with.
    run("mke2fs", "-q", "-t", "ext4", "-L", "ünï ☃", tmp_path / "image", "8M")
    assert ours(tmp_path / "image").label == "ünï ☃"
