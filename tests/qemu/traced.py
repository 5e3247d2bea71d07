"""QEMU, started as a plan says and watched by strace: what it opened, whom it called, and what its guest would read."""

import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from app.qemu.boot.confine import FOLDER
from app.qemu.steps import BootPlan, CreateOverlay, OpenFile, StartQemu
from tests.unprivileged import NOBODY, becoming

_PATIENCE = 30.0
_MOST_MEMORY = 3 << 30
"""Bytes of address space: images that eat memory fail at it instead of bringing the machine down."""

_CALL = re.compile(r"^(?P<when>[\d.]+) (?P<name>\w+)\((?P<rest>.*)$")
_OPENED = re.compile(r'"(?P<path>(?:[^"\\]|\\.)*)".*\) = (?P<fd>\d+)<(?P<real>[^>]*)>$')
_ASKED = re.compile(r'"(?P<path>(?:[^"\\]|\\.)*)"')
_INET = re.compile(r'sin6?_port=htons\((?P<port>\d+)\).*?"(?P<address>[^"]+)"')
_UNIX = re.compile(r'sun_path=(?P<path>@?"[^"]*")')

_READ_AND_END: tuple[dict[str, object], ...] = (
    {"execute": "qmp_capabilities"},
    {"execute": "human-monitor-command", "arguments": {"command-line": 'qemu-io overlay "read -v 0 512"'}},
    {"execute": "quit"},
)


@dataclass
class Seen:
    """What QEMU did, from its own start to its end.

    `opened` are the real paths of what it opened, as it saw them; `tried` all that it asked for by name. `called` are
    the peers that it tried to reach ("127.0.0.1:80", a quoted path for a Unix socket), `started` other programs.
    `guest` is what its guest would read at the start of its disk; `words` its complaint, `came_up` whether it ran.
    """

    opened: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    started: list[str] = field(default_factory=list)
    guest: bytes = b""
    words: str = ""
    came_up: bool = False


def watch(
    plan: BootPlan,
    folder: Path,
    user: int | None = None,
    confined: bool = True,
    change: Callable[[list[str]], list[str]] = lambda argv: argv,
) -> Seen:
    """Carry `plan` out in the new folder `folder`, as the supervisor does, up to the paused guest; then end it.

    `user` is who does it if not we; `change` is applied to QEMU's argv.
    """
    assert not plan.refusals, plan.refusals
    folder.mkdir(parents=True)
    start = plan.qemu
    assert start is not None
    opening = ""
    for step in plan.steps:
        if isinstance(step, CreateOverlay):
            subprocess.run(step.argv, cwd=folder, check=True)
        elif isinstance(step, OpenFile):  # by a shell, for the numbers are taken here
            opening += f"exec {step.fd}<{shlex.quote(step.path)}; "
    return _run(start, folder, user, confined, change, opening)


def _run(
    start: StartQemu,
    folder: Path,
    user: int | None,
    confined: bool,
    change: Callable[[list[str]], list[str]],
    opening: str,
) -> Seen:
    logs = folder.with_name(folder.name + "-trace")
    logs.mkdir()
    owner = user if user is not None else start.uid
    if (owner is not None and confined) or user is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, owner, owner)  # type: ignore[arg-type]  # one of them is given
    if user is not None:
        os.chown(logs, user, user)
    prefix = [word.replace(FOLDER, str(folder)) for word in start.confinement] if confined else []
    trace = ("strace", "-ff", "-ttt", "-y", "-o", str(logs / "trace"), "-e", "trace=%file,connect,sendto,execve")
    shell = ("sh", "-c", opening + 'exec "$@"', "sh")
    command = [*shell, *(becoming(user) if user is not None else ()), *trace, *prefix, *change(list(start.argv)), "-S"]
    seen = Seen()
    with subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY)),  # noqa: PLW1509
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:
        try:
            seen.came_up = _talk(process, folder)
            said, words = process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            said, words = process.communicate()
    seen.guest = _bytes_of(said.decode(errors="replace"))
    seen.words = words.decode(errors="replace")
    _read_traces(sorted(logs.iterdir()), os.path.basename(start.argv[0]), seen)
    return seen


def _talk(process: "subprocess.Popen[bytes]", folder: Path) -> bool:
    """Await QEMU's monitor, have it read the start of the guest's disk, and end it; whether it came up at all."""
    path = folder / "qmp.sock"
    deadline = time.monotonic() + _PATIENCE
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_PATIENCE)
        while True:
            if process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                return False
            try:
                line.connect(f"/proc/self/cwd/{os.path.relpath(path)}")
                break
            except OSError:
                time.sleep(0.01)  # it announces its socket by nothing else
        try:
            with line.makefile("rw") as talk:
                return bool(talk.readline()) and all(_answered(talk, command) for command in _READ_AND_END)
        except OSError:  # it opens its socket first and then ends over an image
            return False


def _answered(talk: TextIO, command: dict[str, object]) -> bool:
    talk.write(json.dumps(command))
    talk.flush()
    return bool(talk.readline())


def _bytes_of(dump: str) -> bytes:
    """The bytes of qemu-io's dump: `00000000:  6d 79 …  my…`."""
    rows = re.findall(r"^[0-9a-f]{8}:  ((?:[0-9a-f]{2} )+)", dump, re.MULTILINE)
    return bytes.fromhex("".join(rows))


def _read_traces(logs: Sequence[Path], program: str, seen: Seen) -> None:
    """Fill in what the traces tell, a file a thread: from QEMU's own start on, in its thread and those after it."""
    began: float | None = None
    traces = [[_CALL.match(line) for line in log.read_text(errors="replace").splitlines()] for log in logs]
    calls = [[call for call in trace if call] for trace in traces]
    for trace in calls:
        for call in trace:
            if call["name"] == "execve" and f"/{program}" in call["rest"].split(",")[0] and "= 0" in call["rest"]:
                began = float(call["when"])
    assert began is not None, f"QEMU was not started: {seen.words}"
    for trace in calls:
        own = any(call["name"] == "execve" and float(call["when"]) == began for call in trace)
        if own or float(trace[0]["when"]) > began if trace else False:
            for call in trace:
                if float(call["when"]) > began:
                    _note(call["name"], call["rest"], seen)


def _note(name: str, rest: str, seen: Seen) -> None:
    if name in {"connect", "sendto"}:
        if found := _INET.search(rest):
            seen.called.add(f"{found['address']}:{found['port']}")
        elif (found := _UNIX.search(rest)) and "ENOENT" not in rest:
            seen.called.add(found["path"])
    elif name == "execve":
        seen.started.append(rest)
    elif name in {"open", "openat", "openat2", "creat"}:
        if asked := _ASKED.search(rest):
            seen.tried.add(asked["path"])
        if found := _OPENED.search(rest):
            seen.opened.add(found["real"])


def without_backing_option(argv: list[str]) -> list[str]:
    """The same argv without `"backing": null`: an image's own word about its backing file counts again."""
    changed = []
    for word in argv:
        if word.startswith('{"driver"'):
            node: dict[str, Any] = json.loads(word)
            if node.get("backing", "") is None:
                del node["backing"]
            word = json.dumps(node)  # noqa: PLW2901
        changed.append(word)
    return changed


__all__ = ["NOBODY", "Seen", "watch", "without_backing_option"]
