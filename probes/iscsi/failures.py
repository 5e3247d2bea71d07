"""What the failures of libiscsi and of SCSI mean to a person."""

import os
import re
from dataclasses import dataclass

from probes.errors import BadAnswer, Cancelled, Denied, FarbootError, NotAnImage, NotFound, TimedOut, Unreachable
from probes.iscsi.commands import CAPACITY_CHANGED, NO_MEDIUM, NO_SUCH_LUN, Sense, Status
from probes.iscsi.names import Login, portal_text
from probes.location import Location

_LISTS = "`farboot ls` of the target lists those that it has"
CHAP = ("username", "password")


@dataclass(frozen=True)
class End:
    """Why a session is no more: each call that it fails tells it in its own words."""

    kind: type[FarbootError]
    why: str
    hint: str = ""
    detail: str = ""
    wants: tuple[str, ...] = ()

    def error(self, tried: str, on: Location) -> FarbootError:
        """The error for a call that tried something on a location."""
        if issubclass(self.kind, Denied):
            return self.kind(tried, on, self.why, self.hint, self.detail, self.wants)
        return self.kind(tried, on, self.why, self.hint, self.detail)

    @staticmethod
    def like(error: FarbootError) -> "End":
        """The end that an error makes."""
        return End(type(error), error.why, error.hint, error.detail, getattr(error, "wants", ()))


def closed() -> End:
    """Somebody closed the session."""
    return End(Cancelled, "it was closed")


def no_answer(login: Login, seconds: float) -> End:
    """Nothing came for so long."""
    limit = f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    return End(TimedOut, f"{_where(login)} did not answer within {limit}", "is its iSCSI target service well?")


def connection_lost(login: Login, words: str) -> End:
    """The connection could not be made, or broke."""
    number = re.search(r"\((\d+)\)\.?$", words.strip())
    reason = os.strerror(int(number[1])) if number and 0 < int(number[1]) < 200 else "the connection broke"
    hint = f"is the iSCSI target service up, and TCP port {login.port} open in its firewall?"
    return End(Unreachable, f"{_where(login)}: {reason}", hint, words)


def hung_up(login: Login, words: str) -> End:
    """The other end closed the connection during the login."""
    why = f"{_where(login)} hung up during the login"
    return End(Unreachable, why, "is it an iSCSI target, and has it any targets to offer?", words)


def login_failure(login: Login, words: str) -> End:
    """The target did not let us in. The numbers are RFC 7143's login status classes and details (11.13.5)."""
    status = re.search(r"\((\d+)\)\s*$", words)
    code = int(status[1]) if status else 0
    add = "add it to the target's access list, or log in as another: ?initiator=iqn…"
    if code == 0x0201 or "CHAP" in words or "authentication" in words.lower():
        if login.target_password is not None and code != 0x0201:
            why = "the target did not prove who it is"
            return End(Denied, why, "its own CHAP name and secret are target_user= and target_password=", words, CHAP)
        if login.is_authenticated:
            return End(Denied, f"it does not accept {login.user} with this CHAP secret", "", words, CHAP)
        return End(Denied, "it wants a CHAP name and secret", "give them as user and password", words, CHAP)
    if code == 0x0202:
        return End(Denied, f"it does not let the initiator {login.initiator} in", add, words)
    if code in {0x0203, 0x0204}:
        why = f"{_where(login)} has no such target for the initiator {login.initiator}"
        return End(NotFound, why, f"the portal lists its targets; if it is there, {add}", words)
    if code in {0x0206, 0x0300, 0x0301, 0x0302}:
        why = {0x0206: "too many connections", 0x0302: "it is out of resources"}.get(
            code, "the service is not available"
        )
        return End(Unreachable, f"{_where(login)}: {why}", "try again", words)
    if code == 0 and "log in" not in words.lower():
        return End(BadAnswer, f"{_where(login)} does not speak iSCSI as expected", words[:120], words)
    return End(BadAnswer, f"{_where(login)} refused the login: {words[:120]}", "", words)


def scsi_failure(status: int, key: int, code: int, tried: str, on: Location) -> FarbootError:
    """What a command's status and sense data mean."""
    detail = f"SCSI status {status:#04x}, sense key {key:#x}, code {code:#06x}"
    if status == Status.RESERVATION_CONFLICT:
        why = "another initiator holds a reservation on this LUN"
        return Denied(tried, on, why, "it is in use, perhaps by a cluster; release it there", detail)
    if status in {Status.BUSY, Status.TASK_SET_FULL}:
        return Unreachable(tried, on, "the target is busy", "try again", detail)
    if status != Status.CHECK_CONDITION:
        return BadAnswer(tried, on, f"the target reports status {status:#04x}", "", detail)
    if code == NO_SUCH_LUN:
        return NotFound(tried, on, "the target has no such LUN", _LISTS, detail)
    if key == Sense.NOT_READY and code >> 8 == NO_MEDIUM:
        return NotAnImage(tried, on, "there is no medium in the drive", "insert one at the target", detail)
    if key == Sense.NOT_READY:
        return Unreachable(tried, on, "the LUN is not ready", "is it offline or formatting? try again", detail)
    if key == Sense.DATA_PROTECT:
        return Denied(tried, on, "the LUN is write-protected", "", detail)
    if key in {Sense.MEDIUM_ERROR, Sense.HARDWARE_ERROR}:
        what = "the medium" if key == Sense.MEDIUM_ERROR else "the hardware"
        return BadAnswer(tried, on, f"the target reports an error of {what}", "look into the target's log", detail)
    if code == CAPACITY_CHANGED:
        return BadAnswer(tried, on, "the LUN's size has just changed", "open it again", detail)
    return BadAnswer(tried, on, "the target refuses the command", "", detail)


def _where(login: Login) -> str:
    return portal_text(login.host, login.port)
