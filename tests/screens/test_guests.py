"""Guests: started by one key, watched, typed into, left running, stopped."""

import contextlib
import socket
from dataclasses import replace

import pytest

from app.demo.guest import MARKER, GuestImages
from app.engine import Inspection, Prepared
from app.qemu.options import Options
from app.qemu.sessions.session import SessionInfo, SessionState
from app.screens.guest import GuestRoom
from app.screens.guests import GuestsRoom
from probes.errors import Crashed
from probes.image import Hazard, Image, Verdict
from probes.location import Location
from probes.source import Progress
from tests.screens.driving import Drive, driving
from tests.screens.fakes import HOME, FakeEngine, FakeGuests, guest
from tests.test_picture import picture_of


def console_of(drive: Drive) -> str:
    """All that the guest said."""
    room = drive.app.screen
    return room.console.serial.text() if isinstance(room, GuestRoom) and room.is_furnished else ""


@pytest.mark.boots
async def test_one_key_boots_an_image_and_leads_to_its_console(tiny_guest: GuestImages) -> None:
    async with driving(tiny_guest.qcow2) as drive:
        await drive.until_listed(tiny_guest.qcow2.name)
        await drive.press("b")
        await drive.until(lambda: MARKER in console_of(drive), "the marker", deadline=180)
        await drive.until_seen("running", "1 guest")
        await drive.press("enter")
        await drive.until_seen("TYPING INTO IT")
        await drive.type("echo $((6*7))q\n")
        await drive.until(lambda: "\n42q" in console_of(drive), "the guest's answer")
        await drive.press("q", "escape")
        assert isinstance(drive.app.screen, GuestRoom)
        await drive.press("ctrl+right_square_bracket", "escape")
        await drive.until_seen(tiny_guest.qcow2.name, "1 guest")
        await drive.press("g")
        await drive.until_seen("running", "Guests")
        await drive.press("x")
        await drive.until_seen("end it at once")
        await drive.press("f")
        await drive.until_seen("ended", "1 over", "no guests")


# From here on the guests are fakes: their words, states and errors must be as the test wants them.


async def test_a_guest_that_writes_is_told_apart_and_its_image_is_not_called_safe() -> None:
    writer = replace(guest("debian-a1b", "debian.qcow2"), mode="write")
    async with driving(HOME, FakeEngine(), FakeGuests([writer])) as drive:
        await drive.press("g")
        await drive.until_seen("writes http://")
        await drive.press("x")
        await drive.until_seen("writes into the image itself", "power cut")
        assert "throwaway" not in drive.screen


async def test_without_guests_the_room_says_how_to_start_one() -> None:
    async with driving(HOME, FakeEngine(), FakeGuests()) as drive:
        await drive.press("g")
        await drive.until_seen("No guests run. Press b on an image")
        assert "enter Console" not in drive.screen
        await drive.press("escape")
        assert drive.app.screen is drive.browse


async def test_running_guests_come_first_and_a_failed_one_says_why() -> None:
    failed = guest("b-2", "broken.qcow2", SessionState.FAILED, "QEMU ended: no space left")
    async with driving(HOME, FakeEngine(), FakeGuests([failed, guest("a-1", "debian.qcow2")]), size=(120, 30)) as drive:
        await drive.until_seen("1 guest")
        await drive.press("g")
        await drive.until_seen("debian.qcow2", "2 h 02", "broken.qcow2", "no space left")
        assert drive.screen.index("debian.qcow2") < drive.screen.index("broken.qcow2")


async def test_a_guest_cannot_act_on_the_terminal() -> None:
    hostile = b"\x1b]0;title\x07\x1b]52;c;cHduZWQ=\x07\x1bP+q\x1b\\plain \x1b[31mred\x1b[0m [bold]x\r\n"
    async with driving(HOME, FakeEngine(), FakeGuests([guest("a-1", "a.img")], hostile)) as drive:
        await open_first_guest(drive)
        await drive.until_seen("plain red [bold]x")
        assert "title" not in drive.screen
        assert "pwned" not in drive.app.clipboard


