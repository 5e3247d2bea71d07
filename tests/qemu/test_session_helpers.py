"""What a plan brings to QEMU beside the image, and that it works with the real one: TLS, an ssh agent of its own."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.qemu.boot.plan import plan
from app.qemu.boot.script import script
from app.qemu.host.find import find_host, fresh_host
from app.qemu.options import Host, Network, Options
from app.qemu.sessions.session import SessionState, find, launch, sessions, stop
from app.qemu.sessions.start import in_its_place
from app.qemu.steps import BootPlan, Layer, StartAgent, StartBridge, StartQemu
from probes.attachment import Attachment, Mode, Route, SecretSlot, Tls
from probes.credentials import Secret
from probes.errors import FarbootError
from probes.image import Image, Media
from probes.location import Location
from probes.reader import Pin
from tests.qemu.conftest import Home
from tests.qemu.guests import image_plan, kill, processes_with, until
from tests.qemu.layers import HOST, of_rbd
from tests.servers.server import wait_until

Scratch = Callable[[str], Path]
SIZE = 1 << 20
PSK = "00112233445566778899aabbccddeeff"


@pytest.fixture(autouse=True)
def own_sessions(home: Home) -> Iterator[None]:
    yield
    for session in sessions():
        stop(session.id, force=True)


# TLS


@dataclass(frozen=True)
class Server:
    """An nbdkit that speaks TLS alone."""

    port: int
    folder: Path


def nbdkit(folder: Path, *options: str) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "--tls=require", *options, "memory", str(SIZE)]
    process = subprocess.Popen(argv, cwd=folder)

    def listens() -> bool:
        with socket.socket() as line:
            return line.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, "nbdkit")
        yield Server(port, folder)
    finally:
        process.kill()  # politely it would wait for its clients
        process.wait(10)


@pytest.fixture
def server_with_key(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "keys.psk").write_text(f"alice:{PSK}\n")
    yield from nbdkit(tmp_path, f"--tls-psk={tmp_path}/keys.psk")


@pytest.fixture
def server_with_certificates(tmp_path: Path) -> Iterator[Server]:
    certify(tmp_path, "ca", "cn = Test CA\nca\ncert_signing_key\n")
    certify(tmp_path, "server", "cn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n")
    certify(tmp_path, "client", "cn = a client\ntls_www_client\nencryption_key\nsigning_key\n")
    yield from nbdkit(tmp_path, f"--tls-certificates={tmp_path}", "--tls-verify-peer")


def certify(folder: Path, name: str, template: str) -> None:
    (folder / f"{name}.info").write_text(template + "expiration_days = 2\n")
    key, certificate = folder / f"{name}-key.pem", folder / f"{name}-cert.pem"
    subprocess.run(["certtool", "--generate-privkey", "--outfile", key], check=True, capture_output=True)
    signed = ["--generate-self-signed"] if name == "ca" else [
        "--generate-certificate", "--load-ca-certificate", str(folder / "ca-cert.pem"),
        "--load-ca-privkey", str(folder / "ca-key.pem"),
    ]  # fmt: skip
    made = ["--load-privkey", str(key), "--template", str(folder / f"{name}.info"), "--outfile", str(certificate)]
    subprocess.run(["certtool", *signed, *made], check=True, capture_output=True)
    key.chmod(0o600)


def over_tls(server: Server, tls: Tls) -> Layer:
    node = {"driver": "nbd", "server": {"type": "inet", "host": "localhost", "port": str(server.port)}, "export": ""}
    location = Location.parse(f"nbds://localhost:{server.port}/")[0]
    attachment = Attachment(location, Route.DRIVER, Pin(SIZE), node, writable=True, trusted=True, tls=tls)
    return Layer(attachment, Image("raw", SIZE, SIZE, media=Media()))


def without_checks(planned: BootPlan) -> BootPlan:
    """The plan up to QEMU: what a source would look at again is another test's."""
    assert planned.refusals == ()
    return replace(planned, steps=planned.steps[: [type(step) for step in planned.steps].index(StartQemu) + 1])


