"""What an outage of its server does to a guest, on every storage system: it waits, and then goes on.

    class TestNfs(OutageContract):
        @pytest.fixture
        def outage(self, …) -> Outage: return Outage(location, ganesha.kill, ganesha.start)

The server is gone before the guest has read its kernel, and comes back while the guest waits: so the marker tells that
the guest went on, and the checksums of kernel and initramfs that it read what lies there. And whatever QEMU waits for,
in whichever library, it still answers, and can be ended by force.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.demo.guest import MARKER
from app.qemu.sessions import session
from tests.conftest import Farboot
from tests.servers.server import Server, wait_until

AWAY = 8.0
"""Seconds that the server is gone, in which the guest must not reach its marker."""
BACK = 150.0
"""Seconds within which it has reached it after that, on a slow machine without KVM."""
_READ = b"echo 3 >/proc/sys/vm/drop_caches; echo read''ing; dd if=/dev/vda of=/dev/null bs=1M\n"


@dataclass(frozen=True)
class Outage:
    """A raw copy of the tiny guest, and how its server goes `away` and comes `back`."""

    image: str
    away: Callable[[], object]
    back: Callable[[], object]
    environment: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def happening(self) -> Iterator[None]:
        """The server is away meanwhile."""
        self.away()
        try:
            yield
        finally:
            self.back()


@pytest.mark.boots
class BridgeOutageContract:
    """Where QEMU has no driver of its own, or not the better one."""

    def test_a_guest_over_the_bridge_waits_for_its_server_and_goes_on(
        self, farboot: Farboot, outage: Outage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits_and_goes_on(farboot, outage, "bridge", monkeypatch)


@pytest.mark.boots
class DriverOutageContract:
    """Where QEMU has a driver, which is the way."""

    def test_a_guest_by_qemus_own_driver_waits_for_its_server_and_goes_on(
        self, farboot: Farboot, outage: Outage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits_and_goes_on(farboot, outage, "direct", monkeypatch)


class OutageContract(DriverOutageContract, BridgeOutageContract):
    """Both ways: one system of each kind is enough for the bridge, whose patience is the same for all."""


def waits_and_goes_on(farboot: Farboot, outage: Outage, route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boot through one outage, and end the guest by force in the next one."""
    farboot.environment |= outage.environment
    for name in ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR"):
        monkeypatch.setenv(name, farboot.environment[name])
    started = farboot("boot", outage.image, "--route", route)
    assert started.returncode == 0, started.stderr
    guest = started.stdout.strip()
    with outage.happening():
        assert not session.wait_for_text(guest, MARKER, AWAY), "the guest cannot have read all of it yet"
        assert session.screen(guest), "QEMU answers"
        if route == "bridge":
            wait_until(lambda: session.find(guest).error.startswith("cannot "), "the outage to be told", 60)
    assert session.wait_for_text(guest, MARKER, BACK), farboot("ps").stdout
    wait_until(lambda: not session.find(guest).error, "its end to be told", 60)
    (listed,) = json.loads(farboot("ps", "--json").stdout)
    with session.console(guest) as console, outage.happening():
        console.sendall(_READ)
        assert session.wait_for_text(guest, "reading", BACK)
        assert session.screen(guest), "QEMU answers"
        stopped = farboot("stop", "--force", guest)
        assert stopped.returncode == 0, stopped.stderr
        wait_until(lambda: not os.path.exists(f"/proc/{listed['pid']}"), "QEMU's end", 10)


def kill_with_children(server: Server) -> None:
    """End a server, and those of its children that have left its process group, as a crash of their host would."""
    children = list(_below(server.pid))
    server.kill()
    for pid in children:
        wait_until(lambda pid=pid: _is_killed(pid), "the end of a session")  # type: ignore[misc]  # bound per turn


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """A process and its children take no step meanwhile."""
    stopped = [pid, *_below(pid)]
    for each in stopped:
        os.kill(each, signal.SIGSTOP)
    try:
        yield
    finally:
        for each in stopped:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGCONT)


def _below(pid: int) -> Iterator[int]:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield int(child)
        yield from _below(int(child))


def _is_killed(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    return False
