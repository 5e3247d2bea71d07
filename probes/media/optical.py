"""Optical discs: ISO 9660 and UDF volumes, alone or both over the same files (a bridge), and what they boot by.

ECMA-119 (ISO 9660) sections 7 and 8 for the volume descriptors, ECMA-167 part 2 for UDF's in the same place; "El
Torito" Bootable CD-ROM Format Specification 1.0 for the boot catalog, with UEFI's platform number 0xEF (UEFI 2.10,
section 13.3.2.1); IEEE P1281 (SUSP) for the sign of Rock Ridge in the root directory.
"""

from dataclasses import dataclass, replace

from probes.fields import little
from probes.image import Filesystem, Firmware
from probes.media import udf
from probes.media.foreign import iso9660_label
from probes.reader import Reader, ahead

SECTOR = 2048
DESCRIPTORS_AT = 16 * SECTOR
"""Where the volume descriptors start; what lies before them is for others to use."""

_DESCRIPTORS = 16  # that many are looked at; real discs have three or four
_MAX_SECTIONS = 32
_PLATFORMS = {0x00: Firmware.BIOS, 0xEF: Firmware.UEFI}
_OTHER_PLATFORMS = {0x01: "El Torito for PowerPC", 0x02: "El Torito for Mac"}
_EMULATIONS = {1: "floppy emulation", 2: "floppy emulation", 3: "floppy emulation", 4: "hard disk emulation"}


@dataclass(frozen=True, slots=True)
class Disc:
    """A disc: its volume, `size` in bytes as the volume itself has it, short words about it, and what it boots by.

    Of a bridge the volume is the UDF one, as blkid has it: that is what systems mount. `catalog` is whether it has a
    boot catalog at all; `problem` is what is wrong with it, in words.
    """

    filesystem: Filesystem
    size: int
    features: tuple[str, ...] = ()
    catalog: bool = False
    firmware: frozenset[Firmware] = frozenset()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Descriptors:
    """The volume descriptors that were found, 2048 bytes each; empty where there is none."""

    primary: bytes = b""
    boot: bytes = b""
    joliet: bytes = b""
    udf: bool = False


@dataclass(frozen=True, slots=True)
class _Catalog:
    """What a boot catalog starts by, on what else, how, and what is wrong with it."""

    firmware: frozenset[Firmware] = frozenset()
    features: tuple[str, ...] = ()
    problem: str = ""


def read_disc(reader: Reader) -> Disc | None:
    """Return the disc in `reader`, or None if there is none: neither a primary volume descriptor of ISO 9660, nor a UDF
    volume with the blocks of discs. Raises what `reader` raises.
    """
    found = _descriptors(reader.pread(DESCRIPTORS_AT, _DESCRIPTORS * SECTOR))
    if not found.primary and not found.udf:
        return None
    catalog_at, root_at = little(found.boot, 71, 4) * SECTOR, little(found.primary, 158, 4) * SECTOR
    wanted = [(catalog_at, SECTOR)] if found.boot else []
    wanted += [(root_at, SECTOR)] if found.primary else []
    wanted += [*udf.anchor_spans([SECTOR]), udf.USUAL_DESCRIPTORS] if found.udf else []
    ahead(reader, wanted)
    volume = udf.find_volume(reader, blocks=[SECTOR]) if found.udf else None
    if volume is not None:
        filesystem, size = volume.filesystem, volume.end
    elif found.primary:
        filesystem, size = replace(iso9660_label(found.primary), label=_label(found.primary, found.joliet)), 0
    else:
        return None
    if found.primary:
        size = little(found.primary, 80, 4) * (little(found.primary, 128, 2) or SECTOR)
    features = ["ISO 9660"] if found.primary else []
    features += ["Joliet"] if found.joliet else []
    features += ["Rock Ridge"] if found.primary and _has_rock_ridge(reader.pread(root_at, SECTOR)) else []
    features += ["UDF"] if found.udf else []
    if not found.boot:
        return Disc(filesystem, size, tuple(features))
    catalog = _read_catalog(reader.pread(catalog_at, SECTOR))
    features += ["El Torito", *catalog.features]
    return Disc(filesystem, size, tuple(features), True, catalog.firmware, catalog.problem)


