"""Partition tables: MBR with extended partitions, and GPT with its check sums.

MBR as Linux and sfdisk read it; GPT by the UEFI specification 2.10, chapter 5. Sectors are 512 bytes; a GPT of
4096-byte sectors is read too, and told.
"""

import zlib
from dataclasses import dataclass, replace

from probes.fields import guid_text, little, text
from probes.image import Partition
from probes.reader import Reader

MAX_LOGICAL = 24
"""Logical partitions followed in an extended one: each is a read."""

MAX_ENTRIES_BYTES = 64 << 10
"""Bytes of GPT entries that are read: 512 of the usual size, four times what anybody makes."""

ESP = "EFI System"
BIOS_BOOT = "BIOS boot"
EXTENDED = frozenset({0x05, 0x0F, 0x85})

_MBR_TYPES = {
    0x01: "FAT12", 0x04: "FAT16", 0x05: "Extended", 0x06: "FAT16", 0x07: "NTFS/exFAT", 0x0B: "FAT32", 0x0C: "FAT32",
    0x0E: "FAT16", 0x0F: "Extended", 0x11: "Hidden FAT12", 0x17: "Hidden NTFS", 0x27: "Windows recovery",
    0x82: "Linux swap", 0x83: "Linux", 0x85: "Extended", 0x8E: "Linux LVM", 0xA5: "FreeBSD", 0xA6: "OpenBSD",
    0xA8: "Darwin UFS", 0xA9: "NetBSD", 0xAF: "HFS+", 0xBE: "Solaris boot", 0xBF: "Solaris", 0xCD: "ISO 9660",
    0xDA: "Data", 0xEA: "Linux extended boot", 0xEE: "GPT", 0xEF: ESP, 0xFB: "VMware VMFS", 0xFD: "Linux RAID",
}  # fmt: skip

