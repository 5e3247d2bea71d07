"""Ways to a host: jump hosts and programs; and servers that are not what they seem."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.credentials import Credentials, Secret
from probes.errors import FarbootError, Unreachable, Unsupported
from probes.location import Location
from probes.sources.ssh import SshSource
from tests.servers.sshd import USER, Sshd, SshHome, print_of, start_sshd
from tests.sources.ssh_logins import PASSWORD, lets_in, place, refusal


@pytest.fixture
def home(ssh_home: SshHome, sshd: Sshd) -> SshHome:
    """A person who knows the server's keys, and whom it does not let in yet."""
    sshd.authorize()
    ssh_home.trust(sshd.known())
    return ssh_home


@pytest.fixture(scope="module")
def by_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that takes passwords only."""
    lines = "PasswordAuthentication yes\nPubkeyAuthentication no"
    server = start_sshd(tmp_path_factory.mktemp("password"), lines, passwords={"alice": PASSWORD})
    yield server
    server.server.stop()


# Ways there


@pytest.fixture(scope="module")
def jump(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that forwards."""
    server = start_sshd(tmp_path_factory.mktemp("jump"), "AllowTcpForwarding yes")
    yield server
    server.server.stop()


@pytest.fixture
def through(sshd: Sshd, jump: Sshd, home: SshHome) -> SshHome:
    """A person for whom `behind` lies behind the jump host."""
    key = home.key()
    sshd.authorize(key)
    jump.authorize(key)
    home.trust(sshd.known(), jump.known())
    behind = f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n User {USER}\n ProxyJump "
    home.configure(f"{behind}{jump.address}\n")
    return home


BEHIND = Location("ssh", "behind", "/")


def test_a_host_behind_a_jump_host_is_reached(through: SshHome) -> None:
    assert through.ssh.is_dir()
    assert lets_in(BEHIND)


def test_several_jump_hosts_are_gone_through_in_turn(through: SshHome, jump: Sshd) -> None:
    text = (through.ssh / "config").read_text()
    (through.ssh / "config").write_text(text.strip() + f",{jump.address},{jump.address}\n")
    assert lets_in(BEHIND)


def test_a_jump_host_without_a_known_key_cannot_be_said_yes_to(through: SshHome, sshd: Sshd, jump: Sshd) -> None:
    through.trust(sshd.known())
    denied = refusal(BEHIND)
    assert denied.wants == ()
    assert "jump host" in denied.why
    assert print_of(jump.host_keys["ed25519"]) in denied.hint


def test_a_jump_host_that_does_not_forward_is_named(through: SshHome, sshd: Sshd) -> None:
    through.configure(f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyJump {sshd.address}\n")
    denied = refusal(BEHIND)
    assert "does not forward" in denied.why
    assert "AllowTcpForwarding" in denied.hint


def test_a_host_that_the_jump_host_cannot_reach_is_unreachable(through: SshHome, jump: Sshd, refused_port: int) -> None:
    through.configure(f"Host behind\n HostName 127.0.0.1\n Port {refused_port}\n ProxyJump {jump.address}\n")
    with SshSource() as source, pytest.raises(Unreachable) as caught:
        source.stat(BEHIND)
    assert "jump host" in caught.value.why


def test_the_password_of_a_host_never_goes_to_its_jump_host(through: SshHome, sshd: Sshd, by_password: Sshd) -> None:
    through.trust(sshd.known(), by_password.known())
    hop = f"alice@127.0.0.1:{by_password.port}"
    through.configure(f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyJump {hop}\n")
    before = by_password.server.log
    refusal(BEHIND, Credentials(password=Secret(PASSWORD)))
    assert "Accepted password" not in by_password.server.log.removeprefix(before)


def test_jump_hosts_in_a_circle_come_to_an_end(through: SshHome) -> None:
    through.configure("Host behind\n ProxyJump other\nHost other\n ProxyJump behind\n")
    with SshSource() as source, pytest.raises(FarbootError, match="circle"):
        source.stat(BEHIND)


RELAY = """
import os, socket, sys, threading
line = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def copy():
    while data := os.read(0, 65536): line.sendall(data)
threading.Thread(target=copy, daemon=True).start()
while data := line.recv(65536): os.write(1, data)
"""


def test_a_program_can_be_the_way(sshd: Sshd, home: SshHome, tmp_path: Path) -> None:
    sshd.authorize(home.key())
    (tmp_path / "relay.py").write_text(RELAY)
    host = f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n User {USER}\n"
    home.configure(f"{host} ProxyCommand {sys.executable} {tmp_path}/relay.py %h %p\n")
    assert lets_in(BEHIND)
    home.configure(f"{host} ProxyCommand false\n")
    with SshSource() as source, pytest.raises(Unreachable):
        source.stat(BEHIND)


# Servers that are not what they seem


@pytest.mark.parametrize(
    "lines", ["Subsystem sftp /bin/false", "ForceCommand true", "ForceCommand echo Welcome to this host"]
)
def test_a_server_without_sftp_is_told(home: SshHome, tmp_path: Path, lines: str) -> None:
    server = start_sshd(tmp_path / "sshd", lines)
    with server.server:
        server.authorize(home.key())
        home.trust(server.known())
        with SshSource() as source, pytest.raises(FarbootError) as caught:
            source.stat(place(server))
    told = str(caught.value)
    assert isinstance(caught.value, Unsupported) or ".bashrc" in told, told


def test_one_session_is_enough(home: SshHome, tmp_path: Path) -> None:
    server = start_sshd(tmp_path / "sshd", "MaxSessions 1")
    with server.server:
        server.authorize(home.key())
        home.trust(server.known())
        with SshSource() as source:
            assert list(source.entries(place(server, "/etc/")))
            with source.open(place(server, "/etc/hostname")) as reader:
                assert reader.pread(0, 10)


def test_something_that_is_not_ssh_is_told(home: SshHome) -> None:
    from tests.servers.faults import Scripted

    assert home.ssh.is_dir()

    class Web(Scripted):
        def serve(self, client: object) -> None:
            client.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" * 200)  # type: ignore[attr-defined]  # a socket

    with Web(lambda request: request) as web, SshSource() as source, pytest.raises(Unreachable, match="SSH"):
        source.stat(Location("ssh", web.authority, "/"))
