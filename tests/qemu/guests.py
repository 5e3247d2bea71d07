"""Boot plans made by hand, for the tests of sessions: there it matters who carries a plan out, not who makes it."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from app.qemu.sessions.session import find
from app.qemu.sessions.wire import SessionInfo
from app.qemu.steps import BootPlan, CheckUnchanged, OpenFile, StartQemu, Step
from probes.evidence import Evidence
from probes.location import Location
from probes.reader import Pin

QEMU = shutil.which("qemu-system-x86_64") or "qemu-system-x86_64"
TALK = (
    "-qmp", "unix:qmp.sock,server=on,wait=off", "-vnc", "unix:vnc.sock",
    "-chardev", "stdio,id=serial0", "-serial", "chardev:serial0",
)  # fmt: skip
NOTHING = (QEMU, "-nodefaults", "-no-user-config", "-machine", "none", "-accel", "tcg", *TALK)
"""A QEMU without a guest: it starts in no time, and is a QEMU in every other way."""
PC = (QEMU, "-nodefaults", "-no-user-config", "-machine", "q35", "-accel", "tcg", "-m", "256M", "-device", "VGA", *TALK)

MARKER = "FARBOOT-GUEST-READY"


def location(path: object = "/nowhere/odd name.img") -> Location:
    return Location("file", path=str(path))


def node(name: str, driver: str, **options: object) -> tuple[str, str]:
    return "-blockdev", json.dumps({"node-name": name, "driver": driver, **options})


def plan(*steps: Step, argv: tuple[str, ...] = NOTHING, place: Location | None = None) -> BootPlan:
    """A plan with these steps before QEMU's start."""
    return BootPlan(place or location(), "driver", steps=(*steps, StartQemu(argv)))


def image_plan(path: Path, argv: tuple[str, ...] = NOTHING, evidence: Evidence | None = None) -> BootPlan:
    """QEMU with the raw image at `path` as its node `base`, checked to be what it was when this plan was made."""
    status = path.stat()
    with path.open("rb") as file:
        evidence = evidence or Evidence.by([(0, file.read(64 << 10))])
    nodes = (
        "-add-fd", "fd=3,set=3",
        *node("proto", "file", filename="/dev/fdset/3", **{"read-only": True}),
        *node("base", "raw", file="proto", **{"read-only": True}),
    )  # fmt: skip
    check = CheckUnchanged(location(path), Pin(status.st_size), evidence, "base", status.st_size)
    return BootPlan(
        location(path), "driver", steps=(OpenFile(str(path), 3, False), StartQemu((*argv, *nodes)), check), format="raw"
    )


def tiny_plan(iso: Path) -> BootPlan:
    """The tiny guest, from its CD."""
    made = image_plan(iso, PC)
    start = made.steps[1]
    assert isinstance(start, StartQemu)
    drive = ("-device", "ide-cd,bus=ide.0,drive=base,bootindex=0")
    return BootPlan(made.location, "driver", steps=(made.steps[0], StartQemu((*start.argv, *drive)), made.steps[2]))


def until(condition: Callable[[], object], patience: float = 20.0) -> None:
    """Wait until `condition` holds; what it watches has no other way to be awaited."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def state_of(session: SessionInfo) -> str:
    return str(find(session.id).state)


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is not just a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_with(text: str) -> list[int]:
    """The processes that have `text` in their arguments."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if text.encode() in words and is_running(int(entry)):
                found.append(int(entry))
    return found


def supervisor_of(session: SessionInfo) -> int:
    """The supervisor's process: QEMU's ancestor that is one."""
    pid = session.pid
    while pid and b"app.qemu.sessions.supervisor" not in Path(f"/proc/{pid}/cmdline").read_bytes():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert pid
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
