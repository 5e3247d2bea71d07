"""A VDI's data: the map of its objects, reading through it, and writing with copy-on-write.

The map says for every piece which VDI's object holds it: none (zeros), the VDI's own, or one that it shares with the
snapshot it grew out of. Its own are written in place; the others are made new, as a copy, and then entered in the map.
"""

import contextlib
import sys
import threading
import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from probes.errors import BadAnswer, Cancelled, Denied, FarbootError, Unsupported
from probes.location import Location
from probes.reader import Pin, Reader, Writer
from probes.sheepdog.cluster import Cluster, read_answer
from probes.sheepdog.protocol import (
    MAP_OFFSET,
    Inode,
    Request,
    Result,
    create_object,
    data_of,
    failure,
    inode_of,
    read_object,
    write_object,
)

_LONGEST_READ = 1 << 20
_READS_AT_ONCE = 8
_MAP_PIECE = 1 << 18
_TRIES = 5
"""How often one write may find that the VDI has become a snapshot meanwhile."""


class VdiReader(Reader):
    """A VDI or a snapshot, as it was when it was opened: which objects it has is looked up once.

    The pin of a snapshot is strong. That of a VDI's current state is weak: it changes when the VDI is made anew or gets
    an object of its own, not when one is written over.
    """

    def __init__(self, cluster: Cluster, location: Location, inode: Inode) -> None:
        _check(inode, location)
        self._cluster = cluster
        self._location = location
        self._inode = inode
        self._map = _load_map(cluster, location, inode)
        self._size = inode.size
        self._pin = _pin(inode, self._map)
        self._closed = False

    @property
    def size(self) -> int:
        return self._size

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self._size)
        if self._closed:
            raise Cancelled("read", self._location, "it was closed")
        if offset >= end:
            return b""
        return b"".join(_in_flight(_READS_AT_ONCE, self._reads(offset, end)))

    def close(self) -> None:
        self._closed = True

    def _reads(self, offset: int, end: int) -> Iterator[Callable[[], bytes]]:
        """Ask for each part, and give what waits for it."""
        for index, start, length in _parts(offset, end, self._inode.shift, _LONGEST_READ):
            owner = self._map[index]
            if owner:
                request = read_object(data_of(owner, index), start, length)
                asked = self._cluster.ask(request, "read", self._location)
                yield partial(read_answer, asked, length, "read", self._location)
            else:
                yield partial(bytes, length)


