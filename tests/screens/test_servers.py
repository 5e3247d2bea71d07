"""What a person meets at real servers: passwords, pools and snapshots, one key that boots, and servers that die."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.guest import MARKER, GuestImages
from app.screens.ask_credentials import AskCredentials
from app.screens.command import CommandRoom
from app.screens.guest import GuestRoom
from tests.screens.driving import Drive, driving
from tests.screens.terminal import Terminal
from tests.servers.ceph import Ceph
from tests.servers.faults import BlackHole
from tests.servers.nginx import Nginx, start_nginx

BOOTS_WITHIN = 240.0  # seconds, on a slow machine without KVM


# A web server that wants a password


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[str]:
    """The address of a web server with one image, for alice alone."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "disk.img").write_bytes(bytes(1 << 20))
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", "s3cret word"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (tmp_path / "users").write_text(f"alice:{hashed}\n")
    server = start_nginx(tmp_path / "nginx", root, server=f'auth_basic "here"; auth_basic_user_file {tmp_path}/users;')
    yield server.url
    server.server.stop()


async def log_in(drive: Drive, user: str, password: str) -> None:
    """Answer the question for a user name and a password."""
    await drive.until(lambda: isinstance(drive.app.screen, AskCredentials) and drive.app.screen.focused, "the question")
    await drive.type(f"{user}\n")
    await drive.type(f"{password}\n")


async def test_a_wrong_password_is_asked_for_again_and_the_right_one_opens_everything(locked: str) -> None:
    async with driving(locked) as drive:
        await drive.until_seen("User name", "Password")
        await log_in(drive, "alice", "hunter2")
        await drive.until_seen("User name", "wrong")
        assert "hunter2" not in drive.screen
        await log_in(drive, "alice", "s3cret word")
        await drive.until_listed("disk.img")
        await drive.until_seen("raw", "1 MiB", "Notes")
        await drive.press("v")
        room = drive.app.screen
        assert isinstance(room, CommandRoom)
        await drive.until(lambda: "qemu-system" in room.script, "the command")
        assert "s3cret" not in room.script
        assert "s3cret" not in drive.screen


async def test_who_gives_no_password_is_told_why_and_can_be_asked_again(locked: str) -> None:
    async with driving(locked) as drive:
        await drive.until_seen("User name")
        await drive.press("escape")
        await drive.until_seen("r tries again", "failed")
        await drive.press("r")
        await log_in(drive, "alice", "s3cret word")
        await drive.until_listed("disk.img")


# Ceph


@pytest.fixture
def pool(ceph: Ceph) -> str:
    """A pool with an image that has snapshots, and one that has none."""
    name = ceph.fresh_pool()
    ceph.image(name, "disk", 4 << 20)
    for snapshot in ("daily-10", "daily-2"):
        ceph.snapshot(name, "disk", snapshot)
    ceph.image(name, "plain", 4 << 20)
    return name


async def test_pools_lead_to_images_and_images_to_their_snapshots(ceph: Ceph, pool: str) -> None:
    async with driving(f"rbd::conf={ceph.conf}") as drive:
        await drive.until_listed(pool, "rbd")
        await to(drive, pool)
        await drive.press("enter")
        await drive.until_listed("disk", "plain")
        await to(drive, "disk")
        await drive.until_seen("enter Snapshots", "raw")
        await drive.press("enter")
        await drive.until(lambda: drive.names == ["disk", "daily-2", "daily-10"], "the snapshots")
        await drive.until_seen("2 snapshots", "the image as it is now")
        await drive.press("down")
        await drive.until_seen("raw", "b Boot")
        assert "enter Snapshots" not in drive.screen
        await drive.press("escape")
        await drive.until(lambda: drive.names == ["disk", "plain"], "the pool")
        assert drive.current == "disk"
        await drive.press("escape")
        await drive.until_listed(pool)
        assert drive.current == pool


