"""Superblocks of Linux' filesystems: type, label and UUID in the manner of blkid(8).

Each function takes the bytes of one place of the volume (`probes.media.filesystems` says which) and returns the
filesystem, or None. Magics and offsets are those of util-linux's libblkid/src/superblocks and of the kernel's headers.
"""

from probes.fields import big, little, text, uuid_text
from probes.image import Filesystem

# ext: features beyond which ext3 (journal, filetype, recovery, meta_bg; sparse_super, large_file, btree_dir) is ext4.
_EXT3_INCOMPATIBLE = 0x0002 | 0x0004 | 0x0010
_EXT3_READ_ONLY = 0x0001 | 0x0002 | 0x0004
_EXT_JOURNAL_DEVICE = 0x0008
_EXT_HAS_JOURNAL = 0x0004

_SWAP_PAGES = (4096, 8192)  # larger ones (16 and 64 KiB, some ARM and PowerPC) are not looked for
_MINIX_BLOCK = 1024


# At the volume's start (8 KiB).


def ext(data: bytes) -> Filesystem | None:
    """ext2, ext3, ext4 and their journals on devices of their own."""
    if little(data, 1024 + 56, 2) != 0xEF53:
        return None
    compatible, incompatible, read_only = (little(data, 1024 + at, 4) for at in (92, 96, 100))
    if incompatible & _EXT_JOURNAL_DEVICE:
        kind = "jbd"
    elif incompatible & ~_EXT3_INCOMPATIBLE or read_only & ~_EXT3_READ_ONLY:
        kind = "ext4"
    else:
        kind = "ext3" if compatible & _EXT_HAS_JOURNAL else "ext2"
    return Filesystem(kind, text(data, 1024 + 120, 16), uuid_text(data, 1024 + 104))


def xfs(data: bytes) -> Filesystem | None:
    """XFS."""
    if data[:4] != b"XFSB":
        return None
    return Filesystem("xfs", text(data, 108, 12), uuid_text(data, 32))


def f2fs(data: bytes) -> Filesystem | None:
    """F2FS."""
    if little(data, 1024, 4) != 0xF2F52010:
        return None
    return Filesystem("f2fs", text(data, 1024 + 124, 512, "utf-16-le"), uuid_text(data, 1024 + 108))


def erofs(data: bytes) -> Filesystem | None:
    """EROFS."""
    if little(data, 1024, 4) != 0xE0F5E1E2:
        return None
    return Filesystem("erofs", text(data, 1024 + 64, 16), uuid_text(data, 1024 + 48))


def squashfs(data: bytes) -> Filesystem | None:
    """SquashFS, of either byte order."""
    if data[:4] not in {b"hsqs", b"sqsh"}:
        return None
    major = little(data, 28, 2) if data[:4] == b"hsqs" else big(data, 28, 2)
    return Filesystem("squashfs" if major >= 4 else "squashfs3")


def cramfs(data: bytes) -> Filesystem | None:
    """CramFS, of either byte order."""
    if data[:4] not in {b"\x45\x3d\xcd\x28", b"\x28\xcd\x3d\x45"}:
        return None
    return Filesystem("cramfs", text(data, 48, 16))


def swap(data: bytes) -> Filesystem | None:
    """Swap space, and a suspended system in it."""
    for page in _SWAP_PAGES:
        mark = data[page - 10 : page]
        if mark in {b"SWAPSPACE2", b"SWAP-SPACE"}:
            modern = mark == b"SWAPSPACE2" and little(data, 1024, 4) == 1
            return Filesystem("swap", text(data, 1052, 16), uuid_text(data, 1036)) if modern else Filesystem("swap")
        if mark[:9] in {b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND"}:
            return Filesystem("swsuspend", text(data, 1052, 16), uuid_text(data, 1036))
    return None


def bcachefs(data: bytes) -> Filesystem | None:
    """A bcachefs (which blkid knows since 2.39)."""
    if data[4120:4136] != bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"):
        return None
    return Filesystem("bcachefs", text(data, 4168, 32), uuid_text(data, 4152))


def nilfs2(data: bytes) -> Filesystem | None:
    """NILFS2, by its first superblock."""
    if little(data, 1024 + 6, 2) != 0x3434 or not 44 <= little(data, 1024 + 8, 2) <= 1024:
        return None
    return Filesystem("nilfs2", text(data, 1024 + 168, 80), uuid_text(data, 1024 + 152))


def ocfs2(data: bytes) -> Filesystem | None:
    """OCFS2: its superblock is the third block, of 512 bytes to 4 KiB."""
    for at in (1024, 2048, 4096):
        if data[at : at + 6] == b"OCFSV2":
            return Filesystem("ocfs2", text(data, at + 272, 64), uuid_text(data, at + 336))
    return None


def minix(data: bytes) -> Filesystem | None:
    """Minix 1, 2 and 3. Two bytes are its only mark, so the sizes must fit one another as well."""
    at = _MINIX_BLOCK
    if little(data, at + 24, 2) == 0x4D5A:
        inodes, bitmaps, zone_maps, zones = (
            little(data, at, 4), little(data, at + 6, 2), little(data, at + 8, 2), little(data, at + 20, 4),
        )  # fmt: skip
        first, log, block = little(data, at + 10, 2), little(data, at + 12, 2), little(data, at + 28, 2)
    elif little(data, at + 16, 2) in {0x137F, 0x138F, 0x2468, 0x2478}:
        second = little(data, at + 16, 2) in {0x2468, 0x2478}
        inodes, bitmaps, zone_maps = (little(data, at + offset, 2) for offset in (0, 4, 6))
        zones = little(data, at + 20, 4) if second else little(data, at + 2, 2)
        first, log, block = little(data, at + 8, 2), little(data, at + 10, 2), _MINIX_BLOCK
    else:
        return None
    fits = not log and inodes and bitmaps * block * 8 >= inodes + 1
    return Filesystem("minix") if fits and first <= zones <= zone_maps * block * 8 - 1 + first else None


# 8 KiB, 32 KiB and 64 KiB into it.


def jfs(data: bytes) -> Filesystem | None:
    """JFS, at 32 KiB."""
    return Filesystem("jfs", text(data, 152, 16), uuid_text(data, 136)) if data[:4] == b"JFS1" else None


def btrfs(data: bytes) -> Filesystem | None:
    """Btrfs, at 64 KiB."""
    if data[64:72] != b"_BHRfS_M":
        return None
    return Filesystem("btrfs", text(data, 299, 256), uuid_text(data, 32))


def reiserfs(data: bytes) -> Filesystem | None:
    """ReiserFS, at 64 KiB, and at 8 KiB in its oldest versions; Reiser4, at 64 KiB."""
    if data[:7] == b"ReIsEr4":
        return Filesystem("reiser4", text(data, 36, 16), uuid_text(data, 20))
    if data[52:61] == b"ReIsErFs\0" or data[52:60] == b"ReIsErFs":
        return Filesystem("reiserfs")
    if data[52:61] not in {b"ReIsEr2Fs", b"ReIsEr3Fs"}:
        return None
    return Filesystem("reiserfs", text(data, 100, 16), uuid_text(data, 84))
