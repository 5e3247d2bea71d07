"""Real images of every format with the places where their parsers look, to be changed at random.

`FARBOOT_FUZZ=20000` in the environment runs that many cases a format, at random; else a few that are always the same.
"""

import functools
import os
import struct
import tempfile
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from probes.formats.vhdx_checksum import crc32c
from probes.identify import identify
from probes.image import Image
from probes.reader import Pin, Reader
from probes.recording import RecordingReader
from tests.corpus import RECIPES, Outside
from tests.formats.images import MiB, patch, run, sparse
from tests.formats.judged import sound

CASES = int(os.environ.get("FARBOOT_FUZZ", "0"))

FUZZ = settings(
    max_examples=CASES or 120,
    derandomize=not CASES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

HANG = 10.0
"""Seconds of computing that no case takes: it takes milliseconds."""

MOST_MEMORY = 96 << 20
"""Bytes that judging one takes at its peak, with what was read of it (4 MiB at most) and unpacked (16 MiB)."""

_MOST_SEED = 16 * MiB
_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 16, 21, 22, 63, 64, 104, 255, 256, 511, 512, 513, 4096, 65535, 65536, MiB, 1 << 30)


class Mutated(Reader):
    """`base` with other bytes in some places and of another size; what is beyond its end is zeros. It counts."""

    def __init__(self, base: bytes, changes: Sequence[tuple[int, bytes]], size: int) -> None:
        self._base = base
        self._changes = changes
        self._pin = Pin(size)
        self.bytes_read = 0

    def pread(self, offset: int, length: int) -> bytes:
        length = max(min(length, self.size - offset), 0)
        data = bytearray(self._base[offset : offset + length].ljust(length, b"\0"))
        for at, value in self._changes:
            first, last = max(at, offset), min(at + len(value), offset + length)
            if first < last:
                data[first - offset : last - offset] = value[first - at : last - at]
        self.bytes_read += length
        return bytes(data)

    def write(self, path: Path) -> None:
        """Write it out, sparsely."""
        with path.open("wb") as file:
            file.write(self._base[: self.size])
            file.truncate(self.size)
            for at, value in self._changes:
                file.seek(at)
                file.write(value[: max(self.size - at, 0)])

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Kind:
    """A format to be fuzzed: where its numbers lie, as (offset, bytes); negative from the end. `big` is their order.

    `mend` sets check sums right again, so that what lies behind them is reached: it gives further changes.
    """

    name: str
    fields: tuple[tuple[int, int], ...] = field(repr=False)
    big: bool = False
    mend: Callable[[Reader], list[tuple[int, bytes]]] | None = None


def _each(start: int, stop: int, *widths: int) -> tuple[tuple[int, int], ...]:
    return tuple((at, width) for width in widths or (4,) for at in range(start, stop, width))


def _mend_vpc(reader: Reader) -> list[tuple[int, bytes]]:
    changes = []
    for start, length, place in ((0, 512, 64), (reader.size - 512, 512, 64), (512, 1024, 36)):
        if start >= 0:
            data = bytearray(reader.pread(start, length))
            data[place : place + 4] = bytes(4)
            changes.append((start + place, struct.pack(">I", ~sum(data) & 0xFFFFFFFF)))
    return changes


def _mend_vhdx(reader: Reader) -> list[tuple[int, bytes]]:
    changes = []
    for start, length in ((65536, 4096), (131072, 4096), (196608, 65536), (262144, 65536)):
        data = bytearray(reader.pread(start, length))
        if len(data) == length:
            data[4:8] = bytes(4)
            changes.append((start + 4, struct.pack("<I", crc32c(bytes(data)))))
    return changes


def _mend_gpt(reader: Reader) -> list[tuple[int, bytes]]:
    header = bytearray(reader.pread(512, 92))
    if header[:8] != b"EFI PART":
        return []
    count, size = struct.unpack_from("<II", header, 80)
    entries = reader.pread(1024, min(count * size, 65536))
    header[88:92] = struct.pack("<I", zlib.crc32(entries))
    header[16:20] = bytes(4)
    return [(512 + 88, bytes(header[88:92])), (512 + 16, struct.pack("<I", zlib.crc32(bytes(header))))]


