"""SFTP version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's additions, spoken over one channel by many threads.

Requests go out many at a time, so that a far server is read and listed at the line's speed. Names are bytes.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator

import paramiko

from probes.errors import BadAnswer, FarbootError
from probes.ssh.replies import (
    ATTRS,
    BROKEN,
    CLOSE,
    DATA,
    END,
    EXTENDED,
    EXTENDED_REPLY,
    FSTAT,
    HANDLE,
    NAME,
    OK,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    REALPATH,
    STAT,
    STATUS,
    WRITE,
    Attributes,
    attributes_of,
    names,
    status_of,
)
from probes.ssh.session import Asked, Session
from probes.ssh.wire import Packet, string, u32, u64

AHEAD = 64
"""READDIR requests under way: at 100 names an answer, a listing of 6,400 entries costs one round trip."""
READS_AHEAD = 64
"""READ or WRITE requests under way for one call."""
_STATS_AHEAD = 512
_PIECE = 32 << 10
"""Bytes that every server reads or writes in one go; those that tell their limits may do more."""
_MOST_PIECE = 256 << 10


class Sftp(Session):
    """What can be done with a server's files: see `Session`. Raises SftpError for what the server refuses."""

    def __init__(self, channel: paramiko.Channel, deadline: float, why_lost: Callable[[], FarbootError]) -> None:
        super().__init__(channel, deadline, why_lost)
        self.most_read = self.most_written = _PIECE
        self._lock_of_limits = threading.Lock()
        self._limits = Asked(self)
        if "limits@openssh.com" in self.extensions:
            self._limits.send([(EXTENDED, string(b"limits@openssh.com"))])

    def real_path(self, path: bytes) -> bytes:
        """The absolute path of `path`; a relative one begins in the user's home."""
        packet = Packet(self._ask(REALPATH, string(path), NAME))
        packet.u32()
        return packet.string()

    def stat(self, path: bytes) -> Attributes:
        """What `path` is, links followed."""
        return attributes_of(Packet(self._ask(STAT, string(path), ATTRS)))

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attributes]]:
        """Yield name and attributes of what the folder `path` holds, as it arrives; links are followed where they lead
        somewhere.
        """
        handle = Packet(self._ask(OPENDIR, string(path), HANDLE)).string()
        asked = Asked(self)
        try:
            yield from self._entries(asked, handle, path.rstrip(b"/") + b"/")
        finally:
            asked.forget()
            self.close_handle(handle)

    def _entries(self, asked: Asked, handle: bytes, folder: bytes) -> Iterator[tuple[bytes, Attributes]]:
        listing: set[int] = set()  # READDIR requests under way
        links: dict[int, int] = {}  # STAT requests under way, and which row each is for
        rows: deque[tuple[bytes, Attributes | None]] = deque()
        first = 0  # the number of the row that is yielded next
        ahead = 2  # most folders end here
        at_end = False
        while True:
            if not at_end and len(links) < _STATS_AHEAD and len(listing) < ahead:
                listing.update(asked.send([(READDIR, string(handle))] * (ahead - len(listing))))
            if not listing and not links:
                return
            number, kind, body = asked.next()
            if number in listing:
                listing.discard(number)
                found = names(kind, body)
                at_end = at_end or found is None
                ahead = min(2 * ahead, AHEAD)
                new = [(name, None if attributes.is_link else attributes) for name, attributes in found or ()]
                of_links = [first + len(rows) + index for index, (_, attributes) in enumerate(new) if not attributes]
                rows.extend(new)
                if of_links:
                    numbers = asked.send([(STAT, string(folder + rows[row - first][0])) for row in of_links])
                    links.update(zip(numbers, of_links, strict=True))
            elif number in links:
                row = links.pop(number) - first
                rows[row] = (rows[row][0], attributes_of(Packet(body)) if kind == ATTRS else BROKEN)
            while rows and (ready := rows[0][1]) is not None:
                yield rows.popleft()[0], ready
                first += 1

    def open(self, path: bytes, write: bool = False) -> bytes:
        """Open the file `path` and return its handle. Of a pipe without a writer the server would never answer."""
        return Packet(self._ask(OPEN, string(path) + u32(3 if write else 1) + u32(0), HANDLE)).string()

    def stat_handle(self, handle: bytes) -> Attributes:
        """What an open file is."""
        return attributes_of(Packet(self._ask(FSTAT, string(handle), ATTRS)))

    def begin(self, handle: bytes, length: int) -> tuple[Attributes, bytes]:
        """What an open file is, and up to `length` of its first bytes, in one round trip."""
        asked = Asked(self)
        try:
            asked.send([(FSTAT, string(handle))])
            data = self.read(handle, 0, length)
            _, kind, body = asked.next()
        finally:
            asked.forget()
        if kind != ATTRS:
            raise status_of(kind, body)
        return attributes_of(Packet(body)), data

    def close_handle(self, handle: bytes) -> None:
        """Close it, without waiting for the server to say so."""
        self.tell(CLOSE, string(handle))

    def read(self, handle: bytes, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset`, fewer only where the file ends first."""
        self._learn_limits()
        pieces: dict[int, bytes] = {}
        asked = Asked(self)
        spans = _spans(offset, length, self.most_read)
        under_way: dict[int, tuple[int, int]] = {}
        end = offset + length
        try:
            while True:
                room = READS_AHEAD - len(under_way)
                batch = [span for _, span in zip(range(room), spans, strict=False)]
                if batch:
                    numbers = asked.send([(READ, string(handle) + u64(at) + u32(size)) for at, size in batch])
                    under_way.update(zip(numbers, batch, strict=True))
                if not under_way:
                    break
                number, kind, body = asked.next()
                at, size = under_way.pop(number)
                if kind == DATA:
                    data = Packet(body).string()
                    if not 0 < len(data) <= size:
                        raise BadAnswer("read", "a file", f"{len(data)} bytes came instead of {size}")
                    pieces[at] = data
                    if len(data) < size:
                        rest = (at + len(data), size - len(data))
                        again = asked.send([(READ, string(handle) + u64(rest[0]) + u32(rest[1]))])
                        under_way[again[0]] = rest
                elif status_of(kind, body).code == END:
                    end = min(end, at)
                else:
                    raise status_of(kind, body)
        finally:
            asked.forget()
        data = b"".join(pieces[at] for at in sorted(pieces) if at < end)
        return data[: end - offset]

    def write(self, handle: bytes, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`."""
        self._learn_limits()
        asked = Asked(self)
        spans = _spans(0, len(data), self.most_written)
        try:
            while True:
                batch = [span for _, span in zip(range(READS_AHEAD - len(asked.waiting)), spans, strict=False)]
                for at, size in batch:
                    asked.send([(WRITE, string(handle) + u64(offset + at) + string(data[at : at + size]))])
                if not asked.waiting:
                    return
                _, kind, body = asked.next()
                if (status := status_of(kind, body)).code != OK:
                    raise status
        finally:
            asked.forget()

    @property
    def can_sync(self) -> bool:
        """Whether the server can be asked to write an open file to its disk."""
        return "fsync@openssh.com" in self.extensions

    def sync(self, handle: bytes) -> bool:
        """Have the server write an open file to its disk; False if it cannot be asked to."""
        if not self.can_sync:
            return False
        self._ask(EXTENDED, string(b"fsync@openssh.com") + string(handle), STATUS)
        return True

    def _learn_limits(self) -> None:
        """Take the answer to what was asked in the beginning, which is here long since."""
        with self._lock_of_limits:
            if not self._limits.waiting:
                return
            _, kind, body = self._limits.next()
            if kind != EXTENDED_REPLY:
                return
            packet = Packet(body)
            packet.u64()
            self.most_read, self.most_written = (
                min(max(limit or _PIECE, 4096), _MOST_PIECE) for limit in (packet.u64(), packet.u64())
            )


def _spans(offset: int, length: int, most: int) -> Iterator[tuple[int, int]]:
    end = offset + length
    while offset < end:
        size = min(most, end - offset)
        yield offset, size
        offset += size
