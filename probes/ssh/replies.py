"""What SFTP servers answer, taken apart (draft-ietf-secsh-filexfer-02, sections 5 to 7)."""

import stat
import struct
from dataclasses import dataclass

from probes.errors import BadAnswer
from probes.ssh.wire import Malformed, Packet

INIT, VERSION, OPEN, CLOSE, READ, WRITE, FSTAT, OPENDIR, READDIR = 1, 2, 3, 4, 5, 6, 8, 11, 12
REALPATH, STAT, STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED, EXTENDED_REPLY = 16, 17, 101, 102, 103, 104, 105, 200, 201
OK, END, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8

_USUAL = struct.Struct(">IQIIIII")
"""Attributes as nearly every server sends them: flags 15, size, owner, group, mode, read, written."""


class SftpError(Exception):
    """A status that is not OK: `code` as in the protocol, `text` as the server says it."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(text)


@dataclass(frozen=True)
class Attributes:
    """What a server tells of a file; None for what it does not tell. `modified` is in seconds since 1970."""

    size: int | None = None
    mode: int | None = None
    modified: int | None = None

    @property
    def is_folder(self) -> bool:
        return self.mode is not None and stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return self.mode is None or stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        return self.mode is not None and stat.S_ISLNK(self.mode)


BROKEN = Attributes(mode=stat.S_IFLNK)
"""Of a link that leads nowhere."""


def names(kind: int, body: bytes) -> list[tuple[bytes, Attributes]] | None:
    """The entries of an answer to READDIR; None at the end of the folder. Raises SftpError."""
    if kind == STATUS:
        if (status := status_of(kind, body)).code != END:
            raise status
        return None
    if kind != NAME:
        raise BadAnswer("list", "a folder", "the server answers another question")
    packet = Packet(body)
    found = []
    try:
        for _ in range(packet.u32()):
            name = packet.string()
            packet.string()  # as `ls -l` would print it
            attributes = attributes_of(packet)
            if name not in {b".", b"..", b""} and b"/" not in name and b"\0" not in name:
                found.append((name, attributes))
    except Malformed:
        raise BadAnswer("list", "a folder", "the server's answer ends too soon") from None
    return found


def status_of(kind: int, body: bytes) -> SftpError:
    """The status in an answer, which must be one. Raises BadAnswer."""
    if kind != STATUS:
        raise BadAnswer("use", "SFTP", "the server answers another question")
    packet = Packet(body)
    try:
        code = packet.u32()
    except Malformed:
        raise BadAnswer("use", "SFTP", "the server's answer ends too soon") from None
    try:
        return SftpError(code, packet.text()[:200])
    except Malformed:  # very old servers say no more than the number
        return SftpError(code, "")


def attributes_of(packet: Packet) -> Attributes:
    """The next attributes in `packet`. Raises Malformed."""
    data, at = packet.data, packet.offset
    if data[at : at + 4] == b"\0\0\0\x0f" and len(data) >= at + _USUAL.size:  # four times as fast
        packet.offset = at + _USUAL.size
        _, size, _, _, mode, _, modified = _USUAL.unpack_from(data, at)
        return Attributes(size, mode, modified)
    flags = packet.u32()
    told = packet.u64() if flags & 1 else None
    if flags & 2:
        packet.take(8)
    kind = packet.u32() if flags & 4 else None
    written = None
    if flags & 8:
        packet.u32()
        written = packet.u32()
    if flags & 0x80000000:
        for _ in range(packet.u32()):
            packet.string(), packet.string()
    return Attributes(told, kind, written)
