"""Guests, as TUIs and commands see them: start one, list them, look, talk, stop.

Everything here blocks for a bounded time, may be called from any thread, and raises the errors of `probes.errors`.
A guest belongs to its supervisor, not to the process that started it. A session that is over stays in the list for an
hour, with its story and its log, or until it is stopped once more.
"""

import base64
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress

from app.command import ROOT
from app.qemu.sessions import folders
from app.qemu.sessions.client import ANSWER, ask, converse, dial, kill_supervisor
from app.qemu.sessions.roster import dismiss, find, known, read_log, sessions, sweep
from app.qemu.sessions.wire import SessionInfo, SessionState, from_line, plan_to_json, to_line
from app.qemu.steps import BootPlan, LaySecret
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.errors import Crashed, FarbootError, Refused, TimedOut, Unreachable

__all__ = [
    "SessionInfo",
    "SessionState",
    "console",
    "find",
    "launch",
    "screen",
    "serial_log",
    "sessions",
    "stop",
    "wait_for_text",
]

START_DEADLINE = 180.0
"""Seconds from the order to the running guest; the parts of it have their own, shorter ones."""
_STOP, _STOP_BY_FORCE = 45.0, 15.0
_LONGEST_WAIT = 1e6
_WITHHELD = ("PASS", "SECRET", "KEY", "TOKEN", "COOKIE", "QUERY")


def launch(
    plan: BootPlan, secrets: Mapping[str, Secret] | None = None, credentials: Credentials = NO_CREDENTIALS
) -> SessionInfo:
    """Boot `plan`, and return the session once the guest runs.

    `secrets` are by the path of their `LaySecret` step; `credentials` open the plan's location again. Should this be
    interrupted, no guest stays behind. Raises Refused, Changed if the image is no longer what was judged, TimedOut,
    or a FarbootError with QEMU's or the bridge's own words.
    """
    if plan.refusals:
        raise Refused("boot", plan.location, "; ".join(plan.refusals))
    secrets = secrets or {}
    for step in plan.steps:
        if isinstance(step, LaySecret) and step.path not in secrets:
            raise FarbootError("boot", plan.location, f"the {step.label} is missing")
    sweep()
    order = {
        "plan": plan_to_json(plan),
        "secrets": {path: secret.reveal() for path, secret in secrets.items()},
        "credentials": credentials.to_json(),
    }
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.qemu.sessions.supervisor"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            start_new_session=True,
        )
        try:
            answer = _converse(process, to_line(order), plan)
        finally:  # hanging up is what tells a supervisor that is still starting to give up
            _hang_up(process)
        if not answer:
            words.seek(0)
            raise Crashed(
                "boot", plan.location, "its supervisor died", detail=words.read(65536).decode(errors="replace")
            )
    session = from_line(answer, plan.location).get("session")
    return SessionInfo.from_json(session if isinstance(session, dict) else {})


def stop(identity: str, force: bool = False) -> None:
    """End a guest, and return when it is gone: by its power button, and if it does not listen by force.

    With `force` at once. A session that is over leaves the list. Raises NotFound, TimedOut.
    """
    info = known(identity)
    if info.is_over:
        dismiss(info.id)
        return
    try:
        ask(info.id, {"command": "stop", "force": force}, _STOP_BY_FORCE if force else _STOP)
    except (Unreachable, Crashed):
        if any(info.id == identity and not info.is_over for info in sessions()):
            raise
    except TimedOut:
        if not force:
            raise
        kill_supervisor(info.id)


def screen(identity: str) -> bytes:
    """Return a picture of the guest's screen as PNG. Raises NotFound, FarbootError when the guest has no screen."""
    picture = ask(identity, {"command": "screen"}, ANSWER).get("png")
    return base64.b64decode(str(picture))


def serial_log(identity: str, limit: int = 1 << 20) -> str:
    """Return the last `limit` bytes of what the guest said on its serial line, undecodable ones replaced.

    It is as the guest wrote it, escape sequences included: clean it before it is shown. Works for sessions that are
    over, too. Raises NotFound.
    """
    return read_log(identity, limit).decode(errors="replace")


def console(identity: str) -> socket.socket:
    """Return the guest's serial line, both ways, beginning with the last that was said on it.

    The connection ends with the guest, or when its reader falls far behind. Raises NotFound, Unreachable.
    """
    line = dial(identity, ANSWER)
    try:
        converse(line, {"command": "console"}, identity)
        line.settimeout(None)
    except BaseException:
        line.close()
        raise
    return line


def wait_for_text(identity: str, text: str, timeout: float) -> bool:
    """Wait `timeout` seconds for `text` on the guest's serial line, what was said before included.

    Returns whether it came. Raises NotFound, and Crashed as soon as the guest ends without having said it.
    """
    wanted = text.encode("utf-8", "surrogateescape")
    info = known(identity)
    if not info.is_over:
        with suppress(Unreachable, Crashed):  # the guest may be ending just now
            patience = min(max(0.0, timeout), _LONGEST_WAIT)
            answer = ask(info.id, {"command": "wait", "text": text, "timeout": patience}, patience + ANSWER)
            if answer.get("found") or not answer.get("over"):
                return answer.get("found") is True
    if wanted in read_log(identity, 2 * folders.LOG_LIMIT):
        return True
    error = known(identity).error
    raise Crashed("wait for", f"{text!r} from {info.id}", f"the guest has ended{f': {error}' if error else ''}")


def _converse(process: "subprocess.Popen[bytes]", order: bytes, plan: BootPlan) -> bytes:
    """Hand over the order and read the report; empty if the supervisor died instead."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(order)
        process.stdin.close()
    process.wait()  # it has left for the background
    deadline, answer = time.monotonic() + START_DEADLINE, b""
    while not answer.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimedOut("boot", plan.location, f"it did not start within {START_DEADLINE:g} seconds")
        part = os.read(process.stdout.fileno(), 65536)
        if not part:
            return b""
        answer += part
    return answer


def _hang_up(process: "subprocess.Popen[bytes]") -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()


def _environment() -> dict[str, str]:
    """Ours, with what it takes to import this Farboot, and without the secrets that Farboot itself takes from it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("FARBOOT_") and any(word in name for word in _WITHHELD))
    }
    paths = [str(ROOT), *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1"}
