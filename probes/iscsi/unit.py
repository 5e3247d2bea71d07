"""A logical unit over a session: what it is, how big, and its bytes; and who has reserved it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from probes.errors import BadAnswer, Cancelled, NotAnImage, NotFound
from probes.iscsi import commands
from probes.iscsi.commands import Capacity, Command, Inquiry, Lun, Sense, Status
from probes.iscsi.connection import Answer
from probes.iscsi.failures import scsi_failure
from probes.iscsi.session import Session
from probes.location import Location
from probes.reader import Pin, Writer

_TRIES = 4  # a fresh login is told that the unit was reset, that its capacity changed, …: one thing at a time
_PIECE = 512 << 10  # bytes asked for by one READ
_MOST_PIECES = 32  # READs of one `pread` under way


@dataclass(frozen=True)
class Seen:
    """One LUN of a target, looked at: without an inquiry it did not answer, without a capacity it told no size."""

    lun: Lun
    inquiry: Inquiry | None
    capacity: Capacity | None
    answer: Answer


def ask(session: Session, wanted: Sequence[tuple[int, Command]], tried: str, on: Location) -> list[Answer]:
    """Send all commands at once, and those again that only met a unit attention or a busy target."""
    answers = session.run(wanted, tried, on)
    for _ in range(_TRIES - 1):
        again = [number for number, answer in enumerate(answers) if _passes(answer)]
        if not again:
            break
        for number, answer in zip(again, session.run([wanted[number] for number in again], tried, on), strict=True):
            answers[number] = answer
    return answers


def ask_one(session: Session, lun: Lun, command: Command, tried: str, on: Location) -> Answer:
    """Send one command."""
    return ask(session, [(lun.wire, command)], tried, on)[0]


def luns(session: Session, tried: str, on: Location) -> tuple[list[Lun], int]:
    """Return the target's LUNs, and how many more it has that cannot be addressed from here."""
    room = 256
    while True:
        answer = ask_one(session, Lun(0), commands.report_luns(room), tried, on)
        if not answer.good:
            raise scsi_failure(answer.status, answer.key, answer.code, tried, on)
        found, others, whole = commands.luns_of(answer.data)
        if whole <= room or room == commands.MOST_LUNS:
            return list(dict.fromkeys(found)), others
        room = min(whole, commands.MOST_LUNS)


def look(session: Session, wanted: Sequence[Lun], tried: str, on: Location) -> list[Seen]:
    """Look at many LUNs at once: what each is, and how big. What has no blocks refuses the latter, unharmed."""
    both = [(lun.wire, command) for command in (commands.INQUIRY, commands.CAPACITY_16) for lun in wanted]
    answers = ask(session, both, tried, on)
    inquiries = [commands.inquiry_of(answer.data) if answer.good else None for answer in answers[: len(wanted)]]
    told = {n: answers[len(wanted) + n] for n, inquiry in enumerate(inquiries) if inquiry and inquiry.readable}
    of_old = [n for n, answer in told.items() if _unknown(answer)]  # CD drives too know the short form only
    again = ask(session, [(wanted[n].wire, commands.CAPACITY_10) for n in of_old], tried, on) if of_old else []
    told |= dict(zip(of_old, again, strict=True))
    capacities = {n: (commands.capacity_of(answer.data) if answer.good else None, answer) for n, answer in told.items()}
    return [
        Seen(lun, inquiry, *capacities.get(number, (None, answers[number])))
        for number, (lun, inquiry) in enumerate(zip(wanted, inquiries, strict=True))
    ]


def look_at(session: Session, lun: Lun, tried: str, on: Location) -> Seen:
    """Look at one LUN. Raises NotFound where there is none."""
    seen = look(session, [lun], tried, on)[0]
    if seen.inquiry is None:
        raise scsi_failure(seen.answer.status, seen.answer.key, seen.answer.code, tried, on)
    if not seen.inquiry.exists:
        raise NotFound(tried, on, "the target has no such LUN", "`farboot ls` of the target lists those that it has")
    return seen


def sized(seen: Seen, tried: str, on: Location) -> tuple[Inquiry, Capacity]:
    """What a LUN is and how big, for one that is to be read. Raises NotAnImage."""
    inquiry = seen.inquiry
    if inquiry is None or not inquiry.readable:
        what = f"it is a {inquiry.word}" if inquiry and inquiry.connected else "no device is connected to this LUN"
        raise NotAnImage(tried, on, what, "only disks and CDs can be read and booted")
    if seen.capacity is None:
        if seen.answer.good:
            raise BadAnswer(tried, on, "the target tells a size that makes no sense")
        raise scsi_failure(seen.answer.status, seen.answer.key, seen.answer.code, tried, on)
    return inquiry, seen.capacity


