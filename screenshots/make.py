"""Takes the README's pictures: the real application on the demonstration's real server, with a real guest, and on an
NBD server (nbdkit, on NBD's own port, which must be free).

    PYTHONPATH=. python screenshots/make.py

Guests run in session folders of the pictures' own, and end with them. What "the machine knows already" is made up.
"""

import asyncio
import contextlib
import gzip
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from textual.pilot import Pilot

from app.demo.guest import build
from app.demo.server import start
from app.demo.show import cache_folder, demonstration
from app.engine import Engine
from app.memory import Memory
from app.qemu.sessions import session
from app.screens.browse import Browse
from app.screens.guest import GuestRoom
from app.screens.starting import Starting
from app.tui import FarbootApp
from probes.known.root import Root
from probes.location import Location

HERE = Path(__file__).parent
CONSOLE, DESK = (80, 24), (120, 36)
_DEADLINE = 180.0
_NBD_PORT = 10809

_KNOWN = {
    "etc/pve/storage.cfg": "nfs: backup-nas\n\texport /srv/backup\n\tserver 192.0.2.9\n\tcontent images\n",
    "etc/ceph/ceph.conf": "[global]\nmon_host = 192.0.2.21\n",
    "etc/fstab": "192.0.2.7:/srv/iso /mnt/iso nfs ro,noauto 0 0\n",
    "root/.ssh/config": "Host hypervisor2\n  HostName 192.0.2.32\n",
}
_SETTINGS = """\
[[bookmark]]
name = "golden images"
location = "nfs://192.0.2.9/srv/golden/"
"""


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory(prefix="farboot-pictures-", dir="/var/tmp") as name:
        for variable in ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR"):
            folder = Path(name) / variable.lower()
            folder.mkdir(mode=0o700)
            os.environ[variable] = str(folder)
        os.environ["TERM"] = "xterm-256color"
        images = _every_kind(Path(name) / "every")
        with demonstration() as location, _nbd_server(Path(name) / "images") as nbd, _serving(images) as every:
            try:
                for theme, size in (("farboot", DESK), ("farboot-ansi", CONSOLE)):
                    asyncio.run(_tour(str(location), _memory(Path(name) / f"{theme}-tour"), theme, size))
                    asyncio.run(_places(nbd, _memory(Path(name) / theme), theme, size))
                    asyncio.run(_images(every, _memory(Path(name) / f"{theme}-images"), theme, size))
                    _stop_guests()
            finally:
                _stop_guests()


def _stop_guests() -> None:
    """End them, and then take them off the list."""
    for _ in range(2):
        for guest in session.sessions():
            session.stop(guest.id, force=True)


async def _tour(url: str, memory: Memory, theme: str, size: tuple[int, int]) -> None:
    app = FarbootApp(Engine(), Location.parse(url)[0], memory=memory)
    app.theme = theme
    where = "console" if size == CONSOLE else "desk"

    def take(name: str) -> None:
        app.save_screenshot(f"{name}-{where}.svg", str(HERE))
        print(f"{name}-{where}.svg")

    async with app.run_test(size=size) as pilot:
        browse = app.screen_stack[0]
        assert isinstance(browse, Browse)
        await _until(pilot, lambda: browse.folder and browse.folder.done)
        while browse.listing.entry and not browse.listing.entry.name.endswith(".qcow2"):
            await pilot.press("down")
        await _until(pilot, lambda: browse.details.facts.command)
        take("browse")
        await pilot.press("v")
        await _until(pilot, lambda: "qemu-system" in str(getattr(app.screen, "script", "")))
        take("command")
        await pilot.press("escape", "b")
        await _until(pilot, lambda: isinstance(app.screen, GuestRoom))
        room = app.screen
        assert isinstance(room, GuestRoom)
        await _until(pilot, lambda: "FARBOOT-GUEST-READY" in room.console.serial.text())
        await _until(pilot, lambda: room.console.serial.text().rstrip().endswith("#"))
        await pilot.press("enter", *("space" if key == " " else key for key in "uname -a"), "enter")
        await _until(pilot, lambda: "x86_64 GNU/Linux" in room.console.serial.text())
        await pilot.press("ctrl+right_square_bracket")
        await pilot.pause()
        take("guest")
        await pilot.press("g")
        await _until(pilot, lambda: any(guest.state == "running" for guest in app.guests))
        await pilot.pause(0.2)
        take("guests")


