"""Compressed files: no disks, and told all the same: by what, how big they are in full, and what is inside.

QEMU reads none of them where it lies: they are refused. The first bytes are unpacked, bounded, for `probes.identify` to
look at: from 64 KiB of the file at most 2 MiB, which is where a first partition's filesystem begins.

RFC 1952 for gzip; bzip2's and lzop's headers are those of their sources; lzip: https://www.nongnu.org/lzip/manual/.
xz, zstd and lz4 are in files of their own.
"""

import bz2
import zlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from probes.fields import little
from probes.image import Format, Hazard, Image, Verdict
from probes.reader import Reader
from probes.recording import HEAD
from probes.words import human_size

UNPACKED = (2 << 20) + (128 << 10)
"""Bytes that are unpacked at most."""

MAX_RATIO = 1000
"""Growth beyond which a person is warned: disks that were not empty stay far below it."""

_MAX_SIZE = (1 << 63) - 1  # bytes: what a file may have on Linux
_GZIP_MAX_RATIO = 1032  # deflate: 258 bytes from two bits
_GZIP_COUNT = 1 << 32


@dataclass(frozen=True, slots=True)
class FullSize:
    """Bytes that would come out; where not `exact` they are the least, and 0 that nothing is known."""

    bytes: int = 0
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Inside:
    """What the first bytes unpacked are: `words` as in "a raw disk", `format` by the name of `Image.format`."""

    format: str
    words: str


class Packed(Format):
    """A file that is compressed with what `name` says; `command` unpacks one called NAME, and keeps it."""

    command: ClassVar[str]

    def probe(self, reader: Reader) -> Image | None:
        return self.describe(reader) if self.begins(reader.pread(0, HEAD)) else None

    def describe(self, reader: Reader, inside: Inside | None = None) -> Image:
        """Return what the file in `reader`, which is of this kind, is; `virtual_size` is what would come out of it,
        where that is sure. Raises what `reader` raises.
        """
        full = self.full_size(reader)
        size = ""
        if full.bytes:
            size = f" ({'' if full.exact else 'at least '}{human_size(full.bytes)} in full)"
        if inside:
            text = f"This is {inside.words}, compressed with {self.name}{size}."
        else:
            text = f"This is compressed with {self.name}{size}: a disk image may be inside, but cannot be read where it"
            text += " lies."
        if inside and inside.format == "tar":
            text += " Unpack it first: tar -xf NAME."
        else:
            text += f" Decompress it first: {self.command}."
        hazards = [Hazard("compressed", text, Verdict.REFUSE)]
        ratio = full.bytes // max(reader.size, 1)
        if ratio >= MAX_RATIO:
            text = f"It would grow {ratio:,}-fold, to {human_size(full.bytes)}: it is nearly empty, or a trap."
            hazards.append(Hazard("decompression-ratio", text, Verdict.ASK))
        sure = full.exact and full.bytes <= _MAX_SIZE
        return Image(self.name, full.bytes if sure else 0, reader.size, hazards=tuple(hazards))

    def head(self, reader: Reader) -> bytes:
        """Return the first bytes of what is inside: `UNPACKED` at most, none where they cannot be had.

        Raises what `reader` raises.
        """
        return self.unpack(reader.pread(0, HEAD))[:UNPACKED]

    @abstractmethod
    def begins(self, head: bytes) -> bool:
        """Whether `head`, the first 64 KiB of a file, is the start of one of this kind."""

    def full_size(self, reader: Reader) -> FullSize:
        """Return what would come out of the file. Raises what `reader` raises."""
        return FullSize()

    def unpack(self, data: bytes) -> bytes:
        """Return what the start of a file gives: not much more than `UNPACKED`, less where it is damaged."""
        return b""


class Gzip(Packed):
    """gzip: its last four bytes count what came in, modulo 4 GiB, and of the last member alone."""

    name = "gzip"
    command = "gunzip -k NAME"

    def begins(self, head: bytes) -> bool:
        return head[:3] == b"\x1f\x8b\x08" and little(head, 3, 1) < 0x20

    def full_size(self, reader: Reader) -> FullSize:
        counted = little(reader.pread(max(reader.size - 4, 0), 4), 0, 4)
        if counted + counted // 1000 + HEAD < reader.size:  # more came out than is counted: past 4 GiB, or members
            return FullSize()
        member = _inflater()
        try:
            member.decompress(reader.pread(0, HEAD), UNPACKED)
        except zlib.error:
            return FullSize()
        several = member.eof and (member.unused_data or reader.size > HEAD)
        exact = not several and reader.size * _GZIP_MAX_RATIO < _GZIP_COUNT
        return FullSize(counted, exact)

    def unpack(self, data: bytes) -> bytes:
        return _inflated(data)


class Bzip2(Packed):
    """bzip2: blocks of up to 900 kB, which unpack whole or not at all; no size is written anywhere."""

    name = "bzip2"
    command = "bunzip2 -k NAME"

    def begins(self, head: bytes) -> bool:
        return head[:3] == b"BZh" and head[3:4].isdigit() and head[4:10] in {b"1AY&SY", b"\x17rE8P\x90"}

    def unpack(self, data: bytes) -> bytes:
        try:
            return bz2.BZ2Decompressor().decompress(data, UNPACKED)
        except (OSError, ValueError):
            return b""


class Lzip(Packed):
    """lzip: told by its mark, and its last member's trailer; not unpacked here."""

    name = "lzip"
    command = "lzip -dk NAME"

    def begins(self, head: bytes) -> bool:
        return head.startswith((b"LZIP\0", b"LZIP\1"))

    def full_size(self, reader: Reader) -> FullSize:
        trailer = reader.pread(max(reader.size - 16, 0), 16)
        exact = little(trailer, 8, 8) == reader.size  # the member's own size: it is the only one
        return FullSize(little(trailer, 0, 8)) if exact else FullSize()


class Lzop(Packed):
    """lzop: told by its mark alone."""

    name = "lzop"
    command = "lzop -d NAME"

    def begins(self, head: bytes) -> bool:
        return head.startswith(b"\x89LZO\0\r\n\x1a\n")


def _inflater() -> "zlib._Decompress":
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _inflated(data: bytes) -> bytes:
    out = b""
    inflater = _inflater()
    # In steps, so that damage costs what comes after it only.
    for at in range(0, len(data), 4096):
        try:
            out += inflater.decompress(data[at : at + 4096], UNPACKED - len(out))
        except zlib.error:
            break
        if len(out) >= UNPACKED or inflater.eof:
            break
    return out