class Unit(Writer):
    """An open LUN. Whole blocks travel; what is asked for between them is cut out here.

    The pin is weak: the unit's identifier and size. SCSI tells nobody that blocks were written.
    """

    def __init__(self, session: Session, lun: Lun, on: Location, tried: str = "open") -> None:
        self._session = session
        self.lun = lun
        self._on = on
        self._closed = False
        self._writing = threading.Lock()
        self.inquiry, self.capacity = sized(look_at(session, lun, tried, on), tried, on)
        pages = [(lun.wire, commands.vital_page(page)) for page in (0x83, 0x80, 0xB0)]
        identity, serial, limits = (answer.data if answer.good else b"" for answer in ask(session, pages, tried, on))
        name = commands.identifier_of(identity) or commands.serial_of(serial)
        self._pin = Pin(self.capacity.size, f"{self.inquiry.vendor}:{self.inquiry.product}:{name}:{lun.number}")
        most = commands.most_blocks(limits) or 0xFFFF
        self._count = max(1, min(most, 0xFFFF, _PIECE // self.capacity.block))

    @property
    def is_cd(self) -> bool:
        """Whether the unit is a CD drive."""
        return self.inquiry.type == commands.CD

    def is_write_protected(self, tried: str) -> bool:
        """Whether the unit says that it cannot be written; one that does not know the question can."""
        if self.is_cd:
            return True
        answer = ask_one(self._session, self.lun, commands.MODE_SENSE_6, tried, self._on)
        return answer.good and commands.is_write_protected(answer.data)

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        if self._closed:
            raise Cancelled("read", self._on, "it was closed")
        if end <= offset:
            return b""
        block = self.capacity.block
        first, last = offset // block, -(-end // block)
        data = self._blocks(first, last - first)
        start = offset - first * block
        return data[start : start + end - offset] if start or len(data) != end - offset else data

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write `data`; where it begins or ends inside a block, the rest of that block is read first."""
        if self._closed:
            raise Cancelled("write to", self._on, "it was closed")
        if offset < 0 or offset + len(data) > self.size:
            raise BadAnswer("write to", self._on, "what is to be written reaches beyond the end")
        if not data:
            return
        block = self.capacity.block
        first, last = offset // block, -(-(offset + len(data)) // block)
        head, tail = offset - first * block, last * block - offset - len(data)
        if not head and not tail:
            self._put(first, bytes(data))
            return
        with self._writing:  # two who write into one block must not undo each other
            before = self._blocks(first, 1)[:head] if head else b""
            after = self._blocks(last - 1, 1)[block - tail :] if tail else b""
            self._put(first, before + bytes(data) + after)

    def flush(self) -> None:
        if self._closed:
            raise Cancelled("flush", self._on, "it was closed")
        answer = ask_one(self._session, self.lun, commands.SYNCHRONIZE, "flush", self._on)
        if not answer.good and answer.key != Sense.ILLEGAL_REQUEST:  # it has no cache then
            raise scsi_failure(answer.status, answer.key, answer.code, "flush", self._on)

    def close(self) -> None:
        self._closed = True

    def _blocks(self, first: int, count: int) -> bytes:
        size, parts = self.capacity.block, []
        pieces = [
            commands.read(start, min(self._count, first + count - start), size)
            for start in range(first, first + count, self._count)
        ]
        for index in range(0, len(pieces), _MOST_PIECES):
            asked = pieces[index : index + _MOST_PIECES]
            answers = ask(self._session, [(self.lun.wire, piece) for piece in asked], "read", self._on)
            for piece, answer in zip(asked, answers, strict=True):
                if not answer.good:
                    raise scsi_failure(answer.status, answer.key, answer.code, "read", self._on)
                if len(answer.data) != piece.length:
                    raise BadAnswer("read", self._on, f"{len(answer.data)} bytes came instead of {piece.length}")
                parts.append(answer.data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _put(self, first: int, data: bytes) -> None:
        size = self.capacity.block
        step = self._count * size
        pieces = [
            commands.write(first + start // size, data[start : start + step], size)
            for start in range(0, len(data), step)
        ]
        for index in range(0, len(pieces), _MOST_PIECES):
            asked = [(self.lun.wire, piece) for piece in pieces[index : index + _MOST_PIECES]]
            for answer in ask(self._session, asked, "write to", self._on):
                if not answer.good:
                    raise scsi_failure(answer.status, answer.key, answer.code, "write to", self._on)


def reserved_by(session: Session, lun: Lun, own: str, tried: str, on: Location) -> list[str]:
    """Return who has registered for persistent reservations of a LUN, or reserved it, as short texts."""
    kinds = (commands.TEST_UNIT_READY, commands.FULL_STATUS, commands.RESERVATION_KEYS, commands.RESERVATION)
    ready, full, keys, holder = ask(session, [(lun.wire, kind) for kind in kinds], tried, on)
    if full.good:
        found = commands.registrants_of(full.data)
        users = [_user(who.name or "an initiator that is not named", who.holds, own) for who in found]
    else:
        held = commands.holder_of(holder.data) if holder.good else ""
        users = [_user(f"key {key}", key == held, own) for key in (commands.keys_of(keys.data) if keys.good else [])]
    if not users and ready.status == Status.RESERVATION_CONFLICT:
        users = ["another initiator, which holds a reservation"]
    return list(dict.fromkeys(users))


def _user(name: str, holds: bool, own: str) -> str:
    which = " (this host's own name)" if name == own else ""
    return f"{name}{which}, {'holding' if holds else 'registered for'} a persistent reservation"


def _passes(answer: Answer) -> bool:
    """Whether the same command may go well in the next moment."""
    return answer.status in {Status.BUSY, Status.TASK_SET_FULL} or answer.key in {
        Sense.UNIT_ATTENTION,
        Sense.ABORTED_COMMAND,
    }


def _unknown(answer: Answer) -> bool:
    return answer.key == Sense.ILLEGAL_REQUEST and not answer.good
