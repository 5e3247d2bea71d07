"""The rooms as pictures, at a console's size and at a desk's.

The engine and the guests are fakes here: a picture that is compared must not change with this machine's clock, disks,
clients and QEMU. `--snapshot-update` takes them anew; look at them before they are kept.
"""

from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from app.memory import Memory, Remembered
from app.qemu.sessions.session import SessionState
from app.settings import Bookmark, Settings
from app.tui import FarbootApp
from probes.known.found import Found
from probes.known.guests import Owners
from probes.location import Location
from probes.registry import Client
from tests.screens.driving import Drive
from tests.screens.fakes import HOME, FakeEngine, FakeGuests, guest
from tests.screens.test_logging_in import Drawer, Guarded
from tests.screens.test_writing import NAS, Booting


class KnownAlready(Memory):
    """A machine with a few places, without a file."""

    def gather(self) -> Remembered:
        bookmarks = (Bookmark("golden images", "nfs://nas.example.org/golden/"),)
        known = [
            ("ceph", "rbd:vms:id=admin:conf=/etc/pve/ceph.conf", "Proxmox storage.cfg"),
            ("backup-nas", "nfs://192.0.2.9/backup/", "Proxmox storage.cfg"),
            ("web01", "ssh://web01/", "~/.ssh/config"),
        ]
        found = tuple(Found(title, Location.parse(text)[0], origin) for title, text, origin in known)
        used = ("tftp://boot.example.org/netboot/debian.iso",)
        return Remembered(Settings(bookmarks=bookmarks), found, used)

    def owners(self, patience: float = 0.5) -> Owners | None:
        return None

    def used_now(self, location: Location) -> None:
        """Nothing outlives a picture."""


Steps = Callable[[Drive], Awaitable[None]]
Compare = Callable[..., bool]

SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 36)], ids=["console", "desk"])
THEMES = pytest.mark.parametrize("theme", ["farboot", "farboot-ansi"])


@pytest.fixture(autouse=True)
def all_clients_but_ceph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "hypervisor")
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    monkeypatch.setattr(Client, "present", property(lambda client: client.module not in {"rados", "rbd"}))


def guests() -> FakeGuests:
    failed = guest("old-c3", "broken.qcow2", SessionState.FAILED, "QEMU ended: no space left on device")
    greeting = (
        b"\x1b[1;32m[  OK  ]\x1b[0m Reached target graphical.target.\r\n\r\nDebian GNU/Linux 12 host ttyS0\r\n\r\n"
    )
    running = [guest("debian-a1b", "debian-12-generic-amd64.qcow2"), guest("alpine-x7", "alpine-3.21-x86_64.iso")]
    return FakeGuests([*running, failed], greeting + b"host login: ")


def compare(
    snap_compare: Compare,
    size: tuple[int, int],
    theme: str,
    steps: Steps,
    start: Location | None = HOME,
    engine: FakeEngine | None = None,
) -> None:
    app = FarbootApp(engine or FakeEngine(), start, guests(), KnownAlready())
    app.theme = theme

    async def before(pilot: Pilot[None]) -> None:
        drive = Drive(app, pilot)
        await drive.until_seen("2 guests")
        await steps(drive)
        await drive.until_probed()
        for line in app.screen.query(Input):
            line.cursor_blink = False
        await pilot.wait_for_scheduled_animations()
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)


async def _to_debian(drive: Drive) -> None:
    await drive.until_listed("archive")
    await drive.press("down", "down", "down")
    await drive.until_seen("OK to boot", "-drive")


@SIZES
@THEMES
def test_the_listing_with_an_image(snap_compare: Compare, size: tuple[int, int], theme: str) -> None:
    compare(snap_compare, size, theme, _to_debian)


@SIZES
def test_a_refused_image(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await drive.until_listed("archive")
        await drive.press("end")
        await drive.until_seen("REFUSED")

    compare(snap_compare, size, "farboot", steps)


@SIZES
def test_the_places(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await drive.until_seen("Bookmarks", "Used before" if size[1] > 24 else "Proxmox")
        await drive.press("end")
        await drive.until_seen("Used before. d takes it off this list.")

    compare(snap_compare, size, "farboot", steps, start=None)


@SIZES
def test_the_filter(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await drive.until_listed("archive")
        await drive.press("slash")
        await drive.type("amd64")
        await drive.until_seen("2 of 9", "OK to boot", "-drive")

    compare(snap_compare, size, "farboot", steps)


@SIZES
def test_the_question_for_a_location(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await _to_debian(drive)
        await drive.press("o")
        await drive.type("htpt://x")
        await drive.press("enter")
        await drive.until_seen("not a storage system")

    compare(snap_compare, size, "farboot", steps)


@SIZES
def test_the_command(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await _to_debian(drive)
        await drive.press("v")
        await drive.until_seen("qemu-system-x86_64")

    compare(snap_compare, size, "farboot", steps)


@SIZES
def test_the_help(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await _to_debian(drive)
        await drive.press("question_mark")
        await drive.until_seen("Keys")

    compare(snap_compare, size, "farboot", steps)


@SIZES
@THEMES
def test_the_guests(snap_compare: Compare, size: tuple[int, int], theme: str) -> None:
    async def steps(drive: Drive) -> None:
        await drive.press("g")
        await drive.until_seen("running", "failed")

    compare(snap_compare, size, theme, steps)


@pytest.mark.parametrize("size", [(80, 24), (130, 36)], ids=["console", "desk"])
@THEMES
def test_a_console_that_is_typed_into(snap_compare: Compare, size: tuple[int, int], theme: str) -> None:
    async def steps(drive: Drive) -> None:
        await drive.press("g")
        await drive.until_seen("running")
        await drive.press("enter")
        await drive.until_seen("host login:")
        await drive.press("enter")
        await drive.until_seen("TYPING INTO IT")

    compare(snap_compare, size, theme, steps)


@SIZES
def test_an_image_that_is_refused_at_b(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await drive.until_listed("archive")
        await drive.press("end")
        await drive.until_seen("REFUSED")
        await drive.press("b")
        await drive.until_seen("It will not be booted")

    compare(snap_compare, size, "farboot", steps)


@SIZES
@THEMES
def test_the_question_before_writing(snap_compare: Compare, size: tuple[int, int], theme: str) -> None:
    async def steps(drive: Drive) -> None:
        await drive.until_listed("debian.qcow2")
        await drive.press("end")
        await drive.until_seen("OK to boot", "-drive")
        await drive.press("w")
        await drive.until_seen("Write into")
        await drive.type("ye")

    compare(snap_compare, size, theme, steps, NAS, Booting())


@SIZES
def test_the_question_for_a_password(snap_compare: Compare, size: tuple[int, int]) -> None:
    async def steps(drive: Drive) -> None:
        await drive.until_seen("save in the system's keyring")
        await drive.type("bob")
        await drive.press("enter")
        await drive.type("secret")
        await drive.press("tab", "space")

    engine = Guarded(("username", "password"), Drawer())
    compare(snap_compare, size, "farboot", steps, HOME, engine)