def this_host() -> Host:
    return fresh_host(find_host())


def test_qemu_opens_an_export_by_a_pre_shared_key_that_is_nowhere_afterwards(server_with_key: Server) -> None:
    slot = SecretSlot("", Secret(PSK), "key of alice", "key")
    tls = Tls(psk=slot, username="alice")
    planned = without_checks(plan([over_tls(server_with_key, tls)], Options(network=Network.NONE), this_host()))
    session = launch(planned, {"tls0/keys.psk": Secret(PSK)})
    assert session.state is SessionState.RUNNING
    assert processes_with(PSK) == []
    for path in Path(session.folder).rglob("*"):
        assert not path.is_file() or PSK.encode() not in path.read_bytes()


def test_a_wrong_key_is_told_in_qemus_words(server_with_key: Server) -> None:
    tls = Tls(psk=SecretSlot("", Secret("00" * 16), "key of alice", "key"), username="alice")
    planned = without_checks(plan([over_tls(server_with_key, tls)], Options(), this_host()))
    with pytest.raises(FarbootError, match=r"QEMU says: .*TLS handshake failed"):
        launch(planned, {"tls0/keys.psk": Secret("00" * 16)})


def with_certificates(server: Server, hostname: str = "localhost") -> Tls:
    names = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
    return Tls(files=tuple((name, str(server.folder / name)) for name in names), hostname=hostname)


def test_qemu_opens_an_export_by_certificates_and_our_key_does_not_stay(server_with_certificates: Server) -> None:
    tls = with_certificates(server_with_certificates)
    planned = without_checks(plan([over_tls(server_with_certificates, tls)], Options(), this_host()))
    session = launch(planned)
    assert session.state is SessionState.RUNNING
    assert sorted(os.listdir(Path(session.folder) / "tls0")) == ["ca-cert.pem", "client-cert.pem"]


