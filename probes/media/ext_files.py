"""A file of an ext2, ext3 or ext4, by its path: for the few small ones that say what a disk is.

Extents and direct blocks are followed; their trees, indirect blocks and symbolic links are not. Directories that are
indexed read as plain ones do.
The layout is that of the kernel's Documentation/filesystems/ext4. What is damaged, odd or large is simply not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from probes.fields import little
from probes.reader import Reader, ahead

MAX_FOLDER = 32 << 10
"""Bytes of a folder that are read: beyond them nothing is found."""

MAX_FILE = 4 << 10
"""Bytes of a file that are read."""

_META_BG, _EXTENTS_64BIT, _ENCRYPT = 0x10, 0x80, 0x10000
_EXTENTS, _INLINE, _ENCRYPTED = 0x80000, 0x10000000, 0x800
_FOLDER, _FILE = 0x4000, 0x8000
_ROOT = 2


@dataclass(frozen=True, slots=True)
class _Node:
    """An inode: `kind` as in its mode, `spans` where its first bytes lie in the image, as (offset, length)."""

    kind: int
    size: int
    spans: tuple[tuple[int, int], ...]


class ExtFiles:
    """The files of the ext filesystem in the `size` bytes at `start` of `reader`."""

    def __init__(self, reader: Reader, start: int, size: int) -> None:
        self._reader = reader
        self._start = start
        self._size = size
        block = reader.pread(start + 1024, 1024)
        self._incompatible = little(block, 96, 4)
        self._block = 1024 << min(little(block, 24, 4), 6)
        self._per_group = little(block, 40, 4)
        self._inodes = little(block, 0, 4)
        dynamic = little(block, 76, 4) >= 1
        self._inode_size = little(block, 88, 2) if dynamic else 128
        wide = self._incompatible & _EXTENTS_64BIT
        self._descriptor_size = max(little(block, 254, 2), 32) if wide else 32
        self._descriptors = (little(block, 20, 4) + 1) * self._block

    def first(self, *paths: str) -> bytes | None:
        """Return the content, up to 4 KiB, of the first of `paths` that is a plain file; None if none is.

        Paths are relative to the root. All of them are followed at once, a folder a round trip or two. Raises what the
        reader raises.
        """
        if not self._is_followed():
            return None
        nodes: dict[tuple[str, ...], _Node | None] = {(): self._nodes([_ROOT])[0]}
        wanted = [tuple(path.split("/")) for path in paths]
        for depth in range(max(map(len, wanted))):
            ahead(self._reader, [span for node in nodes.values() if node for span in node.spans])
            steps: dict[tuple[str, ...], int] = {}
            for path in wanted:
                folder = nodes.get(path[:depth])
                if depth < len(path) and path[: depth + 1] not in nodes and folder and folder.kind == _FOLDER:
                    number = self._lookup(folder, path[depth])
                    if number:
                        steps[path[: depth + 1]] = number
            nodes |= dict(zip(steps, self._nodes(list(steps.values())), strict=True))
            done = next((node for path in wanted if (node := nodes.get(path)) and node.kind == _FILE), None)
            if done is not None:
                return self._content(done, MAX_FILE)
        return None

    def _is_followed(self) -> bool:
        odd = self._incompatible & (_META_BG | _ENCRYPT)
        sizes = 128 <= self._inode_size <= self._block and 32 <= self._descriptor_size <= 1024
        return not odd and sizes and self._per_group > 0

    def _nodes(self, numbers: Sequence[int]) -> list[_Node | None]:
        """Return the inodes of these numbers, in two round trips at most."""
        groups = [self._descriptors + (number - 1) // self._per_group * self._descriptor_size for number in numbers]
        ahead(self._reader, [(self._start + at, self._descriptor_size) for at in groups])
        places = []
        for number, at in zip(numbers, groups, strict=True):
            descriptor = self._read(at, self._descriptor_size)
            table = little(descriptor, 8, 4) | (little(descriptor, 40, 4) << 32 if len(descriptor) >= 64 else 0)
            places.append(table * self._block + (number - 1) % self._per_group * self._inode_size)
        ahead(self._reader, [(self._start + at, 128) for at in places if at < self._size])
        return [self._node(self._read(at, 128)) for at in places]

    def _node(self, inode: bytes) -> _Node | None:
        flags = little(inode, 32, 4)
        if len(inode) < 128 or flags & (_INLINE | _ENCRYPTED):
            return None
        runs = self._extents(inode[40:100]) if flags & _EXTENTS else self._direct(inode[40:88])
        spans: list[tuple[int, int]] = []
        expected = 0
        for logical, physical, count in runs:
            if logical != expected or physical * self._block >= self._size:
                break
            at, length = self._start + physical * self._block, count * self._block
            if spans and sum(spans[-1]) == at:
                spans[-1] = (spans[-1][0], spans[-1][1] + length)
            else:
                spans.append((at, length))
            expected += count
        size = little(inode, 4, 4)
        return _Node(little(inode, 0, 2) & 0xF000, size, _cut(spans, min(size, MAX_FOLDER)))

    def _extents(self, root: bytes) -> list[tuple[int, int, int]]:
        """Return the runs (logical block, physical block, blocks) of an extent tree without branches."""
        if little(root, 0, 2) != 0xF30A or little(root, 6, 2):
            return []
        entries = (root[12 + 12 * index : 24 + 12 * index] for index in range(min(little(root, 2, 2), 4)))
        return [
            (little(one, 0, 4), little(one, 8, 4) | little(one, 6, 2) << 32, little(one, 4, 2))
            for one in entries
            if little(one, 4, 2) <= 32768  # beyond that it is allocated, and not yet written
        ]

    def _direct(self, blocks: bytes) -> list[tuple[int, int, int]]:
        numbers = [little(blocks, at, 4) for at in range(0, len(blocks), 4)]
        return [(index, number, 1) for index, number in enumerate(numbers) if number]

    def _lookup(self, folder: _Node, name: str) -> int | None:
        """Return the inode number of `name` in `folder`."""
        wanted = name.encode()
        data = self._content(folder, MAX_FOLDER)
        for begin in range(0, len(data), self._block):
            at, end = begin, min(begin + self._block, len(data))
            while at + 8 <= end:
                number, length = little(data, at, 4), little(data, at + 4, 2)
                if length < 8:
                    break
                if data[at + 6] == len(wanted) and data[at + 8 : at + 8 + len(wanted)] == wanted:
                    return number if 0 < number <= self._inodes else None
                at += length
        return None

    def _content(self, node: _Node, most: int) -> bytes:
        spans = _cut(node.spans, min(node.size, most))
        ahead(self._reader, spans)
        return b"".join(self._reader.pread(at, length) for at, length in spans)

    def _read(self, at: int, length: int) -> bytes:
        return self._reader.pread(self._start + at, min(length, self._size - at)) if at < self._size else b""


def _cut(spans: Sequence[tuple[int, int]], size: int) -> tuple[tuple[int, int], ...]:
    """Return as much of `spans` as makes `size` bytes."""
    kept = []
    for at, length in spans:
        if size <= 0:
            break
        kept.append((at, min(length, size)))
        size -= length
    return tuple(kept)
