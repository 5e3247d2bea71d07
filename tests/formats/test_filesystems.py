"""Filesystems made by their own mkfs are what blkid says they are: type, label and UUID.

Where we differ, and why (here and in test_volumes_by_hand):

- HFS+ has no label: it lies in the catalog, two reads away.
- bcachefs is known; blkid knows it since util-linux 2.39.
- A member of a raid whose superblock lies at the end (mdraid 0.90, 1.0) is looked for in partitions of the type Linux
  RAID, and where nothing else is found; a filesystem at the start of any other volume is taken for what it is. blkid
  reads every end.
- Swap of pages larger than 8 KiB (some ARM and PowerPC) is not looked for.
- VMFS is looked for in partitions of its type alone, and its volume's number (blkid's UUID_SUB) is not told.
- What no PC boots from is not known at all: DDF and other firmware raids, bcache, DRBD, GFS2, VxFS, UBI and the like.
"""

import os
import shutil
from pathlib import Path

import pytest

from probes.image import Filesystem
from probes.media.filesystems import find_filesystem
from probes.recording import RecordingReader
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
    "btrfs, 64 KiB nodes": (128, ("mkfs.btrfs", "-q", "-n", "65536")),
    "xfs, 4 KiB sectors": (320, ("mkfs.xfs", "-q", "-f", "-s", "size=4096")),
    "exfat, 64 KiB clusters": (64, ("mkfs.exfat", "-c", "64K", "-L", "lbl")),
    "exfat, no label": (8, ("mkfs.exfat",)),
    "ntfs, 4 KiB sectors": (32, ("mkfs.ntfs", "-q", "-F", "-f", "-s", "4096", "-L", "a long label of NTFS")),
    "ntfs, 64 KiB clusters": (64, ("mkfs.ntfs", "-q", "-F", "-f", "-c", "65536", "-L", "lbl")),
    "ntfs, no label": (8, ("mkfs.ntfs", "-q", "-F", "-f")),
    "jfs": (32, ("mkfs.jfs", "-q", "-L", "lbl")),
    "reiserfs": (64, ("mkfs.reiserfs", "-q", "-ff", "-l", "lbl", "-u", ID)),
    "reiserfs 3.5": (64, ("mkfs.reiserfs", "-q", "-ff", "--format", "3.5")),
    "reiser4": (64, ("mkfs.reiser4", "-y", "-f", "-L", "lbl", "-U", ID)),
    "nilfs2": (256, ("mkfs.nilfs2", "-q", "-L", "lbl")),
    "ocfs2": (256, ("mkfs.ocfs2", "-q", "-x", "-F", "-M", "local", "-L", "lbl", "-U", ID)),
    "ocfs2, 1 KiB blocks": (256, ("mkfs.ocfs2", "-q", "-x", "-F", "-M", "local", "-b", "1K")),
    "minix": (8, ("mkfs.minix",)),
    "minix 2": (8, ("mkfs.minix", "-2")),
    "minix 3": (8, ("mkfs.minix", "-3")),
    "hfs": (8, ("hformat", "-l", "a label")),
    "apfs": (1024, ("mkapfs",)),
    "udf": (8, ("mkudffs", "-b", "2048", "-l", "lbl")),
}


def blkid(path: Path, *options: str) -> Filesystem:
    told = run("blkid", "-p", "-o", "export", *options, path)
    pairs = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    label = pairs.get("LABEL", "").replace("\\ ", " ")
    return Filesystem(pairs.get("TYPE", ""), label, pairs.get("UUID", ""))


def ours(path: Path) -> Filesystem:
    with FileReader(path) as file:
        reader = RecordingReader(file)
        found = find_filesystem(reader)
        many = found is not None and found.type == "udf"  # whose label is a chain of descriptors away
        assert reader.trips <= (4 if many else 2)
        assert reader.bytes_read <= (128 if many else 80) << 10
    assert found is not None
    return found


def is_offered(name: str) -> bool:
    """Whether this distribution has the tool: `.ci/setup` installs those that it has. (Debian 12 has all of them.)"""
    return has_tool(MAKERS[name][1][0])


def has_tool(name: str) -> bool:
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is not None


@pytest.mark.parametrize("name", [name for name in MAKERS if is_offered(name)])
def test_what_mkfs_makes_is_what_blkid_says(tmp_path: Path, name: str) -> None:
    size, command = MAKERS[name]
    path = sparse(tmp_path / "image", size * MiB)
    run(*command, path)
    mine, theirs = ours(path), blkid(path)
    assert mine == theirs
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


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4096, 32768, 32769, 70000])
def test_zeros_and_scraps_are_no_filesystem(size: int) -> None:
    assert find_filesystem(MemoryReader(bytes(size))) is None


def test_a_filesystem_is_looked_for_only_within_its_partition(tmp_path: Path) -> None:
    path = sparse(tmp_path / "image", 128 * MiB)
    run("mkfs.btrfs", "-q", path)
    with FileReader(path) as reader:
        assert find_filesystem(reader, 0, 64 << 10) is None
        assert find_filesystem(reader, 0, 128 << 10) is not None


@pytest.mark.parametrize(
    "command",
    [("mke2fs", "-q", "-L"), ("mkfs.ntfs", "-q", "-F", "-f", "-L"), ("env", "LC_ALL=C.UTF-8", "mkfs.exfat", "-L")],
)
def test_labels_of_other_alphabets_are_read(tmp_path: Path, command: tuple[str, ...]) -> None:
    # blkid prints those in caret notation: nothing to compare with.
    path = sparse(tmp_path / "image", 8 * MiB)
    run(*command, "ünï ☃", path)
    assert ours(path).label == "ünï ☃"


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_ufs_is_what_blkid_says(tmp_path: Path, version: str) -> None:
    (tmp_path / "tree").mkdir()
    run("makefs", "-t", "ffs", "-s", "16m", "-o", f"version={version}", tmp_path / "image", tmp_path / "tree")
    assert ours(tmp_path / "image") == blkid(tmp_path / "image")


@pytest.mark.skipif(not has_tool("mkfs.cramfs"), reason="newer distributions have no maker of it")
def test_a_cramfs_is_what_blkid_says(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    run("mkfs.cramfs", "-n", "lbl", tmp_path / "tree", tmp_path / "image")
    mine, theirs = ours(tmp_path / "image"), blkid(tmp_path / "image")
    assert (mine.type, mine.label) == (theirs.type, theirs.label) == ("cramfs", "lbl")


def test_a_label_that_only_the_root_directory_of_a_fat_has_is_read(tmp_path: Path) -> None:
    run("mkfs.vfat", "-F", "16", "-C", tmp_path / "image", "20000")
    run("mlabel", "-i", tmp_path / "image", "::LATER")
    with (tmp_path / "image").open("r+b") as file:
        file.seek(43)
        file.write(b"NO NAME    ")
    assert ours(tmp_path / "image") == blkid(tmp_path / "image")
    assert ours(tmp_path / "image").label == "LATER"
