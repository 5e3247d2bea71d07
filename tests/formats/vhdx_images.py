"""VHDX images changed byte by byte: what each change is called, and what it is to be judged."""

import struct
from collections.abc import Callable

from probes.formats.vhdx_checksum import crc32c
from tests.formats.images import MiB

Edit = Callable[[bytearray], None]

# Where qemu-img lays things, with a log of 1 MiB
HEADER_1, HEADER_2, REGIONS, LOG, TABLE, METADATA = 64 << 10, 128 << 10, 192 << 10, MiB, 2 * MiB, 3 * MiB
ITEMS = METADATA + (64 << 10)
PARENT = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")
GUID = b"y" * 16


def put(data: bytearray, at: int, kind: str, *values: int | bytes) -> None:
    """Set the little-endian fields at `at`."""
    struct.pack_into("<" + kind, data, at, *values)


def seal(data: bytearray, at: int, length: int) -> None:
    """Put the right checksum into the structure of `length` bytes at `at`."""
    put(data, at + 4, "I", 0)
    put(data, at + 4, "I", crc32c(bytes(data[at : at + length])))


def several(*edits: Edit) -> Edit:
    """All of `edits`, one after another."""

    def edit(data: bytearray) -> None:
        for one in edits:
            one(data)

    return edit


def field(at: int, kind: str, *values: int | bytes) -> Edit:
    """Fields of what has no checksum, or to make it wrong."""
    return lambda data: put(data, at, kind, *values)


def header(at: int, kind: str, *values: int | bytes) -> Edit:
    """Fields of the second header, which is the newer one."""
    return several(field(HEADER_2 + at, kind, *values), lambda data: seal(data, HEADER_2, 4096))


def region_table(at: int, kind: str, *values: int | bytes) -> Edit:
    """Fields of the region table."""
    return several(field(REGIONS + at, kind, *values), lambda data: seal(data, REGIONS, 65536))


def region(index: int, offset: int, length: int) -> Edit:
    """The place of a region: number 0 is the block allocation table, number 1 the metadata."""
    return region_table(32 + 32 * index, "QI", offset, length)


def third_region(flags: int) -> Edit:
    """A region that nobody knows."""
    return several(field(REGIONS + 80, "16sQII", b"z" * 16, 30 * MiB, MiB, flags), region_table(8, "I", 3))


def sixth_item(guid: bytes, content: bytes, flags: int = 0) -> Edit:
    """An item more in the metadata."""

    def edit(data: bytearray) -> None:
        put(data, METADATA + 10, "H", 6)
        put(data, METADATA + 192, "16sIIII", guid, (64 << 10) + 256, len(content), flags, 0)
        data[ITEMS + 256 : ITEMS + 256 + len(content)] = content

    return edit


def move(source: int, to: int, length: int) -> Edit:
    """Write what lies at one place over another."""

    def edit(data: bytearray) -> None:
        data[to : to + length] = data[source : source + length]

    return edit


def end(size: int) -> Edit:
    """Nothing behind the first `size` bytes."""

    def edit(data: bytearray) -> None:
        del data[size:]

    return edit


def dirty_log(data: bytearray) -> None:
    """Lay an entry into the log: it changes nothing, and counts all the same."""
    put(data, LOG, "4sIIIQII16sQQ", b"loge", 0, 4096, 0, 1, 0, 0, GUID, len(data), len(data))
    seal(data, LOG, 4096)
    header(48, "16s", GUID)(data)


def locator(*texts: tuple[str, str]) -> bytes:
    """A parent locator with these keys and values."""
    entries, strings, at = b"", b"", 20 + 12 * len(texts)
    for key, value in texts:
        raw, held = key.encode("utf-16-le"), value.encode("utf-16-le")
        entries += struct.pack("<IIHH", at, at + len(raw), len(raw), len(held))
        strings += raw + held
        at += len(raw) + len(held)
    return struct.pack("<16sHH", b"p" * 16, 0, len(texts)) + entries + strings


def differencing(content: bytes) -> Edit:
    """A parent, by its locator."""
    return several(sixth_item(PARENT, content, 4), field(ITEMS + 4, "I", 2))


TWINS = move(HEADER_1, HEADER_2, 4096)
NO_HEADER_1 = field(HEADER_1, "4s", b"xxxx")

