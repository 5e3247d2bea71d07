"""What lies in a small sheep: objects as sparse files in a folder, laid out as Sheepdog lays them out.

`sheep` serves it, and tests fill it. Its behaviour was taken from a real sheep's: what `dog vdi create`, `snapshot`,
`clone` and `delete` leave behind, which objects become read-only, and what a lock does.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

HEAD = struct.Struct("<256s256sQQQQQBBBBIII")
MAP_OFFSET = 4664
MOST_OBJECTS = 1 << 20
INODE_SIZE = MAP_OFFSET + 4 * MOST_OBJECTS
SHIFT = 22
_2026 = 1_780_000_000


@dataclass(frozen=True)
class Vdi:
    """The head of an inode."""

    name: bytes
    vid: int
    size: int
    tag: bytes = b""
    created: int = _2026 << 32
    taken: int = 0
    store_policy: int = 0
    copies: int = 1
    shift: int = SHIFT
    snapshot: int = 1
    parent: int = 0

    def packed(self) -> bytes:
        """As it lies in the inode."""
        return HEAD.pack(
            self.name, self.tag, self.created, self.taken, 0, self.size, 0, 0, self.store_policy, self.copies,
            self.shift, self.snapshot, self.vid, self.parent,
        )  # fmt: skip

    @staticmethod
    def unpacked(data: bytes) -> "Vdi":
        """From an inode."""
        fields = HEAD.unpack(data[: HEAD.size])
        name, tag, created, taken, _, size, _, _, store_policy, copies, shift, snapshot, vid, parent = fields
        name, tag = name.rstrip(b"\0"), tag.rstrip(b"\0")
        return Vdi(name, vid, size, tag, created, taken, store_policy, copies, shift, snapshot, parent)


class Store:
    """The objects in `folder`; several processes may look at it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def path(self, oid: int) -> Path:
        """The file of an object."""
        return self.folder / f"{oid:016x}"

    def vids(self) -> list[int]:
        """The ids that are taken, by VDIs, snapshots, and what was deleted."""
        names = os.listdir(self.folder)
        return sorted(int(name, 16) >> 32 & 0xFFFFFF for name in names if int(name, 16) >> 63)

    def vdi(self, vid: int) -> Vdi:
        """The head of an inode. Raises FileNotFoundError."""
        with open(self.path(1 << 63 | vid << 32), "rb") as file:
            return Vdi.unpacked(file.read(HEAD.size))

    def vdis(self) -> Iterator[Vdi]:
        """All that are not deleted."""
        return (vdi for vid in self.vids() if (vdi := self.vdi(vid)).name)

    def current(self, name: bytes) -> Vdi:
        """The VDI of that name as it is now. Raises KeyError."""
        for vdi in self.vdis():
            if vdi.name == name and not vdi.taken:
                return vdi
        raise KeyError(name)

    def snapshot_of(self, name: bytes, tag: bytes, number: int) -> Vdi:
        """A snapshot by its tag or its number. Raises KeyError."""
        for vdi in self.vdis():
            if vdi.name == name and vdi.taken and (vdi.tag == tag if tag else vdi.snapshot == number):
                return vdi
        raise KeyError(name)

    def objects(self, vdi: Vdi) -> list[int]:
        """The map: whose object holds each piece."""
        count = -(-vdi.size >> vdi.shift)
        data = self.read(1 << 63 | vdi.vid << 32, MAP_OFFSET, 4 * count)
        return list(struct.unpack(f"<{count}I", data))

    def content(self, vdi: Vdi) -> bytes:
        """All of a VDI's data."""
        objects = self.objects(vdi)
        parts = [
            self.read(owner << 32 | index, 0, 1 << vdi.shift) if owner else bytes(1 << vdi.shift)
            for index, owner in enumerate(objects)
        ]
        return b"".join(parts)[: vdi.size]

    def read(self, oid: int, offset: int, length: int) -> bytes:
        """Bytes of an object. Raises FileNotFoundError."""
        with open(self.path(oid), "rb") as file:
            file.seek(offset)
            return file.read(length)

    def write(self, oid: int, offset: int, data: bytes) -> None:
        """Write into an object. Raises FileNotFoundError."""
        with open(self.path(oid), "r+b") as file:
            file.seek(offset)
            file.write(data)

    def make(self, oid: int, size: int, offset: int = 0, data: bytes = b"", copy_of: int = 0) -> None:
        """Make an object, in one step, as a copy of another or of zeros."""
        new = self.path(oid).with_suffix(".new")
        new.write_bytes(self.path(copy_of).read_bytes() if copy_of else b"")
        with open(new, "r+b") as file:
            file.truncate(size)
            file.seek(offset)
            file.write(data)
        new.rename(self.path(oid))

    # What an administrator does

    def create(
        self,
        name: bytes | str,
        content: bytes = b"",
        size: int | None = None,
        *,
        shift: int = SHIFT,
        store_policy: int = 0,
    ) -> Vdi:
        """`dog vdi create`, and `dog vdi write`; objects that would hold nothing but zeros are not made."""
        raw = name if isinstance(name, bytes) else os.fsencode(name)
        length = len(content) if size is None else size
        vdi = Vdi(raw, self._free(), length, shift=shift, store_policy=store_policy)
        self.make(1 << 63 | vdi.vid << 32, INODE_SIZE, 0, vdi.packed())
        length = 1 << min(vdi.shift, 30)
        for index, start in enumerate(range(0, len(content), length)):
            piece = content[start : start + length]
            if piece.strip(b"\0"):
                self.make(vdi.vid << 32 | index, length, 0, piece)
                self.write(1 << 63 | vdi.vid << 32, MAP_OFFSET + 4 * index, vdi.vid.to_bytes(4, "little"))
        return vdi

    def create_many(self, names: Iterable[str]) -> None:
        """As many empty VDIs of 1 MiB."""
        for vid, name in enumerate(names, self._free()):
            self.make(1 << 63 | vid << 32, INODE_SIZE, 0, Vdi(os.fsencode(name), vid, 1 << 20).packed())

    def snapshot(self, name: bytes | str, tag: bytes | str = b"") -> Vdi:
        """`dog vdi snapshot`: what is there becomes the snapshot, and a new inode goes on with its map."""
        old = self.current(name if isinstance(name, bytes) else os.fsencode(name))
        raw = tag if isinstance(tag, bytes) else os.fsencode(tag)
        taken = replace(old, tag=raw, taken=(_2026 + old.snapshot) << 32)
        self._child(old, replace(old, vid=self._free(), snapshot=old.snapshot + 1, parent=old.vid))
        self.write(1 << 63 | old.vid << 32, 0, taken.packed())
        return taken

    def clone(self, snapshot: Vdi, name: str) -> Vdi:
        """`dog vdi clone`."""
        vdi = replace(snapshot, name=name.encode(), vid=self._free(), tag=b"", taken=0, snapshot=1, parent=snapshot.vid)
        self._child(snapshot, vdi)
        return vdi

    def delete(self, vdi: Vdi) -> None:
        """`dog vdi delete`: the id stays taken."""
        self.write(1 << 63 | vdi.vid << 32, 0, bytes(256))

    def _child(self, parent: Vdi, child: Vdi) -> None:
        self.make(1 << 63 | child.vid << 32, INODE_SIZE, 0, child.packed())
        used = self.read(1 << 63 | parent.vid << 32, MAP_OFFSET, 4 * -(-parent.size >> parent.shift))
        self.write(1 << 63 | child.vid << 32, MAP_OFFSET, used)

    def _free(self) -> int:
        taken = self.vids()
        return taken[-1] + 1 if taken else 0x5EED
