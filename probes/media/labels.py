"""Labels that a filesystem keeps away from its boot sector, each one read away: those of FAT, exFAT and NTFS.

FAT keeps one in its root directory (Microsoft's FAT specification, section 7), where newer ones than the boot sector's
are; so does exFAT (its specification, section 7.3), and NTFS has a file $Volume, the fourth of its master file table.
"""

from probes.fields import little
from probes.image import Filesystem
from probes.media.foreign import is_fat

ROOT = 4 << 10
"""Bytes of a root directory that are read: a label is among its first entries."""

_RECORD = 1 << 10
_STRIDE = 512
_VOLUME_NAME, _END = 0x60, 0xFFFFFFFF


def label_place(filesystem: Filesystem, boot: bytes) -> tuple[int, int] | None:
    """Return the (offset, length) in the volume that tells the label of `filesystem`, or None if nothing else does.

    `boot` is the volume's boot sector.
    """
    if filesystem.type == "vfat" and not filesystem.label:
        return fat_root(boot)
    if filesystem.type == "exfat":
        return _exfat_root(boot)
    if filesystem.type == "ntfs":
        return _ntfs_volume(boot)
    return None


def label_in(filesystem: Filesystem, data: bytes) -> str:
    """Return the label in `data`, which was read at `label_place`; not cleaned, empty if there is none."""
    if filesystem.type == "vfat":
        return _fat_label(data)
    if filesystem.type == "exfat":
        return _exfat_label(data)
    return _ntfs_label(data)


def fat_root(boot: bytes) -> tuple[int, int] | None:
    """Return where in a FAT volume its root directory begins, as (offset, length); None if `boot` is none of FAT's."""
    if not is_fat(boot):
        return None
    tables = little(boot, 14, 2) + boot[16] * (little(boot, 22, 2) or little(boot, 36, 4))
    if not little(boot, 22, 2):  # FAT32: the root directory is a chain of clusters
        tables += max(little(boot, 44, 4) - 2, 0) * boot[13]
    return tables * little(boot, 11, 2), ROOT


def holds_efi(root: bytes) -> bool:
    """Whether the root directory of a FAT volume begins with a folder EFI among its entries."""
    return any(
        root[at : at + 11] == b"EFI        " and root[at + 11] & 0x18 == 0x10 for at in range(0, len(root) - 31, 32)
    )


def _fat_label(root: bytes) -> str:
    for at in range(0, len(root) - 31, 32):
        attributes = root[at + 11]
        if not root[at]:
            break
        if root[at] != 0xE5 and attributes & 0x3F != 0x0F and attributes & 0x18 == 0x08:
            label = root[at : at + 11].replace(b"\x05", b"\xe5", 1) if root[at] == 5 else root[at : at + 11]
            return label.decode("cp437").rstrip(" ")
    return ""


def _exfat_root(boot: bytes) -> tuple[int, int] | None:
    sector, cluster = boot[108], boot[109]
    if not 9 <= sector <= 12 or sector + cluster > 25:
        return None
    heap, root = little(boot, 88, 4), little(boot, 96, 4)
    return (heap << sector) + (max(root - 2, 0) << sector + cluster), ROOT


def _exfat_label(root: bytes) -> str:
    for at in range(0, len(root) - 31, 32):
        if not root[at]:
            break
        if root[at] == 0x83:
            return root[at + 2 : at + 2 + 2 * min(root[at + 1], 11)].decode("utf-16-le", "replace")
    return ""


def _ntfs_volume(boot: bytes) -> tuple[int, int] | None:
    sector, per_cluster, per_record = little(boot, 11, 2), boot[13], boot[64]
    if sector not in {512, 1024, 2048, 4096} or not per_cluster or not per_record:
        return None
    cluster = sector * per_cluster if per_cluster <= 0x80 else sector << min(256 - per_cluster, 12)
    record = cluster * per_record if per_record < 0x80 else 1 << min(256 - per_record, 16)
    if record < _RECORD or record > 4 * _RECORD:
        return None
    return little(boot, 48, 8) * cluster + 3 * record, record


def _ntfs_label(record: bytes) -> str:
    """Return the name in the file record of $Volume, in which the last word of every 512 bytes lies elsewhere."""
    if record[:4] != b"FILE":
        return ""
    patched = bytearray(record)
    words, count = little(record, 4, 2), little(record, 6, 2)
    for index in range(1, min(count, len(record) // _STRIDE + 1)):
        patched[index * _STRIDE - 2 : index * _STRIDE] = record[words + index * 2 : words + index * 2 + 2].ljust(
            2, b"\0"
        )
    mended = bytes(patched)
    at = little(record, 20, 2)
    while at + 24 <= len(mended) and (kind := little(mended, at, 4)) != _END:
        length = little(mended, at + 4, 4)
        if kind == _VOLUME_NAME and not mended[at + 8]:
            name = at + little(mended, at + 20, 2)
            return mended[name : name + min(little(mended, at + 16, 4), 256)].decode("utf-16-le", "replace")
        if length < 24:
            break
        at += length
    return ""
