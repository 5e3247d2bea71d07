"""The SCSI commands that Farboot sends, as bytes, and their answers taken apart: pure functions.

SPC-4 (INQUIRY, REPORT LUNS, MODE SENSE, PERSISTENT RESERVE IN), SBC-3 (READ CAPACITY, READ, WRITE, SYNCHRONIZE CACHE,
Block Limits). Every answer is the target's word: lengths in it are never believed beyond the bytes that came.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

MOST_LUNS = 16384
"""LUNs of one target that are looked at: all that flat addressing can name."""

_FLAT = 0x4000
_PAGE = 255  # bytes asked of a page whose length nobody knows: what every target has room for


@dataclass(frozen=True, slots=True)
class Command:
    """One SCSI command: `length` bytes are wanted from the target, or `data` goes to it."""

    cdb: bytes
    length: int = 0
    data: bytes = b""


class Status(IntEnum):
    """SCSI status codes (SAM-5)."""

    GOOD = 0
    CHECK_CONDITION = 0x02
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28


class Sense(IntEnum):
    """Sense keys (SPC-4)."""

    NOT_READY = 2
    MEDIUM_ERROR = 3
    HARDWARE_ERROR = 4
    ILLEGAL_REQUEST = 5
    UNIT_ATTENTION = 6
    DATA_PROTECT = 7
    ABORTED_COMMAND = 0xB


NO_SUCH_LUN = 0x2500
CAPACITY_CHANGED = 0x2A09
NO_MEDIUM = 0x3A  # whatever its qualifier: the tray is open or shut

DISK, TAPE, CD, OPTICAL, CHANGER, CONTROLLER, ENCLOSURE, SIMPLE_DISK = 0, 1, 5, 7, 8, 0xC, 0xD, 0xE
_WORDS = {
    DISK: "disk", TAPE: "tape drive", 2: "printer", 3: "processor", 4: "write-once drive", CD: "CD drive",
    6: "scanner", OPTICAL: "optical disk", CHANGER: "media changer", 9: "communications device",
    CONTROLLER: "controller", ENCLOSURE: "enclosure", SIMPLE_DISK: "disk", 0x11: "object storage",
    0x12: "automation drive interface", 0x14: "zoned disk", 0x1E: "well-known unit",
}  # fmt: skip
_READABLE = frozenset({DISK, CD, OPTICAL, SIMPLE_DISK})


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Standard INQUIRY data: `type` is the peripheral device type, `connected` whether such a device is there."""

    type: int
    exists: bool
    connected: bool
    vendor: str
    product: str

    @property
    def word(self) -> str:
        """What kind of device it is, in a word or two."""
        return _WORDS.get(self.type, f"device of type {self.type:#x}")

    @property
    def readable(self) -> bool:
        """Whether it has blocks that can be read."""
        return self.connected and self.type in _READABLE


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many blocks of how many bytes."""

    blocks: int
    block: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.blocks * self.block


@dataclass(frozen=True, slots=True)
class Lun:
    """A logical unit's number.

    `wire` is the 16 bits that libiscsi and QEMU take (`lun=` of QEMU's node, as iscsi-ls prints it); `number` what
    people count by. Up to 255 both are the same; above, `wire` has the flat addressing method of SAM-5 in it. A
    target that addresses a small number flatly is shown by the 16 bits, lest two units have one name.
    """

    wire: int

    @property
    def number(self) -> int:
        """The name of the unit in a location."""
        flat = self.wire & ~_FLAT
        return flat if self.wire & _FLAT and flat > 255 else self.wire

    @staticmethod
    def of(number: int) -> "Lun | None":
        """The unit that a person calls `number`, None where there can be none."""
        if 0 <= number <= 255 or _FLAT <= number < 2 * _FLAT:
            return Lun(number)
        return Lun(_FLAT | number) if 255 < number < _FLAT else None


TEST_UNIT_READY = Command(bytes(6))
INQUIRY = Command(bytes([0x12, 0, 0, 0, 96, 0]), 96)
CAPACITY_16 = Command(struct.pack(">BB8xIBB", 0x9E, 0x10, 32, 0, 0), 32)
CAPACITY_10 = Command(bytes([0x25]) + bytes(9), 8)
MODE_SENSE_6 = Command(bytes([0x1A, 0x08, 0x3F, 0, 192, 0]), 192)  # all pages: the one that every target knows
SYNCHRONIZE = Command(bytes([0x35]) + bytes(9))
FULL_STATUS = Command(struct.pack(">BB5xHB", 0x5E, 3, 8192, 0), 8192)
RESERVATION_KEYS = Command(struct.pack(">BB5xHB", 0x5E, 0, 8192, 0), 8192)
RESERVATION = Command(struct.pack(">BB5xHB", 0x5E, 1, 24, 0), 24)


def report_luns(room: int) -> Command:
    """Ask which LUNs there are, with room for this many."""
    length = 8 + 8 * room
    return Command(struct.pack(">BxBxxxIBB", 0xA0, 0, length, 0, 0), length)


def vital_page(page: int) -> Command:
    """Ask for a page of vital product data: 0x80 serial number, 0x83 identification, 0xB0 block limits."""
    return Command(struct.pack(">BBBHB", 0x12, 1, page, _PAGE, 0), _PAGE)


def read(block: int, count: int, size: int) -> Command:
    """Read `count` blocks of `size` bytes from `block` on. READ(10) where it reaches: CD drives know no other."""
    if block + count <= 1 << 32 and count < 1 << 16:
        return Command(struct.pack(">BxIxHB", 0x28, block, count, 0), count * size)
    return Command(struct.pack(">BxQIBB", 0x88, block, count, 0, 0), count * size)


def write(block: int, data: bytes, size: int) -> Command:
    """Write `data`, whole blocks of `size` bytes, from `block` on."""
    count = len(data) // size
    if block + count <= 1 << 32 and count < 1 << 16:
        return Command(struct.pack(">BxIxHB", 0x2A, block, count, 0), data=data)
    return Command(struct.pack(">BxQIBB", 0x8A, block, count, 0, 0), data=data)


def luns_of(answer: bytes) -> tuple[list[Lun], int, int]:
    """Return the LUNs in a REPORT LUNS answer that libiscsi can address, how many it cannot, and how many there are
    in all (the answer may have been too short for them).
    """
    if len(answer) < 8:
        return [], 0, 0
    whole = struct.unpack_from(">I", answer)[0] // 8
    here = min(whole, (len(answer) - 8) // 8)
    found, others = [], 0
    for (eight,) in struct.iter_unpack(">Q", answer[8 : 8 + 8 * here]):
        wire = eight >> 48
        if eight & 0xFFFFFFFFFFFF or wire >= 2 * _FLAT or 255 < wire < _FLAT:
            others += 1  # of a second level, on another bus, or well-known
        else:
            found.append(Lun(wire))
    return found, others, whole


def inquiry_of(answer: bytes) -> Inquiry:
    """Take standard INQUIRY data apart; what is missing is empty."""
    first = answer[0] if answer else 0x7F
    qualifier, kind = first >> 5, first & 0x1F
    vendor, product = _text(answer[8:16]), _text(answer[16:32])
    return Inquiry(kind, qualifier != 3 and first != 0x7F, qualifier == 0, vendor, product)


def capacity_of(answer: bytes) -> Capacity | None:
    """Take an answer to READ CAPACITY(16) or (10) apart; None where it is too short, or makes no sense."""
    if len(answer) >= 12:
        last, block = struct.unpack_from(">QI", answer)
    elif len(answer) >= 8:
        last, block = struct.unpack_from(">II", answer)
    else:
        return None
    if not 1 <= block <= 1 << 20 or last >= 1 << 55:
        return None
    return Capacity(last + 1, block)


def is_write_protected(answer: bytes) -> bool:
    """Whether a mode parameter header (6) says so."""
    return len(answer) > 2 and bool(answer[2] & 0x80)


def most_blocks(answer: bytes) -> int:
    """The MAXIMUM TRANSFER LENGTH of the Block Limits page, in blocks; 0 where nothing is said."""
    if len(answer) < 12 or answer[1] != 0xB0:
        return 0
    return int(struct.unpack_from(">I", answer, 8)[0])


def serial_of(answer: bytes) -> str:
    """The Unit Serial Number page's text."""
    if len(answer) < 4 or answer[1] != 0x80:
        return ""
    return _text(answer[4 : 4 + struct.unpack_from(">H", answer, 2)[0]])


def identifier_of(answer: bytes) -> str:
    """The unit's own identifier in a Device Identification page, NAA and EUI-64 before vendors' own; "" if none."""
    if len(answer) < 4 or answer[1] != 0x83:
        return ""
    best: tuple[int, str] = (0, "")
    for kind, association, raw in _designators(answer[4 : 4 + struct.unpack_from(">H", answer, 2)[0]]):
        rank = {3: 4, 2: 3, 8: 2, 1: 1}.get(kind, 0)
        if association == 0 and any(raw) and rank > best[0]:
            best = rank, f"{kind}:{raw.hex()}"
    return best[1]


def _designators(page: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(page) >= 4:
        length = page[3]
        yield page[1] & 0xF, page[1] >> 4 & 3, page[4 : 4 + length]
        page = page[4 + length :]


@dataclass(frozen=True, slots=True)
class Registrant:
    """Somebody registered for a persistent reservation: its initiator's name where the target tells, and whether it
    holds the reservation.
    """

    name: str
    holds: bool


def registrants_of(answer: bytes) -> list[Registrant]:
    """Take an answer to READ FULL STATUS apart."""
    if len(answer) < 8:
        return []
    found, rest = [], answer[8 : 8 + struct.unpack_from(">I", answer, 4)[0]]
    while len(rest) >= 24:
        length = struct.unpack_from(">I", rest, 20)[0]
        found.append(Registrant(_transport_name(rest[24 : 24 + length]), bool(rest[12] & 1)))
        rest = rest[24 + length :]
    return found


def keys_of(answer: bytes) -> list[str]:
    """The keys in an answer to READ KEYS, as hexadecimal numbers."""
    if len(answer) < 8:
        return []
    rest = answer[8 : 8 + struct.unpack_from(">I", answer, 4)[0]]
    return [f"{key[0]:#x}" for key in struct.iter_unpack(">Q", rest[: len(rest) // 8 * 8])]


def holder_of(answer: bytes) -> str:
    """The key of the reservation in an answer to READ RESERVATION; "" where nobody holds one."""
    if len(answer) < 16 or struct.unpack_from(">I", answer, 4)[0] < 8:
        return ""
    return f"{struct.unpack_from('>Q', answer, 8)[0]:#x}"


def _transport_name(raw: bytes) -> str:
    """An iSCSI TransportID's name (SPC-4 7.6.4.6); "" for another transport's."""
    if len(raw) < 4 or raw[0] & 0xF != 5:
        return ""
    return _text(raw[4 : 4 + struct.unpack_from(">H", raw, 2)[0]]).partition(",")[0]


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
