"""The data types of SSH (RFC 4251, section 5), which its agent protocol and SFTP share."""

import struct

MOST = 1 << 20
"""Bytes that one string may have: what servers and agents say is never believed to be longer."""


class Malformed(ValueError):
    """The bytes are not what the protocol says."""


class Packet:
    """Takes the parts of a message, in order. Each method raises Malformed where it ends too soon."""

    __slots__ = ("data", "offset")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.offset + count
        if end > len(self.data):
            raise Malformed("a message ends too soon")
        taken = self.data[self.offset : end]
        self.offset = end
        return taken

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u32(self) -> int:
        """A 32-bit number."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """A 64-bit number."""
        return int.from_bytes(self.take(8), "big")

    def string(self) -> bytes:
        """A string with its length before it."""
        return self.take(self.u32())

    def text(self) -> str:
        """The same, as text; undecodable bytes are kept as surrogates."""
        return self.string().decode("utf-8", "surrogateescape")

    def names(self) -> tuple[str, ...]:
        """A name-list."""
        return tuple(name for name in self.string().decode("ascii", "replace").split(",") if name)

    @property
    def ended(self) -> bool:
        """Whether nothing is left."""
        return self.offset == len(self.data)


def u32(number: int) -> bytes:
    """A 32-bit number."""
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    """A 64-bit number."""
    return struct.pack(">Q", number)


def string(data: bytes) -> bytes:
    """A string, its length before it."""
    return struct.pack(">I", len(data)) + data


def raw(text: str) -> bytes:
    """The bytes of a name that may have undecodable ones as surrogates."""
    return text.encode("utf-8", "surrogateescape")
