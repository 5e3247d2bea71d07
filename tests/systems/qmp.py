"""Asking a QEMU that a printed script has started: nobody else speaks to its QMP socket there."""

import json
import os
import socket
from pathlib import Path
from typing import TextIO, cast

from tests.servers.server import wait_until


def query(script: int, *commands: str) -> str:
    """Return QEMU's answers as text. `script` is the process id of the shell that runs the script."""
    found: list[str] = []

    def is_there() -> bool:
        found[:] = [path for pid in _family(script) if (path := _socket_of(pid))]
        return bool(found)

    wait_until(is_there, "QEMU's monitor", 120)
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(60)
        monitor.connect(found[0])
        lines = cast("TextIO", monitor.makefile("rw", encoding="utf-8"))
        lines.readline()  # the greeting
        answers = [_ask(lines, command) for command in ("qmp_capabilities", *commands)]
    return "\n".join(answers)


def _ask(lines: TextIO, command: str) -> str:
    lines.write(json.dumps({"execute": command}) + "\n")
    lines.flush()
    while True:
        answer = lines.readline()
        if "return" in (told := json.loads(answer)) or "error" in told:
            return answer


def _family(ancestor: int) -> list[int]:
    """`ancestor` and all that descend from it."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        try:
            stat = Path("/proc", name, "stat").read_text() if name.isdigit() else ""
        except OSError:
            continue
        if stat:
            parents[int(name)] = int(stat.rpartition(")")[2].split()[1])
    family = {ancestor}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return sorted(family)


def _socket_of(pid: int) -> str:
    """The monitor's socket in the folder where this process works; empty if it is none of ours yet."""
    path = f"/proc/{pid}/cwd/qmp.sock"
    return path if os.path.exists(path) else ""
