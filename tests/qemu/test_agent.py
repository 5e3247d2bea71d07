"""The ssh agent that a guest's QEMU gets: one key, one user, log-ins only."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.qemu.agent.answers import REFUSED, OneKey
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.errors import Denied
from probes.location import Location
from probes.sources.ssh import SshSource
from probes.ssh.agents import SIGN_REQUEST, identities
from probes.ssh.wire import string, u32
from tests.servers.server import wait_until
from tests.servers.sshd import Agent, Sshd, SshHome, make_key, print_of

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "a pässphrase"


class OurAgent:
    """`farboot agent` as a supervisor starts it; a context manager. `folder` holds its socket `s`."""

    def __init__(self, folder: Path, location: str, key: str, credentials: Credentials = NO_CREDENTIALS) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.socket = folder / "s"
        argv = [
            sys.executable,
            "-m",
            "app",
            "agent",
            "--socket=s",
            f"--key={key}",
            "--credentials-stdin",
            "--",
            location,
        ]
        self.process = subprocess.Popen(
            argv,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        import json

        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(credentials.to_json()).encode())
        self.process.stdin.close()

    def failed(self) -> str:
        """What it said when it ended instead of serving."""
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode()
        assert self.process.wait(60) != 0
        assert not self.socket.exists()
        return said

    def __enter__(self) -> "OurAgent":
        wait_until(lambda: self.socket.exists() or self.process.poll() is not None, "the agent's socket")
        assert self.process.poll() is None, self.failed()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def home(ssh_home: SshHome, sshd: Sshd) -> SshHome:
    ssh_home.trust(sshd.known())
    return ssh_home


@pytest.fixture(params=["file", "locked file", "agent"])
def served(
    request: pytest.FixtureRequest, sshd: Sshd, home: SshHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[OurAgent, Path]]:
    """Our agent for a key that the server takes, wherever that key is; and the key."""
    credentials = NO_CREDENTIALS
    if request.param == "agent":
        with Agent(tmp_path) as theirs:
            key = make_key(tmp_path / "held", "rsa")
            theirs.add(key)
            theirs.add(make_key(tmp_path / "another"))
            monkeypatch.setenv("SSH_AUTH_SOCK", str(theirs.socket))
            sshd.authorize(key)
            with OurAgent(tmp_path / "guest", sshd.url(), print_of(key)) as ours:
                yield ours, key
        return
    if request.param == "file":
        key = home.key("id_rsa", "rsa")
    else:
        key, credentials = home.key(passphrase=PASSPHRASE), Credentials(passphrase=Secret(PASSPHRASE))
    sshd.authorize(key)
    with OurAgent(tmp_path / "guest", sshd.url(), print_of(key), credentials) as ours:
        yield ours, key


def test_it_logs_its_user_in(
    served: tuple[OurAgent, Path], sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    (empty / ".ssh").mkdir(parents=True)
    (empty / ".ssh" / "known_hosts").write_text(sshd.known())
    monkeypatch.setenv("HOME", str(empty))  # whoever asks it has no key of their own
    monkeypatch.setenv("SSH_AUTH_SOCK", str(served[0].socket))
    where = Location("ssh", sshd.address, "/")
    with SshSource() as source:
        assert source.stat(where)
    with SshSource() as source, pytest.raises(Denied):
        source.stat(Location("ssh", f"nobody@127.0.0.1:{sshd.port}", "/"))


def test_it_has_one_key_and_signs_nothing_else(served: tuple[OurAgent, Path], tmp_path: Path) -> None:
    ours, key = served
    environment = {**os.environ, "SSH_AUTH_SOCK": str(ours.socket)}
    listed = subprocess.run(["ssh-add", "-l"], env=environment, check=True, capture_output=True, text=True).stdout
    assert len(listed.splitlines()) == 1
    assert print_of(key) in listed
    (tmp_path / "text").write_text("I owe you")
    argv = ["ssh-keygen", "-Y", "sign", "-f", f"{key}.pub", "-n", "file", str(tmp_path / "text")]
    signed = subprocess.run(argv, env=environment, check=False, capture_output=True)
    assert signed.returncode != 0
    for command in (["ssh-add", str(make_key(tmp_path / "more"))], ["ssh-add", "-D"], ["ssh-add", "-x"]):
        refused = subprocess.run(command, env=environment, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        assert refused.returncode != 0
    assert len(identities(str(ours.socket), 10)) == 1


def test_only_whoever_reaches_its_folder_reaches_it(served: tuple[OurAgent, Path]) -> None:
    ours, _ = served
    assert stat.S_IMODE(ours.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(ours.socket.stat().st_mode) & 0o666 == 0o666  # under root QEMU is another account
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(str(ours.socket))
        line.sendall(u32(1 << 30))
        assert line.recv(1) == b""


def test_it_goes_when_it_is_told_and_its_socket_with_it(sshd: Sshd, home: SshHome, tmp_path: Path) -> None:
    key = home.key()
    with OurAgent(tmp_path / "guest", sshd.url(), print_of(key)) as ours:
        pass
    assert ours.process.returncode == 0
    assert list(ours.folder.iterdir()) == []


def test_it_goes_when_its_parent_does(sshd: Sshd, home: SshHome, tmp_path: Path) -> None:
    key = home.key()
    shell = subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait', "sh", sys.executable, "-m", "app", "agent", f"--socket={tmp_path}/s",
         f"--key={print_of(key)}", "--", sshd.url()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    wait_until((tmp_path / "s").exists, "the agent's socket")
    shell.kill()
    shell.wait()
    wait_until(lambda: not (tmp_path / "s").exists(), "the end of the agent")
    wait_until(lambda: not Path(f"/proc/{pid}/cwd").exists(), "the end of its process")
    shell.stdout.close()


def test_a_key_that_nobody_has_is_told(sshd: Sshd, home: SshHome, tmp_path: Path) -> None:
    assert home.ssh.is_dir()
    assert "not-found" in OurAgent(tmp_path / "guest", sshd.url(), "SHA256:nothing").failed()


@pytest.mark.parametrize("passphrase", [None, Secret("wrong-and-unique-4711")])
def test_a_wrong_passphrase_is_told_and_not_shown(
    sshd: Sshd, home: SshHome, tmp_path: Path, passphrase: Secret | None
) -> None:
    key = home.key(passphrase=PASSPHRASE)
    said = OurAgent(tmp_path / "guest", sshd.url(), print_of(key), Credentials(passphrase=passphrase)).failed()
    assert "passphrase" in said
    assert "4711" not in said


# What is signed, to the byte

BLOB = string(b"ssh-ed25519") + string(bytes(32))
KEY = OneKey(BLOB, b"alice", lambda data, algorithm: algorithm.encode() + data)


def request(
    user: bytes = b"alice",
    service: bytes = b"ssh-connection",
    method: bytes = b"publickey",
    number: int = 50,
    has_signature: int = 1,
    algorithm: bytes = b"ssh-ed25519",
    blob: bytes = BLOB,
    session: bytes = bytes(32),
    more: bytes = b"",
    by: bytes = BLOB,
) -> bytes:
    data = string(session) + bytes([number]) + string(user) + string(service) + string(method)
    data += bytes([has_signature]) + string(algorithm) + string(blob) + more
    return bytes([SIGN_REQUEST]) + string(by) + string(data) + u32(0)


def test_a_log_in_is_signed() -> None:
    granted = KEY.asked_to_sign(request())
    assert granted is not None
    assert granted[1] == "ssh-ed25519"
    assert KEY.signed(*granted)[0] == 14


@pytest.mark.parametrize(
    "message",
    [
        request(user=b"root"),
        request(service=b"ssh-userauth"),
        request(method=b"hostbased"),
        request(number=51),
        request(has_signature=0),
        request(algorithm=b"ssh-rsa"),
        request(blob=string(b"ssh-ed25519") + bytes(36)),
        request(by=string(b"ssh-ed25519") + bytes(36)),
        request(session=b""),
        request(session=bytes(65)),
        request(more=b"more"),
        request()[:-1],
        request() + b"more",
        bytes([SIGN_REQUEST]) + string(BLOB) + string(b"SSHSIG" + bytes(90)) + u32(0),
        bytes([SIGN_REQUEST]),
        b"",
        bytes([17]) + string(b"ssh-ed25519"),
    ],
)
def test_nothing_else_is(message: bytes) -> None:
    assert KEY.asked_to_sign(message) is None
    assert KEY.answer(message) == REFUSED


@pytest.mark.parametrize("algorithm", ["rsa-sha2-256", "rsa-sha2-512", "ssh-rsa"])
def test_an_rsa_key_signs_by_sha_2_only(algorithm: str) -> None:
    blob = string(b"ssh-rsa") + string(bytes(3)) + string(bytes(256))
    key = OneKey(blob, b"alice", lambda data, _: data)
    granted = key.asked_to_sign(request(algorithm=algorithm.encode(), blob=blob, by=blob))
    assert (granted is not None) == algorithm.startswith("rsa-sha2")