def test_a_certificate_for_another_host_is_refused(server_with_certificates: Server) -> None:
    tls = with_certificates(server_with_certificates, "elsewhere.example.org")
    planned = without_checks(plan([over_tls(server_with_certificates, tls)], Options(), this_host()))
    with pytest.raises(FarbootError, match=r"elsewhere\.example\.org"):
        launch(planned)


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_script_lays_certificates_and_keys_where_qemu_looks(shell: str, tmp_path: Path) -> None:
    asked = tmp_path / "farboot"
    asked.write_text(f"#!/bin/sh\nprintf {PSK}\n")
    qemu = tmp_path / "qemu"
    qemu.write_text('#!/bin/sh\ncat tls0/keys.psk; stat -c " %a" tls0 tls0/keys.psk\n')
    asked.chmod(0o755)
    qemu.chmod(0o755)
    slot = SecretSlot("", Secret(PSK), "key of o'neill", "key")
    layer = of_rbd(tls=Tls(psk=slot, username="o'neill"))
    bare = replace(HOST, bwrap=None, setpriv=None, root=False, guest_uid=None, qemu=str(qemu), qemu_img="/bin/true")
    text = script(plan([layer], Options(), replace(bare, command=(str(asked),))))
    assert PSK not in text
    done = subprocess.run([shell, "-c", text], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [f"o'neill:{PSK}", "700", "600"], done.stderr


# An agent


AGENT = """
import json, os, socket, sys, time
line = socket.socket(socket.AF_UNIX)
os.umask(0)
line.bind("agent.sock")
line.listen()
json.load(sys.stdin)
while True:
    with line.accept()[0]:
        pass
"""


def with_agent(image: Path, host: Host) -> BootPlan:
    """A plan whose QEMU has an agent of its own."""
    from app.qemu.boot.confine import confinement

    made = image_plan(image)
    agent = StartAgent("agent.sock", made.location, "SHA256:x", (sys.executable, "-c", AGENT, "--", str(image)))
    (opening, start, check) = made.steps
    assert isinstance(start, StartQemu)
    confined = StartQemu(start.argv, confinement(host, network=False, agent="agent.sock"), host.guest_uid)
    return replace(made, steps=(opening, agent, confined, check))


@pytest.fixture
def image(scratch: Scratch) -> Path:
    path = scratch("image.raw")
    path.write_bytes(b"what was judged".ljust(SIZE, b"."))
    return path


@pytest.mark.parametrize("bubblewrap", [True, False], ids=["with bubblewrap", "without"])
def test_qemu_is_told_of_its_agent_and_of_no_other(
    image: Path, bubblewrap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere/the-persons-own")
    host = this_host() if bubblewrap else replace(this_host(), bwrap=None)
    session = launch(with_agent(image, host))
    told = Path(f"/proc/{session.pid}/environ").read_bytes().split(b"\0")
    agents = [word for word in told if word.startswith(b"SSH_AUTH_SOCK=")]
    assert agents == [b"SSH_AUTH_SOCK=" + (b"/guest/agent.sock" if bubblewrap else b"agent.sock")]
    assert (Path(session.folder) / "agent.sock").is_socket()


def test_an_agent_that_ends_is_started_again_and_ends_with_its_guest(image: Path) -> None:
    session = launch(with_agent(image, this_host()))
    words = str(image)
    (first,) = processes_with(words)
    kill(first)
    until(lambda: "the ssh agent ended" in find(session.id).error)
    until(lambda: find(session.id).error == "")
    (second,) = processes_with(words)
    assert second != first
    stop(session.id, force=True)
    assert processes_with(words) == []


def test_the_plan_of_an_ssh_image_starts_the_agent_before_qemu() -> None:
    location = Location.parse("ssh://me@h/srv/a.img")[0]
    layer = of_rbd(location=location, agent_key="SHA256:abc", node={"driver": "ssh", "path": "/srv/a.img"})
    host = replace(HOST, facts=replace(HOST.facts, drivers=HOST.facts.drivers | {"ssh"}))
    planned = plan([layer], Options(), host)
    agent = next(step for step in planned.steps if isinstance(step, StartAgent))
    assert agent.argv == ("farboot", "agent", "--socket=agent.sock", "--key=SHA256:abc", "--", "ssh://me@h/srv/a.img")
    assert planned.steps.index(agent) < [type(step) for step in planned.steps].index(StartQemu)
    assert planned.qemu is not None
    assert "SSH_AUTH_SOCK=/guest/agent.sock" in planned.qemu.confinement
    text = script(planned)
    assert text.index("farboot agent --socket=agent.sock") < text.index("until [ -S agent.sock ]")
    checked = subprocess.run([shutil.which("dash") or "sh", "-n"], input=text, text=True, check=False)
    assert checked.returncode == 0


def test_a_plan_that_writes_by_the_bridge_tells_the_bridge(image: Path) -> None:
    from app.qemu.steps import StartBridge
    from tests.qemu.layers import by_bridge

    layer = by_bridge(of_rbd(writable=True))
    planned = plan([layer], Options(mode=Mode.WRITE), HOST)
    (bridge,) = [step for step in planned.steps if isinstance(step, StartBridge)]
    assert bridge.argv[-3:] == ("--write", "--", "rbd:pool/image")


def test_a_bridge_that_ended_while_its_guest_wrote_comes_back_without_what_was_judged() -> None:
    words = ("farboot", "bridge", "--size=512", "--validator=v1", "--evidence=0+1:abc", "--format=raw")
    place = Location("sheepdog", "host", "/disk")
    written = StartBridge("bridge.sock", place, (*words, "--write", "--", str(place)))
    assert in_its_place(written).argv == (
        "farboot",
        "bridge",
        "--size=512",
        "--format=raw",
        "--write",
        "--",
        str(place),
    )
    read = replace(written, argv=(*words, "--", str(place)))
    assert in_its_place(read) == read
