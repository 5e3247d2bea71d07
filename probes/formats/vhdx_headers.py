"""The headers of a VHDX: which of the two counts, its log, and the regions of the file.

The specification is [MS-VHDX], sections 2.2 and 2.3; the checks are those of QEMU's block/vhdx.c, which opens nothing
that fails them. All numbers are little-endian.
"""

import itertools
from dataclasses import dataclass

from probes.fields import little
from probes.formats.vhdx_checksum import crc32c
from probes.image import Hazard, Verdict
from probes.reader import Reader

MiB = 1 << 20
PIECE = 4 << 10
"""Bytes of a table that are fetched first: all that is used of it, as a rule."""

HEADERS = (64 << 10, 128 << 10)
REGIONS = 192 << 10
REGIONS_LENGTH = 64 << 10

_HEADER_LENGTH = 4 << 10
_MAX_REGIONS = 2047
_REQUIRED = 1
_SEARCHED = MiB  # bytes of a log that are looked through: a log's usual length

_BAT = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")


class Unsound(Exception):
    """The image is not one that QEMU opens; `hazard` says why."""

    def __init__(self, hazard: Hazard) -> None:
        super().__init__(hazard.text)
        self.hazard = hazard


def broken(why: str) -> Unsound:
    """Return the error of headers that contradict themselves."""
    return Unsound(Hazard("vhdx-invalid", f"Its VHDX headers make no sense: {why}.", Verdict.REFUSE))


def truncated(why: str) -> Unsound:
    """Return the error of a file that ends too early."""
    return Unsound(Hazard("vhdx-truncated", f"It is cut short: {why}.", Verdict.REFUSE))


def unknown(what: str) -> Unsound:
    """Return the error of something that whoever does not know it must not pass over."""
    text = f"It holds {what} of a kind that is not known here, and that whoever opens it has to know."
    return Unsound(Hazard("vhdx-unknown-feature", text, Verdict.REFUSE))


@dataclass(frozen=True, slots=True)
class Header:
    """One of the two headers, unjudged. Offsets and sizes in bytes."""

    data: bytes

    @property
    def sequence(self) -> int:
        return little(self.data, 8, 8)

    @property
    def log_guid(self) -> bytes:
        return self.data[48:64]

    @property
    def log_version(self) -> int:
        return little(self.data, 64, 2)

    @property
    def log_length(self) -> int:
        return little(self.data, 68, 4)

    @property
    def log_offset(self) -> int:
        return little(self.data, 72, 8)

    @property
    def is_valid(self) -> bool:
        return self.data[:4] == b"head" and little(self.data, 66, 2) == 1 and _is_sealed(self.data, _HEADER_LENGTH)


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the file, in bytes."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Regions:
    """Where the block allocation table and the metadata lie, and all that no block may lie in."""

    table: Region
    metadata: Region
    taken: tuple[Region, ...]


def current_header(reader: Reader) -> Header:
    """Return the header that counts. Raises Unsound, and what `reader` raises."""
    found = [Header(reader.pread(at, _HEADER_LENGTH).ljust(_HEADER_LENGTH, b"\0")) for at in HEADERS]
    valid = [header for header in found if header.is_valid]
    if not valid:
        raise broken("neither of its two headers is whole")
    if len(valid) == 2 and valid[0].sequence == valid[1].sequence and valid[0].data[:80] != valid[1].data[:80]:
        raise broken("it has two headers, and neither is the newer one")
    header = max(valid, key=lambda each: each.sequence)
    if header.log_version != 0:
        raise broken(f"a log of version {header.log_version}")
    if header.log_offset < MiB or header.log_offset % MiB:
        raise broken(f"a log at byte {header.log_offset}")
    return header


def log_hazards(reader: Reader, header: Header) -> list[Hazard]:
    """Judge the log. QEMU applies it to an image that it may write, and does not open another one that has any."""
    if not any(header.log_guid) or not header.log_length:
        return []
    if header.log_length % MiB:
        return [broken(f"a log of {header.log_length} bytes").hazard]
    if _has_entries(reader, header):
        text = (
            "It was not closed cleanly, or is in use: its log holds changes that have yet to be applied, and QEMU does "
            "not do that to an image that it only reads. Apply them to a copy: qemu-img check -r all COPY."
        )
        return [Hazard("vhdx-dirty-log", text, Verdict.REFUSE)]
    text = "It was not closed cleanly, or is in use; its log holds nothing that would be missed."
    return [Hazard("dirty", text, Verdict.OK)]


def _has_entries(reader: Reader, header: Header) -> bool:
    """Whether an entry of the log carries its mark. QEMU may yet find that it is not whole."""
    if header.log_length > _SEARCHED:
        return True
    log = reader.pread(header.log_offset, header.log_length)
    starts = range(0, len(log), 4096)
    return any(log[at : at + 4] == b"loge" and log[at + 32 : at + 48] == header.log_guid for at in starts)


def regions(reader: Reader, header: Header) -> Regions:
    """Read the region table. Raises Unsound, and what `reader` raises.

    Where its first bytes, followed by zeros, are what the seal says, the zeros are taken for granted.
    """
    data = reader.pread(REGIONS, PIECE)
    if not _is_sealed(data, REGIONS_LENGTH) or 16 + little(data, 8, 4) * 32 > PIECE:
        data = reader.pread(REGIONS, REGIONS_LENGTH)
    count = little(data, 8, 4)
    if data[:4] != b"regi" or not _is_sealed(data, REGIONS_LENGTH) or count > _MAX_REGIONS:
        raise broken("its region table is damaged")
    taken = [Region(header.log_offset, header.log_length)]
    known: dict[bytes, Region] = {}
    for at in range(16, 16 + count * 32, 32):
        guid, region = data[at : at + 16], Region(little(data, at + 16, 8), little(data, at + 24, 4))
        taken.append(region)
        if guid in known:
            raise broken("its region table names a region twice")
        if guid in {_BAT, _METADATA}:
            known[guid] = region
        elif little(data, at + 28, 4) & _REQUIRED:
            raise unknown("a region")
    if len(known) != 2:
        raise broken("it has no block allocation table, or no metadata")
    ordered = sorted(taken, key=lambda region: (region.offset, region.end))
    if any(one.end > other.offset for one, other in itertools.pairwise(ordered)):
        raise broken("parts of it overlap")
    return Regions(known[_BAT], known[_METADATA], tuple(taken))


def _is_sealed(data: bytes, length: int) -> bool:
    """Whether `data`, followed by zeros up to `length` bytes, is what its checksum says."""
    return crc32c(data[:4] + bytes(4) + data[8:], length) == little(data, 4, 4)
