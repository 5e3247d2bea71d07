"""Sheepdog's wire protocol, as values: requests, replies, inodes, and what its results mean.

After include/sheepdog_proto.h of https://github.com/sheepdog/sheepdog, version 1 of the protocol (which every sheep
speaks), little-endian: a header of 48 bytes each way, then the payload. Replies come in any order and carry the
request's id. There is no authentication.
"""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, IntFlag

from probes.errors import BadAnswer, Denied, FarbootError, NotFound, Unreachable, Unsupported
from probes.location import Location

PORT = 7000
VERSION = 1
HEADER_SIZE = 48
NAME_SIZE = 256
"""Bytes of a VDI's name, and of a tag; the last one is a NUL."""

MOST_VDIS = 1 << 24
BITMAP_SIZE = MOST_VDIS // 8
MOST_OBJECTS = 1 << 20
HEAD_SIZE = 568
"""Bytes of an inode that tell everything but which objects there are."""
MAP_OFFSET = 4664

_HEADER = struct.Struct("<BBHIII32s")
_OBJECT = struct.Struct("<QQBBBxIIxxxx")
_VDI = struct.Struct("<QIBBBBIIxxxxxxxx")
_REPLY_VDI = struct.Struct("<I4xI20x")
_INODE = struct.Struct("<256s256sQQQQQBBBBIII")
_SMALLEST_SHIFT, _LARGEST_SHIFT = 16, 31
_VDI_BIT = 1 << 63


class Op(IntEnum):
    """What is asked for."""

    CREATE_AND_WRITE = 0x01
    READ = 0x02
    WRITE = 0x03
    LOCK_VDI = 0x12
    RELEASE_VDI = 0x13
    GET_VDI_INFO = 0x14
    READ_VDIS = 0x15


class Flag(IntFlag):
    """How: WRITE says that the payload goes to the sheep, COW that a new object begins as a copy of another."""

    NONE = 0
    WRITE = 1
    COW = 2


class Result(IntEnum):
    """What came of it, where that matters here."""

    SUCCESS = 0x00
    NO_OBJECT = 0x02
    NO_MEMORY = 0x12
    LOCKED = 0x07
    NO_VDI = 0x08
    NO_TAG = 0x0E
    STARTING = 0x0F
    SHUTTING_DOWN = 0x11
    WRONG_VERSION = 0x14
    NO_SPACE = 0x15
    UNFORMATTED = 0x16
    WAITING_FOR_NODES = 0x17
    JOIN_FAILED = 0x18
    HALTED = 0x19
    READ_ONLY = 0x1A
    COLLECTING = 0x1C


@dataclass(frozen=True, slots=True)
class Request:
    """One request but for its id. `wanted` is how many bytes the reply may hold, `specific` the header's last 32."""

    op: Op
    specific: bytes
    flags: Flag = Flag.NONE
    payload: bytes = b""
    wanted: int = 0

    def header(self, number: int) -> bytes:
        """The 48 bytes that go before the payload."""
        length = len(self.payload) if self.flags & Flag.WRITE else self.wanted
        return _HEADER.pack(VERSION, self.op, self.flags, 0, number, length, self.specific)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply's header: the request's `number`, the payload's `length` in bytes, the `result`, and the `vid` that a
    request about a VDI is answered with.
    """

    number: int
    length: int
    result: int
    vid: int

    @staticmethod
    def parse(header: bytes) -> "Reply":
        """Take a header apart."""
        _, _, _, _, number, length, specific = _HEADER.unpack(header)
        result, vid = _REPLY_VDI.unpack(specific)
        return Reply(number, length, result, vid)


def read_object(oid: int, offset: int, length: int) -> Request:
    """Ask for `length` bytes at `offset` of an object."""
    return Request(Op.READ, _OBJECT.pack(oid, 0, 0, 0, 0, 0, offset), wanted=length)


def write_object(oid: int, offset: int, data: bytes, copies: int, policy: int) -> Request:
    """Ask to write into an object that is there."""
    return Request(Op.WRITE, _OBJECT.pack(oid, 0, copies, policy, 0, 0, offset), Flag.WRITE, data)


def create_object(oid: int, offset: int, data: bytes, copies: int, policy: int, copy_of: int) -> Request:
    """Ask to make an object and write into it; what `data` does not cover is zeros, or as in the object `copy_of`."""
    flags = Flag.WRITE | Flag.COW if copy_of else Flag.WRITE
    return Request(Op.CREATE_AND_WRITE, _OBJECT.pack(oid, copy_of, copies, policy, 0, 0, offset), flags, data)


def about_vdi(op: Op, name: bytes, tag: bytes = b"", snapshot: int = 0, vid: int = 0) -> Request:
    """Ask about the VDI `name`: its current state where neither `tag` nor the id `snapshot` names another."""
    payload = name.ljust(NAME_SIZE, b"\0") + tag.ljust(NAME_SIZE, b"\0")
    return Request(op, _VDI.pack(0, vid, 0, 0, 0, 0, snapshot, 0), Flag.WRITE, payload)


def release_vdi(name: bytes, vid: int) -> Request:
    """Ask to give a lock back."""
    return Request(Op.RELEASE_VDI, _VDI.pack(0, vid, 0, 0, 0, 0, 0, 0), Flag.WRITE, name.ljust(NAME_SIZE, b"\0"))


def read_vdis() -> Request:
    """Ask for the bitmap of the VDI ids that are taken."""
    return Request(Op.READ_VDIS, bytes(32), wanted=BITMAP_SIZE)


def inode_of(vid: int) -> int:
    """The object id of a VDI's inode."""
    return _VDI_BIT | vid << 32


