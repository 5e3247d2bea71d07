"""The image that was judged, held fast: what was read to judge it, kept, and anything that differs from it refused."""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

from probes.credentials import Credentials
from probes.errors import Changed, Refused
from probes.identify import head_digest, identify
from probes.image import Verdict
from probes.location import Location
from probes.reader import Pin, Reader
from probes.recording import HEAD, RecordingReader
from probes.registry import open_source
from probes.source import Source


@dataclass(frozen=True)
class Expected:
    """The image that was judged, in few words.

    `size` is in bytes, `validator` that of its pin ("" if the storage has none), `head` the hex SHA-256 of its first
    64 KiB, and `format` QEMU's driver name.
    """

    size: int
    validator: str
    head: str
    format: str


class JudgedBytes:
    """The bytes that a judgement read, as (offset, bytes) in order, none of them touching."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        self._pieces = tuple(pieces)
        self._starts = [start for start, _ in self._pieces]

    def at_hand(self, offset: int, length: int) -> bytes | None:
        """Return these bytes if all of them were read."""
        index = bisect.bisect_right(self._starts, offset) - 1
        if index < 0:
            return None
        start, data = self._pieces[index]
        if offset + length > start + len(data):
            return None
        return data[offset - start : offset - start + length]

    def agree(self, offset: int, data: bytes) -> bool:
        """Whether `data`, read at `offset`, is the same wherever it was read before."""
        end = offset + len(data)
        index = max(bisect.bisect_right(self._starts, offset) - 1, 0)
        for start, known in self._pieces[index:]:
            if start >= end:
                break
            low, high = max(start, offset), min(start + len(known), end)
            if low < high and known[low - start : high - start] != data[low - offset : high - offset]:
                return False
        return True


def judge(reader: Reader, location: Location, expected: Expected) -> JudgedBytes:
    """Judge the image anew, and return what that read. Raises Changed, Refused, and what `reader` raises."""
    recording = RecordingReader(reader)
    head = head_digest(recording)
    image = identify(recording)
    if head != expected.head:
        raise Changed("serve", location, "its first bytes are not those that were looked at", "look at it again")
    if image.format != expected.format:
        raise Changed("serve", location, f"it is {image.format} now, not {expected.format}", "look at it again")
    if image.verdict is Verdict.REFUSE:
        raise Refused("serve", location, "; ".join(h.text for h in image.hazards if h.verdict is Verdict.REFUSE))
    return JudgedBytes(recording.pieces)


def open_pinned(location: Location, credentials: Credentials, expected: Expected) -> Reader:
    """Open the image at `location`, in a source of its own. Raises Changed if size or validator differ."""
    source = open_source(location, credentials)
    try:
        reader = _Sole(source, source.open(location))
    except BaseException:
        source.close()
        raise
    if (reader.size, reader.pin.validator) != (expected.size, expected.validator):
        reader.close()
        why = f"it had {expected.size} bytes and has {reader.size} now"
        if reader.size == expected.size:
            why = "its time stamp or tag is not the one that was looked at"
        raise Changed("serve", location, why, "look at it again")
    return reader


def open_again(location: Location, credentials: Credentials, expected: Expected, judged: JudgedBytes) -> Reader:
    """Open the image once more, and see that its head is still the judged one. Raises Changed if it is not."""
    reader = open_pinned(location, credentials, expected)
    try:
        same = judged.agree(0, reader.pread(0, HEAD))
    except BaseException:
        reader.close()
        raise
    if not same:
        reader.close()
        raise Changed("serve", location, "its first bytes are not those that were looked at", "look at it again")
    return reader


class _Sole(Reader):
    """A source's only reader: closing it closes the source."""

    def __init__(self, source: Source, reader: Reader) -> None:
        self._source = source
        self._reader = reader

    @property
    def size(self) -> int:
        return self._reader.size

    @property
    def pin(self) -> Pin:
        return self._reader.pin

    def pread(self, offset: int, length: int) -> bytes:
        return self._reader.pread(offset, length)

    def close(self) -> None:
        self._reader.close()
        self._source.close()
