"""Booting for writing: what the guest writes is in the image, and nobody who has it open is ever written under.

Longer than other files, for it is one list: every kind of storage, tried the same way by the same few helpers.
"""

import contextlib
import itertools
import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from app.demo.guest import MARKER, GuestImages
from app.engine import Engine, Prepared
from app.keychain import Keychain
from app.qemu.options import DiskWish, Network, Options
from app.qemu.sessions.session import SessionInfo, SessionState, find, sessions, stop, wait_for_text
from probes.attachment import Mode
from probes.errors import Changed, FarbootError, Refused
from probes.host.use import use_of
from probes.location import Location
from tests.conftest import Farboot
from tests.servers.ceph import Ceph
from tests.servers.ganesha import Ganesha
from tests.servers.loop import LoopDevice
from tests.servers.nbdkit import start_nbdkit
from tests.servers.server import wait_until
from tests.servers.sshd import Sshd, SshHome
from tests.servers.tgt import Tgt
from tests.test_boot import read_until, started
from tests.unprivileged import NOBODY

WRITE = Options(mode=Mode.WRITE, network=Network.NONE)
TIMEOUT = 240  # seconds, on a slow machine without KVM
MARK = b"written by the guest"
MARKED = 2047 * 512
"""Where the tiny guest leaves its mark on its disk."""

_NUMBERS = itertools.count()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices and mounts are root's")


@pytest.fixture(autouse=True)
def own_sessions(open_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions of the test's own, on a real disk; its guests end with it."""
    home = open_folder("writing")
    for name in ("runtime", "state"):
        (home / name).mkdir(mode=0o700)
        monkeypatch.setenv(f"FARBOOT_{name.upper()}_DIR", str(home / name))
    yield
    for session in sessions():
        with contextlib.suppress(FarbootError):
            stop(session.id, force=True)


@pytest.fixture
def engine() -> Engine:
    return Engine(Keychain())


@pytest.fixture
def disk(tiny_guest: GuestImages, open_folder: Callable[[str], Path]) -> Path:
    """The tiny guest in a qcow2 that a test may write into."""
    image = open_folder("images") / "a guest, 100%.qcow2"
    image.write_bytes(tiny_guest.qcow2.read_bytes())
    image.chmod(0o600)  # which QEMU's account could not open by itself
    return image


def at(place: object) -> Location:
    return Location.parse(str(place))[0]


def refused(engine: Engine, place: object, options: Options = WRITE) -> str:
    """What stands against booting it."""
    return "; ".join(engine.prepare(at(place), options).plan.refusals)


def runs(engine: Engine, prepared: Prepared) -> SessionInfo:
    """Start the guest; return once it is up: its mark is on its disk by then."""
    assert prepared.plan.refusals == ()
    session = engine.boot(prepared)
    assert wait_for_text(session.id, MARKER, TIMEOUT)
    return session


def mark_in(image: Path, driver: str) -> bytes:
    """The bytes of the virtual disk where the guest leaves its mark."""
    argv = ["qemu-img", "dd", "-f", driver, "-O", "raw", "bs=512", "count=2048", f"if={image}", f"of={image}.head"]
    subprocess.run(argv, check=True)
    head = Path(f"{image}.head").read_bytes()
    return head[MARKED : MARKED + len(MARK)]


# Files


@pytest.mark.boots
def test_what_the_guest_writes_is_in_the_image_and_two_writers_there_cannot_be(disk: Path, engine: Engine) -> None:
    prepared = engine.prepare(at(disk), WRITE)
    rival = engine.prepare(at(disk), WRITE)
    question = r"Write into .*/a guest, 100%\.qcow2 \(qcow2, \d.* MiB\)\? Whether others use it cannot be known\."
    assert re.fullmatch(question, prepared.warning)
    assert "the guest writes into the image itself" in prepared.plan.notes
    assert mark_in(disk, "qcow2") != MARK
    session = runs(engine, prepared)
    assert find(session.id).mode == "write"

    with pytest.raises(FarbootError):  # prepared before the first one started: QEMU's lock, or our own look
        engine.boot(rival)
    assert f"another guest of this host uses it: {session.id}" in refused(engine, disk)
    by_link = disk.with_name("link")
    by_link.symlink_to(disk)
    assert session.id in refused(engine, by_link)
    assert session.id in refused(engine, disk, Options())
    assert [info.state for info in sessions() if not info.is_over] == [SessionState.RUNNING]

    stop(session.id, force=True)
    assert mark_in(disk, "qcow2") == MARK
    assert engine.prepare(at(disk), WRITE).plan.refusals == ()


def test_of_two_that_start_at_the_same_moment_one_at_most_runs(disk: Path, engine: Engine) -> None:
    both = [engine.prepare(at(disk), WRITE) for _ in range(2)]

    def try_to_boot(prepared: Prepared) -> SessionInfo | FarbootError:
        try:
            return engine.boot(prepared)
        except FarbootError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(try_to_boot, both))
    assert sum(isinstance(end, SessionInfo) for end in ended) <= 1
    assert sum(not info.is_over for info in sessions()) <= 1


