"""Plans, errors and sessions as JSON: how a TUI or a command, the supervisor and the state files speak.

Everything on these wires is of the same person and the same Farboot; what arrives is checked for its shape all the
same, and nothing of it can be code.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from app.qemu.steps import (
    BootPlan,
    CheckUnchanged,
    CheckUnused,
    CopyFile,
    CreateOverlay,
    FetchImage,
    LaySecret,
    OpenFile,
    StartAgent,
    StartBridge,
    StartQemu,
)
from probes.errors import Crashed, Denied, FarbootError, Locked, UnknownHostKey
from probes.evidence import Evidence
from probes.location import Location
from probes.reader import Pin

T = TypeVar("T")

_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        BootPlan, CheckUnchanged, CheckUnused, CopyFile, CreateOverlay, FetchImage, Evidence, LaySecret, Location,
        OpenFile, Pin, StartAgent, StartBridge, StartQemu,
    )
}  # fmt: skip
_CLASS = "="


class SessionState(StrEnum):
    """Where a guest is in its life. ENDED is as it should be, FAILED is not, and `SessionInfo.error` says why."""

    STARTING = "starting"
    CHECKING = "checking"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    ENDED = "ended"
    FAILED = "failed"

    @property
    def is_over(self) -> bool:
        """Whether there is no guest any more."""
        return self in {SessionState.ENDED, SessionState.FAILED}


@dataclass(frozen=True)
class SessionInfo:
    """One guest, as last told by its supervisor.

    `name` is raw, as the storage spells it; `pid` is QEMU's, in this host's numbers; `started` and `ended` are seconds
    since the epoch (`ended` is 0 before); `error` says why it is in a state that nobody wished for; `memory` is in
    bytes; `folder` is the guest's, `vnc` its VNC socket, `log` the file with its serial line's output;
    `backing` are the locations of the images that it reads beside its own.
    """

    id: str
    location: str
    name: str
    state: SessionState = SessionState.STARTING
    pid: int | None = None
    started: float = 0.0
    error: str = ""
    format: str = ""
    route: str = ""
    mode: str = ""
    memory: int = 0
    cpus: int = 0
    network: str = ""
    folder: str = ""
    vnc: str = ""
    log: str = ""
    ended: float = 0.0
    backing: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether there is no guest any more."""
        return self.state.is_over

    def to_json(self) -> dict[str, object]:
        """Return the session as an object."""
        return {**dataclasses.asdict(self), "state": str(self.state)}

    @staticmethod
    def from_json(values: Mapping[str, object]) -> "SessionInfo":
        """What `to_json` gave, perhaps of another version: what is unknown is left out. Raises ValueError."""
        if not isinstance(values, Mapping) or not {"id", "location", "name"} <= set(values):
            raise ValueError("not a session")
        known = {field.name: values[field.name] for field in dataclasses.fields(SessionInfo) if field.name in values}
        known["state"] = SessionState(str(values.get("state", "")))
        backing = values.get("backing")
        known["backing"] = tuple(map(str, backing)) if isinstance(backing, list | tuple) else ()
        return SessionInfo(**known)  # type: ignore[arg-type]  # as `to_json` gave them


def plan_to_json(plan: BootPlan) -> object:
    """Return the plan as plain JSON values."""
    return _encode(plan)


def plan_from_json(values: object) -> BootPlan:
    """What `plan_to_json` gave. Raises ValueError for anything else."""
    plan = _decode(values)
    if not isinstance(plan, BootPlan):
        raise ValueError("not a plan")
    return plan


def error_from_json(values: Mapping[str, object]) -> FarbootError:
    """The error that `FarbootError.as_json` told of, of its own class."""
    texts = {name: str(values.get(name, "")) for name in ("error", "tried", "on", "why", "hint", "detail")}
    kind = next((kind for kind in _errors(FarbootError) if kind.code == texts["error"]), FarbootError)
    told = (texts["tried"], texts["on"], texts["why"], texts["hint"], texts["detail"])
    if kind is UnknownHostKey:
        return UnknownHostKey(*told, str(values.get("fingerprint", "")), str(values.get("key_type", "")))
    if kind is Locked:
        return Locked(*told, image=str(values.get("image", "")))
    wants = values.get("wants")
    if kind is Denied and isinstance(wants, list):
        return Denied(*told, wants=tuple(str(field) for field in wants))
    return kind(*told)


def error_to_json(error: FarbootError) -> dict[str, object]:
    """`FarbootError.as_json`, with what else it takes to make the error again."""
    values: dict[str, object] = {**error.as_json(), "detail": error.detail}
    if isinstance(error, Denied):
        values["wants"] = list(error.wants)
    if isinstance(error, UnknownHostKey):
        values |= {"fingerprint": error.fingerprint, "key_type": error.key_type}
    if isinstance(error, Locked):
        values["image"] = error.image
    return values


def to_line(values: Mapping[str, object]) -> bytes:
    """One object as one line. Undecodable bytes in names travel as lone surrogates, escaped."""
    return json.dumps(values).encode("ascii") + b"\n"


def from_line(line: bytes, on: object) -> dict[str, object]:
    """Read one object, or raise the error that came in its place; Crashed if it is neither."""
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise Crashed("understand", on, "its supervisor gave no answer")
    error = values.get("error")
    if isinstance(error, dict):
        raise error_from_json(error)
    return values


def _encode(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {_CLASS: type(value).__name__, **values}
    if isinstance(value, tuple):
        return [_encode(part) for part in value]
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"{type(value).__name__} is not part of a plan")


def _decode(value: object) -> object:
    if isinstance(value, list):
        return tuple(_decode(part) for part in value)
    if not isinstance(value, dict):
        return value
    kind = _CLASSES.get(str(value.get(_CLASS)))
    if kind is None:
        raise ValueError("not part of a plan")
    try:
        return kind(**{name: _decode(part) for name, part in value.items() if name != _CLASS})
    except TypeError:
        raise ValueError(f"not a {kind.__name__}") from None


def _errors(kind: type[T]) -> Iterator[type[T]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _errors(below)