async def _places(url: str, memory: Memory, theme: str, size: tuple[int, int]) -> None:
    """What the machine knows already; then a server that can be written, and the question before that."""
    app = FarbootApp(Engine(), memory=memory)
    app.theme = theme
    where = "console" if size == CONSOLE else "desk"

    def take(name: str) -> None:
        app.save_screenshot(f"{name}-{where}.svg", str(HERE))
        print(f"{name}-{where}.svg")

    async with app.run_test(size=size) as pilot:
        browse = app.screen_stack[0]
        assert isinstance(browse, Browse)
        await _until(pilot, lambda: any(place.title == "hypervisor2" for place in browse.places.places))
        while browse.places.place and browse.places.place.title != "backup-nas":
            await pilot.press("down")
        await pilot.pause(0.2)
        take("places")
        browse.open(Location.parse(url)[0])
        await _until(pilot, lambda: browse.folder and browse.folder.done and len(browse.folder.rows))
        while browse.listing.entry and not browse.listing.entry.name.startswith("web"):
            await pilot.press("down")
        await _until(pilot, lambda: browse.details.facts.command)
        await _until(pilot, lambda: all(row.entry.size for row in browse.listing.rows.visible))
        take("nbd")
        await pilot.press("w")
        await _until(pilot, lambda: isinstance(app.screen, Starting) and app.screen.query_one("#sure").display)
        await pilot.pause(0.2)
        take("write")
        await pilot.press("escape")


async def _images(url: str, memory: Memory, theme: str, size: tuple[int, int]) -> None:
    """Images of many kinds on a web server, and one that reaches for a file of the host."""
    app = FarbootApp(Engine(), Location.parse(url)[0], memory=memory)
    app.theme = theme
    async with app.run_test(size=size) as pilot:
        browse = app.screen_stack[0]
        assert isinstance(browse, Browse)
        await _until(pilot, lambda: browse.folder and browse.folder.done and len(browse.folder.rows))
        while browse.listing.entry and not browse.listing.entry.name.startswith("suspicious"):
            await pilot.press("down")
        await _until(pilot, lambda: browse.details.facts.image)
        await _until(pilot, lambda: all(row.image for row in browse.listing.seen))
        await pilot.pause(0.2)
        name = f"images-{'console' if size == CONSOLE else 'desk'}.svg"
        app.save_screenshot(name, str(HERE))
        print(name)


def _every_kind(folder: Path) -> Path:
    """A folder with images of many kinds, most of them of the tiny guest's disk."""
    folder.mkdir()
    guest = build(cache_folder().parent / "guest")
    shutil.copy(guest.raw, folder / "base.raw")
    shutil.copy(guest.iso, folder / "rescue.iso")
    for name, options in {
        "lab.vhdx": ("vhdx",), "legacy.vmdk": ("vmdk", "-o", "subformat=streamOptimized"),
        "mail.qcow2": ("qcow2", "-c"), "old.vhd": ("vpc",), "web-03.vdi": ("vdi",),
    }.items():  # fmt: skip
        _qemu_img("convert", "-O", *options, guest.raw, folder / name)
    _qemu_img("create", "-f", "qcow2", "-u", "-F", "raw", "-b", "base.raw", folder / "build-01.qcow2", "20M")
    _qemu_img("create", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/shadow", folder / "suspicious.qcow2", "20M")
    (folder / "backup.img.gz").write_bytes(gzip.compress(guest.raw.read_bytes(), 1))
    with tarfile.open(folder / "appliance.ova", "w") as archive:
        archive.add(folder / "legacy.vmdk", "legacy-disk1.vmdk")
    return folder


def _qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *arguments], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def _serving(folder: Path) -> Iterator[str]:
    """A web server of that folder; its location."""
    server = start(folder)
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()


def _memory(folder: Path) -> Memory:
    """A person and a machine made up for the pictures."""
    for path, text in _KNOWN.items():
        whole = folder / "root" / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(text)
    (folder / "settings.toml").write_text(_SETTINGS)
    return Memory(f"{folder}/settings.toml", f"{folder}/history", Root(f"{folder}/root", "/root"))


@contextlib.contextmanager
def _nbd_server(folder: Path) -> Iterator[str]:
    """An NBD server with the tiny guest as a few images; its location."""
    folder.mkdir()
    guest = build(cache_folder().parent / "guest")
    for name, image in {
        "db-01.raw": guest.raw, "db-02.raw": guest.raw, "installer.iso": guest.iso, "mail.qcow2": guest.qcow2,
        "web-01.qcow2": guest.qcow2, "web-02.qcow2": guest.qcow2,
    }.items():  # fmt: skip
        shutil.copy(image, folder / name)
    argv = ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(_NBD_PORT), "file", f"dir={folder}"]
    server = subprocess.Popen(argv)
    try:
        _await_port(server)
        yield "nbd://localhost/"
    finally:
        server.terminate()
        server.wait()


def _await_port(server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _DEADLINE
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", _NBD_PORT), 0.2):
            return
    raise RuntimeError("nbdkit did not start")


async def _until(pilot: Pilot[None], happened: Callable[[], object]) -> None:
    end = time.monotonic() + _DEADLINE
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("the picture's moment did not come")
        await pilot.pause(0.05)


if __name__ == "__main__":
    main()