async def open_first_guest(drive: Drive) -> GuestRoom:
    """From the listing to the first guest's room."""
    await drive.until_seen("1 guest")
    await drive.press("g")
    await drive.until(lambda: isinstance(drive.app.screen, GuestsRoom))
    await drive.until_seen("running")
    await drive.press("enter")
    await drive.until(lambda: isinstance(drive.app.screen, GuestRoom))
    room = drive.app.screen
    assert isinstance(room, GuestRoom)
    return room


async def test_while_it_is_held_every_key_goes_to_the_guest() -> None:
    guests = FakeGuests([guest("a-1", "a.img")], b"login: ")
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.until_seen("login:")
        await drive.press("enter", "q", "escape", "tab", "up", "ctrl+c", "enter")
        line = guests.lines[0]
        line.settimeout(10)
        wanted, got = b"q\x1b\t\x1b[A\x03\r", b""
        while len(got) < len(wanted):
            got += line.recv(100)
        assert got == wanted
        assert isinstance(drive.app.screen, GuestRoom)


async def test_keys_are_commands_before_it_is_held_and_after() -> None:
    async with driving(HOME, FakeEngine(), FakeGuests([guest("a-1", "a.img")], b"login: ")) as drive:
        await open_first_guest(drive)
        await drive.press("i")
        await drive.until_seen("ssh -N -L 5900:/var/lib/farboot/x/vnc.sock", "restricted")
        await drive.press("escape", "enter", "ctrl+right_square_bracket", "escape")
        await drive.until(lambda: isinstance(drive.app.screen, GuestsRoom))


async def test_a_flood_does_not_stop_the_keys() -> None:
    guests = FakeGuests([guest("a-1", "a.img")], b"go\r\n")
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.until_seen("go")
        for _ in range(40):
            guests.lines[0].sendall(b"\x1b[32mflood\x1b[0m %d\r\n" * 2000)
        guests.lines[0].sendall(b"the end\r\n")
        await drive.until_seen("the end")
        await drive.press("escape")
        await drive.until(lambda: isinstance(drive.app.screen, GuestsRoom))


async def test_a_guest_that_ends_says_so_in_its_room() -> None:
    running = guest("a-1", "a.img")
    guests = FakeGuests([running], b"last words")
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.until_seen("last words")
        guests.guests = [guest("a-1", "a.img", SessionState.FAILED, "QEMU was killed")]
        guests.lines[0].close()
        await drive.until_seen("failed: QEMU was killed", "last words", "no guests")


async def test_stopping_asks_softly_or_by_force() -> None:
    guests = FakeGuests([guest("a-1", "a.img")])
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.press("x")
        await drive.until_seen("Stop a.img?", "shut it down", "end it at once")
        await drive.press("escape", "x", "s")
        await drive.until(lambda: guests.stopped == [("a-1", False)])


async def test_its_screen_is_shown_as_text_where_it_is_text() -> None:
    guests = FakeGuests([guest("a-1", "memtest.iso")])
    guests.picture = lambda: picture_of("Memtest86+ v6.10", "Pass 3%")
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.press("p")
        await drive.until_seen("Memtest86+ v6.10", "Pass 3%")
        await drive.press("p")
        await drive.until_seen("Waiting for its first words on its serial line", "p shows its screen")


@pytest.mark.parametrize("said", [b"", b"\x1b[2J\x1b[H", b"\r\n\r\n   "], ids=["nothing", "a clear screen", "blanks"])
async def test_while_nothing_can_be_read_on_its_serial_line_the_room_says_what_it_waits_for(said: bytes) -> None:
    guests = FakeGuests([guest("a-1", "a.img")], said)
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.until_seen("Waiting for its first words on its serial line", "p shows its screen")
        guests.lines[0].sendall(b"GRUB loading")
        await drive.until_seen("GRUB loading")
        assert "Waiting" not in drive.screen


async def test_the_last_of_a_guests_eighty_columns_is_seen_on_a_console_of_eighty() -> None:
    guests = FakeGuests([guest("a-1", "a.img")], b"%079d#\r\n" % 0 * 60 + b"the end")
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.until_seen("the end", f"{0:079d}#")


