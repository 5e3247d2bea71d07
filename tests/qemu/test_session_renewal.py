"""A guest over ssh survives an outage: QEMU's driver never finds back by itself, so its node is opened anew."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.qemu.sessions.renewal import Renewal
from app.qemu.sessions.session import find, launch, sessions, stop
from app.qemu.steps import BootPlan, StartQemu
from tests.qemu.conftest import Home
from tests.qemu.guests import NOTHING, PC, location, node, state_of, until
from tests.servers.faults import FaultyProxy
from tests.servers.sshd import USER, Agent, Sshd, make_key, start_sshd

Scratch = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_sessions(home: Home) -> Iterator[None]:
    yield
    for session in sessions():
        stop(session.id, force=True)


@pytest.fixture
def disk(scratch: Scratch) -> Path:
    """A disk whose boot sector reads the next sector again and again, for ever."""
    path = scratch("disk.raw")
    # xor ax,ax; mov es,ax; then, in a loop, by int 13h: read sector 1 to 0:7e00
    code = bytes.fromhex("31c0 8ec0 b80102 b90200 ba8000 bb007e cd13 ebf0")
    path.write_bytes((code.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0"))
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    """An sshd of the test's own, and in its folder the key `id` that it lets in."""
    running = start_sshd(tmp_path / "sshd")
    running.authorize(make_key(tmp_path / "id"))
    yield running
    running.server.stop()


def over_ssh(disk: Path, port: int, agent: Agent) -> BootPlan:
    """A PC with that disk over ssh, in a raw format node under another one."""
    way = {"host": "127.0.0.1", "port": str(port)}
    options = {"host-key-check": {"mode": "none"}, "read-only": True}  # whose key it is does not matter here
    protocol = node("proto0", "ssh", server=way, user=USER, path=str(disk), **options)
    above = node("format0", "raw", file="proto0", **{"read-only": True})
    overlay = node("overlay", "raw", file="format0", **{"read-only": True})  # format0 has a user that is not the guest
    drive = ("-device", "virtio-blk-pci,drive=overlay,bootindex=0,rerror=stop,werror=stop")
    prefix = ("env", f"SSH_AUTH_SOCK={agent.socket}")  # unconfined: the agent answers its own account alone
    return BootPlan(location(disk), "driver", steps=(StartQemu((*PC, *protocol, *above, *overlay, *drive), prefix),))


def until_told_anew(identity: str) -> None:
    """Wait until the session tells of another try than now."""
    told = find(identity).error
    until(lambda: find(identity).error not in {told, ""})


@pytest.mark.skipif(os.geteuid() != 0, reason="the sshd of the tests takes the account of root")
def test_a_guest_waits_while_the_server_is_away_and_goes_on_when_it_is_back(
    disk: Path, server: Sshd, tmp_path: Path
) -> None:
    with Agent(tmp_path) as agent, FaultyProxy(server.port) as proxy:
        agent.add(tmp_path / "id")
        session = launch(over_ssh(disk, proxy.port, agent))

        def reads() -> bool:
            proxy.passed = 0
            until(lambda: proxy.passed > 4096)
            return True

        assert reads()
        for _ in range(2):  # a renewed node can be renewed as well
            proxy.refuse = True
            proxy.hang_up()
            until(lambda: state_of(session) == "paused")
            assert "the guest waits, next try in" in find(session.id).error
            until_told_anew(session.id)  # the first try has found nobody
            proxy.heal()
            until(lambda: state_of(session) == "running")
            assert reads()
        assert find(session.id).error == ""


def test_only_nodes_of_drivers_that_never_find_back_are_renewed() -> None:
    nodes = (*node("proto0", "nbd", server={}), *node("format0", "raw", file="proto0"))
    assert not Renewal((*NOTHING, *nodes)).needed
    nodes = (*node("proto0", "ssh", server={}), *node("format0", "qcow2", file="proto0", backing=None))
    assert Renewal((*NOTHING, *nodes)).needed


def test_a_plan_without_qemu_needs_none() -> None:
    assert not Renewal(()).needed
