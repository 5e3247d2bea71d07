"""cloop: the images of the compressed loop device, version 2; Knoppix made them known.

A shell script of 128 bytes, the size and number of the blocks, where each of them starts and the last ends, and the
blocks, each a zlib stream. There is no specification but the module's compressed_loop.h; the limits are those of QEMU's
block/cloop.c, or ours, which are said. All numbers are big-endian.
"""

import struct
from dataclasses import dataclass
from itertools import pairwise

from probes.fields import big
from probes.formats.packing import Unpacked, inflate, judge_ratio
from probes.image import Format, Hazard, Image, Verdict
from probes.mapping import BlockMap, CannotMap, MappedReader, Span
from probes.reader import Reader

_MAGIC = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file="
_SECTOR = 512
_OFFSETS_AT = 136
_MAX_BLOCK = 64 << 20
_MAX_PACKED = 2 * _MAX_BLOCK

MAX_OFFSETS = 32 << 20
"""Bytes of the table of blocks: ours. QEMU takes 512 MiB of memory for one."""

_MAX_CHECKED = 1 << 20  # bytes of the table that are read for the judgement: eight gigabytes of disk, mostly
_MAX_FOLLOWED = 4 << 20  # bytes of a block that is unpacked to see what is on the disk


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. `block` in bytes."""

    data: bytes

    @property
    def block(self) -> int:
        return big(self.data, 128, 4)

    @property
    def blocks(self) -> int:
        return big(self.data, 132, 4)

    @property
    def virtual_size(self) -> int:
        return self.block // _SECTOR * self.blocks * _SECTOR

    @property
    def offsets(self) -> int:
        """Bytes of the table of blocks."""
        return (self.blocks + 1) * 8


class Cloop(Format):
    """A cloop image."""

    name = "cloop"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, _OFFSETS_AT)
        if not data.startswith(_MAGIC):
            return None
        header = Header(data.ljust(_OFFSETS_AT, b"\0"))
        hazards = _judge(header, reader.size)
        if not hazards:
            table = reader.pread(_OFFSETS_AT, min(header.offsets, _MAX_CHECKED))
            hazards = _judge_offsets(table, header, reader.size)
        return Image(self.name, header.virtual_size, reader.size, features=("compressed",), hazards=hazards)

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        header = Header(reader.pread(0, _OFFSETS_AT).ljust(_OFFSETS_AT, b"\0"))
        if header.block > _MAX_FOLLOWED:
            raise CannotMap("blocks too large to be unpacked for a look")
        return MappedReader(reader, PackedBlocks(reader, header), backing)


class PackedBlocks(BlockMap):
    """The blocks of the image that `inner` reads, which is expected to remember (`RecordingReader`)."""

    def __init__(self, inner: Reader, header: Header) -> None:
        self.virtual_size = header.virtual_size
        self._inner = inner
        self._header = header
        self._unpacked = Unpacked()

    def locate(self, offset: int) -> Span:
        index, within = divmod(offset, self._header.block)
        data = self._unpacked.get(index, lambda: self._unpack(index))
        return Span(self._header.block - within, data=data[within:])

    def _unpack(self, index: int) -> bytes:
        places = self._inner.pread(_OFFSETS_AT + index * 8, 16)
        start, end = big(places, 0, 8), big(places, 8, 8)
        if len(places) != 16 or not 0 <= end - start <= _MAX_FOLLOWED:
            raise CannotMap("a block out of place")
        return inflate(self._inner.pread(start, end - start), self._header.block, "zlib")


def _invalid(why: str) -> Hazard:
    return Hazard("cloop-invalid", f"Its cloop header makes no sense: {why}.", Verdict.REFUSE)


def _judge(header: Header, file_size: int) -> tuple[Hazard, ...]:
    if not header.block or header.block % _SECTOR or header.block > _MAX_BLOCK:
        return (_invalid(f"blocks of {header.block} bytes"),)
    if header.offsets > MAX_OFFSETS:
        text = f"Its table takes {header.offsets >> 20} MiB, more than any real image needs: it would eat memory."
        return (Hazard("cloop-tables", text, Verdict.REFUSE),)
    if header.virtual_size >= 1 << 41:  # in sectors, QEMU counts them in 32 bits
        return (_invalid(f"a disk of {header.virtual_size} bytes"),)
    if _OFFSETS_AT + header.offsets > file_size:
        text = f"It is cut short: its table would end at byte {_OFFSETS_AT + header.offsets}, and it has {file_size}."
        return (Hazard("cloop-truncated", text, Verdict.REFUSE),)
    if not header.blocks:
        return (Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE),)
    return ()


def _judge_offsets(table: bytes, header: Header, file_size: int) -> tuple[Hazard, ...]:
    """Judge where the blocks start. Of a vast table only its beginning is looked at: QEMU looks at all of it."""
    places = struct.unpack(f">{len(table) // 8}Q", table[: len(table) // 8 * 8])
    if any(not start <= end <= start + _MAX_PACKED for start, end in pairwise(places)):
        return (_invalid("its blocks are out of order"),)
    if places[-1] > file_size:
        text = f"It is cut short: its blocks would end at byte {places[-1]}, and it has {file_size}."
        return (Hazard("cloop-truncated", text, Verdict.REFUSE),)
    return judge_ratio(file_size, header.virtual_size)
