"""The header of a hosted sparse VMDK (`KDMV`), and the footer that stands for it in a stream.

VMware's "Virtual Disk Format 5.0" describes it; what counts is how QEMU reads it (block/vmdk.c). All numbers are
little-endian, and places are counted in sectors.
"""

from dataclasses import dataclass

from probes.fields import little
from probes.reader import Reader
from probes.recording import TAIL

MAGIC = b"KDMV"
SECTOR = 512
LENGTH = SECTOR
"""Bytes of the header."""

CHECKS_NEWLINES, HAS_SECOND_DIRECTORY, HAS_ZEROED_GRAINS, IS_PACKED, HAS_MARKERS = 1, 1 << 1, 1 << 2, 1 << 16, 1 << 17
DEFLATE = 1

_AT_END = (1 << 64) - 1
_FOOTER = 3 * SECTOR  # a marker, the footer, a marker
_MARKS_FOOTER = 3
_NEWLINES = b"\n \r\n"


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. Offsets in bytes, the grain's size in sectors."""

    data: bytes

    @property
    def version(self) -> int:
        return little(self.data, 4, 4)

    @property
    def flags(self) -> int:
        return little(self.data, 8, 4)

    @property
    def virtual_size(self) -> int:
        return little(self.data, 12, 8) * SECTOR

    @property
    def grain_sectors(self) -> int:
        return little(self.data, 20, 8)

    @property
    def descriptor_offset(self) -> int:
        return little(self.data, 28, 8) * SECTOR

    @property
    def table_entries(self) -> int:
        """Entries of a grain table."""
        return little(self.data, 44, 4)

    @property
    def second_directory(self) -> int:
        """Where the copy of the grain directory lies; 0 if there is none."""
        return little(self.data, 48, 8) * SECTOR if self.flags & HAS_SECOND_DIRECTORY else 0

    @property
    def directory(self) -> int:
        """Where the grain directory lies."""
        return little(self.data, 56, 8) * SECTOR

    @property
    def is_ended_by_footer(self) -> bool:
        return little(self.data, 56, 8) == _AT_END

    @property
    def grains_offset(self) -> int:
        """Where the first grain may lie."""
        return little(self.data, 64, 8) * SECTOR

    @property
    def is_unclean(self) -> bool:
        return bool(self.data[72])

    @property
    def was_sent_as_text(self) -> bool:
        """Whether the bytes are changed that tell when something took the image for text and changed line ends."""
        return bool(self.flags & CHECKS_NEWLINES) and self.data[73:77] != _NEWLINES

    @property
    def compression(self) -> int:
        return little(self.data, 77, 2)

    @property
    def grain(self) -> int:
        """Bytes of a grain."""
        return self.grain_sectors * SECTOR

    @property
    def covered(self) -> int:
        """Bytes of the disk that one grain table tells of."""
        return self.table_entries * self.grain

    @property
    def directory_entries(self) -> int:
        return -(-self.virtual_size // self.covered)


def read_header(reader: Reader) -> Header | None:
    """Return the header that QEMU goes by: the footer, where the first one says so; None if that is not there. Raises
    what `reader` raises.
    """
    first = Header(reader.pread(0, LENGTH).ljust(LENGTH, b"\0"))
    return _footer(reader) if first.is_ended_by_footer else first


def _footer(reader: Reader) -> Header | None:
    end = reader.size + -reader.size % SECTOR
    if end < _FOOTER:
        return None
    # The grain directory stands before it as a rule, and a guest's disk is looked at by that.
    start = max(end - TAIL, 0)
    data = reader.pread(start, TAIL).ljust(end - start, b"\0")[-_FOOTER:]
    mark, footer, last = data[:SECTOR], data[SECTOR : 2 * SECTOR], data[2 * SECTOR :]
    is_marked = little(mark, 8, 4) == 0 and little(mark, 12, 4) == _MARKS_FOOTER
    return Header(footer) if is_marked and footer[:4] == MAGIC and not any(last[:16]) else None
