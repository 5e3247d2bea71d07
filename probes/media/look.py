"""What a guest would find on a medium: partition table, filesystems, and what firmware could start it.

It works on any Reader, so that it can look at a raw image and into a format that maps its clusters alike. What it
says about booting is a judgement by marks, not a promise: a boot sector with code in it, an EFI System partition, a
boot catalog. Nothing is followed that would take more than a few reads.
"""

from dataclasses import dataclass, replace

from probes.fields import little
from probes.image import Filesystem, Firmware, Hazard, Media, MediaKind, Partition, Verdict
from probes.media.filesystems import find_filesystem
from probes.media.foreign import is_fat
from probes.media.optical import DESCRIPTORS_AT, Disc, read_disc
from probes.media.partitions import BIOS_BOOT, ESP, MAX_LOGICAL, Table, is_protective, read_table
from probes.reader import Reader
from probes.text import clean

MAX_FILESYSTEMS = 12
"""Partitions that are looked into: each is a read or two. Beyond that they are listed by type only."""

_MAX_FAT_ROOTS = 2
_FIRST = 64 << 10  # boot sector, GPT and a disc's descriptors at once; a raw image's head is in memory already
_FAT_TYPES = frozenset({"FAT12", "FAT16", "FAT32", "Microsoft basic data"})

# A loader that finds its next stage by itself; the standard code looks for the active partition instead.
_LOADERS = (b"GRUB", b"LILO", b"SYSLINUX", b"ISOLINUX", b"EXTLINUX", b"iPXE", b"Ventoy", b"limine", b"PLoP")
# What mkfs and firmware tools write where no boot code is: it only prints that sentence.
_NOT_BOOTABLE = (b"not a bootable", b"non-system disk", b"non system disk", b"remove disks or other media")


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: the media, short words about it, and what a person should know."""

    media: Media
    features: tuple[str, ...] = ()
    hazards: tuple[Hazard, ...] = ()


def look(reader: Reader) -> Media:
    """Return what lies on the medium in `reader`. Raises what `reader` raises."""
    return examine(reader).media


def examine(reader: Reader) -> Findings:
    """Return what lies on the medium in `reader`, with what was noticed on the way. Raises what `reader` raises."""
    sector0 = reader.pread(0, min(_FIRST, reader.size))[:512]
    disc = find_disc(reader)
    if disc is not None:
        return examine_disc(reader, disc)
    fat_or_ntfs = _has_boot_record(sector0)
    table = None if fat_or_ntfs and not is_protective(sector0) else read_table(reader)
    if table is None or (table.kind == "mbr" and not table.partitions):
        return _whole(reader, sector0, table)
    return _partitioned(reader, sector0, table)


def find_disc(reader: Reader) -> Disc | None:
    """Return the disc that `reader` holds, or None. Raises what `reader` raises.

    A disk that a hybrid ISO was once written to keeps its descriptors when it is partitioned anew, for nothing else
    uses that place: such a remnant is no disc. On a hybrid some partition covers the volume's start, or all of them lie
    beyond its end.
    """
    disc = read_disc(reader)
    table = read_table(reader) if disc else None
    if disc is None or table is None:
        return disc
    covers = any(part.start <= DESCRIPTORS_AT < part.start + part.size for part in table.partitions)
    overlaps = any(DESCRIPTORS_AT < part.start < disc.size for part in table.partitions)
    return None if overlaps and not covers else disc


def examine_disc(reader: Reader, disc: Disc) -> Findings:
    """Return what lies on `disc`, which `reader` holds.

    Its kind is CD, even where it can be written to a disk as well (a hybrid), unless it could start only as a disk.
    """
    sector0 = reader.pread(0, 512)
    features = ["ISO 9660"]
    features += ["Joliet"] if disc.joliet else []
    features += ["UDF"] if disc.udf else []
    features += ["El Torito"] if disc.catalog else []
    hazards = []
    if disc.problem:
        text = f"This disc will not start as a CD: {disc.problem}."
        hazards.append(Hazard("boot-catalog", text, Verdict.OK))
    if disc.size > reader.size:
        text = f"The image is cut short: {reader.size} of its {disc.size} bytes are there."
        hazards.append(Hazard("truncated", text, Verdict.OK))
    filesystem = _clean(disc.filesystem)
    table = read_table(reader)
    if table:
        features.append(f"hybrid with {table.kind.upper()}")
        if not disc.catalog:
            starts = _firmware(reader, sector0, table, table.partitions)
            if starts:
                partitions = tuple(replace(part, name=clean(part.name, 72)) for part in table.partitions)
                media = Media(MediaKind.DISK, table.kind, partitions, filesystem, starts)
                return Findings(media, tuple(features), tuple(hazards))
    return Findings(Media(MediaKind.CD, None, (), filesystem, disc.firmware), tuple(features), tuple(hazards))


def _whole(reader: Reader, sector0: bytes, table: Table | None) -> Findings:
    """A medium without partitions; `table` is an MBR that is empty, or a boot loader's sector that looks like one."""
    filesystem = find_filesystem(reader)
    firmware = set()
    if has_boot_code(sector0):
        firmware.add(Firmware.BIOS)
    if filesystem and filesystem.type == "vfat" and _holds_efi(reader, 0, reader.size):
        firmware.add(Firmware.UEFI)
    kind = table.kind if table and not filesystem else None
    return Findings(Media(MediaKind.DISK, kind, (), _clean(filesystem), frozenset(firmware)))


