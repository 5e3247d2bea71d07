"""A real guest and those who deal with it. One tiny Linux serves all tests up to the one that ends it."""

import os
import select
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from app.qemu.sessions.session import (
    SessionInfo,
    SessionState,
    console,
    find,
    launch,
    screen,
    serial_log,
    sessions,
    stop,
    wait_for_text,
)
from probes.errors import Crashed, NotFound, Unreachable
from tests.qemu.conftest import Home
from tests.qemu.guests import MARKER, is_running, processes_with, state_of, tiny_plan, until

pytestmark = pytest.mark.boots


@pytest.fixture(scope="module")
def guest(home: Home, tiny_guest: GuestImages) -> SessionInfo:
    """A tiny Linux that has come up."""
    session = launch(tiny_plan(tiny_guest.iso))
    assert wait_for_text(session.id, MARKER, 120)
    return session


class Terminal:
    """A person at a console, who reads until a text comes."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.seen = b""

    def type(self, text: str) -> None:
        self.line.sendall(text.encode())

    def until(self, text: str, patience: float = 30.0) -> None:
        deadline = time.monotonic() + patience
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.line], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come; {self.seen[-500:]!r} did"
            data = self.line.recv(65536)
            assert data, f"the line ended before {text!r}"
            self.seen += data


@pytest.fixture
def terminal(guest: SessionInfo) -> Iterator[Terminal]:
    with console(guest.id) as line:
        yield Terminal(line)


def test_a_guest_that_runs_is_in_the_list_with_all_that_is_known_of_it(
    guest: SessionInfo, tiny_guest: GuestImages
) -> None:
    (found,) = [session for session in sessions() if session.id == guest.id]
    assert found.state is SessionState.RUNNING
    assert found.location == str(tiny_guest.iso)
    assert found.name == tiny_guest.iso.name
    assert b"qemu-system" in Path(f"/proc/{found.pid}/cmdline").read_bytes()
    assert found.error == ""
    assert Path(found.vnc).is_socket()
    assert time.time() - 600 < found.started <= time.time()


def test_its_id_is_made_of_its_name_and_the_beginning_is_enough_to_find_it(guest: SessionInfo) -> None:
    assert guest.id.startswith("farboot-tiny-")
    assert find(guest.id[:-1]) == find(guest.id)
    with pytest.raises(NotFound, match="there is none of that name"):
        find("another")
    with pytest.raises(NotFound):
        find("")


def test_a_text_that_was_said_long_ago_is_found_at_once(guest: SessionInfo) -> None:
    assert wait_for_text(guest.id, MARKER, 0)


def test_a_text_that_never_comes_is_waited_for_no_longer_than_asked(guest: SessionInfo) -> None:
    assert not wait_for_text(guest.id, "no such text", 0.3)


def test_a_console_begins_with_what_was_said_and_goes_both_ways(terminal: Terminal) -> None:
    terminal.until(MARKER)
    terminal.type("echo a$((40+2))b\n")
    terminal.until("a42b")


def test_two_consoles_see_the_same_and_one_may_go(guest: SessionInfo, terminal: Terminal) -> None:
    with console(guest.id) as line:
        other = Terminal(line)
        other.type("echo from$((1+0))other\n")
        other.until("from1other")
        terminal.until("from1other")
    terminal.type("echo still$((1+1))here\n")
    terminal.until("still2here")


def test_a_client_can_ask_while_others_use_the_guest(guest: SessionInfo, terminal: Terminal) -> None:
    terminal.type("echo asked$((3))while\n")
    assert screen(guest.id).startswith(b"\x89PNG")
    assert wait_for_text(guest.id, "asked3while", 30)
    terminal.until("asked3while")


def test_a_long_paste_arrives_whole(terminal: Terminal) -> None:
    # `cat` with a here-document, in lines that a terminal line discipline takes
    lines = "".join(f"{number:04d}-{'x' * 60}\n" for number in range(300))
    terminal.type("stty -echo; cat > /tmp/paste <<'END'\n")
    terminal.type(lines + "END\nstty echo; md5sum < /tmp/paste | tr -d ' -'; echo pasted$((1))\n")
    terminal.until("pasted1", 60)
    import hashlib

    assert hashlib.md5(lines.encode()).hexdigest().encode() in terminal.seen


def test_a_console_that_does_not_read_is_dropped_and_nobody_waits(guest: SessionInfo, terminal: Terminal) -> None:
    with console(guest.id) as sleeper:
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        terminal.type("head -c 1600000 /dev/zero | tr '\\0' z | fold -w 100; echo much$((9))\n")
        terminal.until("much9", 90)
        sleeper.settimeout(20)
        with pytest.raises(ConnectionResetError):  # noqa: PT012  it is reset while it is read
            while sleeper.recv(1 << 20):
                pass
            raise ConnectionResetError  # an orderly end is as good
    assert state_of(guest) == "running"


def test_the_log_keeps_what_was_said(guest: SessionInfo) -> None:
    assert MARKER in Path(guest.log).read_text(errors="replace")
    assert len(serial_log(guest.id, 10)) == 10


def test_the_guest_outlives_the_process_that_started_it(home: Home, tiny_guest: GuestImages) -> None:
    program = """
        import os, sys
        from pathlib import Path
        from app.qemu.sessions.session import launch
        from tests.qemu.guests import PC, plan
        print(launch(plan(argv=PC)).id, flush=True)
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    session = find(done.stdout.strip())
    assert done.returncode == -9
    assert session.state is SessionState.RUNNING
    assert screen(session.id).startswith(b"\x89PNG")
    stop(session.id, force=True)
    assert state_of(session) == "ended"


