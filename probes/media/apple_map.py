"""Apple's partition map: a block for each partition, from the second of the disk on.

As Linux' block/partitions/mac.c reads it (Inside Macintosh: Devices, chapter 3). Old Macs', and on many discs besides.
"""

from probes.fields import big, text
from probes.image import Partition
from probes.media.table import Table
from probes.reader import Reader

MAX_ENTRIES = 31
"""Partitions that are listed: their blocks then lie in the first 64 KiB, unless they are of 4096 bytes."""

_BLOCKS = frozenset({512, 1024, 2048, 4096})
_SYSTEM, _BOOTABLE = "Apple_partition_map", 0x08


def read_apple_map(reader: Reader, sector0: bytes) -> Table | None:
    """Return Apple's partition map of the disk in `reader`, whose first sector is `sector0`, or None."""
    block = big(sector0, 2, 2)
    if sector0[:2] != b"ER" or block not in _BLOCKS:
        return None
    first = reader.pread(block, 512)
    if first[:2] != b"PM" and block != 512:  # discs may count in 2048 and keep a map of 512-byte blocks all the same
        block, first = 512, reader.pread(512, 512)
    if first[:2] != b"PM":
        return None
    count = big(first, 4, 4)
    entries = reader.pread(block, block * min(count, MAX_ENTRIES))
    partitions = []
    for number in range(1, min(count, MAX_ENTRIES) + 1):
        entry = entries[(number - 1) * block : number * block]
        if entry[:2] != b"PM":
            break
        name, kind = text(entry, 16, 32, "mac-roman"), text(entry, 48, 32, "mac-roman")
        start, blocks = big(entry, 8, 4), big(entry, 12, 4)
        bootable = bool(big(entry, 88, 4) & _BOOTABLE) and kind != _SYSTEM
        partitions.append(Partition(number, start * block, blocks * block, kind, name, bootable))
    features = (f"more than {MAX_ENTRIES} partitions",) if count > MAX_ENTRIES else ()
    return Table("apm", tuple(partitions), features=features)