SOUND: dict[str, Edit] = {
    "the second header is lost": field(HEADER_2, "4s", b"xxxx"),
    "the first header is lost": NO_HEADER_1,
    "the headers are twins": TWINS,
    "the log has no length": header(68, "I", 0),
    "the second region table is lost": field(256 << 10, "4s", b"xxxx"),
    "a region table of odds and ends": region_table(65535, "B", 1),
    "an odd size": field(ITEMS + 8, "Q", 20 * MiB - 700),
    "an unknown region": third_region(0),
    "unknown metadata": sixth_item(b"z" * 16, b"x"),
    "physical sectors of 4 KiB": field(ITEMS + 36, "I", 4096),
    "unmapped blocks": field(TABLE, "QQQQ", 1, 3, 5, 0),
    "the end of the metadata is missing": end(ITEMS + 80),
}
"""What QEMU opens, and so do we."""

UNSOUND: dict[str, tuple[str, Edit]] = {
    "no header": ("vhdx-invalid", several(NO_HEADER_1, field(HEADER_2 + 80, "B", 1))),
    "a header of version 2": ("vhdx-invalid", several(NO_HEADER_1, header(66, "H", 2))),
    "two headers of one number": ("vhdx-invalid", several(TWINS, header(32, "16s", GUID))),
    "a log of version 1": ("vhdx-invalid", header(64, "H", 1)),
    "a log among the headers": ("vhdx-invalid", header(72, "Q", MiB // 2)),
    "a log out of place": ("vhdx-invalid", header(72, "Q", MiB + 4096)),
    "a log over the table": ("vhdx-invalid", header(68, "I", 2 * MiB)),
    "a log of odd length": ("vhdx-invalid", several(header(48, "16s", GUID), header(68, "I", 4096))),
    "a region table that is damaged": ("vhdx-invalid", field(REGIONS + 2000, "B", 1)),
    "a region table of zeros": ("vhdx-invalid", field(REGIONS, "65536s", b"")),
    "too many regions": ("vhdx-invalid", region_table(8, "I", 2048)),
    "no metadata": ("vhdx-invalid", region_table(48, "I", 1)),
    "the table twice": ("vhdx-invalid", several(move(REGIONS + 16, REGIONS + 48, 16), region(1, 9 * MiB, MiB))),
    "regions that overlap": ("vhdx-invalid", region(0, TABLE + 512, MiB)),
    "a region that has to be known": ("vhdx-unknown-feature", third_region(1)),
    "metadata that have to be known": ("vhdx-unknown-feature", sixth_item(b"z" * 16, b"x", 4)),
    "a parent that it has not": ("vhdx-invalid", sixth_item(PARENT, b"x" * 60)),
    "no parent though it has one": ("vhdx-invalid", field(ITEMS + 4, "I", 2)),
    "an item twice": ("vhdx-invalid", several(sixth_item(GUID, b"x"), move(METADATA + 32, METADATA + 192, 16))),
    "an item less": ("vhdx-invalid", field(METADATA + 10, "H", 4)),
    "an item of many less": (
        "vhdx-invalid",
        several(field(METADATA + 10, "H", 2047), field(METADATA + 160, "32s", b"")),
    ),
    "too many items": ("vhdx-invalid", field(METADATA + 10, "H", 2048)),
    "metadata that are damaged": ("vhdx-invalid", field(METADATA, "8s", b"METADATA")),
    "metadata beyond the end": ("vhdx-truncated", region(1, 1 << 40, MiB)),
    "an item beyond the end": ("vhdx-truncated", field(METADATA + 80, "I", 0xFFFFFFF0)),
    "blocks of 3 MiB": ("vhdx-invalid", field(ITEMS, "I", 3 * MiB)),
    "blocks of 2 GiB": ("vhdx-invalid", field(ITEMS, "I", 1 << 31)),
    "blocks of nothing": ("vhdx-invalid", field(ITEMS, "I", 0)),
    "sectors of 77 bytes": ("vhdx-invalid", field(ITEMS + 32, "I", 77)),
    "a disk of 65 TiB": ("vhdx-invalid", field(ITEMS + 8, "Q", 65 << 40)),
    "a disk without end": ("vhdx-invalid", field(ITEMS + 8, "Q", (1 << 64) - 1)),
    "a table too small": ("vhdx-invalid", region(0, TABLE, 152)),
    "a block beyond the end": ("vhdx-truncated", field(TABLE + 8, "Q", 1 << 40 | 6)),
    "a block that is cut": ("vhdx-truncated", several(field(TABLE, "Q", 7 * MiB | 6), end(8 * MiB - 4096))),
    "a block in the table": ("vhdx-invalid", field(TABLE + 8, "Q", TABLE | 6)),
}
"""What QEMU does not open, with the hazard that says why we do not."""