def test_a_snapshot_guest_keeps_others_from_writing_under_it(disk: Path, engine: Engine) -> None:
    guest = engine.boot(engine.prepare(at(disk), Options(network=Network.NONE)))
    assert f"another guest of this host uses it: {guest.id}" in refused(engine, disk)


def test_an_image_that_changed_after_the_yes_is_not_written_into(disk: Path, engine: Engine) -> None:
    prepared = engine.prepare(at(disk), WRITE)
    with disk.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff")
    before = disk.read_bytes()
    with pytest.raises(Changed):
        engine.boot(prepared)
    assert disk.read_bytes() == before


def test_a_qcow2_that_qemu_marks_as_it_opens_it_still_boots_for_writing(disk: Path, engine: Engine) -> None:
    # A persistent bitmap (what a backup program leaves) is marked as in use in the header when the image is opened.
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", disk, "backup"], check=True)
    session = engine.boot(engine.prepare(at(disk), WRITE))
    assert find(session.id).state is SessionState.RUNNING


def test_an_image_that_a_program_has_open_is_refused_and_the_program_named(disk: Path, engine: Engine) -> None:
    other = subprocess.Popen(["sleep", "600"], stdin=disk.open("rb"))
    try:
        assert f"open in sleep (process {other.pid})" in refused(engine, disk)
    finally:
        other.kill()
        other.wait()


def test_a_program_that_opens_it_after_the_yes_is_found_before_the_guest_runs(disk: Path, engine: Engine) -> None:
    prepared = engine.prepare(at(disk), WRITE)
    other = subprocess.Popen(["sleep", "600"], stdin=disk.open("rb"))
    try:
        with pytest.raises(Refused, match=rf"somebody else opened it meanwhile: open in sleep \(process {other.pid}\)"):
            engine.boot(prepared)
    finally:
        other.kill()
        other.wait()
    assert [info for info in sessions() if not info.is_over] == []


# Devices


@needs_root
@pytest.mark.boots
def test_a_device_is_written_and_held_exclusively(
    loop_device: LoopDevice, tiny_guest: GuestImages, engine: Engine
) -> None:
    with open(loop_device.device, "r+b") as device:
        device.write(tiny_guest.raw.read_bytes())
    session = runs(engine, engine.prepare(loop_device.location, WRITE))
    with pytest.raises(OSError, match="busy"):
        os.open(loop_device.device, os.O_RDWR | os.O_EXCL)  # as mount(8) would
    stop(session.id, force=True)
    with open(loop_device.device, "rb") as device:
        device.seek(MARKED)
        assert device.read(len(MARK)) == MARK


@needs_root
def test_a_mounted_device_is_refused_by_its_mount_point(
    loop_device: LoopDevice, tmp_path: Path, engine: Engine
) -> None:
    subprocess.run(["mke2fs", "-q", "-F", loop_device.device], check=True)
    prepared = engine.prepare(loop_device.location, WRITE)
    there = tmp_path / "mounted here"
    there.mkdir()
    subprocess.run(["mount", loop_device.device, there], check=True)
    try:
        assert f"mounted at {there}" in refused(engine, loop_device.location)
        with pytest.raises(Refused, match="it is mounted, or held by another program"):
            engine.boot(prepared)  # mounted since
    finally:
        subprocess.run(["umount", there], check=True)


