"""What a supervisor does when things go wrong: with QEMU, the storage, the bridge, its clients, or itself."""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from app.qemu.boot.confine import confinement
from app.qemu.host.find import find_host, fresh_host
from app.qemu.sessions import session as session_module
from app.qemu.sessions.session import SessionState, console, find, launch, screen, serial_log, sessions, stop
from app.qemu.steps import BootPlan, OpenFile, StartBridge, StartQemu
from probes.errors import FarbootError, TimedOut, Unreachable
from probes.evidence import Evidence
from probes.registry import open_source
from tests.qemu.conftest import Home
from tests.qemu.guests import (
    NOTHING,
    PC,
    is_running,
    kill,
    location,
    node,
    plan,
    processes_with,
    state_of,
    supervisor_of,
    until,
)

Scratch = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_sessions(home: Home) -> Iterator[None]:
    yield
    for session in sessions():
        stop(session.id, force=True)
    for session in sessions():
        stop(session.id)


def test_a_qemu_that_is_killed_is_told_and_cleared_away() -> None:
    session = launch(plan())
    kill(session.pid or 0)
    until(lambda: state_of(session) == "failed")
    assert find(session.id).error == "QEMU was killed by SIGKILL"
    assert not os.path.exists(session.folder)


def test_a_qemu_that_crashes_under_bubblewrap_is_told_as_well() -> None:
    bwrap = ("bwrap", "--unshare-pid", "--die-with-parent", "--dev-bind", "/", "/", "--chdir", "{folder}", "--")
    session = launch(BootPlan(location(), "driver", steps=(StartQemu(NOTHING, bwrap),)))
    assert b"qemu-system" in Path(f"/proc/{session.pid}/cmdline").read_bytes()[:60]
    os.kill(session.pid or 0, signal.SIGSEGV)
    until(lambda: state_of(session) == "failed")
    assert find(session.id).error == "QEMU was killed by SIGSEGV"


def test_when_the_supervisor_dies_qemu_goes_too_and_the_next_look_clears_away() -> None:
    session = launch(plan())
    kill(supervisor_of(session))
    until(lambda: not is_running(session.pid or 0))
    found = find(session.id)
    assert found.state is SessionState.FAILED
    assert found.error == "its supervisor was killed, and the guest with it"
    assert not os.path.exists(session.folder)
    assert serial_log(session.id) == ""
    with pytest.raises(Unreachable):
        screen(session.id)


@pytest.mark.parametrize("bubblewrap", [True, False], ids=["with bubblewrap", "without"])
def test_however_qemu_is_confined_it_goes_with_its_supervisor(bubblewrap: bool) -> None:
    # A change of account makes the kernel forget PR_SET_PDEATHSIG: the confinement itself has to see to it.
    host = fresh_host(find_host())
    host = host if bubblewrap else replace(host, bwrap=None)
    start = StartQemu(NOTHING, confinement(host, network=False), host.guest_uid)
    session = launch(BootPlan(location(), "driver", steps=(start,)))
    kill(supervisor_of(session))
    until(lambda: not is_running(session.pid or 0))
    assert state_of(session) == "failed"


def test_a_stop_by_force_cuts_a_polite_one_short() -> None:
    session = launch(plan())  # which hears no power button
    with ThreadPoolExecutor() as pool:
        polite = pool.submit(stop, session.id)
        until(lambda: state_of(session) == "stopping")
        stop(session.id, force=True)
        polite.result(10)
    assert state_of(session) == "ended"


def test_a_supervisor_that_is_told_to_end_ends_its_guest_even_if_that_does_not_hear_the_power_button() -> None:
    session = launch(plan())
    os.kill(supervisor_of(session), signal.SIGTERM)
    until(lambda: state_of(session) == "stopping")
    until(lambda: state_of(session) == "ended", 60)
    assert not is_running(session.pid or 0)


def test_a_supervisor_that_hangs_holds_nobody_up_and_can_be_stopped_by_force(monkeypatch: pytest.MonkeyPatch) -> None:
    for patience in ("ANSWER", "_STOP", "_STOP_BY_FORCE"):
        monkeypatch.setattr(session_module, patience, 0.2)
    session = launch(plan())
    supervisor = supervisor_of(session)
    os.kill(supervisor, signal.SIGSTOP)
    assert state_of(session) == "running"
    for call in (screen, console, stop):
        with pytest.raises(TimedOut, match="its supervisor does not answer"):
            call(session.id)
    stop(session.id, force=True)
    assert state_of(session) == "failed"
    until(lambda: not is_running(session.pid or 0))


def test_a_guest_that_does_not_listen_is_ended_by_force() -> None:
    session = launch(plan(argv=PC))  # there is nothing in it that could hear the power button
    stop(session.id, force=True)
    assert state_of(session) == "ended"
    assert find(session.id).error == ""


def test_a_screen_that_does_not_exist_is_an_error_in_qemus_words() -> None:
    session = launch(plan())
    with pytest.raises(FarbootError, match="no console"):
        screen(session.id)


def test_a_picture_is_not_taken_from_a_link_that_qemu_left(scratch: Scratch) -> None:
    # QEMU's account owns the folder: what lies there may be a trap for a supervisor who is root
    session = launch(plan(argv=PC))
    scratch("secret").write_bytes(b"\x89PNG\r\n\x1a\n of the host")
    (Path(session.folder) / "screen.png").symlink_to(scratch("secret"))
    with pytest.raises(FarbootError):
        screen(session.id)
    assert screen(session.id).startswith(b"\x89PNG")


