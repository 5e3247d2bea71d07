"""Superblocks of the filesystems of other systems than Linux, and of discs: in the manner of blkid(8).

Each function takes the bytes of one place of the volume (`probes.media.filesystems` says which) and returns the
filesystem, or None. NTFS, exFAT and FAT keep labels elsewhere too: `probes.media.labels`.
"""

import hashlib

from probes.fields import big, little, text, uuid_text
from probes.image import Filesystem

_UFS_MAGIC_AT = 1372
_UFS1 = frozenset({0x00011954, 0x00195612, 0x00095014, 0x00612195, 0x05231994, 0x19960408})
_UFS2 = 0x19540119
_HFS_UUIDS = bytes.fromhex("b3e20f39f29211d697a400306543ecac")


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


# At the volume's start (8 KiB).


def vfat(data: bytes) -> Filesystem | None:
    """FAT12, FAT16 and FAT32, by the boot sector alone."""
    if not is_fat(data):
        return None
    extended = 38 if little(data, 22, 2) else 66  # FAT32: where the extended boot record starts
    # A label and a serial number are there with these signatures; FAT filesystems older than those have neither, and
    # must then carry the boot sector's mark, or any table of small numbers would pass for one.
    marked = data[510:512] == b"\x55\xaa"
    signature = little(data, extended, 1)
    if signature not in {0x28, 0x29}:
        return Filesystem("vfat") if marked else None
    label = text(data, extended + 5, 11, "cp437") if signature == 0x29 else ""
    serial = little(data, extended + 1, 4)
    return Filesystem("vfat", "" if label == "NO NAME" else label, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")


def exfat(data: bytes) -> Filesystem | None:
    """An exFAT."""
    if data[3:11] != b"EXFAT   ":
        return None
    serial = little(data, 100, 4)
    return Filesystem("exfat", uuid=f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")


def ntfs(data: bytes) -> Filesystem | None:
    """NTFS."""
    return Filesystem("ntfs", uuid=f"{little(data, 72, 8):016X}") if data[3:11] == b"NTFS    " else None


def refs(data: bytes) -> Filesystem | None:
    """ReFS."""
    return Filesystem("ReFS") if data[:8] == b"\0\0\0ReFS\0" else None


def hfsplus(data: bytes) -> Filesystem | None:
    """HFS+ and HFSX; their label lies in the catalog, two reads away."""
    if data[1024:1026] not in {b"H+", b"HX"} or big(data, 1026, 2) not in {4, 5}:
        return None
    return Filesystem("hfsplus", uuid=_hfs_uuid(data[1128:1136]))


def hfs(data: bytes) -> Filesystem | None:
    """HFS; not one that only wraps an HFS+."""
    if data[1024:1026] != b"BD" or data[1148:1150] == b"H+" or big(data, 1044, 4) % 512 or not big(data, 1044, 4):
        return None
    return Filesystem("hfs", text(data, 1061, min(little(data, 1060, 1), 27), "mac-roman"), _hfs_uuid(data[1140:1148]))


def apfs(data: bytes) -> Filesystem | None:
    """A container of APFS volumes."""
    return Filesystem("apfs", uuid=uuid_text(data, 72)) if data[32:36] == b"NXSB" else None


# 8 KiB, 32 KiB and 64 KiB into it.


def ufs(data: bytes) -> Filesystem | None:
    """UFS1, at 8 KiB, and UFS2, at 64 KiB; of either byte order."""
    for number in (little, big):
        magic = number(data, _UFS_MAGIC_AT, 4)
        if magic == _UFS2 or magic in _UFS1:
            first, second = number(data, 144, 4), number(data, 148, 4)
            return Filesystem("ufs", text(data, 680, 32) if magic == _UFS2 else "", f"{first:08x}{second:08x}")
    return None


def iso9660(data: bytes) -> Filesystem | None:
    """ISO 9660, at 32 KiB."""
    return iso9660_label(data) if data[:6] == b"\x01CD001" else None


def iso9660_label(descriptor: bytes) -> Filesystem:
    """Return the ISO 9660 filesystem of a primary volume descriptor (ECMA-119 section 8.4)."""
    return Filesystem("iso9660", text(descriptor, 40, 32, "latin-1"), _iso_date(descriptor))


def udf(data: bytes) -> Filesystem | None:
    """UDF, at 32 KiB, by its volume recognition alone."""
    marks = [data[at + 1 : at + 6] for at in range(0, 8 * 2048, 2048)]
    return Filesystem("udf") if b"NSR02" in marks or b"NSR03" in marks else None


def _hfs_uuid(finder: bytes) -> str:
    """Return the UUID that Apple's tools, and blkid, derive from the volume's number in its Finder information."""
    if len(finder) != 8 or not any(finder):
        return ""
    digest = bytearray(hashlib.md5(_HFS_UUIDS + finder, usedforsecurity=False).digest())
    digest[6] = 0x30 | digest[6] & 0x0F
    digest[8] = 0x80 | digest[8] & 0x3F
    return uuid_text(bytes(digest), 0)


def _iso_date(descriptor: bytes) -> str:
    """Return blkid's UUID of an ISO 9660 volume: its date of modification, else of creation."""
    for at in (830, 813):
        digits = descriptor[at : at + 16]
        if digits.isdigit() and digits.strip(b"0"):
            d = digits.decode("ascii")
            return "-".join((d[:4], d[4:6], d[6:8], d[8:10], d[10:12], d[12:14], d[14:16]))
    return ""
