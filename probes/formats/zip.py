"""ZIP: what it holds stands in a list at its end, the central directory.

PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end, and that of Zip64), 4.5.3
(Zip64's sizes).
"""

from collections.abc import Iterator

from probes.fields import little
from probes.formats.archives import Archive, Contents, Member, is_disk_name
from probes.reader import Reader
from probes.recording import TAIL

_MAX_DIRECTORY = 256 << 10
_ENCRYPTED, _UTF8 = 1, 1 << 11


class Zip(Archive):
    """A ZIP archive, Zip64 or not; one that is split over several files is not looked into."""

    name = "zip"
    title = "a ZIP archive"
    command = "unzip NAME"
    marks = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
    takes_names = True

    def contents(self, reader: Reader) -> Contents | None:
        directory = _directory(reader)
        if directory is None:
            return None
        at, length = directory
        data = reader.pread(at, min(length, _MAX_DIRECTORY))
        disks = []
        others = end = 0
        for entry in _entries(data):
            end += len(entry)
            name = _name(entry)
            if name.endswith("/"):
                continue
            if is_disk_name(name):
                locked = "encrypted" if little(entry, 8, 2) & _ENCRYPTED else ""
                disks.append(Member(name, _size(entry), locked))
            else:
                others += 1
        if not end and length:
            return None
        return Contents(tuple(disks), others, end == length)


def _directory(reader: Reader) -> tuple[int, int] | None:
    """Return where the central directory is, and its length; None where there is none, or not here."""
    start = max(reader.size - TAIL, 0)
    tail = reader.pread(start, TAIL)
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < 22:
        return None
    length, at = little(tail, end + 12, 4), little(tail, end + 16, 4)
    directory_end = start + end
    locator = tail[end - 20 : end] if end >= 20 else b""
    if locator[:4] == b"PK\6\7":
        record_at = little(locator, 8, 8)
        record = reader.pread(record_at, 56)
        if record[:4] != b"PK\6\6":
            return None
        length, at, directory_end = little(record, 40, 8), little(record, 48, 8), record_at
    # What stands before an archive (a program that unpacks it) may or may not be counted: the end is sure.
    if at + length != directory_end:
        at = directory_end - length
    return (at, length) if at >= 0 else None


def _entries(data: bytes) -> Iterator[bytes]:
    at = 0
    while data[at : at + 4] == b"PK\1\2":
        length = 46 + little(data, at + 28, 2) + little(data, at + 30, 2) + little(data, at + 32, 2)
        if at + length > len(data):
            return
        yield data[at : at + length]
        at += length


def _name(entry: bytes) -> str:
    raw = entry[46 : 46 + little(entry, 28, 2)]
    return raw.decode("utf-8" if little(entry, 8, 2) & _UTF8 else "cp437", "replace")


def _size(entry: bytes) -> int:
    """Return the bytes that a file unpacks to: in Zip64 the first of the numbers in its extra field."""
    size = little(entry, 24, 4)
    if size != 0xFFFFFFFF:
        return size
    at = 46 + little(entry, 28, 2)
    end = at + little(entry, 30, 2)
    while at + 4 <= end:
        if little(entry, at, 2) == 1:
            return little(entry, at + 4, 8)
        at += 4 + little(entry, at + 2, 2)
    return size
