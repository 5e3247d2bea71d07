"""What is no filesystem but holds one, or is a part of one: LUKS, BitLocker, LVM, mdraid, ZFS, VMFS.

Types, labels and UUIDs in the manner of blkid(8); the places are in `probes.media.filesystems`. ZFS's label is an XDR
nvlist ("ZFS On-Disk Specification", 1.3.3); mdraid's superblocks are those of Linux' md_p.h.
"""

from collections.abc import Iterator
from itertools import pairwise

from probes.fields import big, little, text, uuid_text
from probes.image import Filesystem

_RAID = 0xA92B4EFC
_RAID_RESERVED = 64 << 10
_BITLOCKER_TO_GO = bytes.fromhex("3bd66749292ed84a8399f6a339e3d001")
_NUMBER, _STRING = 8, 9  # types of an nvlist's pairs


# At the volume's start (8 KiB).


def luks(data: bytes) -> Filesystem | None:
    """LUKS 1 and 2."""
    version = big(data, 6, 2)
    if data[:6] != b"LUKS\xba\xbe" or version not in {1, 2}:
        return None
    return Filesystem("crypto_LUKS", text(data, 24, 48) if version == 2 else "", text(data, 168, 40))


def bitlocker(data: bytes) -> Filesystem | None:
    """BitLocker; on sticks ("to go") it looks like FAT to those who do not know it."""
    if data[3:11] == b"-FVE-FS-" or (data[3:11] == b"MSWIN4.1" and data[424:440] == _BITLOCKER_TO_GO):
        return Filesystem("BitLocker")
    return None


def lvm(data: bytes) -> Filesystem | None:
    """A physical volume of LVM2: its label is in one of the first four sectors."""
    for at in range(0, 2048, 512):
        if data[at : at + 8] == b"LABELONE" and data[at + 24 : at + 32] == b"LVM2 001":
            header = at + little(data, at + 20, 4)
            name = text(data, header, 32)
            cuts = (0, 6, 10, 14, 18, 22, 26, 32)
            dashed = "-".join(name[a:b] for a, b in pairwise(cuts))
            return Filesystem("LVM2_member", uuid=dashed if len(name) == 32 else "")
    return None


def raid(data: bytes) -> Filesystem | None:
    """A member of an mdraid with metadata 1.2 or 1.1; those of 1.0 and 0.90 lie at the volume's end."""
    for at in (4096, 0):
        found = _raid1(data[at:], at)
        if found:
            return found
    return None


# Elsewhere.


def raid_tails(size: int) -> tuple[int, int]:
    """Return where in a volume of `size` bytes the superblocks of mdraid's metadata 1.0 and 0.90 lie."""
    return max(size // 512 - 16, 0) // 8 * 4096, max(size // _RAID_RESERVED * _RAID_RESERVED - _RAID_RESERVED, 0)


def raid_at_end(data: bytes, at: int) -> Filesystem | None:
    """A member of an mdraid whose superblock is in `data`, which lies at byte `at` of the volume."""
    if little(data, 0, 4) == _RAID and little(data, 4, 4) == 0 and little(data, 8, 4) == 90:
        words = b"".join(data[word : word + 4][::-1] for word in (20, 52, 56, 60))
        return Filesystem("linux_raid_member", uuid=uuid_text(words, 0))
    return _raid1(data, at)


def zfs(data: bytes) -> Filesystem | None:
    """A device of a ZFS pool, by the nvlist 16 KiB into it: label and UUID are the pool's name and number."""
    if data[:4] not in {b"\1\1\0\0", b"\1\0\0\0"} or data[4:12] != bytes(4) + b"\0\0\0\1":
        return None
    pairs = dict(_pairs(data))
    name, number = pairs.get("name"), pairs.get("pool_guid")
    if "version" not in pairs or not isinstance(number, int):
        return None
    return Filesystem("zfs_member", name if isinstance(name, str) else "", str(number))


def vmfs(data: bytes) -> Filesystem | None:
    """A volume of VMware's VMFS, a mebibyte into it."""
    return Filesystem("VMFS_volume_member") if data[:4] == b"\x0d\xd0\x01\xc0" else None


def _raid1(data: bytes, at: int) -> Filesystem | None:
    if little(data, 0, 4) != _RAID or little(data, 4, 4) != 1 or little(data, 144, 8) * 512 != at:
        return None
    return Filesystem("linux_raid_member", text(data, 32, 32), uuid_text(data, 16))


def _pairs(data: bytes) -> Iterator[tuple[str, str | int]]:
    """Yield the numbers and texts of an XDR nvlist, as far as `data` goes."""
    at = 12
    while at + 12 <= len(data):
        length, name_length = big(data, at, 4), big(data, at + 8, 4)
        value = at + 12 + name_length + -name_length % 4
        if length < 20 or at + length > len(data) or value + 8 > at + length:
            return
        name = data[at + 12 : at + 12 + name_length].decode("latin-1")
        kind = big(data, value, 4)
        if kind == _NUMBER:
            yield name, big(data, value + 8, 8)
        elif kind == _STRING:
            yield name, text(data, value + 12, min(big(data, value + 8, 4), at + length - value - 12))
        at += length
