"""Unpacking a block of an image within bounds, and how much unpacked data may be believed of packed data."""

import bz2
import zlib
from collections.abc import Callable
from typing import Literal

from probes.image import Hazard, Verdict
from probes.mapping import CannotMap

MAX_RATIO = 1100
"""Bytes that one packed byte may stand for before somebody is asked.

Deflate, which cloop and most DMGs use, cannot pass 1032. bzip2 and LZFSE can, on zeros alone, which every maker of a
DMG leaves out instead of packing them.
"""

MAX_WINDOW = 8 << 20
"""Bytes of memory that a zstd frame may ask for; QEMU's own ask for no more than a cluster, 2 MiB at most."""

MAX_KEPT = 16 << 20
"""Bytes of unpacked blocks that are kept."""

_RAW_DEFLATE = -12  # the window of QEMU's qcow2 and qcow: what was packed with a larger one is damaged to it
_ZLIB = 15


class Unpacked:
    """Blocks that were unpacked, by whatever tells them apart: a partition table is asked for again and again."""

    def __init__(self) -> None:
        self._blocks: dict[int, bytes] = {}
        self._size = 0

    def get(self, key: int, unpack: Callable[[], bytes]) -> bytes:
        """Return the block `key`, by `unpack` if it is not kept."""
        if key in self._blocks:
            return self._blocks[key]
        data = unpack()
        if self._size + len(data) > MAX_KEPT:
            self._blocks.clear()
            self._size = 0
        self._blocks[key] = data
        self._size += len(data)
        return data


def inflate(packed: bytes, length: int, kind: Literal["deflate", "zlib"]) -> bytes:
    """Return the first `length` bytes of what `packed` holds: QEMU's bare deflate, or a zlib stream. Raises CannotMap
    where that is damaged or holds fewer.
    """
    try:
        data = zlib.decompressobj(_RAW_DEFLATE if kind == "deflate" else _ZLIB).decompress(packed, length)
    except zlib.error as error:
        raise CannotMap("a block that cannot be inflated") from error
    return _whole(data, length)


def unpack_bzip2(packed: bytes, length: int) -> bytes:
    """Return the first `length` bytes of a bzip2 stream. Raises CannotMap as `inflate`."""
    try:
        data = bz2.BZ2Decompressor().decompress(packed, length)
    except (OSError, ValueError) as error:
        raise CannotMap("a block that cannot be unpacked") from error
    return _whole(data, length)


def unpack_zstd(packed: bytes, length: int) -> bytes:
    """Return the first `length` bytes of a zstd frame, whatever stands behind it. Raises CannotMap as `inflate`."""
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(packed) as frame:
            data = frame.read(length)
    except zstandard.ZstdError as error:
        raise CannotMap("a cluster that cannot be unpacked") from error
    return _whole(data, length)


def judge_ratio(packed: int, unpacked: int) -> tuple[Hazard, ...]:
    """Judge a claim that `packed` bytes hold `unpacked` ones."""
    if unpacked <= packed * MAX_RATIO:
        return ()
    text = (
        f"It claims to hold {unpacked} bytes in {packed} packed ones, more than compression gives: reading it may take "
        "very long, or fail."
    )
    return (Hazard("decompression-ratio", text, Verdict.ASK),)


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise CannotMap("a block that is cut short")
    return data
