"""The metadata of a VHDX: the disk's size, its blocks, its parent.

The specification is [MS-VHDX], section 2.6; the checks are those of QEMU's block/vhdx.c. All numbers are
little-endian.
"""

from dataclasses import dataclass

from probes.fields import little
from probes.formats.vhdx_headers import PIECE, MiB, Region, broken, truncated, unknown
from probes.reader import Reader, ahead

ITEMS = 64 << 10
"""Bytes into the metadata where the items lie, behind their table."""

_TABLE_LENGTH = 64 << 10
_REQUIRED = 4
_FIXED, _HAS_PARENT = 1, 2
_MAX_VIRTUAL_SIZE = 64 << 40  # VHDX_MAX_IMAGE_SIZE, which QEMU demands only of those that it makes
_MAX_LOCATOR = 16 << 10
_CHUNK = (1 << 23) * 512  # bytes of the disk for which one sector bitmap stands

_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_PAGE_83 = bytes.fromhex("ab12cabee6b2234593efc309e000c746")
_LOGICAL_SECTOR = bytes.fromhex("1dbf41816fa90947ba47f233a8faab5f")
_PHYSICAL_SECTOR = bytes.fromhex("c748a3cd5d4471449cc9e9885251c556")
_PARENT = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")
_NEEDED = {_PARAMETERS, _SIZE, _PAGE_83, _LOGICAL_SECTOR, _PHYSICAL_SECTOR}


@dataclass(frozen=True, slots=True)
class Disk:
    """What the metadata say, judged. Sizes in bytes; `parent` is the parent's name as it stands, None without one."""

    virtual_size: int
    block_size: int
    logical_sector: int
    is_fixed: bool
    parent: str | None

    @property
    def chunk_ratio(self) -> int:
        """How many blocks there are to a sector bitmap."""
        return _CHUNK // self.block_size

    @property
    def table_entries(self) -> int:
        """How many entries the block allocation table needs: those of bitmaps stand between those of blocks."""
        blocks = -(-self.virtual_size // self.block_size)
        return blocks + (blocks - 1) // self.chunk_ratio


def read_disk(reader: Reader, region: Region) -> Disk:
    """Read the metadata in `region`. Raises `vhdx_headers.Unsound`, and what `reader` raises."""
    items = _items(reader, region)
    ahead(reader, [(item.offset, item.length) for item in items.values()])
    bits = _number(reader, items[_PARAMETERS], 4, 4)
    if (_PARENT in items) != bool(bits & _HAS_PARENT):
        raise broken("it both has a parent and has none")
    block_size = _number(reader, items[_PARAMETERS], 0, 4)
    if not MiB <= block_size <= 256 * MiB or block_size & (block_size - 1):
        raise broken(f"blocks of {block_size} bytes")
    virtual_size = _number(reader, items[_SIZE], 0, 8) // 512 * 512
    if virtual_size > _MAX_VIRTUAL_SIZE:
        raise broken(f"a disk of {virtual_size} bytes, where 64 TiB is the most")
    logical_sector = _number(reader, items[_LOGICAL_SECTOR], 0, 4)
    if logical_sector not in {512, 4096}:
        raise broken(f"sectors of {logical_sector} bytes")
    parent = _parent_name(reader, items[_PARENT]) if _PARENT in items else None
    return Disk(virtual_size, block_size, logical_sector, bool(bits & _FIXED), parent)


def _items(reader: Reader, region: Region) -> dict[bytes, Region]:
    """Return where the known items lie, by their GUID."""
    data = reader.pread(region.offset, PIECE)
    if data[:8] != b"metadata":
        raise truncated("its metadata are missing") if not data else broken("its metadata are damaged")
    count = little(data, 10, 2)
    if count * 32 > _TABLE_LENGTH - 32:
        raise broken(f"{count} items of metadata")
    if 32 + count * 32 > len(data):
        data = reader.pread(region.offset, _TABLE_LENGTH)
    found: dict[bytes, Region] = {}
    for at in range(32, 32 + count * 32, 32):
        guid = data[at : at + 16]
        if guid in found:
            raise broken("its metadata name an item twice")
        if guid in _NEEDED or guid == _PARENT:
            length = min(little(data, at + 20, 4), _MAX_LOCATOR) if guid == _PARENT else 16
            found[guid] = Region(region.offset + little(data, at + 16, 4), length)
        elif little(data, at + 24, 4) & _REQUIRED:
            raise unknown("metadata")
    if not found.keys() >= _NEEDED:
        raise broken("its metadata are not complete")
    return found


def _number(reader: Reader, item: Region, at: int, width: int) -> int:
    data = reader.pread(item.offset + at, width)
    if len(data) != width:
        raise truncated("its metadata lie beyond its end")
    return little(data, 0, width)


def _parent_name(reader: Reader, item: Region) -> str:
    """Return the parent's path from its locator, a list of keys and values; empty where there is none to be found."""
    data = reader.pread(item.offset, item.length)
    named: dict[str, str] = {}
    for at in range(20, 20 + min(little(data, 18, 2), 16) * 12, 12):
        key, value = little(data, at, 4), little(data, at + 4, 4)
        key_length, value_length = little(data, at + 8, 2), little(data, at + 10, 2)
        named[_text(data[key : key + key_length])] = _text(data[value : value + value_length])
    kinds = ("relative_path", "absolute_win32_path", "volume_path")
    return next((named[kind] for kind in kinds if named.get(kind)), "")


def _text(data: bytes) -> str:
    return data.decode("utf-16-le", "replace").partition("\0")[0]
