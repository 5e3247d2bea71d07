"""Filesystems and their like, told by their superblocks: type, label and UUID in the manner of blkid(8).

One read of 8 KiB settles nearly all; a second one, of 40 KiB at 32 KiB, is for those whose superblock lies there
(btrfs, ISO 9660, UDF, JFS, ReiserFS). Where blkid would read more only for a label, we do not: those of NTFS and
exFAT lie in files, and FAT's is taken from its boot sector, not from its root directory.

The types and magics are those of util-linux's libblkid/src/superblocks, and of each filesystem's own documentation.
"""

from collections.abc import Callable, Iterable
from itertools import pairwise

from probes.fields import big, little, text, uuid_text
from probes.image import Filesystem
from probes.reader import Reader

NEAR = 8 << 10
"""Bytes at a filesystem's start that the first read takes."""

FAR = 32 << 10
FAR_LENGTH = 40 << 10

# ext: features beyond which ext3 (journal, filetype, recovery, meta_bg; sparse_super, large_file, btree_dir) is ext4.
_EXT3_INCOMPATIBLE = 0x0002 | 0x0004 | 0x0010
_EXT3_READ_ONLY = 0x0001 | 0x0002 | 0x0004
_EXT_JOURNAL_DEVICE = 0x0008
_EXT_HAS_JOURNAL = 0x0004

_SWAP_PAGES = (4096, 8192)  # larger ones (16 and 64 KiB, some ARM and PowerPC) lie beyond the first read


def find_filesystem(reader: Reader, start: int = 0, size: int | None = None) -> Filesystem | None:
    """Return what lies in the `size` bytes at `start` (by default: all of it), or None where no superblock is known.

    Labels are as the filesystem has them, not cleaned. Raises what `reader` raises.
    """
    size = reader.size - start if size is None else min(size, reader.size - start)
    near = reader.pread(start, min(NEAR, size))
    found = _first(_NEAR, near)
    if found is None and size > FAR:
        found = _first(_FAR, reader.pread(start + FAR, min(FAR_LENGTH, size - FAR)))
    return found


def is_fat(sector: bytes) -> bool:
    """Whether `sector` is the boot sector of a FAT filesystem: its BIOS parameter block makes sense."""
    return (
        little(sector, 11, 2) in {512, 1024, 2048, 4096}
        and sector[13:14] != b""
        and sector[13] in {1, 2, 4, 8, 16, 32, 64, 128}
        and little(sector, 14, 2) > 0  # reserved sectors
        and little(sector, 16, 1) in {1, 2}  # copies of the table
        and (little(sector, 21, 1) >= 0xF8 or little(sector, 21, 1) == 0xF0)  # media
        and (little(sector, 19, 2) or little(sector, 32, 4)) > 0  # sectors in all
        and (little(sector, 22, 2) or little(sector, 36, 4)) > 0  # sectors a table
    )


def iso9660_label(descriptor: bytes) -> Filesystem:
    """Return the ISO 9660 filesystem of a primary volume descriptor (ECMA-119 section 8.4)."""
    return Filesystem("iso9660", text(descriptor, 40, 32, "latin-1"), _iso_date(descriptor))


def _first(checks: Iterable[Callable[[bytes], Filesystem | None]], data: bytes) -> Filesystem | None:
    for check in checks:
        found = check(data)
        if found:
            return found
    return None


def _luks(data: bytes) -> Filesystem | None:
    if data[:6] != b"LUKS\xba\xbe" or big(data, 6, 2) not in {1, 2}:
        return None
    return Filesystem("crypto_LUKS", text(data, 24, 48) if big(data, 6, 2) == 2 else "", text(data, 168, 40))


def _lvm(data: bytes) -> Filesystem | None:
    for at in range(0, 2048, 512):
        if data[at : at + 8] == b"LABELONE" and data[at + 24 : at + 32] == b"LVM2 001":
            header = at + little(data, at + 20, 4)
            name = text(data, header, 32)
            cuts = (0, 6, 10, 14, 18, 22, 26, 32)
            dashed = "-".join(name[a:b] for a, b in pairwise(cuts))
            return Filesystem("LVM2_member", uuid=dashed if len(name) == 32 else "")
    return None


def _raid(data: bytes) -> Filesystem | None:
    for at in (4096, 0):  # metadata 1.2 and 1.1; 0.90 and 1.0 lie at the end
        if little(data, at, 4) == 0xA92B4EFC and little(data, at + 4, 4) == 1:
            return Filesystem("linux_raid_member", text(data, at + 32, 32), uuid_text(data, at + 16))
    return None


def _bcachefs(data: bytes) -> Filesystem | None:
    if data[4120:4136] != bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81"):
        return None
    return Filesystem("bcachefs", text(data, 4168, 32), uuid_text(data, 4152))


def _xfs(data: bytes) -> Filesystem | None:
    if data[:4] != b"XFSB":
        return None
    return Filesystem("xfs", text(data, 108, 12), uuid_text(data, 32))


def _ext(data: bytes) -> Filesystem | None:
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


def _f2fs(data: bytes) -> Filesystem | None:
    if little(data, 1024, 4) != 0xF2F52010:
        return None
    return Filesystem("f2fs", text(data, 1024 + 124, 512, "utf-16-le"), uuid_text(data, 1024 + 108))


