"""Optical discs: ISO 9660 volumes, what of UDF lies beside them, and what they boot by (El Torito).

ECMA-119 (ISO 9660) sections 7 and 8 for the volume descriptors, "El Torito" Bootable CD-ROM Format Specification 1.0
for the boot catalog, with UEFI's platform number 0xEF (UEFI 2.10, section 13.3.2.1).
"""

from dataclasses import dataclass

from probes.fields import little
from probes.image import Filesystem, Firmware
from probes.media.foreign import iso9660_label
from probes.reader import Reader

SECTOR = 2048
DESCRIPTORS_AT = 16 * SECTOR
"""Where the volume descriptors start; what lies before them is for others to use."""

_DESCRIPTORS = 16  # that many are looked at; real discs have three or four
_MAX_SECTIONS = 32
_PLATFORMS = {0x00: Firmware.BIOS, 0xEF: Firmware.UEFI}


@dataclass(frozen=True, slots=True)
class Disc:
    """An ISO 9660 disc: its volume, `size` in bytes as the volume itself has it, and what it boots by.

    `catalog` is whether it has a boot catalog at all; `problem` is what is wrong with it, in words.
    """

    filesystem: Filesystem
    size: int
    joliet: bool = False
    udf: bool = False
    catalog: bool = False
    firmware: frozenset[Firmware] = frozenset()
    problem: str = ""


def read_disc(reader: Reader) -> Disc | None:
    """Return the disc in `reader`, or None if there is no primary volume descriptor. Raises what `reader` raises."""
    area = reader.pread(DESCRIPTORS_AT, _DESCRIPTORS * SECTOR)
    primary = boot = None
    joliet = udf = False
    for at in range(0, len(area), SECTOR):
        descriptor = area[at : at + SECTOR]
        kind, mark = descriptor[0], descriptor[1:6]
        if mark == b"CD001":
            if kind == 1 and primary is None:
                primary = descriptor
            elif kind == 0 and boot is None and descriptor[7:30] == b"EL TORITO SPECIFICATION":
                boot = descriptor
            elif kind == 2 and descriptor[88:91] in {b"%/@", b"%/C", b"%/E"}:
                joliet = True
        elif mark in {b"NSR02", b"NSR03"}:
            udf = True
        elif mark not in {b"BEA01", b"TEA01", b"BOOT2"}:
            break
    if primary is None:
        return None
    size = little(primary, 80, 4) * (little(primary, 128, 2) or SECTOR)
    filesystem = iso9660_label(primary)
    if boot is None:
        return Disc(filesystem, size, joliet, udf)
    firmware, problem = _boot_catalog(reader, little(boot, 71, 4) * SECTOR)
    return Disc(filesystem, size, joliet, udf, True, firmware, problem)


def _boot_catalog(reader: Reader, at: int) -> tuple[frozenset[Firmware], str]:
    """Return what the boot catalog at `at` starts by, and what is wrong with it."""
    catalog = reader.pread(at, SECTOR)
    validation = catalog[:32]
    if len(validation) < 32:
        return frozenset(), "its boot catalog lies beyond its end"
    words = sum(little(validation, word, 2) for word in range(0, 32, 2))
    if validation[0] != 1 or validation[30:32] != b"\x55\xaa" or words & 0xFFFF:
        return frozenset(), "its boot catalog is damaged"
    platforms = set()
    if _is_bootable(catalog[32:64]):
        platforms.add(validation[1])
    entry = 64
    for _ in range(_MAX_SECTIONS):
        header = catalog[entry : entry + 32]
        if len(header) < 32 or header[0] not in {0x90, 0x91}:
            break
        count = little(header, 2, 2)
        entry += 32
        while count and entry + 32 <= len(catalog):
            if catalog[entry] != 0x44:  # 0x44 extends the entry before it
                count -= 1
                if _is_bootable(catalog[entry : entry + 32]):
                    platforms.add(header[1])
            entry += 32
        if header[0] == 0x91:
            break
    return frozenset(_PLATFORMS[platform] for platform in platforms if platform in _PLATFORMS), ""


def _is_bootable(entry: bytes) -> bool:
    return entry[:1] == b"\x88"
