"""UDF volumes: where their descriptors are, and the label and UUID in them, in the manner of blkid(8).

ECMA-167 3rd edition (part 3, sections 10.1, 10.2, 10.5, 10.6 and 7.2, tags) and OSTA UDF 2.60 (section 2.1.3, names):
https://ecma-international.org/publications-and-standards/standards/ecma-167/.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probes.fields import little
from probes.image import Filesystem
from probes.reader import Reader, ahead

ANCHOR = 256
"""The block that, of two other places besides, tells where the descriptors are."""

USUAL_DESCRIPTORS = (32 * 2048, 16 * 2048)
"""Where most programs that make discs put them, as (offset, length) in bytes."""

BLOCKS = (2048, 512, 4096, 1024)
"""Sizes of a block in bytes: that of discs, and those of disks."""

_MAX_DESCRIPTORS = 32
_PRIMARY, _ANCHOR, _PARTITION, _LOGICAL, _TERMINATING = 1, 2, 5, 6, 8  # what tags say


@dataclass(frozen=True, slots=True)
class UdfVolume:
    """A UDF volume of blocks of `block` bytes; its last partition ends at byte `end`, 0 where that is not known."""

    filesystem: Filesystem
    block: int
    end: int


def anchor_spans(blocks: Iterable[int] = BLOCKS) -> list[tuple[int, int]]:
    """Return the (offset, length) of the places where the anchors of volumes of such blocks would be."""
    return [(ANCHOR * block, 512) for block in blocks]


def find_volume(
    reader: Reader, start: int = 0, size: int | None = None, blocks: Sequence[int] = BLOCKS
) -> UdfVolume | None:
    """Return the UDF volume in the `size` bytes at `start` (by default: all of it), or None if it has no anchor.

    Labels are as the volume has them, not cleaned. Raises what `reader` raises.
    """
    size = reader.size - start if size is None else min(size, reader.size - start)
    ahead(reader, [(start + at, length) for at, length in anchor_spans(blocks) if at < size])
    for block in blocks:
        anchor = _anchor(reader, start, size, block, ANCHOR)
        if anchor is not None:
            return _volume(reader, start, size, block, anchor)
    # A medium that was not closed has only those at its end.
    places = [(block, size // block - back) for block in blocks for back in (1, ANCHOR + 1)]
    ahead(reader, [(start + block * number, 512) for block, number in places if number > 0])
    for block, number in places:
        anchor = _anchor(reader, start, size, block, number)
        if anchor is not None:
            return _volume(reader, start, size, block, anchor)
    return None


def _anchor(reader: Reader, start: int, size: int, block: int, number: int) -> bytes | None:
    at = number * block
    data = reader.pread(start + at, 512) if 0 < at < size else b""
    return data if _tag(data) == _ANCHOR and little(data, 12, 4) == number else None


def _volume(reader: Reader, start: int, size: int, block: int, anchor: bytes) -> UdfVolume:
    label = identifier = ""
    end = 0
    for at in (16, 24):  # the main sequence of descriptors, and its reserve
        length, place = little(anchor, at, 4), little(anchor, at + 4, 4) * block
        count = min(length // block, _MAX_DESCRIPTORS)
        data = reader.pread(start + place, count * block) if 0 < place < size else b""
        for here in range(0, len(data), block):
            descriptor = data[here : here + 512]
            tag = _tag(descriptor)
            if tag == _PRIMARY:
                label = label or _name(descriptor[24:56])
                identifier = _name(descriptor[72:200])
            elif tag == _LOGICAL:
                label = _name(descriptor[84:212])
            elif tag == _PARTITION:
                end = max(end, (little(descriptor, 188, 4) + little(descriptor, 192, 4)) * block)
            elif tag == _TERMINATING:
                break
        if end:
            break
    return UdfVolume(Filesystem("udf", label, _uuid(identifier)), block, end)


def _tag(descriptor: bytes) -> int:
    """Return what a descriptor is, by a tag whose check sum fits; 0 if it has none."""
    tag = descriptor[:16]
    if len(tag) < 16 or (sum(tag) - tag[4]) & 0xFF != tag[4]:
        return 0
    return little(tag, 0, 2)


def _name(field: bytes) -> str:
    """Return a name: its encoding stands in the first byte, its length in the last."""
    if not field:
        return ""
    length = min(field[-1], len(field) - 1)
    coded = field[1:length]
    if field[0] in {8, 254}:
        name = coded.decode("latin-1")
    elif field[0] in {16, 255}:
        name = coded[: len(coded) & ~1].decode("utf-16-be", "replace")
    else:
        return ""
    return name.rstrip("\0 ")


def _uuid(identifier: str) -> str:
    """Return blkid's UUID: the first characters of the volume set's name, as they are if they are hexadecimal."""
    coded = identifier.encode("utf-8", "replace")[:16]
    if len(coded) < 8:
        return ""
    hexadecimal = next((at for at, byte in enumerate(coded) if byte not in b"0123456789abcdefABCDEF"), len(coded))
    if hexadecimal < 8:
        return coded[:8].hex()
    if hexadecimal < 16:
        return coded[:8].decode("ascii").lower() + coded[8:12].hex()
    return coded.decode("ascii").lower()
