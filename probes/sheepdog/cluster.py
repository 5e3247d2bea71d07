"""A Sheepdog cluster, through one of its sheep: which VDIs there are, and their objects."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator

from probes.errors import BadAnswer, Cancelled, NotFound
from probes.location import Location
from probes.sheepdog.connection import Address, Asked, Connection, Hold
from probes.sheepdog.protocol import (
    HEAD_SIZE,
    NAME_SIZE,
    Inode,
    Op,
    Reply,
    Request,
    Result,
    about_vdi,
    failure,
    inode_of,
    read_object,
    read_vdis,
    release_vdi,
    taken_ids,
)

_HEADS_AT_ONCE = 64


class Cluster:
    """Calls to the sheep at `address`, over one connection that is made when it is wanted, and again when it broke.

    For any number of threads. Each call raises the errors of `probes.errors`, saying what was `tried`.
    """

    def __init__(self, address: Address, deadline: float) -> None:
        self.address = address
        self._deadline = deadline
        self._hold = Hold()
        self._connection: Connection | None = None
        self._connecting = threading.Lock()
        self._is_closed = False

    def ask(self, request: Request, tried: str, location: Location) -> Asked:
        """Send a request; its answer can be waited for later."""
        return self._connected(tried, location).ask(request, tried, location)

    def call(self, request: Request, tried: str, location: Location) -> tuple[Reply, bytes]:
        """Send a request and return its answer, whatever the result."""
        return self.ask(request, tried, location).answer()

    def greet(self, tried: str, location: Location) -> None:
        """See that a sheep answers there, and that its cluster works."""
        reply, _ = self.call(about_vdi(Op.GET_VDI_INFO, b""), tried, location)
        if reply.result not in {Result.SUCCESS, Result.NO_VDI}:
            raise failure(reply.result, tried, location)

    def inodes(self, tried: str, location: Location) -> Iterator[Inode]:
        """Yield all that there are, snapshots too, in the order of their ids."""
        reply, bitmap = self.call(read_vdis(), tried, location)
        if reply.result != Result.SUCCESS:
            raise failure(reply.result, tried, location)
        yield from self._heads(taken_ids(bitmap), tried, location)

    def find(self, name: bytes, tag: bytes, snapshot: int, tried: str, location: Location) -> Inode:
        """Return the VDI called `name`, or its snapshot. Raises NotFound."""
        if not 0 < len(name) < NAME_SIZE or len(tag) >= NAME_SIZE or b"\0" in name + tag:
            raise NotFound(tried, location, "no VDI and no snapshot has such a name")
        reply, _ = self.call(about_vdi(Op.GET_VDI_INFO, name, tag, snapshot), tried, location)
        if reply.result != Result.SUCCESS:
            raise failure(reply.result, tried, location)
        inode = self.inode(reply.vid, tried, location)
        if inode.name != name:
            raise BadAnswer(tried, location, f"the sheep gave the VDI {reply.vid:x}, which has another name")
        return inode

    def inode(self, vid: int, tried: str, location: Location) -> Inode:
        """Return the inode of the VDI with that id."""
        data = self.read(inode_of(vid), 0, HEAD_SIZE, tried, location)
        return Inode.parse(data)

    def read(self, oid: int, offset: int, length: int, tried: str, location: Location) -> bytes:
        """Return exactly these bytes of an object."""
        return read_answer(self.ask(read_object(oid, offset, length), tried, location), length, tried, location)

    def lock(self, name: bytes, tried: str, location: Location) -> None:
        """Lock the current state of a VDI. Raises Denied where another has."""
        reply, _ = self.call(about_vdi(Op.LOCK_VDI, name), tried, location)
        if reply.result != Result.SUCCESS:
            raise failure(reply.result, tried, location)

    def release(self, name: bytes, vid: int, tried: str, location: Location) -> None:
        """Give a lock back; what the sheep makes of it does not matter."""
        self.call(release_vdi(name, vid), tried, location)

    def held(self, tried: str, location: Location) -> "Cluster":
        """Return it over the connection that there is now, and no other: once that has broken, every call fails.

        For what is open: nobody knows what has become of it meanwhile.
        """
        return _Held(self.address, self._deadline, self._connected(tried, location))

    def check(self, tried: str, location: Location) -> None:
        """Raise what any call would raise now, because the connection broke; without asking the sheep."""
        self._connected(tried, location).check(tried, location)

    def close(self) -> None:
        """Let go; calls that run then fail."""
        self._is_closed = True
        self._hold.close()
        connection = self._connection
        if connection:
            connection.close()

    def _connected(self, tried: str, location: Location) -> Connection:
        connection = self._connection
        if connection is not None and not connection.is_broken:
            return connection
        with self._connecting:
            if self._is_closed:
                raise Cancelled(tried, location, "it was closed")
            if self._connection is None or self._connection.is_broken:
                self._connection = Connection(self.address, self._deadline, tried, location, self._hold)
                if self._is_closed:
                    self._connection.close()
            return self._connection

    def _heads(self, vids: Iterable[int], tried: str, location: Location) -> Iterator[Inode]:
        flying: deque[Asked] = deque()
        for vid in vids:
            flying.append(self.ask(read_object(inode_of(vid), 0, HEAD_SIZE), tried, location))
            if len(flying) == _HEADS_AT_ONCE:
                yield from _landed(flying.popleft(), tried, location)
        while flying:
            yield from _landed(flying.popleft(), tried, location)


class _Held(Cluster):
    def __init__(self, address: Address, deadline: float, connection: Connection) -> None:
        super().__init__(address, deadline)
        self._only = connection

    def _connected(self, tried: str, location: Location) -> Connection:
        return self._only


def read_answer(asked: Asked, length: int, tried: str, location: Location) -> bytes:
    """Return the `length` bytes that a read was answered with."""
    reply, data = asked.answer()
    if reply.result != Result.SUCCESS:
        raise failure(reply.result, tried, location)
    if len(data) != length:
        raise BadAnswer(tried, location, f"{len(data)} bytes came instead of {length}")
    return data


def _landed(asked: Asked, tried: str, location: Location) -> Iterator[Inode]:
    """The inode that was asked for; none where it went meanwhile."""
    reply, data = asked.answer()
    if reply.result == Result.NO_OBJECT:
        return
    if reply.result != Result.SUCCESS:
        raise failure(reply.result, tried, location)
    if len(data) != HEAD_SIZE:
        raise BadAnswer(tried, location, f"an inode of {len(data)} bytes came")
    yield Inode.parse(data)
