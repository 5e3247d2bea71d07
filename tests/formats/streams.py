"""Stream-optimized VMDKs as VMware and VirtualBox write them, front to back: qemu-img makes none with a footer."""

import struct
import zlib

GRAIN = 64 << 10
_ENTRIES = 512
_DESCRIPTOR = """\
# Disk DescriptorFile
version=1
CID=5e0f6e1c
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RDONLY {sectors} SPARSE "disk1.vmdk"

# The Disk Data Base
#DDB
ddb.adapterType = "lsilogic"
ddb.virtualHWVersion = "17"
"""


def header(sectors: int, directory: int) -> bytes:
    """Return the header of a disk of `sectors`, whose grain directory lies at the sector `directory`."""
    fields = struct.pack(
        "<4sIIQQQQIQQQ5sH", b"KDMV", 3, 0x30001, sectors, GRAIN // 512, 1, 20, _ENTRIES, 0, directory, 128,
        b"\0\n \r\n", 1,
    )  # fmt: skip
    return fields.ljust(512, b"\0")


def stream(disk: bytes) -> bytes:
    """Return `disk` as such a stream; grains of zeros are left out."""
    sectors = len(disk) // 512
    text = _DESCRIPTOR.format(sectors=sectors).encode()
    out = bytearray((header(sectors, (1 << 64) - 1) + text).ljust(GRAIN, b"\0"))
    tables = [0] * -(-sectors * 512 // (GRAIN * _ENTRIES))
    table = [0] * _ENTRIES
    count = -(-len(disk) // GRAIN)
    for index in range(count):
        grain = disk[index * GRAIN : (index + 1) * GRAIN].ljust(GRAIN, b"\0")
        if any(grain):
            table[index % _ENTRIES] = len(out) // 512
            packed = zlib.compress(grain)
            _add(out, struct.pack("<QI", index * GRAIN // 512, len(packed)) + packed)
        if any(table) and (index % _ENTRIES == _ENTRIES - 1 or index == count - 1):
            _mark(out, 1, _ENTRIES * 4 // 512)
            tables[index // _ENTRIES] = len(out) // 512
            _add(out, struct.pack(f"<{_ENTRIES}I", *table))
            table = [0] * _ENTRIES
    raw = struct.pack(f"<{len(tables)}I", *tables)
    _mark(out, 2, -(-len(raw) // 512))
    directory = len(out) // 512
    _add(out, raw)
    _mark(out, 3, 1)
    _add(out, header(sectors, directory))
    _add(out, bytes(512))
    return bytes(out)


def _add(out: bytearray, data: bytes) -> None:
    out += data + bytes(-len(data) % 512)


def _mark(out: bytearray, kind: int, sectors: int) -> None:
    _add(out, struct.pack("<QII", sectors, 0, kind).ljust(512, b"\0"))
