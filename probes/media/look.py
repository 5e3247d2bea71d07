"""What a guest would find on a medium: partition table, filesystems, what firmware could start it, and whose it is.

It works on any Reader, so that it can look at a raw image and into a format that maps its clusters alike. Nothing is
followed that would take more than a few reads, and what is known to be wanted is asked for at once: the head of the
disk, then all superblocks, then what only they tell.
"""

from dataclasses import dataclass, replace

from probes.image import Filesystem, Firmware, Guest, Hazard, Media, MediaKind, Partition, Verdict
from probes.media.booting import any_holds_efi, disk_firmware, has_boot_code, has_boot_record
from probes.media.filesystems import NEAR, find_filesystem, find_filesystems, later_spans
from probes.media.filesystems import first_spans as superblock_spans
from probes.media.gpt import copy_problem
from probes.media.guest import disc_guest, disk_guest
from probes.media.mbr import is_protective, primaries, read_mbr, volumes
from probes.media.optical import DESCRIPTORS_AT, Disc, read_disc
from probes.media.partitions import copy_span, read_table, spans_after_head, worth_looking
from probes.media.release import release_name
from probes.media.table import Table
from probes.reader import Reader, ahead
from probes.text import clean

_FIRST = 64 << 10  # boot sector, GPT and a disc's descriptors at once; a raw image's head is in memory already
_BIG_SECTOR = 4096


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
    table = None if has_boot_record(sector0) and not is_protective(sector0) else read_table(reader)
    if table is None or (table.kind == "mbr" and not table.partitions):
        return _whole(reader, sector0, table)
    return _partitioned(reader, sector0, table)


def first_spans(reader: Reader) -> list[tuple[int, int]]:
    """Return the (offset, length) that `examine` will want of a disk next to its first 64 KiB.

    Whoever has something else to ask for at that moment can have it all in one round trip.
    """
    sector0 = reader.pread(0, min(_FIRST, reader.size))[:512]
    spans = [] if has_boot_record(sector0) and not is_protective(sector0) else spans_after_head(reader)
    if spans or find_filesystem(reader, 0, min(NEAR, reader.size)) is not None:
        return spans
    return later_spans(volumes([_whole_disk(reader)])[0])


def find_disc(reader: Reader) -> Disc | None:
    """Return the disc that `reader` holds, or None. Raises what `reader` raises.

    A disk that a hybrid ISO was once written to keeps its descriptors when it is partitioned anew, for nothing else
    uses that place: such a remnant is no disc. On a hybrid some partition covers the volume's start, or all of them lie
    beyond its end. (Apple's map on a disc lists what Macs care for only.)
    """
    disc = read_disc(reader)
    table = read_table(reader) if disc else None
    if disc is None or table is None or table.kind not in {"mbr", "gpt"}:
        return disc
    covers = any(part.start <= DESCRIPTORS_AT < part.start + part.size for part in table.partitions)
    overlaps = any(DESCRIPTORS_AT < part.start < disc.size for part in table.partitions)
    return None if overlaps and not covers else disc


def examine_disc(reader: Reader, disc: Disc) -> Findings:
    """Return what lies on `disc`, which `reader` holds.

    Its kind is CD, even where it can be written to a disk as well (a hybrid), unless it could start only as a disk.
    """
    sector0 = reader.pread(0, 512)
    features = list(disc.features)
    hazards = []
    if disc.problem:
        text = f"This disc will not start as a CD: {disc.problem}."
        hazards.append(Hazard("boot-catalog", text, Verdict.OK))
    if disc.size > reader.size:
        text = f"The image is cut short: {reader.size} of its {disc.size} bytes are there."
        hazards.append(Hazard("truncated", text, Verdict.OK))
    filesystem = _clean(disc.filesystem)
    guest = disc_guest(filesystem.label) if filesystem else None
    table = read_table(reader)
    if table:
        features.append(f"hybrid with {table.kind.upper()}")
        if not disc.catalog:
            starts = disk_firmware(reader, sector0, table, table.partitions)
            if starts:
                partitions = tuple(_cleaned(part) for part in table.partitions)
                media = Media(MediaKind.DISK, table.kind, partitions, filesystem, starts, guest)
                return Findings(media, tuple(features), tuple(hazards))
    media = Media(MediaKind.CD, None, (), filesystem, disc.firmware, guest)
    return Findings(media, tuple(features), tuple(hazards))