async def to(drive: Drive, name: str) -> None:
    """Put the cursor on the entry of this name."""
    for _ in drive.names:
        if drive.current == name:
            return
        await drive.press("down")
    assert drive.current == name


async def test_an_image_without_snapshots_says_so_and_can_be_booted(ceph: Ceph, pool: str) -> None:
    async with driving(f"rbd:{pool}/plain:conf={ceph.conf}") as drive:
        await drive.until_listed("disk", "plain")
        assert drive.current == "plain"
        await drive.press("right")
        await drive.until_seen("It has no snapshots. b boots it as it is", "0 snapshots")
        assert drive.names == ["plain"]
        assert drive.browse.image_entry is not None
        await drive.press("left")
        await drive.until_listed("disk", "plain")
        assert "It has no snapshots" not in drive.screen


async def test_a_snapshot_that_is_given_is_shown_among_those_of_its_image(ceph: Ceph, pool: str) -> None:
    async with driving(f"rbd:{pool}/disk@daily-10:conf={ceph.conf}") as drive:
        await drive.until(lambda: drive.names == ["disk", "daily-2", "daily-10"], "the snapshots")
        assert drive.current == "daily-10"
        ceph.snapshot(pool, "disk", "daily-11")
        await drive.press("r")
        await drive.until(lambda: "daily-11" in drive.names, "the new snapshot")
        assert drive.current == "daily-10"
        await drive.press("escape")
        await drive.until_listed("disk", "plain")
        assert drive.current == "disk"


# One key boots it


def said(drive: Drive) -> str:
    """What the guest said on its serial line."""
    room = drive.app.screen
    return room.console.serial.text() if isinstance(room, GuestRoom) and room.is_furnished else ""


@pytest.mark.boots
async def test_a_guest_boots_from_ceph(ceph: Ceph, tiny_guest: GuestImages) -> None:
    pool = ceph.fresh_pool()
    ceph.image(pool, "tiny", tiny_guest.raw)
    async with driving(f"rbd:{pool}/tiny:conf={ceph.conf}") as drive:
        await drive.until_listed("tiny")
        await drive.press("b")
        await drive.until(lambda: MARKER in said(drive), "the marker", BOOTS_WITHIN)
        await drive.press("i")
        await drive.until_seen("driver", f"rbd:{pool}/tiny")


@pytest.mark.boots
async def test_a_guest_boots_from_the_web_over_the_bridge(
    nginx: Nginx, tiny_guest: GuestImages, tmp_path: Path
) -> None:
    folder = Path(nginx.root) / tmp_path.name
    folder.mkdir()
    (folder / "tiny.qcow2").symlink_to(tiny_guest.qcow2)
    async with driving(f"{nginx.url}{tmp_path.name}/") as drive:
        await drive.until_listed("tiny.qcow2")
        await drive.press("b")
        await drive.until(lambda: MARKER in said(drive), "the marker", BOOTS_WITHIN)
        await drive.press("i")
        await drive.until_seen("bridge", "tiny.qcow2")


# Servers that die


async def test_a_server_that_comes_back_is_listed_by_r(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "disk.img").write_bytes(bytes(4096))
    web = start_nginx(tmp_path / "nginx", root)
    try:
        async with driving(web.url) as drive:
            await drive.until_listed("disk.img")
            web.server.stop()
            await drive.press("r")
            await drive.until_seen("failed", "r tries again")
            assert drive.names == []
            web.server.start()
            await drive.press("r")
            await drive.until_listed("disk.img")
            await drive.until_seen("1 entry", "raw")
            assert "r tries again" not in drive.screen
    finally:
        web.server.stop()


def test_quitting_does_not_wait_for_a_server_that_hangs() -> None:
    with BlackHole() as hole:
        argv = [sys.executable, "-m", "app", "--deadline", "300", f"http://{hole.authority}/"]
        farboot = Terminal(argv, {})
        farboot.until(b"listing ...")
        farboot.type(b"q")
        assert farboot.end() == 0  # long before the 300 seconds are over
        assert farboot.after == farboot.before