_GPT_TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": ESP,
    "21686148-6449-6e6f-744e-656564454649": BIOS_BOOT,
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "44479540-f297-41b2-9af7-d131d5f0458a": "Linux root (x86)",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root (ARM-64)",
    "8484680c-9521-48c6-9c11-b0720656f69e": "Linux usr (x86-64)",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "Linux server data",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "Linux variable data",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux extended boot",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "Linux LUKS",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "83bd6b9d-7f41-11dc-be0b-001560b84f0f": "FreeBSD boot",
    "516e7cb4-6ecf-11d6-8ff8-00022d09712b": "FreeBSD",
    "516e7cb5-6ecf-11d6-8ff8-00022d09712b": "FreeBSD swap",
    "516e7cb6-6ecf-11d6-8ff8-00022d09712b": "FreeBSD UFS",
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
    "48465300-0000-11aa-aa11-00306543ecac": "HFS+",
    "7c3457ef-0000-11aa-aa11-00306543ecac": "APFS",
    "6a898cc3-1dd2-11b2-99a6-080020736631": "ZFS",
    "fe3a2a5d-4f32-41a7-b725-accc3285a309": "ChromeOS kernel",
    "3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec": "ChromeOS root",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table: `kind` is "mbr" or "gpt", `sector` the bytes of its sectors.

    `problems` are sentences about what is wrong with it. `legacy_boot` is GPT's attribute bit 2 on any partition.
    `more` says that there are partitions beyond those listed.
    """

    kind: str
    partitions: tuple[Partition, ...]
    sector: int = 512
    problems: tuple[str, ...] = ()
    legacy_boot: bool = False
    more: bool = False


def read_table(reader: Reader) -> Table | None:
    """Return the partition table of the disk in `reader`, or None if it has none. Raises what `reader` raises.

    Names are not cleaned. A GPT whose first copy is damaged is read from its second, as Linux and firmware do.
    """
    sector0 = reader.pread(0, 512)
    return read_gpt(reader, sector0) or read_mbr(reader, sector0)


def is_protective(sector0: bytes) -> bool:
    """Whether the MBR in `sector0` says that the disk has a GPT."""
    return _is_mbr(sector0) and any(kind == 0xEE for _, kind, _, _ in _entries(sector0))


def read_mbr(reader: Reader, sector0: bytes) -> Table | None:
    """Return the MBR partition table in `sector0`, or None."""
    if not _is_mbr(sector0) or is_protective(sector0):
        return None
    entries = _entries(sector0)
    if not any(sectors for _, _, _, sectors in entries) and not little(sector0, 440, 4):
        return None  # a boot sector without a table
    partitions: list[Partition] = []
    logical: list[Partition] = []
    more = False
    for number, (flag, kind, start, sectors) in enumerate(entries, 1):
        if not kind and not sectors:
            continue
        if sectors:
            partitions.append(_mbr_partition(number, flag, kind, start, sectors))
        if kind in EXTENDED and sectors and not logical:
            logical, more = _logical(reader, start)
    return Table("mbr", (*partitions, *logical), more=more)


def read_gpt(reader: Reader, sector0: bytes) -> Table | None:
    """Return the GPT, if the protective MBR says that there is one; a table without entries where both are damaged.

    Without that MBR a GPT is what an earlier use left behind: firmware and Linux do not look at it either.
    """
    if not is_protective(sector0):
        return None
    for sector in (512, 4096):
        found = _gpt_at(reader, sector, sector)
        if found:
            return found
    for sector in (512, 4096):  # the second copy lies in the last sector
        last = reader.size - reader.size % sector - sector
        found = _gpt_at(reader, last, sector) if last > sector else None
        if found:
            problem = "the first copy of its partition table is damaged; the second one is used"
            return replace(found, problems=(problem,))
    return Table("gpt", (), problems=("its partition table (GPT) is damaged",))


def _gpt_at(reader: Reader, offset: int, sector: int) -> Table | None:
    header = reader.pread(offset, sector)
    length = little(header, 12, 4)
    if header[:8] != b"EFI PART" or not 92 <= length <= len(header):
        return None
    if zlib.crc32(header[:16] + bytes(4) + header[20:length]) != little(header, 16, 4):
        return None
    if little(header, 24, 8) * sector != offset:
        return None
    count, width = little(header, 80, 4), little(header, 84, 4)
    if width < 128 or width % 8 or not 0 < count * width <= MAX_ENTRIES_BYTES:
        return None
    entries = reader.pread(little(header, 72, 8) * sector, count * width)
    if zlib.crc32(entries) != little(header, 88, 4):
        return None
    partitions = []
    legacy = False
    for index in range(count):
        entry = entries[index * width : (index + 1) * width]
        kind = guid_text(entry, 0)
        if not kind:
            continue
        first, last = little(entry, 32, 8), little(entry, 40, 8)
        active = bool(little(entry, 48, 8) & 4)
        legacy = legacy or active
        partitions.append(
            Partition(
                number=index + 1,
                start=first * sector,
                size=max(last - first + 1, 0) * sector,
                type=_GPT_TYPES.get(kind, kind),
                name=text(entry, 56, 72, "utf-16-le"),
                bootable=active,
            )
        )
    return Table("gpt", tuple(partitions), sector, legacy_boot=legacy)


def _is_mbr(sector: bytes) -> bool:
    return sector[510:512] == b"\x55\xaa" and all(flag in {0, 0x80} for flag, _, _, _ in _entries(sector))


def _entries(sector: bytes) -> list[tuple[int, int, int, int]]:
    """Return flag, type, first sector and sectors of the four entries."""
    return [
        (little(sector, at, 1), little(sector, at + 4, 1), little(sector, at + 8, 4), little(sector, at + 12, 4))
        for at in range(446, 510, 16)
    ]


def _mbr_partition(number: int, flag: int, kind: int, start: int, sectors: int) -> Partition:
    name = _MBR_TYPES.get(kind, f"type 0x{kind:02x}")
    return Partition(number, start * 512, sectors * 512, name, bootable=flag == 0x80)


def _logical(reader: Reader, extended: int) -> tuple[list[Partition], bool]:
    """Follow the chain of extended boot records; also whether it goes on beyond what was read.

    In each, the first entry is a logical partition, relative to the record; a second one of an extended type
    points to the next record, relative to the extended partition.
    """
    found: list[Partition] = []
    seen: set[int] = set()
    at = extended
    while at not in seen:
        if len(seen) == MAX_LOGICAL:
            return found, True
        seen.add(at)
        record = reader.pread(at * 512, 512)
        if record[510:512] != b"\x55\xaa":
            break
        following = None
        for flag, kind, start, sectors in _entries(record)[:2]:
            if kind in EXTENDED and following is None:
                following = extended + start
            elif kind and sectors:
                found.append(_mbr_partition(5 + len(found), flag, kind, at + start, sectors))
        if following is None:
            break
        at = following
    return found, False
