"""The whole way: the tiny guest boots from every storage system to its marker, confined, and leaves the image alone."""

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.demo.guest import MARKER, GuestImages
from tests.conftest import Farboot
from tests.servers.ceph import Ceph
from tests.servers.nginx import Nginx

pytestmark = pytest.mark.boots

TIMEOUT = 240  # seconds, on a slow machine without KVM


@pytest.fixture
def loop_device(tiny_guest: GuestImages, tmp_path: Path) -> Iterator[str]:
    """A block device of our own that holds the tiny guest."""
    image = tmp_path / "device.img"
    image.write_bytes(tiny_guest.raw.read_bytes())
    found = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True
    ).stdout.strip()
    os.chmod(found, 0o666)
    yield found
    subprocess.run(["losetup", "--detach", found], check=True)


@pytest.fixture
def location(
    request: pytest.FixtureRequest, tiny_guest: GuestImages, open_folder: Callable[[str], Path], tmp_path: Path
) -> str:
    """Where the tiny guest lies, on the storage system that the test's parameter names."""
    kind = request.param
    if kind == "file":
        image = open_folder("images") / "a guest, 100%.qcow2"
        image.write_bytes(tiny_guest.qcow2.read_bytes())
        image.chmod(0o644)
        return str(image)
    if kind == "device":
        return f"host_device:{request.getfixturevalue('loop_device')}"
    if kind == "rbd":
        ceph: Ceph = request.getfixturevalue("ceph")
        pool = ceph.fresh_pool()
        ceph.image(pool, "tiny", tiny_guest.raw.read_bytes())
        return f"rbd:{pool}/tiny:conf={ceph.conf}"
    nginx: Nginx = request.getfixturevalue("nginx")
    image = {"iso": tiny_guest.iso, "qcow2": tiny_guest.qcow2, "raw": tiny_guest.raw}[kind.partition(" ")[2]]
    folder = Path(nginx.root) / tmp_path.name
    folder.mkdir()
    (folder / image.name).write_bytes(image.read_bytes())
    return f"{nginx.url}{tmp_path.name}/{image.name}"


def content_of(location: str) -> str:
    """The digest of a file or device, by its location."""
    return hashlib.sha256(Path(location.removeprefix("host_device:")).read_bytes()).hexdigest()


def boots(farboot: Farboot, location: str, *options: str) -> str:
    """Boot to the marker and return the session's id."""
    wait = ("--wait", MARKER, "--timeout", str(TIMEOUT))
    done = farboot("boot", location, *wait, *options, timeout=TIMEOUT + 60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("location", ["http raw", "http iso", "rbd", "file", "device"], indirect=True)
def test_the_guest_reaches_its_marker(farboot: Farboot, location: str) -> None:
    session = boots(farboot, location)
    listed = json.loads(farboot("ps", "--json").stdout)
    assert [(s["id"], s["location"], s["state"]) for s in listed] == [(session, location, "running")]
    assert isinstance(listed[0]["pid"], int)


@pytest.mark.parametrize("location", ["http raw"], indirect=True)
@pytest.mark.parametrize("route", ["direct", "bridge"])
def test_a_web_image_boots_by_either_route(farboot: Farboot, location: str, route: str) -> None:
    shown = json.loads(farboot("command", location, "--route", route, "--json").stdout)
    assert shown["route"] == {"direct": "driver", "bridge": "bridge"}[route]
    boots(farboot, location, "--route", route)


@pytest.mark.parametrize("location", ["file", "device", "http qcow2"], indirect=True)
def test_a_user_who_is_not_root_boots_it_as_well(farboot_of_a_user: Farboot, location: str) -> None:
    boots(farboot_of_a_user, location)


@pytest.mark.parametrize("location", ["file", "device"], indirect=True)
def test_what_the_guest_writes_never_reaches_the_image(farboot: Farboot, location: str) -> None:
    before = content_of(location)
    session = boots(farboot, location)
    assert "writable" in serial_line(farboot, session)  # the guest has written to its disk by then
    farboot("stop", "--force", session)
    assert content_of(location) == before


@pytest.mark.parametrize("location", ["file"], indirect=True)
def test_the_same_disk_boots_by_uefi(farboot: Farboot, location: str) -> None:
    session = boots(farboot, location, "--firmware", "uefi", "--memory", "1G", "--cpus", "1")
    assert "started by UEFI" in serial_line(farboot, session)


@pytest.mark.parametrize("location", ["http raw", "rbd", "file", "device"], indirect=True)
def test_the_printed_command_boots_when_run_as_it_stands(farboot: Farboot, location: str) -> None:
    _run_script(farboot, location)


@pytest.mark.parametrize("location", ["file", "http qcow2"], indirect=True)
def test_the_printed_command_works_for_a_user_too(farboot_of_a_user: Farboot, location: str) -> None:
    _run_script(farboot_of_a_user, location)


def _run_script(farboot: Farboot, location: str) -> None:
    shown = farboot("command", location)
    assert shown.returncode == 0, shown.stderr
    script = Path(farboot.environment["HOME"]) / "boot.sh"
    script.write_text(shown.stdout)
    with started(farboot, ["sh", str(script)]) as process:
        said = read_until(process, MARKER)
    assert MARKER in said, said[-4000:]


def serial_line(farboot: Farboot, session: str) -> str:
    """What the guest has said up to its marker."""
    with started(farboot, [farboot.python, "-m", "app", "console", session]) as process:
        return read_until(process, MARKER)


@contextlib.contextmanager
def started(farboot: Farboot, argv: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command in a process group of its own, which ends with the block as Ctrl-C ends it."""
    process = subprocess.Popen(
        [*farboot.as_user(), *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=farboot.environment,
        cwd=farboot.environment["HOME"],
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def read_until(process: "subprocess.Popen[bytes]", text: str) -> str:
    """Read what the process prints until `text` comes, it ends, or the time is up."""
    assert process.stdout is not None
    said, end = b"", time.monotonic() + TIMEOUT
    while text.encode() not in said and time.monotonic() < end:
        ready, _, _ = select.select([process.stdout], [], [], end - time.monotonic())
        piece = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not piece:
            break
        said += piece
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode(errors="replace"))
