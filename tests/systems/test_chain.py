"""An overlay beside its base, on storage that has folders: refused without a yes, and with it to the marker."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.demo.guest import MARKER, GuestImages
from app.screens.guest import GuestRoom
from app.screens.starting import Starting
from tests.conftest import Farboot
from tests.formats.images import qemu_img_create, run
from tests.screens.driving import driving
from tests.servers.ganesha import Ganesha
from tests.servers.nginx import Nginx
from tests.servers.sshd import Sshd, make_home
from tests.systems.test_nfs import MARK, MARKED
from tests.test_boot import TIMEOUT, read_until, started

pytestmark = pytest.mark.boots

YES = ("--accept", "backing-file")
WAIT = ("--wait", MARKER, "--timeout", str(TIMEOUT))


def make_chain(folder: Path, guest: Path) -> Path:
    """top over middle over the raw guest, which a VHDX holds in between: three formats, one chain."""
    run("qemu-img", "convert", "-f", "raw", "-O", "vhdx", guest, folder / "a base.vhdx")
    size = str(guest.stat().st_size)
    qemu_img_create(folder / "middle.qcow2", size, "qcow2", "-u", "-b", "a base.vhdx", "-F", "vhdx")
    return qemu_img_create(folder / "top.qcow2", size, "qcow2", "-u", "-b", "middle.qcow2", "-F", "qcow2")


@pytest.fixture
def place(
    request: pytest.FixtureRequest,
    farboot: Farboot,
    quick_guest: GuestImages,
    open_folder: Callable[[str], Path],
    tmp_path: Path,
) -> str:
    """Where the chain's first image lies, on the storage that the parameter names."""
    if request.param == "file":
        return str(make_chain(open_folder("chain"), quick_guest.raw))
    if request.param == "http":
        nginx: Nginx = request.getfixturevalue("nginx")
        folder = open_folder("chain")
        make_chain(folder, quick_guest.raw)
        shutil.copytree(folder, Path(nginx.root) / folder.name)
        return f"{nginx.url}{folder.name}/top.qcow2"
    if request.param == "nfs":
        ganesha: Ganesha = request.getfixturevalue("ganesha")
        folder = ganesha.folder("images") / tmp_path.name
        folder.mkdir()
        make_chain(folder, quick_guest.raw)
        return f"{ganesha.location('images')}{tmp_path.name}/top.qcow2"
    sshd: Sshd = request.getfixturevalue("sshd")
    home = make_home(tmp_path / "person")
    sshd.authorize(home.key())
    home.trust(sshd.known())
    farboot.environment["HOME"] = str(home.path)
    return sshd.url(str(make_chain(open_folder("chain"), quick_guest.raw)))


def boots(farboot: Farboot, place: str, *options: str) -> str:
    done = farboot("boot", place, *YES, *WAIT, *options, timeout=TIMEOUT + 60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("place", ["file", "http", "nfs", "ssh"], indirect=True)
def test_a_chain_boots_after_a_yes_and_not_without(farboot: Farboot, place: str) -> None:
    told = json.loads(farboot("inspect", place, "--json").stdout)
    assert told["verdict"] == "ask"
    assert [(link["location"].rpartition("/")[2], link["format"]) for link in told["chain"]] == [
        ("middle.qcow2", "qcow2"),
        ("a base.vhdx" if place.startswith("/") else "a%20base.vhdx", "vhdx"),
    ]
    assert told["media"]["firmware"] == ["bios", "uefi"], "what the guest sees is looked at through the chain"
    refused = farboot("boot", place)
    assert refused.returncode == 3
    assert "--accept backing-file" in refused.stderr
    boots(farboot, place)


@pytest.mark.parametrize("place", ["http"], indirect=True)
def test_it_boots_by_qemu_s_own_driver(farboot: Farboot, place: str) -> None:
    shown = json.loads(farboot("command", place, *YES, "--route", "direct", "--json").stdout)
    assert shown["route"] == "driver"
    boots(farboot, place, "--route", "direct")


@pytest.mark.parametrize("place", ["file", "http", "ssh"], indirect=True)
def test_the_printed_script_of_a_chain_boots(farboot: Farboot, place: str) -> None:
    assert farboot("command", place).returncode == 3
    shown = farboot("command", place, *YES)
    assert shown.returncode == 0, shown.stderr
    script = Path(farboot.environment["HOME"]) / "boot.sh"
    script.write_text(shown.stdout)
    with started(farboot, ["sh", str(script)]) as process:
        said = read_until(process, MARKER)
    assert MARKER in said, said[-4000:]


def test_a_guest_that_writes_writes_into_the_first_image_alone(
    farboot: Farboot, tiny_guest: GuestImages, open_folder: Callable[[str], Path]
) -> None:
    folder = open_folder("chain")
    base = Path(shutil.copy(tiny_guest.raw, folder / "base.raw"))
    size = str(base.stat().st_size)
    top = qemu_img_create(folder / "top.qcow2", size, "qcow2", "-u", "-b", "base.raw", "-F", "raw")
    session = boots(farboot, str(top), "--write", "--yes")
    farboot("stop", session)
    assert base.read_bytes() == tiny_guest.raw.read_bytes()
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, folder / "whole.raw")
    assert (folder / "whole.raw").read_bytes()[MARKED : MARKED + len(MARK)] == MARK


async def test_the_tui_asks_and_y_boots_it(
    quick_guest: GuestImages, open_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from app.qemu.sessions.session import sessions, stop

    top = make_chain(open_folder("chain"), quick_guest.raw)
    for name in ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR", "FARBOOT_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    try:
        async with driving(top) as drive:
            await drive.until(lambda: drive.current == top.name, "the image under the cursor")
            await drive.until_seen("ASKS FIRST")
            await drive.press("b")
            await drive.until(lambda: isinstance(drive.app.screen, Starting), "the dialog")
            await drive.until_seen("2 backing images", "boots it all the same")
            assert sessions() == []
            await drive.press("y")

            def said() -> str:
                room = drive.app.screen
                return room.console.serial.text() if isinstance(room, GuestRoom) and room.is_furnished else ""

            await drive.until(lambda: MARKER in said(), "the marker", TIMEOUT)
    finally:
        for guest in sessions():
            stop(guest.id, force=True)


async def test_the_tui_shows_the_command_of_a_chain(
    quick_guest: GuestImages, open_folder: Callable[[str], Path]
) -> None:
    top = make_chain(open_folder("chain"), quick_guest.raw)
    async with driving(top) as drive:
        await drive.until(lambda: drive.current == top.name, "the image under the cursor")
        await drive.press("v")
        await drive.until_seen("#!/bin/sh", "2 backing images")