_RAW = (
    *_each(0, 96), *_each(446, 510, 4, 1), *_each(512, 604), *_each(1024, 1152, 8), *_each(32768, 33000),
    *_each(34816, 34900), *_each(36864, 37200, 2), *_each(1080, 1200), *_each(65536, 65700),
    *_each(MiB, MiB + 96, 2),
)  # fmt: skip

KINDS: tuple[Kind, ...] = (
    Kind("raw", _RAW, mend=_mend_gpt),
    Kind(
        "qcow2",
        (*_each(4, 112), *_each(112, 200, 4, 8), *_each(196608, 196640, 8), *_each(262144, 262272, 8), (512, 8)),
        big=True,
    ),
    Kind("qcow", (*_each(4, 48), (32, 1), (33, 1), *_each(48, 112, 8), *_each(4096, 4160, 8)), big=True),
    Kind("qed", (*_each(4, 64, 4, 8), *_each(65536, 65600, 8), *_each(327680, 327744, 8))),
    Kind(
        "vmdk",
        (*_each(4, 12), *_each(12, 44, 8), *_each(44, 48), *_each(48, 72, 8), *_each(72, 79, 1), *_each(512, 1536, 1),
         *_each(21 * 512, 21 * 512 + 64), *_each(26 * 512, 26 * 512 + 64),
         *_each(-1024, -512), *_each(-1536, -1024)),
    ),
    Kind("vdi", (*_each(64, 88), *_each(340, 460), (368, 8), *_each(512, 640))),
    Kind(
        "vpc",
        (*_each(0, 88), (16, 8), (40, 8), (48, 8), (56, 2), (58, 1), (59, 1), *_each(512, 560), (528, 8),
         *_each(1536, 1600), *_each(-512, -424), (-472, 8), (-464, 8)),
        big=True,
        mend=_mend_vpc,
    ),
    Kind(
        "vhdx",
        (*_each(0, 16), *_each(65536, 65620), *_each(131072, 131156), *_each(196608, 196690, 4, 8),
         *_each(MiB, MiB + 64), *_each(2 * MiB, 2 * MiB + 64, 8), *_each(3 * MiB, 3 * MiB + 256),
         *_each(3 * MiB + 65536, 3 * MiB + 65600)),
        mend=_mend_vhdx,
    ),
    Kind("parallels", (*_each(0, 64, 4), (36, 8), (56, 8), *_each(64, 192))),
    Kind("luks", ((6, 2), *_each(8, 104, 1), *_each(104, 112), *_each(164, 168), *_each(208, 592)), big=True),
    Kind("bochs", (*_each(32, 96), (84, 8), (88, 8), *_each(512, 600))),
    Kind("cloop", (*_each(128, 136), *_each(136, 200, 8)), big=True),
    Kind("dmg", (*_each(-512, 0, 4), *_each(-512, 0, 8), *_each(0, 2048, 1)), big=True),
    Kind("packed", (*_each(0, 64, 1), *_each(0, 64), *_each(-64, 0), *_each(512, 640, 1))),
)  # fmt: skip

_PACKED = {"gzip", "xz", "bzip2", "zstd", "zip", "tar"}


@functools.cache
def seeds(kind: str) -> tuple[bytes, ...]:
    """Images of a kind: those of the corpus, and a partitioned disk as qemu-img converts it."""
    found: list[bytes] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "image"
        for recipe in RECIPES:
            if kind == ("packed" if recipe.format in _PACKED else recipe.format):
                recipe.make(path, Outside())
                if path.stat().st_size <= _MOST_SEED:
                    found.append(path.read_bytes())
                path.unlink()
        disk = _partitioned(folder)
        if kind == "raw":
            found.append(disk.read_bytes())
        for driver, options in CONVERSIONS:
            if driver == kind:
                run("qemu-img", "convert", "-O", driver, *options, disk, path)
                found.append(path.read_bytes())
                path.unlink()
    return tuple(found)


CONVERSIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("qcow2", ()), ("qcow2", ("-c",)), ("qcow2", ("-c", "-o", "compression_type=zstd")),
    ("qcow2", ("-o", "extended_l2=on")), ("qcow2", ("-o", "cluster_size=512")), ("qcow2", ("-o", "compat=0.10")),
    ("qcow", ()), ("qed", ()), ("vmdk", ()), ("vmdk", ("-o", "subformat=streamOptimized")),
    ("vdi", ()), ("vdi", ("-o", "static=on")), ("vpc", ()), ("vpc", ("-o", "subformat=fixed")), ("vhdx", ()),
    ("parallels", ()),
)  # fmt: skip


def _partitioned(folder: Path) -> Path:
    disk = sparse(folder / "disk", 3 * MiB)
    run("sfdisk", "-q", disk, stdin="label: gpt\nsize=1M, type=uefi\nsize=512K\n")
    run("mkfs.vfat", "-n", "SYSTEM", "-C", folder / "fat", "1000")
    patch(disk, MiB, (folder / "fat").read_bytes())
    return disk


def judge_within_bounds(reader: Mutated, weigh: bool = True) -> Image:
    """Judge it, with and without a look inside; `weigh` measures the memory that takes."""
    began = time.thread_time()
    peak = 0
    recorder = RecordingReader(reader)
    if weigh:
        tracemalloc.start()
    try:
        image = identify(recorder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    sound(image, recorder)
    assert recorder.bytes_read == reader.bytes_read  # nothing twice
    assert time.thread_time() - began < HANG
    assert peak < MOST_MEMORY
    brief = RecordingReader(reader)
    again = identify(brief, look_inside=False)
    sound(again, brief)
    assert (again.format, again.virtual_size) == (image.format, image.virtual_size)
    assert again.verdict <= image.verdict  # a look inside finds more, never less
    return image


@st.composite
def mutations(draw: st.DrawFn, kind: Kind) -> Mutated:
    """An image of `kind` with some of its numbers, and some of its bytes, changed; cut, or grown by zeros."""
    base = draw(st.sampled_from(seeds(kind.name)))
    size = len(base)
    changes: list[tuple[int, bytes]] = []
    for _ in range(draw(st.integers(1, 5))):
        way = draw(st.integers(0, 9))
        if way < 7:
            at, width = draw(st.sampled_from(kind.fields))
            changes.append((at % size if at < 0 else at, _number(draw, width, kind.big, size)))
        elif way < 9:
            at = draw(st.integers(0, min(size, 4096))) if way == 7 else draw(st.integers(0, size))
            changes.append((at, draw(st.binary(min_size=1, max_size=16))))
        else:
            at, other = draw(st.integers(0, size)), draw(st.integers(0, size))
            changes.append((at, base[other : other + draw(st.sampled_from([4, 8, 64, 512]))]))
    how = draw(st.integers(0, 11))
    if how == 0:
        size = draw(st.integers(0, size))
    elif how == 1:
        size = draw(st.sampled_from([size + 1, size + 511, 1 << 30, 1 << 41, (1 << 63) - 1]))
    reader = Mutated(base, changes, size)
    if kind.mend is not None and draw(st.booleans()):
        return Mutated(base, [*changes, *kind.mend(reader)], size)
    return reader


def _number(draw: st.DrawFn, width: int, big: bool, size: int) -> bytes:
    most = (1 << 8 * width) - 1
    way = draw(st.integers(0, 4))
    if way == 0:
        value = draw(st.integers(0, most))
    elif way == 1:
        value = (1 << draw(st.integers(0, 8 * width))) + draw(st.integers(-1, 1))
    elif way == 2:
        value = most - draw(st.integers(0, 2))
    elif way == 3:
        value = size // draw(st.sampled_from([1, 512, 4096, 65536])) + draw(st.integers(-1, 1))
    else:
        value = draw(st.sampled_from(_NUMBERS))
    return (value & most).to_bytes(width, "big" if big else "little")