def _partitioned(reader: Reader, sector0: bytes, table: Table) -> Findings:
    partitions = []
    looked = 0
    for part in table.partitions:
        filesystem = None
        beyond = part.start >= reader.size
        if looked < MAX_FILESYSTEMS and not beyond and part.size and not _is_extended(part):
            looked += 1
            filesystem = _clean(find_filesystem(reader, part.start, part.size))
        partitions.append(replace(part, name=clean(part.name, 72), filesystem=filesystem))
    features = []
    if table.sector != 512:
        features.append(f"{table.sector}-byte sectors")
    if table.more:
        features.append(f"more than {MAX_LOGICAL} logical partitions")
    hazards = [Hazard("partition-table", f"Something is wrong: {text}.", Verdict.OK) for text in table.problems]
    end = max((part.start + part.size for part in partitions), default=0)
    if end > reader.size:
        text = f"The disk is cut short: its partitions reach to byte {end}, and it ends at {reader.size}."
        hazards.append(Hazard("truncated", text, Verdict.OK))
    firmware = _firmware(reader, sector0, table, tuple(partitions))
    media = Media(MediaKind.DISK, table.kind, tuple(partitions), None, firmware)
    return Findings(media, tuple(features), tuple(hazards))


def has_boot_code(sector0: bytes) -> bool:
    """Whether a BIOS would find something to run: the mark, and code that does more than print an apology."""
    if sector0[510:512] != b"\x55\xaa":
        return False
    # What precedes the code is a filesystem's parameters, where there is one.
    code = sector0[90:446] if _has_boot_record(sector0) else sector0[:440]
    lowered = sector0.lower()
    return any(code) and not any(text in lowered for text in _NOT_BOOTABLE)


def _has_boot_record(sector0: bytes) -> bool:
    """Whether the first sector is that of a filesystem: what looks like partitions in it is then its code."""
    return is_fat(sector0) or sector0[3:11] in {b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"}


def _firmware(reader: Reader, sector0: bytes, table: Table, partitions: tuple[Partition, ...]) -> frozenset[Firmware]:
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
        roots = [part for part in partitions if part.filesystem and part.filesystem.type == "vfat"]
        if any(_holds_efi(reader, part.start, part.size) for part in roots[:_MAX_FAT_ROOTS]):
            firmware.add(Firmware.UEFI)
    return frozenset(firmware)


def _holds_efi(reader: Reader, start: int, size: int) -> bool:
    """Whether the root directory of the FAT filesystem at `start` begins with a folder EFI among its entries."""
    boot = reader.pread(start, 512)
    if not is_fat(boot):
        return False
    sector = little(boot, 11, 2)
    tables = little(boot, 14, 2) + boot[16] * (little(boot, 22, 2) or little(boot, 36, 4))
    root = tables
    if not little(boot, 22, 2):  # FAT32: the root directory is a chain of clusters
        root += max(little(boot, 44, 4) - 2, 0) * boot[13]
    at = root * sector
    entries = reader.pread(start + at, 4096) if at < size else b""
    return any(
        entries[here : here + 11] == b"EFI        " and entries[here + 11 : here + 12] in {b"\x10", b"\x30"}
        for here in range(0, len(entries) - 31, 32)
    )


def _is_extended(part: Partition) -> bool:
    return part.type == "Extended"


def _clean(filesystem: Filesystem | None) -> Filesystem | None:
    if filesystem is None:
        return None
    return replace(filesystem, label=clean(filesystem.label, 64), uuid=clean(filesystem.uuid, 64))
