"""Nothing that a server does stops the screen.

The engine is a fake here, for a real server does not hang, wait, or answer in a given order on command.
"""

import threading
from collections.abc import Iterator

from app.engine import Inspection
from probes.credentials import Secret
from probes.entry import Entry
from probes.errors import Denied
from probes.evidence import NOT_JUDGED
from probes.image import Image
from probes.location import Location
from probes.reader import Pin
from probes.source import Progress, Source
from tests.screens.driving import driving
from tests.screens.fakes import ENTRIES, HOME, FakeEngine, entry


class Stalling(FakeEngine):
    """Lists two entries, and the rest once it may go on."""

    def __init__(self) -> None:
        super().__init__(self._stall)
        self.go_on = threading.Event()

    def _stall(self, _location: Location) -> Iterator[Entry]:
        yield from (entry("b.img", 1), entry("d.img", 1))
        self.go_on.wait(30)
        yield from (entry("a.img", 1), entry("c.img", 1))


async def test_what_came_is_shown_while_the_server_stalls_and_keys_work() -> None:
    engine = Stalling()
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: drive.names == ["b.img", "d.img"])
        await drive.until_seen("2 entries, arriving ...")
        await drive.press("down")
        assert drive.current == "d.img"
        engine.go_on.set()
        await drive.until(lambda: drive.names == ["a.img", "b.img", "c.img", "d.img"])
        assert drive.current == "d.img"
        await drive.until_seen("4 entries")


async def test_leaving_a_stalled_listing_closes_its_source_and_shows_another_place() -> None:
    engine = Stalling()
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: len(drive.names) == 2)
        await drive.press("escape")
        await drive.until(engine.sources[0].closed.is_set)
        assert drive.browse.folder is not None
        assert drive.browse.folder.location == HOME.parent
        engine.go_on.set()


class Slow(FakeEngine):
    """Tells what an image is once that one may be told."""

    def __init__(self) -> None:
        super().__init__([entry(f"{name}.img", 1) for name in "abc"])
        self.may = {f"{name}.img": threading.Event() for name in "abc"}

    def inspect(self, location: Location, source: Source | None = None, fetch: Progress | None = None) -> Inspection:
        self.may[location.name].wait(30)
        return Inspection(location, Image(f"format-{location.name}", 1, 1), Pin(1), NOT_JUDGED)


async def test_an_answer_about_what_is_no_longer_under_the_cursor_is_dropped() -> None:
    engine = Slow()
    async with driving(HOME, engine) as drive:
        await drive.until_seen("reading ...")
        await drive.until(lambda: len(engine.sources) >= 2)
        await drive.press("down")
        engine.may["b.img"].set()
        await drive.until_seen("format-b.img")
        engine.may["a.img"].set()
        await drive.pilot.pause(0.2)
        assert "format-a.img" not in drive.screen
        await drive.press("up")
        await drive.until_seen("format-a.img")


async def test_passing_over_images_reads_none_of_them() -> None:
    engine = Slow()
    async with driving(HOME, engine) as drive:
        await drive.until_listed("a.img")
        opened = len(engine.sources)
        await drive.press("down", "up", "down", "up")
        assert len(engine.sources) <= opened + 1


class Many(FakeEngine):
    """A place with very many images."""

    def __init__(self, count: int) -> None:
        super().__init__([entry(f"vm-{number % 977}-disk-{number}.qcow2", number) for number in range(count)])


async def test_a_hundred_thousand_entries_arrive_sorted_and_filter() -> None:
    async with driving(HOME, Many(100_000)) as drive:
        await drive.until_seen("100,000 entries", deadline=60)
        assert drive.names[:2] == ["vm-0-disk-0.qcow2", "vm-0-disk-977.qcow2"]
        await drive.press("end")
        assert drive.current == "vm-976-disk-99653.qcow2"
        await drive.until_seen("vm-976-disk-99653.qcow2")
        await drive.press("slash")
        await drive.type("disk-99999.")
        await drive.until_seen("1 of 100,000", "vm-345-disk-99999.qcow2")


class Locked(FakeEngine):
    """Lets in whoever says the right word."""

    def __init__(self) -> None:
        super().__init__(self._list)

    def _list(self, location: Location) -> Iterator[Entry]:
        known = self.keychain.get(location)
        if known.username != "alice" or known.password != Secret("sesame"):
            raise Denied("list", location, "wrong user or password", wants=("username", "password"))
        yield from ENTRIES


async def test_a_locked_server_asks_and_a_second_try_may_be_right() -> None:
    async with driving(HOME, Locked()) as drive:
        for word in ("mellon", "sesame"):
            await drive.until_seen("User name", "Password")
            await drive.type("alice")
            await drive.press("enter")
            await drive.type(word)
            assert word not in drive.screen
            await drive.press("enter")
        await drive.until_listed("SHA512SUMS")


async def test_esc_leaves_the_question_and_the_reason_stays() -> None:
    async with driving(HOME, Locked()) as drive:
        await drive.until_seen("User name")
        await drive.press("escape")
        await drive.until_seen("wrong user or password", "r tries again")


class Broken(FakeEngine):
    """Has a defect."""

    def inspect(self, location: Location, source: Source | None = None, fetch: Progress | None = None) -> Inspection:
        raise RuntimeError("a defect")


async def test_a_defect_costs_its_own_pane_only() -> None:
    async with driving(HOME.child("debian-12-generic-amd64.raw"), Broken()) as drive:
        await drive.until_seen("failed")
        await drive.press("o")
        await drive.until_seen("Open a location")


async def test_a_listing_that_breaks_off_keeps_what_came() -> None:
    def broken(_location: Location) -> Iterator[Entry]:
        yield ENTRIES[2]
        raise Denied("list", HOME, "the server hung up")

    async with driving(HOME, FakeEngine(broken)) as drive:
        await drive.until_seen("alpine-3.21", "broken off", "the server hung up")
