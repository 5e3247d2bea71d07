"""The image that was judged, held fast: what was read to judge it, kept, and anything that differs from it refused."""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, replace

from probes.credentials import Credentials
from probes.errors import Changed, Refused, Unsupported
from probes.evidence import Evidence
from probes.identify import identify
from probes.image import Verdict
from probes.location import Location
from probes.reader import BeginsReads, Begun, Pin, Reader, Writer
from probes.recording import HEAD, RecordingReader
from probes.registry import open_source
from probes.source import DEADLINE, CanWrite, Source

_OTHER_BYTES = "its bytes are not those that were judged"


@dataclass(frozen=True)
class Expected:
    """The image that was judged, in few words.

    `size` is in bytes, `validator` that of its pin ("" if the storage has none), `evidence` what its verdict was drawn
    from, and `format` QEMU's driver name. Where nothing was judged, for a guest has written since, neither validator
    nor bytes are compared.
    """

    size: int
    validator: str
    evidence: Evidence
    format: str


class JudgedBytes:
    """The bytes that a judgement read, as (offset, bytes) in order, none of them touching."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        self._pieces = list(pieces)
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

    def forget(self, offset: int, length: int) -> None:
        """Know nothing any more about these bytes, for they are being written."""
        end = offset + length
        if all(start >= end or start + len(data) <= offset for start, data in self._pieces):
            return
        cut = [
            (low, data[low - start : high - start])
            for start, data in self._pieces
            for low, high in ((start, min(start + len(data), offset)), (max(start, end), start + len(data)))
            if low < high
        ]
        self._pieces = cut
        self._starts = [start for start, _ in cut]

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
    image = identify(recording)
    if not expected.evidence.agrees(recording):
        raise Changed("serve", location, _OTHER_BYTES, "look at it again")
    if image.format != expected.format:
        raise Changed("serve", location, f"it is {image.format} now, not {expected.format}", "look at it again")
    if image.verdict is Verdict.REFUSE:
        raise Refused("serve", location, "; ".join(h.text for h in image.hazards if h.verdict is Verdict.REFUSE))
    return JudgedBytes(recording.pieces)


def open_pinned(location: Location, credentials: Credentials, expected: Expected, deadline: float = DEADLINE) -> Reader:
    """Open the image at `location`, in a source of its own. Raises Changed if size or validator differ."""
    source = open_source(location, credentials, deadline)
    try:
        reader = _Sole(source, source.open(location))
    except BaseException:
        source.close()
        raise
    _check_pin(reader, location, expected)
    return reader


def open_again(
    location: Location,
    credentials: Credentials,
    expected: Expected,
    judged: JudgedBytes,
    deadline: float = DEADLINE,
) -> Reader:
    """Open the image once more, and see that its head is still the judged one. Raises Changed if it is not."""
    reader = open_pinned(location, credentials, expected, deadline)
    _check_head(reader, location, judged)
    return reader


class WritingSource:
    """A source kept for writing one image. Whatever it has locked it knows when the image is opened again: a new source
    would find the lock, and not know it for its own. Raises Unsupported where the storage cannot be written.
    """

    def __init__(
        self, location: Location, credentials: Credentials, expected: Expected, deadline: float = DEADLINE
    ) -> None:
        source = open_source(location, credentials, deadline)
        if not isinstance(source, CanWrite):
            source.close()
            raise Unsupported("write to", location, "Farboot can only read there", "boot it as a snapshot")
        self._location = location
        self._expected = expected
        self._source = source
        self._opening: CanWrite = source

    def open(self) -> Writer:
        """Open the image. Raises Changed if size or validator differ."""
        writer = self._opening.open_for_writing(self._location)
        _check_pin(writer, self._location, self._expected)
        return writer

    def open_again(self, judged: JudgedBytes) -> Writer:
        """Open it once more. Its validator has changed by our own doing: what nobody has written since must be as it
        was judged. Raises Changed.
        """
        writer = self._opening.open_for_writing(self._location)
        _check_pin(writer, self._location, replace(self._expected, validator=writer.pin.validator))
        _check_head(writer, self._location, judged)
        return writer

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def _check_pin(reader: Reader, location: Location, expected: Expected) -> None:
    """Close it and raise Changed if it is not the expected one."""
    same = not expected.evidence or reader.pin.validator == expected.validator
    if same and reader.size == expected.size:
        return
    reader.close()
    why = f"it had {expected.size} bytes and has {reader.size} now"
    if reader.size == expected.size:
        why = "its time stamp or tag is not the one that was looked at"
    raise Changed("serve", location, why, "look at it again")


def _check_head(reader: Reader, location: Location, judged: JudgedBytes) -> None:
    try:
        same = judged.agree(0, reader.pread(0, HEAD))
    except BaseException:
        reader.close()
        raise
    if not same:
        reader.close()
        raise Changed("serve", location, _OTHER_BYTES, "look at it again")


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

    def begin_read(self, offset: int, length: int) -> Begun | None:
        """What the reader's own `begin_read` gives, if it has one."""
        return self._reader.begin_read(offset, length) if isinstance(self._reader, BeginsReads) else None

    def close(self) -> None:
        self._reader.close()
        self._source.close()