def heard(line: socket.socket) -> bytes:
    """All that was typed into this line so far."""
    with contextlib.suppress(BlockingIOError):
        return line.recv(1000, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return b""


async def test_what_is_typed_in_one_burst_with_the_key_that_begins_it_reaches_the_guest() -> None:
    guests = FakeGuests([guest("a-1", "a.img")], b"login: ")
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.until_seen("login:")
        drive.burst("enter", "q", "r", "o", "o", "t")
        await drive.until(lambda: heard(guests.lines[0]) == b"qroot", "the guest to hear it")


async def test_a_guest_that_is_over_is_taken_off_the_list_by_the_same_key() -> None:
    guests = FakeGuests([guest("a-1", "a.img", SessionState.ENDED), guest("b-2", "b.img")])
    async with driving(HOME, FakeEngine(), guests) as drive:
        await drive.until_seen("1 guest")
        await drive.press("g")
        await drive.until_seen("x Stop")
        await drive.press("down")
        await drive.until_seen("x Remove")
        await drive.press("x")
        await drive.until(lambda: guests.stopped == [("a-1", False)])


async def test_a_silent_serial_line_gives_way_to_the_screen() -> None:
    guests = FakeGuests([guest("a-1", "memtest.iso")])
    guests.picture = lambda: picture_of("VGA text")
    async with driving(HOME, FakeEngine(), guests) as drive:
        await open_first_guest(drive)
        await drive.until_seen("VGA text")


async def test_a_screen_that_cannot_be_had_says_why() -> None:
    async with driving(HOME, FakeEngine(), FakeGuests([guest("a-1", "a.img")])) as drive:
        await open_first_guest(drive)
        await drive.press("p")
        await drive.until_seen("Its screen cannot be had: it has none")


async def test_quitting_says_how_many_guests_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    async with driving(HOME, FakeEngine(), FakeGuests([guest("a-1", "a.img")])) as drive:
        await drive.until_seen("1 guest")
        await drive.press("q")
    assert "1 guest goes on" in capsys.readouterr().err


class Asking(FakeEngine):
    """Has images that ask before they boot."""

    def __init__(self) -> None:
        super().__init__()
        self.booted = 0

    def image(self, location: Location) -> Image:
        return replace(super().image(location), hazards=(Hazard("odd", "It may be odd.", Verdict.ASK),))

    def prepare(
        self,
        location: Location,
        options: Options,
        inspection: Inspection | None = None,
        fetch: Progress | None = None,
    ) -> Prepared:
        prepared = super().prepare(location, options, inspection)
        return replace(prepared, plan=replace(prepared.plan, refusals=()))

    def boot(self, prepared: Prepared) -> SessionInfo:
        self.booted += 1
        return super().boot(prepared)


async def test_an_image_that_asks_boots_after_a_yes_only() -> None:
    engine = Asking()
    async with driving(HOME, engine, FakeGuests(greeting=b"hello")) as drive:
        await drive.until_listed("archive")
        await drive.press("down", "down", "down", "b")
        await drive.until_seen("Before it boots", "It may be odd.")
        await drive.press("escape", "b")
        await drive.until_seen("Before it boots")
        assert engine.booted == 0
        await drive.press("y")
        await drive.until_seen("hello")
        assert engine.booted == 1


class Failing(FakeEngine):
    """Cannot boot."""

    def boot(self, prepared: Prepared) -> SessionInfo:
        raise Crashed("start", "QEMU", "it ended with status 1", "look at its words", "qemu: could not open 'x'")


async def test_a_boot_that_fails_says_why_and_can_be_tried_again() -> None:
    async with driving(HOME, Failing(), FakeGuests()) as drive:
        await drive.until_listed("archive")
        await drive.press("down", "down", "down", "b")
        await drive.until_seen("it ended with status 1", "look at its words", "could not open 'x'", "r tries again")
        await drive.press("r")
        await drive.until_seen("it ended with status 1")
        await drive.press("escape")
        assert drive.app.screen is drive.browse
