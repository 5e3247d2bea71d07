"""What could start a disk: a judgement by marks, not a promise.

A boot sector with code in it, an EFI System partition or a folder EFI, a table that means it.
"""

from collections.abc import Sequence

from probes.image import Firmware, Partition
from probes.media.foreign import is_fat
from probes.media.labels import fat_root, holds_efi
from probes.media.partition_types import BIOS_BOOT, ESP
from probes.media.table import Table
from probes.reader import Reader, ahead

_MAX_FAT_ROOTS = 2

# A loader that finds its next stage by itself; the standard code looks for the active partition instead.
_LOADERS = (b"GRUB", b"LILO", b"SYSLINUX", b"ISOLINUX", b"EXTLINUX", b"iPXE", b"Ventoy", b"limine", b"PLoP")
# What mkfs and firmware tools write where no boot code is: it only prints that sentence.
_NOT_BOOTABLE = (b"not a bootable", b"non-system disk", b"non system disk", b"remove disks or other media")


def has_boot_code(sector0: bytes) -> bool:
    """Whether a BIOS would find something to run: the mark, and code that does more than print an apology."""
    if sector0[510:512] != b"\x55\xaa":
        return False
    # What precedes the code is a filesystem's parameters, where there is one.
    code = sector0[90:446] if has_boot_record(sector0) else sector0[:440]
    lowered = sector0.lower()
    return any(code) and not any(text in lowered for text in _NOT_BOOTABLE)


def has_boot_record(sector0: bytes) -> bool:
    """Whether the first sector is that of a filesystem: what looks like partitions in it is then its code."""
    return is_fat(sector0) or sector0[3:11] in {b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"}


def disk_firmware(reader: Reader, sector0: bytes, table: Table, partitions: Sequence[Partition]) -> frozenset[Firmware]:
    """Judge what could start a partitioned disk.

    BIOS runs the boot sector, but a standard one then looks for an active partition, and on a GPT it may be a mere
    remnant (Windows leaves one on disks that only UEFI starts): there it takes a sign of someone who meant it.
    """
    esp = any(part.type == ESP for part in partitions)
    firmware = set()
    if has_boot_code(sector0):
        meant = any(mark in sector0[:440] for mark in _LOADERS) or table.legacy_boot
        meant = meant or any(part.bootable or part.type in {BIOS_BOOT, "FreeBSD boot"} for part in partitions)
        if meant or not esp:
            firmware.add(Firmware.BIOS)
    if esp:
        firmware.add(Firmware.UEFI)
    else:
        # Firmware also looks at FAT partitions of other types, as on sticks that Windows made.
        roots = [part for part in partitions if part.filesystem and part.filesystem.type == "vfat"][:_MAX_FAT_ROOTS]
        if any_holds_efi(reader, [(part.start, part.size) for part in roots]):
            firmware.add(Firmware.UEFI)
    return frozenset(firmware)


def any_holds_efi(reader: Reader, volumes: Sequence[tuple[int, int]]) -> bool:
    """Whether one of the FAT filesystems in `volumes`, each (start, size), has a folder EFI in its root directory."""
    spans = []
    for start, size in volumes:
        root = fat_root(reader.pread(start, 512))
        if root and root[0] < size:
            spans.append((start + root[0], root[1]))
    ahead(reader, spans)
    return any(holds_efi(reader.pread(*span)) for span in spans)