def faulty_disk(path: Path, fault: dict[str, object]) -> BootPlan:
    """A PC that boots from the raw image at `path`, whose reads go wrong as `fault` says."""
    nodes = (
        "-add-fd", "fd=3,set=3",
        *node("proto", "file", filename="/dev/fdset/3", **{"read-only": True}),
        *node("faulty", "blkdebug", image="proto", **{"inject-error": [fault]}),
        *node("base", "raw", file="faulty", **{"read-only": True}),
        "-device", "virtio-blk-pci,drive=base,bootindex=0,rerror=stop,werror=stop",
    )  # fmt: skip
    return BootPlan(location(path), "driver", steps=(OpenFile(str(path), 3, False), StartQemu((*PC, *nodes))))


@pytest.fixture
def disk(scratch: Scratch) -> Path:
    path = scratch("disk.raw")
    # xor ax,ax; mov es,ax; then by int 13h: read sector 1 to 0:7e00; jmp $
    code = bytes.fromhex("31c0 8ec0 b80102 b90200 ba8000 bb007e cd13 ebfe")
    path.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    return path


def test_a_guest_stopped_by_an_io_error_says_so_and_goes_on_when_the_storage_does(disk: Path) -> None:
    session = launch(faulty_disk(disk, {"event": "none", "errno": 5, "once": True, "sector": 1}))
    until(lambda: state_of(session) == "paused")
    assert "read error on base: Input/output error; the guest waits, next try in 1 s" in find(session.id).error
    until(lambda: state_of(session) == "running")
    assert find(session.id).error == ""


def test_a_guest_whose_storage_stays_away_waits_longer_each_time_and_can_be_stopped(disk: Path) -> None:
    session = launch(faulty_disk(disk, {"event": "none", "errno": 5, "sector": 1}))
    until(lambda: "next try in 2 s" in find(session.id).error)
    assert find(session.id).state is SessionState.PAUSED
    stop(session.id)  # it cannot hear the power button: so at once
    assert state_of(session) == "ended"


def test_a_bridge_that_ends_is_started_again_and_the_state_tells(disk: Path) -> None:
    with open_source(location(disk)) as source, source.open(location(disk)) as reader:
        pin, evidence = reader.pin, Evidence.by([(0, reader.pread(0, 512))])
    words = ("--size", str(pin.size), "--validator", pin.validator, "--evidence", str(evidence), "--format", "raw")
    command = (sys.executable, "-m", "app", "bridge", "--socket", "bridge.sock", *words, "--", str(disk))
    server = {"type": "unix", "path": "bridge.sock"}
    nodes = (
        *node("proto", "nbd", server=server, **{"reconnect-delay": 30, "read-only": True}),
        *node("base", "raw", file="proto", **{"read-only": True}),
    )
    steps = (StartBridge("bridge.sock", location(disk), command), StartQemu((*NOTHING, *nodes)))
    session = launch(BootPlan(location(disk), "bridge", steps=steps))
    assert session.route == "bridge"
    (first,) = processes_with(str(disk))
    kill(first)
    until(lambda: find(session.id).error.startswith("the bridge ended"))
    until(lambda: find(session.id).error == "")
    (second,) = processes_with(str(disk))
    assert second != first
    assert state_of(session) == "running"
    stop(session.id, force=True)
    assert processes_with(str(disk)) == []


def raw_client(home: Home, identity: str) -> socket.socket:
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(20)
    os.chdir(home.runtime / identity)
    try:
        line.connect("control.sock")
    finally:
        os.chdir("/")
    return line


GARBAGE = {
    "nothing": b"", "an empty line": b"\n", "words": b"garbage\n", "a list": b"[]\n", "an empty object": b"{}\n",
    "a number for a command": b'{"command": 7}\n', "bytes": b"\xff\x00" * 100 + b"\n", "no end": b"x" * 200_000,
}  # fmt: skip


@pytest.mark.parametrize("said", list(GARBAGE.values()), ids=list(GARBAGE))
def test_garbage_on_the_control_socket_ends_that_client_and_no_other(
    said: bytes, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    session = launch(plan())
    with console(session.id) as other, raw_client(home, session.id) as line:
        try:
            line.sendall(said)
            line.shutdown(socket.SHUT_WR)
            assert line.recv(100) == b"" or b"command" in said
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert state_of(session) == "running"
        stop(session.id, force=True)
        assert other.recv(1) == b""


def test_a_crowd_at_the_console_is_turned_away_politely_and_keeps_nobody_from_stopping_the_guest() -> None:
    session = launch(plan())
    crowd = [console(session.id) for _ in range(64)]
    with pytest.raises(FarbootError, match="64 are open already"):
        console(session.id)
    crowd.pop().close()

    def comes_in() -> bool:
        try:
            crowd.append(console(session.id))
        except FarbootError:
            return False
        return True

    until(comes_in)
    stop(session.id, force=True)
    for line in crowd:
        line.close()


def test_a_log_of_the_supervisor_exists_and_is_for_its_owner_only(home: Home) -> None:
    session = launch(plan())
    log = home.runtime / session.id / "supervisor.log"
    assert "running" in log.read_text()
    assert (home.runtime / session.id).stat().st_mode & 0o777 == 0o700


def test_a_state_file_says_what_ps_says(home: Home) -> None:
    session = launch(plan())
    state = json.loads((home.runtime / session.id / "state").read_text())
    assert state["pid"] == session.pid
    assert state["state"] == "running"