def _erofs(data: bytes) -> Filesystem | None:
    if little(data, 1024, 4) != 0xE0F5E1E2:
        return None
    return Filesystem("erofs", text(data, 1024 + 64, 16), uuid_text(data, 1024 + 48))


def _hfsplus(data: bytes) -> Filesystem | None:
    # blkid's UUID is an MD5 of the finder information; nobody looks for it here.
    if data[1024:1026] not in {b"H+", b"HX"} or big(data, 1026, 2) not in {4, 5}:
        return None
    return Filesystem("hfsplus")


def _apfs(data: bytes) -> Filesystem | None:
    return Filesystem("apfs", uuid=uuid_text(data, 72)) if data[32:36] == b"NXSB" else None


def _squashfs(data: bytes) -> Filesystem | None:
    if data[:4] not in {b"hsqs", b"sqsh"}:
        return None
    major = little(data, 28, 2) if data[:4] == b"hsqs" else big(data, 28, 2)
    return Filesystem("squashfs" if major >= 4 else "squashfs3")


def _cramfs(data: bytes) -> Filesystem | None:
    if data[:4] not in {b"\x45\x3d\xcd\x28", b"\x28\xcd\x3d\x45"}:
        return None
    return Filesystem("cramfs", text(data, 48, 16))


def _swap(data: bytes) -> Filesystem | None:
    for page in _SWAP_PAGES:
        magic = data[page - 10 : page]
        if magic in {b"SWAPSPACE2", b"SWAP-SPACE"}:
            return Filesystem("swap", text(data, 1024 + 28, 16), uuid_text(data, 1024 + 12))
        if magic[:9] in {b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB000"}:
            return Filesystem("swsuspend", text(data, 1024 + 28, 16), uuid_text(data, 1024 + 12))
    return None


def _bitlocker(data: bytes) -> Filesystem | None:
    return Filesystem("BitLocker") if data[3:11] == b"-FVE-FS-" else None


def _exfat(data: bytes) -> Filesystem | None:
    if data[3:11] != b"EXFAT   ":
        return None
    serial = little(data, 100, 4)
    return Filesystem("exfat", uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")


def _ntfs(data: bytes) -> Filesystem | None:
    return Filesystem("ntfs", uuid=f"{little(data, 72, 8):016X}") if data[3:11] == b"NTFS    " else None


def _vfat(data: bytes) -> Filesystem | None:
    if not is_fat(data):
        return None
    extended = 38 if little(data, 22, 2) else 66  # FAT12 and 16, or FAT32: where the extended boot record starts
    # A label and a serial number are there with these signatures; FAT filesystems older than those have neither, and
    # must then carry the boot sector's mark, or any table of small numbers would pass for one.
    marked = data[510:512] == b"\x55\xaa"
    signature = little(data, extended, 1)
    if signature not in {0x28, 0x29}:
        return Filesystem("vfat") if marked else None
    label = text(data, extended + 5, 11, "cp437") if signature == 0x29 else ""
    serial = little(data, extended + 1, 4)
    return Filesystem("vfat", "" if label == "NO NAME" else label, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")


def _btrfs(far: bytes) -> Filesystem | None:
    at = (64 << 10) - FAR
    if far[at + 64 : at + 72] != b"_BHRfS_M":
        return None
    return Filesystem("btrfs", text(far, at + 299, 256), uuid_text(far, at + 32))


def _iso9660(far: bytes) -> Filesystem | None:
    return iso9660_label(far) if far[:6] == b"\x01CD001" else None


def _udf(far: bytes) -> Filesystem | None:
    marks = [far[at + 1 : at + 6] for at in range(0, 8 * 2048, 2048)]
    return Filesystem("udf") if b"NSR02" in marks or b"NSR03" in marks else None


def _jfs(far: bytes) -> Filesystem | None:
    return Filesystem("jfs", text(far, 152, 16), uuid_text(far, 136)) if far[:4] == b"JFS1" else None


def _reiserfs(far: bytes) -> Filesystem | None:
    at = (64 << 10) - FAR
    if far[at + 52 : at + 60] not in {b"ReIsErFs", b"ReIsEr2F", b"ReIsEr3F"}:
        return None
    return Filesystem("reiserfs", text(far, at + 100, 16), uuid_text(far, at + 84))


def _iso_date(descriptor: bytes) -> str:
    """Return blkid's UUID of an ISO 9660 volume: its date of modification, else of creation."""
    for at in (830, 813):
        digits = descriptor[at : at + 16]
        if digits.isdigit() and digits.strip(b"0"):
            d = digits.decode("ascii")
            return "-".join((d[:4], d[4:6], d[6:8], d[8:10], d[10:12], d[12:14], d[14:16]))
    return ""


# In the order of certainty: long magics first, FAT's guess last.
_NEAR = (
    _luks, _lvm, _raid, _bcachefs, _xfs, _squashfs, _cramfs, _exfat, _ntfs, _bitlocker, _apfs,
    _swap, _ext, _f2fs, _erofs, _hfsplus, _vfat,
)  # fmt: skip
_FAR = (_iso9660, _btrfs, _udf, _jfs, _reiserfs)