class VdiLock(Protocol):
    """The lock under which a VDI is written."""

    def move(self, vid: int) -> None:
        """Take it for the VDI `vid`, which has become the current one. Raises Denied."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class VdiWriter(VdiReader, Writer):
    """The current state of a VDI, for writing, until it is closed under `lock`.

    What is written is on the disks of the sheep when `pwrite` returns. Zeros that are written where there is no object
    make none. Somebody may take a snapshot meanwhile: then what it kept is left alone from there on.
    """

    def __init__(self, cluster: Cluster, location: Location, inode: Inode, lock: VdiLock) -> None:
        if inode.is_snapshot:
            raise Denied("write to", location, "it is a snapshot", "only a VDI's current state can be written")
        super().__init__(cluster, location, inode)
        self._lock = lock
        self._change = threading.Condition()
        self._making: set[int] = set()
        self._writers = 0

    def pwrite(self, offset: int, data: bytes) -> None:
        if offset < 0 or offset + len(data) > self._size:
            raise BadAnswer("write to", self._location, f"{len(data)} bytes at {offset} do not lie inside")
        view = memoryview(data)
        done = offset
        with self._under_the_lock():
            for index, start, length in _parts(offset, offset + len(data), self._inode.shift, _LONGEST_READ):
                self._write_part(index, start, bytes(view[done - offset : done - offset + length]))
                done += length

    def flush(self) -> None:
        if self._closed:
            raise Cancelled("write to", self._location, "it was closed")
        self._cluster.check("write to", self._location)

    def close(self) -> None:
        with self._change:
            was_closed, self._closed = self._closed, True
            is_last = not self._writers
        if not was_closed and is_last:
            self._lock.release()

    @contextlib.contextmanager
    def _under_the_lock(self) -> Iterator[None]:
        """Write while it is open; the lock is given back only once nobody writes any more."""
        with self._change:
            if self._closed:
                raise Cancelled("write to", self._location, "it was closed")
            self._writers += 1
        try:
            yield
        finally:
            with self._change:
                self._writers -= 1
                is_last = self._closed and not self._writers
            if is_last:
                self._lock.release()

    def _write_part(self, index: int, start: int, data: bytes) -> None:
        for _ in range(_TRIES):
            with self._change:
                self._change.wait_for(lambda: index not in self._making)
                inode, owner = self._inode, self._map[index]
                is_own = owner == inode.vid
                if not is_own:
                    if not owner and data == bytes(len(data)):
                        return
                    self._making.add(index)
            if is_own:
                request = write_object(data_of(inode.vid, index), start, data, inode.copies, inode.policy)
                if self._was_done(request, inode):
                    return
            elif self._make(inode, index, owner, start, data):
                return
        raise BadAnswer("write to", self._location, "it becomes a snapshot again and again")

    def _make(self, inode: Inode, index: int, owner: int, start: int, data: bytes) -> bool:
        """Make an object of the VDI's own and enter it in the map; whether that was possible."""
        try:
            copy_of = data_of(owner, index) if owner else 0
            oid = data_of(inode.vid, index)
            if not self._was_done(create_object(oid, start, data, inode.copies, inode.policy, copy_of), inode):
                return False
            entry = inode.vid.to_bytes(4, "little")
            where = MAP_OFFSET + 4 * index
            if not self._was_done(write_object(inode_of(inode.vid), where, entry, inode.copies, inode.policy), inode):
                return False
            with self._change:
                if self._inode.vid == inode.vid:
                    self._map[index] = inode.vid
            return True
        finally:
            with self._change:
                self._making.discard(index)
                self._change.notify_all()

    def _was_done(self, request: Request, inode: Inode) -> bool:
        """Send a write; whether it was carried out, or else `inode` has become a snapshot, and has a successor."""
        reply, _ = self._cluster.call(request, "write to", self._location)
        if reply.result == Result.SUCCESS:
            return True
        if reply.result != Result.READ_ONLY:
            raise failure(reply.result, "write to", self._location)
        with self._change:
            if self._inode.vid == inode.vid:
                self._move_on(inode)
        return False

    def _move_on(self, old: Inode) -> None:
        fresh = self._cluster.find(old.name, b"", 0, "write to", self._location)
        if fresh.vid == old.vid:
            raise failure(Result.READ_ONLY, "write to", self._location)
        _check(fresh, self._location)
        if (fresh.size, fresh.shift) != (old.size, old.shift):
            raise BadAnswer("write to", self._location, "another VDI has taken its name")
        self._lock.move(fresh.vid)
        self._map = _load_map(self._cluster, self._location, fresh)
        self._inode = fresh


def _check(inode: Inode, location: Location) -> None:
    if inode.fault:
        family: type[FarbootError] = Unsupported if inode.is_hyper else BadAnswer
        raise family("open", location, inode.fault, "copy it into a VDI without `-y`" if inode.is_hyper else "")


def _load_map(cluster: Cluster, location: Location, inode: Inode) -> "array[int]":
    oid, size = inode_of(inode.vid), 4 * inode.objects
    requests = (
        (read_object(oid, MAP_OFFSET + start, min(_MAP_PIECE, size - start)), min(_MAP_PIECE, size - start))
        for start in range(0, size, _MAP_PIECE)
    )

    def reads() -> Iterator[Callable[[], bytes]]:
        for request, length in requests:
            asked = cluster.ask(request, "open", location)
            yield partial(read_answer, asked, length, "open", location)

    found = array("I", b"".join(_in_flight(_READS_AT_ONCE, reads())))
    if sys.byteorder == "big":
        found.byteswap()
    return found


def _pin(inode: Inode, objects: "array[int]") -> Pin:
    validator = f"vdi:{inode.vid:x}:{inode.created:x}"
    if inode.is_snapshot:
        return Pin(inode.size, f"{validator}:snapshot", strong=True)
    return Pin(inode.size, f"{validator}:{zlib.crc32(objects.tobytes()):08x}")


def _parts(offset: int, end: int, shift: int, longest: int) -> Iterator[tuple[int, int, int]]:
    """Cut `offset` to `end` at the objects' borders: (index of the object, offset in it, length)."""
    while offset < end:
        start = offset & ((1 << shift) - 1)
        length = min(end - offset, (1 << shift) - start, longest)
        yield offset >> shift, start, length
        offset += length


def _in_flight(count: int, waits: Iterator[Callable[[], bytes]]) -> Iterator[bytes]:
    """Give what each of `waits` gives, in order, having `count` of them under way."""
    flying: list[Callable[[], bytes]] = []
    for wait in waits:
        flying.append(wait)
        if len(flying) == count:
            yield flying.pop(0)()
    for wait in flying:
        yield wait()