def _descriptors(area: bytes) -> _Descriptors:
    primary = boot = joliet = b""
    is_udf = False
    for at in range(0, len(area), SECTOR):
        descriptor = area[at : at + SECTOR]
        kind, mark = descriptor[0], descriptor[1:6]
        if mark == b"CD001":
            if kind == 1 and not primary:
                primary = descriptor
            elif kind == 0 and not boot and descriptor[7:30] == b"EL TORITO SPECIFICATION":
                boot = descriptor
            elif kind == 2 and descriptor[88:91] in {b"%/@", b"%/C", b"%/E"}:
                joliet = descriptor
        elif mark in {b"NSR02", b"NSR03"}:
            is_udf = True
        elif mark not in {b"BEA01", b"TEA01", b"BOOT2"}:
            break
    return _Descriptors(primary, boot, joliet, is_udf)


def _label(primary: bytes, joliet: bytes) -> str:
    """Return the volume's name as blkid has it: Joliet's 16 characters, and the rest of the primary one if it is the
    same but for what could not be written there.
    """
    name = _text(primary[40:72])
    wide = joliet[40:72].decode("utf-16-be", "replace").rstrip("\0 ")
    if not wide:
        return name
    same = all(one in {"_", other} for one, other in zip(name, wide.ljust(16), strict=False))
    return wide.ljust(16) + name[16:] if same and len(name) > 16 else wide


def _text(field: bytes) -> str:
    """Return a name that ought to be ASCII, as UTF-8 if it can be that."""
    field = field.partition(b"\0")[0].rstrip(b" ")
    try:
        return field.decode("utf-8")
    except UnicodeDecodeError:
        return field.decode("latin-1")


def _has_rock_ridge(root: bytes) -> bool:
    """Whether the root directory's first record, itself, starts with SUSP's sign, and has POSIX attributes after it."""
    use = root[34 : little(root, 0, 1)]
    return b"SP\x07\x01\xbe\xef" in use[:24] and (b"PX" in use or b"RR" in use)


def _read_catalog(catalog: bytes) -> _Catalog:
    validation = catalog[:32]
    if len(validation) < 32:
        return _Catalog(problem="its boot catalog lies beyond its end")
    words = sum(little(validation, word, 2) for word in range(0, 32, 2))
    if validation[0] != 1 or validation[30:32] != b"\x55\xaa" or words & 0xFFFF:
        return _Catalog(problem="its boot catalog is damaged")
    started: list[tuple[int, int]] = []  # platform, and what the boot image is shown as
    if _is_bootable(catalog[32:64]):
        started.append((validation[1], catalog[33] & 15))
    at = 64
    for _ in range(_MAX_SECTIONS):
        header = catalog[at : at + 32]
        if len(header) < 32 or header[0] not in {0x90, 0x91}:
            break
        count = little(header, 2, 2)
        at += 32
        while count and at + 32 <= len(catalog):
            if catalog[at] != 0x44:  # 0x44 extends the entry before it
                count -= 1
                if _is_bootable(catalog[at : at + 32]):
                    started.append((header[1], catalog[at + 1] & 15))
            at += 32
        if header[0] == 0x91:
            break
    firmware = frozenset(_PLATFORMS[platform] for platform, _ in started if platform in _PLATFORMS)
    features = [_OTHER_PLATFORMS[platform] for platform, _ in started if platform in _OTHER_PLATFORMS]
    features += [_EMULATIONS[shown] for _, shown in started if shown in _EMULATIONS]
    return _Catalog(firmware, tuple(dict.fromkeys(features)))


def _is_bootable(entry: bytes) -> bool:
    return entry[:1] == b"\x88"
