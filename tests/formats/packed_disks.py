"""Images of the formats that QEMU reads and no tool here makes: DMG, cloop, Bochs."""

import base64
import bz2
import struct
import zlib
from collections.abc import Callable, Sequence

SECTOR = 512
ZEROS, RAW, IGNORED, ADC, ZLIB, BZIP2, LZFSE, LAST = (
    0, 1, 2, 0x80000004, 0x80000005, 0x80000006, 0x80000007, 0xFFFFFFFF,
)  # fmt: skip
_PACK: dict[int, Callable[[bytes], bytes]] = {
    RAW: bytes,
    ZLIB: zlib.compress,
    BZIP2: bz2.compress,
    ADC: bytes,
    LZFSE: bytes,
}

CLOOP_SCRIPT = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"


def mish(entries: Sequence[tuple[int, int, int, int, int]], first: int = 0) -> bytes:
    """A table of chunks: (kind, sector, sectors, offset, length) each."""
    table = b"".join(struct.pack(">IIQQQQ", kind, 0, *rest) for kind, *rest in entries)
    sectors = sum(entry[2] for entry in entries) % (1 << 64)
    head = struct.pack(">4sIQQQII", b"mish", 1, first, sectors, 0, 0x208, 0xFFFFFFFE).ljust(200, b"\0")
    return head + struct.pack(">I", len(entries)) + table


def koly(at: int, sectors: int, plist: tuple[int, int] = (0, 0), resources: tuple[int, int] = (0, 0)) -> bytes:
    """The trailer of a DMG, which stands `at` bytes into it."""
    head = struct.pack(">4sIIIQQQQQII", b"koly", 4, 512, 1, 0, 0, at, *resources, 1, 1).ljust(0xD8, b"\0")
    return (head + struct.pack(">QQ", *plist)).ljust(0x1E8, b"\0") + struct.pack(">IQ", 1, sectors) + bytes(12)


def dmg(
    disk: bytes, kinds: Sequence[int] = (ZLIB,), chunk: int = 256 << 10, fork: bool = False, parts: int = 1
) -> bytes:
    """A DMG of `disk`, its chunks packed by `kinds` in turn, zeros left out; its tables, `parts` of them, in a property
    list or a resource `fork`.
    """
    data, tables = bytearray(), []
    size = -(-len(disk) // parts // chunk) * chunk
    for begin in range(0, len(disk), size):
        entries = []
        for number, at in enumerate(range(begin, min(begin + size, len(disk)), chunk)):
            piece = disk[at : at + chunk]
            kind = kinds[number % len(kinds)] if any(piece) else ZEROS
            packed = _PACK[kind](piece) if any(piece) else b""
            entries.append((kind, (at - begin) // SECTOR, len(piece) // SECTOR, len(data), len(packed)))
            data += packed
        entries.append((LAST, entries[-1][1] + entries[-1][2], 0, len(data), 0))
        tables.append(mish(entries, begin // SECTOR))
    return wrapped(bytes(data), tables, len(disk) // SECTOR, fork)


def wrapped(data: bytes, tables: Sequence[bytes], sectors: int, fork: bool = False) -> bytes:
    """A DMG of stored `data` and its tables."""
    if fork:
        resources = b"".join(struct.pack(">I", len(table)) + table for table in tables)
        lengths = struct.pack(">IIII", 256, 256 + len(resources), len(resources), 50)
        text = lengths.ljust(256, b"\0") + resources + bytes(50)
    else:
        entries = "".join(
            f"<dict><key>Attributes</key><string>0x0050</string><key>Data</key>\n<data>\n{lines(table)}</data></dict>\n"
            for table in tables
        )
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict><key>resource-fork</key><dict>'
            f"<key>blkx</key><array>{entries}</array><key>plst</key><array><dict><key>Data</key>"
            f"<data>\n\t\tAAAAAAAAAAA=\n</data></dict></array></dict></dict></plist>\n"
        ).encode()
    at = len(data) + len(text)
    place = (len(data), len(text))
    return data + text + (koly(at, sectors, resources=place) if fork else koly(at, sectors, plist=place))


def lines(data: bytes) -> str:
    return "".join(f"\t\t\t{line}\n" for line in base64.encodebytes(data).decode().splitlines())


def cloop(disk: bytes, block: int = 64 << 10) -> bytes:
    """A cloop image of `disk`, which is filled up to whole blocks."""
    packed = [zlib.compress(disk[at : at + block].ljust(block, b"\0")) for at in range(0, len(disk), block)]
    place = 136 + (len(packed) + 1) * 8
    places = [place]
    for piece in packed:
        places.append(places[-1] + len(piece))
    head = CLOOP_SCRIPT.ljust(128, b"\0") + struct.pack(">II", block, len(packed))
    return head + struct.pack(f">{len(places)}Q", *places) + b"".join(packed)


def bochs(disk: bytes, extent: int = 16 << 10, version: int = 2) -> bytes:
    """A growing Bochs image of `disk`: as bximage writes it, with a spare half of a catalog; zeros are left out."""
    catalog, extents, bitmap = -(-len(disk) // extent) * 2, bytearray(), 512
    entries = []
    for at in range(0, len(disk), extent):
        piece = disk[at : at + extent].ljust(extent, b"\0")
        if not any(piece):
            entries.append(0xFFFFFFFF)
            continue
        entries.append(len(extents) // (extent + bitmap))
        bits = sum(1 << n for n in range(extent // SECTOR) if any(piece[n * SECTOR : (n + 1) * SECTOR]))
        extents += bits.to_bytes(bitmap, "little") + piece
    kind = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0") + b"Growing".ljust(16, b"\0")
    numbers = struct.pack("<IIIII", version << 16, 512, catalog, bitmap, extent)
    head = kind + numbers + (bytes(4) if version == 2 else b"") + struct.pack("<Q", len(disk))
    entries += [0xFFFFFFFF] * (catalog - len(entries))
    return head.ljust(512, b"\0") + struct.pack(f"<{catalog}I", *entries) + bytes(extents)