def _whole(reader: Reader, sector0: bytes, table: Table | None) -> Findings:
    """A medium without partitions; `table` is an MBR that is empty, or a boot loader's sector that looks like one."""
    filesystem = _clean(find_filesystem(reader))
    firmware = set()
    if has_boot_code(sector0):
        firmware.add(Firmware.BIOS)
    if filesystem and filesystem.type == "vfat" and any_holds_efi(reader, [(0, reader.size)]):
        firmware.add(Firmware.UEFI)
    kind = table.kind if table and not filesystem else None
    guest = _guest(reader, sector0, [replace(_whole_disk(reader), filesystem=filesystem)])
    return Findings(Media(MediaKind.DISK, kind, (), filesystem, frozenset(firmware), guest))


def _partitioned(reader: Reader, sector0: bytes, table: Table) -> Findings:
    partitions = _look_into(reader, table)
    if table.kind == "mbr" and not any(part.filesystem for part in partitions):
        table, partitions = _in_big_sectors(reader, sector0) or (table, partitions)
    features = table.features
    if table.kind == "mbr" and table.sector == _BIG_SECTOR:
        features += (f"{_BIG_SECTOR}-byte sectors",)
    problems = [*table.problems, *filter(None, [copy_problem(reader, table)])]
    hazards = [Hazard("partition-table", f"Something is wrong: {text}.", Verdict.OK) for text in problems]
    end = max((part.start + part.size for part in partitions), default=0)
    if end > reader.size:
        text = f"The disk is cut short: its partitions reach to byte {end}, and it ends at {reader.size}."
        hazards.append(Hazard("truncated", text, Verdict.OK))
    elif table.disk > reader.size:
        text = f"It is smaller than its partition table says: {reader.size} bytes instead of {table.disk}."
        hazards.append(Hazard("truncated", text, Verdict.OK))
    firmware = disk_firmware(reader, sector0, table, partitions)
    guest = _guest(reader, sector0, partitions)
    sector = _BIG_SECTOR if table.sector == _BIG_SECTOR else 512
    media = Media(MediaKind.DISK, table.kind, tuple(partitions), None, firmware, guest, sector)
    return Findings(media, features, tuple(hazards))


def _look_into(reader: Reader, table: Table) -> list[Partition]:
    """Return the partitions of `table` with what lies in them."""
    wanted = worth_looking(table.partitions, reader.size, table.holders)
    ahead(reader, [*copy_span(table), *superblock_spans(volumes(wanted))])
    found = dict(zip((part.number for part in wanted), find_filesystems(reader, volumes(wanted)), strict=True))
    return [replace(_cleaned(part), filesystem=_clean(found.get(part.number))) for part in table.partitions]


def _in_big_sectors(reader: Reader, sector0: bytes) -> tuple[Table, list[Partition]] | None:
    """Return the MBR read in sectors of 4096 bytes, if that makes sense: all of it fits, and there are filesystems."""
    if any(part.start + part.size > reader.size for part in primaries(sector0, _BIG_SECTOR)):
        return None
    table = read_mbr(reader, sector0, _BIG_SECTOR)
    if table is None or any(part.start + part.size > reader.size for part in table.partitions):
        return None
    partitions = _look_into(reader, table)
    return (table, partitions) if any(part.filesystem for part in partitions) else None


def _guest(reader: Reader, sector0: bytes, partitions: list[Partition]) -> Guest | None:
    """Guess whose disk it is; where that is some Linux, its own files may say which."""
    boots = [reader.pread(part.start, 512) for part in partitions if part.filesystem]
    guest = disk_guest(sector0, partitions, boots)
    return release_name(reader, partitions, guest) if guest else None


def _whole_disk(reader: Reader) -> Partition:
    return Partition(0, 0, reader.size, "")


def _cleaned(part: Partition) -> Partition:
    return replace(part, type=clean(part.type, 40), name=clean(part.name, 72))


def _clean(filesystem: Filesystem | None) -> Filesystem | None:
    if filesystem is None:
        return None
    return replace(filesystem, label=clean(filesystem.label, 64), uuid=clean(filesystem.uuid, 64))