@needs_root
def test_a_device_that_another_holds_is_refused(loop_device: LoopDevice, engine: Engine) -> None:
    prepared = engine.prepare(loop_device.location, WRITE)
    holder = os.open(loop_device.device, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(Refused, match="it is mounted, or held by another program"):
            engine.boot(prepared)
    finally:
        os.close(holder)


# Ceph


@pytest.fixture
def image_in_ceph(ceph: Ceph, tiny_guest: GuestImages) -> tuple[str, str]:
    """The tiny guest in Ceph: its pool, and its location."""
    pool = ceph.fresh_pool()
    ceph.image(pool, "tiny", tiny_guest.raw.read_bytes())
    return pool, f"rbd:{pool}/tiny:conf={ceph.conf}"


@contextlib.contextmanager
def opened_by_another(ceph: Ceph, pool: str) -> Iterator[None]:
    """Somebody else has the image open for writing, as a guest on another host has."""
    import rbd

    with ceph.cluster.open_ioctx(pool) as io, rbd.Image(io, "tiny"):
        yield


@pytest.mark.boots
def test_an_image_in_ceph_is_written(ceph: Ceph, image_in_ceph: tuple[str, str], engine: Engine) -> None:
    import rbd

    pool, place = image_in_ceph
    prepared = engine.prepare(at(place), WRITE)
    assert prepared.use is not None
    assert prepared.use.users == ()
    assert "Nobody else uses it." in prepared.warning
    session = runs(engine, prepared)
    users = engine.prepare(at(place), WRITE).use
    assert users is not None
    assert len(users.users) == 1
    stop(session.id, force=True)
    with ceph.cluster.open_ioctx(pool) as io, rbd.Image(io, "tiny", read_only=True) as image:
        assert image.read(MARKED, len(MARK)) == MARK


def test_an_image_in_ceph_that_somebody_watches_is_refused(
    ceph: Ceph, image_in_ceph: tuple[str, str], engine: Engine
) -> None:
    pool, place = image_in_ceph
    with opened_by_another(ceph, pool):
        prepared = engine.prepare(at(place), WRITE)
    assert re.search(r"it is in use: client\.\d+ at 127\.0\.0\.1", "; ".join(prepared.plan.refusals))
    assert "In use by client." in prepared.warning


def test_an_image_in_ceph_that_somebody_opens_after_the_yes_is_not_run(
    ceph: Ceph, image_in_ceph: tuple[str, str], engine: Engine
) -> None:
    pool, place = image_in_ceph
    prepared = engine.prepare(at(place), WRITE)
    with opened_by_another(ceph, pool), pytest.raises(Refused, match="somebody else opened it meanwhile"):
        engine.boot(prepared)
    assert [info for info in sessions() if not info.is_over] == []


def test_a_snapshot_in_ceph_cannot_be_written(ceph: Ceph, image_in_ceph: tuple[str, str], engine: Engine) -> None:
    pool, _ = image_in_ceph
    ceph.snapshot(pool, "tiny", "before")
    assert "a snapshot cannot be written" in refused(engine, f"rbd:{pool}/tiny@before:conf={ceph.conf}")


# Storage that cannot tell who uses it


@pytest.fixture
def over_nbd(tiny_guest: GuestImages, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    image = tmp_path / "tiny.img"
    image.write_bytes(tiny_guest.raw.read_bytes())
    served = start_nbdkit(tmp_path / "log", "file", str(image))
    yield image, f"nbd://{served.authority}/tiny"
    served.server.stop()


@pytest.fixture
def on_a_lun(tgt: Tgt, tiny_guest: GuestImages) -> tuple[Path, str]:
    target = tgt.target(f"iqn.2001-04.org.example:writing-{next(_NUMBERS)}")
    image = target.lun(1, tiny_guest.raw)
    assert image is not None
    return image, f"iscsi://127.0.0.1:{tgt.port}/{target.name}/1"


@pytest.fixture
def over_nfs(ganesha: Ganesha, tiny_guest: GuestImages) -> tuple[Path, str]:
    image = ganesha.folder("images") / "writing.img"
    image.write_bytes(tiny_guest.raw.read_bytes())
    return image, f"{ganesha.location('images')}writing.img"


@pytest.fixture
def over_ssh(sshd: Sshd, ssh_home: SshHome, tiny_guest: GuestImages, tmp_path: Path) -> tuple[Path, str]:
    sshd.authorize(ssh_home.key())
    ssh_home.trust(sshd.known())
    image = tmp_path / "tiny.img"
    image.write_bytes(tiny_guest.raw.read_bytes())
    return image, sshd.url(image)


@pytest.mark.boots
@pytest.mark.parametrize("storage", ["over_nbd", "on_a_lun", "over_nfs", "over_ssh"])
def test_it_is_written_where_it_lies_by_qemus_own_driver(
    storage: str, request: pytest.FixtureRequest, engine: Engine
) -> None:
    image, place = request.getfixturevalue(storage)
    prepared = engine.prepare(at(place), WRITE)
    assert prepared.warning.endswith("Whether others use it cannot be known.")
    assert prepared.plan.route == "driver"
    session = runs(engine, prepared)
    assert session.id in refused(engine, place)
    stop(session.id, force=True)
    assert mark_in(image, "raw") == MARK


@pytest.mark.boots
def test_a_guest_speaks_scsi_to_the_lun_itself(on_a_lun: tuple[Path, str], engine: Engine) -> None:
    session = runs(engine, engine.prepare(at(on_a_lun[1]), replace(WRITE, disk=DiskWish.SCSI_GENERIC)))
    assert find(session.id).state is SessionState.RUNNING


@pytest.mark.boots
@pytest.mark.parametrize("drive", [DiskWish.SCSI, DiskWish.LSI, DiskWish.SATA, DiskWish.IDE])
def test_the_guest_boots_from_the_drive_that_was_wished(
    drive: DiskWish, quick_guest: GuestImages, engine: Engine
) -> None:
    runs(engine, engine.prepare(at(quick_guest.raw), Options(network=Network.NONE, disk=drive)))


# The command line


def test_nobody_is_written_to_without_a_yes(farboot: Farboot, disk: Path) -> None:
    before = disk.read_bytes()
    done = farboot("boot", "--write", str(disk))
    assert done.returncode == 2
    assert "nobody has said yes to it (--yes says yes" in done.stderr
    assert disk.read_bytes() == before


@needs_root
def test_a_user_writes_into_what_is_his_and_into_nothing_else(farboot_of_a_user: Farboot, disk: Path) -> None:
    disk.chmod(0o644)
    done = farboot_of_a_user("boot", "--write", "--yes", str(disk))
    assert done.returncode == 1
    assert "it is read-only, or this account may not write it" in done.stderr
    os.chown(disk, NOBODY, NOBODY)
    done = farboot_of_a_user("boot", "--write", "--yes", str(disk))
    assert done.returncode == 0, done.stderr
    rival = farboot_of_a_user("boot", "--write", "--yes", str(disk))
    assert "another guest of this host uses it" in rival.stderr


@pytest.mark.parametrize("answer", ["n", "", "maybe"])
def test_only_a_yes_at_the_terminal_is_a_yes(farboot: Farboot, disk: Path, answer: str) -> None:
    status, said = answering(farboot, disk, answer)
    assert status == 1
    assert "Write into" in said
    assert "you did not say yes" in said


def test_a_yes_at_the_terminal_starts_the_guest(farboot: Farboot, disk: Path) -> None:
    status, said = answering(farboot, disk, "y")
    assert status == 0, said
    assert '"mode": "write"' in farboot("ps", "--json").stdout


def answering(farboot: Farboot, disk: Path, answer: str) -> tuple[int, str]:
    """Run `boot --write` at a terminal and type `answer`."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(farboot.environment["HOME"])
        os.execve(farboot.python, [farboot.python, "-m", "app", "boot", "--write", str(disk)], farboot.environment)
    said = b""
    with contextlib.suppress(OSError):  # a terminal whose last program has ended
        while more := os.read(terminal, 4096):
            said += more
            if b"[y/N]" in said:
                os.write(terminal, answer.encode() + b"\n")
                break
        while more := os.read(terminal, 4096):
            said += more
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode(errors="replace")


@pytest.mark.boots
def test_the_printed_script_writes_and_says_what_it_cannot_see_to(farboot: Farboot, disk: Path) -> None:
    shown = farboot("command", "--write", str(disk)).stdout
    assert "(the guest writes into the image itself)" in shown
    assert "that nobody else has the image; this cannot" in shown
    assert "overlay" not in shown
    script = Path(farboot.environment["HOME"]) / "boot.sh"
    script.write_text(shown)
    with started(farboot, ["sh", str(script)]) as process:
        assert MARKER in read_until(process, MARKER)
    wait_until(lambda: use_of(str(disk)).users == (), "QEMU's end")  # the kernel ends it with its name space
    assert mark_in(disk, "qcow2") == MARK