def data_of(vid: int, index: int) -> int:
    """The object id of a piece of data."""
    return vid << 32 | index


@dataclass(frozen=True, slots=True)
class Inode:
    """The head of an inode: a VDI, or a snapshot of one.

    Names are raw, and empty for what was deleted. `size` is in bytes, `shift` the power of two that is an object's
    size, `created` is in Sheepdog's own unit, `taken` is when a snapshot was taken, else None.
    """

    name: bytes
    tag: bytes
    created: int
    taken: datetime | None
    size: int
    policy: int
    is_hyper: bool
    copies: int
    shift: int
    snapshot: int
    vid: int

    @staticmethod
    def parse(data: bytes) -> "Inode":
        """Take the first `HEAD_SIZE` bytes apart."""
        fields = _INODE.unpack(data)
        name, tag, created, taken, _, size, _, policy, store_policy, copies, shift, snapshot, vid, _ = fields
        name, tag = name.partition(b"\0")[0], tag.partition(b"\0")[0]
        time = _time(taken) if taken else None
        return Inode(name, tag, created, time, size, policy, bool(store_policy), copies, shift, snapshot, vid)

    @property
    def fault(self) -> str:
        """Why its data cannot be read; empty for nearly all."""
        if self.is_hyper:
            return "it is a hyper volume, whose map Farboot cannot read"
        if not _SMALLEST_SHIFT <= self.shift <= _LARGEST_SHIFT:
            return f"its inode makes no sense: objects of 2^{self.shift} bytes"
        if self.size > MOST_OBJECTS << self.shift:
            return f"its inode makes no sense: {self.size} bytes in objects of 2^{self.shift}"
        return ""

    @property
    def is_snapshot(self) -> bool:
        """Whether it can be read only."""
        return self.taken is not None

    @property
    def objects(self) -> int:
        """How many objects its data may have."""
        return -(-self.size >> self.shift)


def taken_ids(bitmap: bytes) -> list[int]:
    """The VDI ids whose bit is set."""
    ids: list[int] = []
    nothing = bytes(4096)
    for start in range(0, len(bitmap), len(nothing)):  # nearly all of it is empty
        block = bitmap[start : start + len(nothing)]
        if block != nothing:
            ids += [
                (start + place) * 8 + bit
                for place, byte in enumerate(block)
                if byte
                for bit in range(8)
                if byte >> bit & 1
            ]
    return ids


def failure(result: int, tried: str, location: Location) -> FarbootError:
    """What a person is told of a result that is none of the expected ones."""
    words = _WORDS.get(result)
    if words is None:
        return BadAnswer(tried, location, f"the sheep answered with error 0x{result:02x}", "see the sheep's log")
    family, why, hint = words
    return family(tried, location, why, hint)


_WORDS: dict[int, tuple[type[FarbootError], str, str]] = {
    Result.NO_OBJECT: (BadAnswer, "an object of it is missing in the cluster", "`dog vdi check` tells more"),
    Result.NO_MEMORY: (BadAnswer, "the sheep is out of memory", "see the sheep's log"),
    Result.LOCKED: (Denied, "another client has locked it", "`dog vdi lock list` shows who"),
    Result.NO_VDI: (NotFound, "there is no such VDI", "`dog vdi list` shows them"),
    Result.NO_TAG: (NotFound, "the VDI has no such snapshot", "`dog vdi list` shows them"),
    Result.STARTING: (Unreachable, "Sheepdog is still starting", "wait for it; see `dog cluster info`"),
    Result.SHUTTING_DOWN: (Unreachable, "Sheepdog is shutting down", "start it again"),
    Result.WRONG_VERSION: (Unsupported, "the sheep speaks another version of the protocol", "Farboot speaks version 1"),
    Result.NO_SPACE: (BadAnswer, "the cluster has no room left", "see `dog node info`"),
    Result.UNFORMATTED: (Unreachable, "the cluster is not formatted yet", "`dog cluster format` does that"),
    Result.WAITING_FOR_NODES: (Unreachable, "Sheepdog waits for other nodes to join", "see `dog cluster info`"),
    Result.JOIN_FAILED: (Unreachable, "that sheep could not join its cluster", "see the sheep's log"),
    Result.HALTED: (Unreachable, "the cluster has stopped for want of nodes", "see `dog cluster info`"),
    Result.READ_ONLY: (Denied, "it is read-only", "only a VDI's current state can be written, no snapshot"),
    Result.COLLECTING: (Unreachable, "that sheep is only just joining its cluster", "try again"),
}  # fmt: skip


def _time(value: int) -> datetime:
    return datetime.fromtimestamp(value >> 32, UTC)  # 32 bits are left: no year is too large
