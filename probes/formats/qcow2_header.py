"""The header of a qcow2 and its extensions, unjudged. The specification is QEMU's docs/interop/qcow2.rst."""

from dataclasses import dataclass

from probes.fields import big

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
KNOWN = DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2
"""The incompatible features that are known here."""

LAZY_REFCOUNTS = 1
BITMAPS_VALID, RAW_DATA_FILE = 1, 2
"""A compatible feature; and two autoclear ones, which say that an extension holds."""

BACKING_FORMAT = 0xE2792ACA
FEATURE_NAMES = 0x6803F857
CRYPTO = 0x0537BE77
BITMAPS = 0x23852875
DATA_FILE_NAME = 0x44415441
"""Types of header extensions."""

HEADER_AREA = 64 << 10
"""Bytes in which all extensions must lie; real ones take some hundred."""

_ONLY_ONCE = {BACKING_FORMAT, CRYPTO, BITMAPS, DATA_FILE_NAME}
_MAX_EXTENSIONS = 64
_RUNS_ON = "its header extensions run on beyond all sense"


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. Offsets and sizes in bytes, tables' sizes in their own units."""

    data: bytes

    @property
    def version(self) -> int:
        return big(self.data, 4, 4)

    @property
    def backing_offset(self) -> int:
        return big(self.data, 8, 8)

    @property
    def backing_length(self) -> int:
        return big(self.data, 16, 4)

    @property
    def cluster_bits(self) -> int:
        return big(self.data, 20, 4)

    @property
    def has_sane_clusters(self) -> bool:
        return 9 <= self.cluster_bits <= 21

    @property
    def virtual_size(self) -> int:
        return big(self.data, 24, 8)

    @property
    def encryption(self) -> int:
        return big(self.data, 32, 4)

    @property
    def l1_entries(self) -> int:
        return big(self.data, 36, 4)

    @property
    def l1_offset(self) -> int:
        return big(self.data, 40, 8)

    @property
    def refcount_offset(self) -> int:
        return big(self.data, 48, 8)

    @property
    def refcount_clusters(self) -> int:
        return big(self.data, 56, 4)

    @property
    def snapshots(self) -> int:
        return big(self.data, 60, 4)

    @property
    def snapshots_offset(self) -> int:
        return big(self.data, 64, 8)

    @property
    def incompatible(self) -> int:
        return big(self.data, 72, 8) if self.version >= 3 else 0

    @property
    def compatible(self) -> int:
        return big(self.data, 80, 8) if self.version >= 3 else 0

    @property
    def autoclear(self) -> int:
        return big(self.data, 88, 8) if self.version >= 3 else 0

    @property
    def refcount_order(self) -> int:
        return big(self.data, 96, 4) if self.version >= 3 else 4

    @property
    def length(self) -> int:
        return big(self.data, 100, 4) if self.version >= 3 else 72

    @property
    def compression(self) -> int:
        return self.data[104] if self.version >= 3 and self.length > 104 else 0

    @property
    def l2_entry_size(self) -> int:
        return 16 if self.incompatible & EXTENDED_L2 else 8


@dataclass(frozen=True, slots=True)
class Extensions:
    """The header extensions by type, the first of each. `wrong` says what is amiss with their row, if anything."""

    by_type: dict[int, bytes]
    wrong: str = ""


def read_extensions(header: Header) -> Extensions:
    """Find the extensions, as QEMU's qcow2_read_extensions does."""
    cluster = 1 << header.cluster_bits if header.has_sane_clusters else HEADER_AREA
    end = min(header.backing_offset or cluster, cluster)
    found: dict[int, bytes] = {}
    at = header.length
    for _ in range(_MAX_EXTENSIONS):
        if at >= end:
            return Extensions(found)
        if at >= HEADER_AREA:  # QEMU reads on, and nobody here has seen what
            return Extensions(found, _RUNS_ON)
        if at >= len(header.data):  # what lies behind the end of the file reads as zeros
            return Extensions(found)
        kind, length = big(header.data, at, 4), big(header.data, at + 4, 4)
        if at + 8 > end or length > end - at - 8 or at + 8 + length > HEADER_AREA:
            return Extensions(found, _RUNS_ON)
        if kind == 0:
            return Extensions(found)
        if kind in found and kind in _ONLY_ONCE:
            return Extensions(found, "it says the same thing twice, in two header extensions")
        found.setdefault(kind, header.data[at + 8 : at + 8 + length])
        at += 8 + length + -length % 8
    return Extensions(found, _RUNS_ON)
