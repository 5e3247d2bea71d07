"""tar, and what is one: an OVA (a virtual appliance), Xen's XVA.

A header of 512 bytes stands before each member, and nowhere is there a list of them: a walk, of one small read for each
that is not in memory. POSIX.1-2017 "pax Interchange Format" for ustar and its extended headers, GNU tar's manual
("Basic Tar Format") for long names and large sizes; DMTF DSP0243 section 5.3 for OVA: its first member is the .ovf.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from probes.fields import big
from probes.formats.archives import Archive, Contents, Member, is_disk_name
from probes.formats.ovf import MAX_TEXT, read_disks
from probes.reader import Reader
from probes.recording import HEAD, PIECE
from probes.words import human_size

BLOCK = 512
_MAX_HEADERS = 200
_MAX_FAR = 20
"""Headers that are read beyond the first 64 KiB: large members come one to a read."""

_MAX_LONG_NAME = 4096
_FILES = {b"0", b"\0", b"7", b""}


@dataclass(frozen=True, slots=True)
class _Header:
    """A member: its name, the bytes of it, what it is (a header's type flag), and where its bytes begin."""

    name: str
    size: int
    kind: bytes
    at: int


class Tar(Archive):
    """A tar archive of any dialect, v7 included."""

    name = "tar"
    title = "a tar archive"
    command = "tar -xf NAME"
    takes_names = True

    def begins(self, head: bytes) -> bool:
        return _is_header(head[:BLOCK])

    def contents(self, reader: Reader) -> Contents:
        disks: list[Member] = []
        others = 0
        title = ""
        capacities: dict[str, int] = {}
        whole = False
        for number, header in enumerate(_walk(reader)):
            if header is None:
                whole = True
                break
            if number == 0 and header.name.lower().endswith(".ovf"):
                title = "an OVA, a virtual appliance in a tar archive,"
                capacities = read_disks(reader.pread(header.at, min(header.size, MAX_TEXT)))
            elif number == 0 and header.name == "ova.xml":
                title = "a Xen virtual appliance (XVA), whose disks are cut in pieces,"
            if is_disk_name(header.name) or header.name in capacities:
                capacity = capacities.get(header.name, 0)
                note = f"a disk of {human_size(capacity)}" if capacity else ""
                disks.append(Member(header.name, header.size, note))
            elif header.kind in _FILES:
                others += 1
        return Contents(tuple(disks), others, whole, title)


def _walk(reader: Reader) -> Iterator[_Header | None]:
    """Yield the members in order, and None once there are no more; it stops without it where it looked far enough."""
    at = far = piece = 0
    name, size = "", -1  # by an extended header, for the member after it
    for _ in range(_MAX_HEADERS):
        if at >= HEAD and at // PIECE != piece:
            far += 1
            piece = at // PIECE
        if far > _MAX_FAR:
            return
        block = reader.pread(at, BLOCK)
        if not _is_header(block):
            if at >= reader.size or not any(block):
                yield None
            return
        header = _Header(
            name or _name(block), size if size >= 0 else _number(block[124:136]), block[156:157], at + BLOCK
        )
        at += BLOCK + header.size + -header.size % BLOCK
        if header.kind in {b"x", b"L"}:
            data = reader.pread(header.at, min(header.size, _MAX_LONG_NAME))
            if header.kind == b"L":
                name = data.rstrip(b"\0").decode("utf-8", "replace")
            else:
                name, size = _extended(data, name, size)
        elif header.kind not in {b"g", b"K"}:
            name, size = "", -1
            if header.kind in _FILES | {b"S"}:
                yield header


def _is_header(block: bytes) -> bool:
    """Whether the check sum fits: six octal digits or so, which no chance and no boot sector has."""
    if len(block) < BLOCK:
        return False
    total = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    written = block[148:156].strip(b" \0")
    return written.lstrip(b"0") == b"%o" % total and (block[257:262] == b"ustar" or _is_old(block))


def _is_old(block: bytes) -> bool:
    """Whether a header without a mark makes sense: a name, numbers in octal, and nothing where none of it would be."""
    numbers = block[100:148].translate(None, b" \0")
    return block[:1] not in {b"\0", b" "} and numbers.isdigit() and not any(block[345:])


def _name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _number(field: bytes) -> int:
    """Return a size: in octal, or with its first bit set in binary. What is neither, or negative, is 0."""
    if field[0] == 0x80:
        return big(field, 1, len(field) - 1)
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.translate(None, b"01234567") else 0


def _extended(data: bytes, name: str, size: int) -> tuple[str, int]:
    """Return the name and size that the records of a pax header (lines like "27 path=disk.img") give."""
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or not len(length) < int(length[:6]) <= len(data):
            break
        key, _, value = rest[: int(length) - len(length) - 1].rstrip(b"\n").partition(b"=")
        if key in {b"path", b"GNU.sparse.name"}:
            name = value.decode("utf-8", "replace")
        elif key == b"size" and value.isdigit() and len(value) < 20:
            size = int(value)
        data = data[int(length) :]
    return name, size