def test_a_guest_that_powers_itself_off_has_ended_and_leaves_nothing_but_its_story(
    guest: SessionInfo, terminal: Terminal, home: Home
) -> None:
    terminal.type("poweroff -f\n")
    terminal.until("Power down")
    while terminal.line.recv(65536):  # the line ends with the guest
        pass
    ended = find(guest.id)
    assert ended.state is SessionState.ENDED
    assert ended.error == ""
    assert ended.pid is None
    assert not is_running(guest.pid or 0)
    assert not os.path.exists(guest.folder)
    assert processes_with(guest.id) == []
    assert MARKER in serial_log(guest.id, 8 << 20)
    assert wait_for_text(guest.id, MARKER, 0)
    with pytest.raises(Crashed, match="the guest has ended"):
        wait_for_text(guest.id, "no such text", 60)
    with pytest.raises(Unreachable, match="the guest has ended"):
        screen(guest.id)
    with pytest.raises(Unreachable, match="the guest has ended"):
        console(guest.id)
    stop(guest.id)  # it leaves the list
    assert guest.id not in [session.id for session in sessions()]


def test_stop_presses_the_power_button_and_the_guest_shuts_down(home: Home, tiny_guest: GuestImages) -> None:
    session = launch(tiny_plan(tiny_guest.iso))
    assert wait_for_text(session.id, MARKER, 120)
    stop(session.id)
    assert state_of(session) == "ended"
    assert "Power down" in serial_log(session.id)


def test_waiting_for_a_text_ends_with_the_guest(home: Home, tiny_guest: GuestImages) -> None:
    session = launch(tiny_plan(tiny_guest.iso))
    program = f"from app.qemu.sessions.session import wait_for_text; wait_for_text({session.id!r}, 'never', 300)"
    waiting = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    try:
        until(lambda: is_running(waiting.pid) and len(os.listdir(f"/proc/{waiting.pid}/fd")) > 3)
        stop(session.id, force=True)
        assert b"the guest has ended" in waiting.communicate(timeout=60)[1]
    finally:
        waiting.kill()
        waiting.wait()
