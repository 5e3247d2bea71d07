"""What the images in a listing are, as it becomes known: whose turn it is, what is remembered, and when it is let be.

The engine is a fake here where an answer must come late, never, or be counted; real servers stand at the end.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from app.judged import Judged
from probes.entry import Entry
from probes.errors import BadAnswer, Denied, NotFetched, TimedOut
from probes.image import Hazard, Image, Verdict
from probes.location import Location
from probes.reader import Pin
from probes.source import Source
from tests.screens.driving import Drive, driving
from tests.screens.fakes import HOME, FakeEngine, entry
from tests.servers.nginx import Nginx
from tests.servers.site import Reply, Request, Site

RAW = Image("raw", 1 << 30, 1 << 30)
COUNT = 200


class Glancing(FakeEngine):
    """Images without end; `answer` tells what each is, whom `asked` counts."""

    def __init__(self, entries: Sequence[Entry] | None = None) -> None:
        self.listed = list(entries or (entry(f"disk{number:03}.img", 1 << 30) for number in range(COUNT)))
        super().__init__(lambda _place: iter(self.listed))
        self.asked: list[str] = []
        self.known: dict[str, Judged | None] = {}
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def answer(self, location: Location) -> Image:
        return RAW

    def image(self, location: Location) -> Image:
        return replace(RAW, features=("looked at",))

    def glance(self, location: Location, source: Source, known: Judged | None = None) -> Judged:
        with self._lock:
            self.asked.append(location.name)
            self.known[location.name] = known
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return Judged(self.answer(location), Pin(1 << 30, "same"))
        finally:
            with self._lock:
                self.at_once -= 1


class Held(Glancing):
    """Answers as often as it is let."""

    def __init__(self, entries: Sequence[Entry] | None = None) -> None:
        super().__init__(entries)
        self._may = threading.Semaphore(0)

    def let(self, count: int = 1000) -> None:
        """Give so many answers."""
        self._may.release(count)

    def answer(self, location: Location) -> Image:
        self._may.acquire(timeout=30)
        return super().answer(location)


class Failing(Glancing):
    """Fails as it is told."""

    def __init__(self, failure: Callable[[Location], Exception | None], entries: Sequence[Entry] | None = None) -> None:
        super().__init__(entries)
        self.failure = failure

    def answer(self, location: Location) -> Image:
        failure = self.failure(location)
        if failure is not None:
            raise failure
        return super().answer(location)


def page(drive: Drive) -> int:
    return len(drive.browse.listing.seen)


def formats(drive: Drive) -> list[str]:
    return [row.image.format if row.image else "" for row in drive.browse.listing.seen]


async def settled(drive: Drive, engine: Glancing) -> None:
    """Wait until nobody is asked any more."""
    before = -1
    while before != len(engine.asked) or engine.at_once:
        before = len(engine.asked)
        await drive.pilot.pause(0.6)


# Whose turn it is


async def test_the_rows_that_are_seen_come_first_then_the_next_page_and_no_others() -> None:
    engine = Glancing()
    async with driving(HOME, engine) as drive:
        await drive.until_probed()
        await settled(drive, engine)
        names = [f"disk{number:03}.img" for number in range(COUNT)]
        seen = page(drive)
        assert set(engine.asked[: seen - 1]) == set(names[1:seen]), "but for the cursor's own, at which one looks"
        assert set(engine.asked) == set(names[1 : 2 * seen])
        assert len(engine.asked) == len(set(engine.asked)), "each once"


async def test_one_goes_ahead_and_sixteen_follow() -> None:
    engine = Held()
    async with driving(HOME, engine, size=(80, 50)) as drive:
        await drive.until(lambda: engine.at_once, "the first")
        await drive.pilot.pause(0.3)
        assert engine.at_once == 1
        engine.let(1)
        await drive.until(lambda: engine.at_once == 16, "the others")
        engine.let()
        await settled(drive, engine)
        assert engine.most_at_once == 16


async def test_rows_that_were_scrolled_away_are_not_begun() -> None:
    engine = Held()
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: engine.at_once, "the first")
        await drive.press("end")
        engine.let()
        await drive.until(lambda: f"disk{COUNT - 2}.img" in engine.asked, "the last ones")
        await settled(drive, engine)
        seen = page(drive)
        assert set(engine.asked) - {f"disk{number:03}.img" for number in range(COUNT - seen, COUNT)} == {"disk001.img"}


async def test_the_row_under_the_cursor_is_looked_at_while_the_others_hang() -> None:
    engine = Held()
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: engine.at_once, "the first")
        for _ in range(4):
            await drive.press("down")
            await drive.until_seen("looked at", "OK to boot")
        row = drive.browse.listing.row
        assert row is not None
        await drive.until(lambda: row.image is not None, "its row")
        assert row.shown not in engine.asked
        engine.let()


async def test_leaving_closes_the_connection_at_once_and_what_comes_later_is_dropped() -> None:
    engine = Held([*(entry(f"disk{number}.img", 1 << 30) for number in range(9)), entry("inner/")])
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: engine.at_once, "the first")
        closed = [source for source in engine.sources if not source.closed.is_set()]
        await drive.press("home", "enter")
        await drive.until(lambda: any(source.closed.is_set() for source in closed), "the close")
        assert engine.at_once == 1
        engine.let()


# What is remembered


async def test_what_is_known_is_shown_at_once_when_it_is_listed_again_and_nothing_is_read() -> None:
    engine = Glancing([entry(f"disk{number}.img", 1 << 30) for number in range(9)])
    async with driving(HOME, engine) as drive:
        await drive.until_probed()
        await settled(drive, engine)
        before = list(engine.asked)
        rows = drive.browse.listing.rows
        await drive.press("r")
        await drive.until(lambda: drive.browse.listing.rows is not rows, "the new listing")
        await drive.until_listed("disk0.img")
        assert formats(drive) == ["raw"] * 9
        await settled(drive, engine)
        assert engine.asked == before


async def test_sorting_and_coming_back_keep_what_is_known() -> None:
    engine = Glancing([*(entry(f"disk{number}.img", 1 << 30) for number in range(4)), entry("inner/")])
    async with driving(HOME, engine) as drive:
        await drive.until_probed()
        before = list(engine.asked)
        await drive.press("greater_than_sign")
        assert formats(drive)[1:] == ["raw"] * 4
        await drive.press("less_than_sign", "home", "enter")
        await drive.until(lambda: drive.browse.folder and drive.browse.folder.location != HOME, "the other place")
        await drive.press("escape")
        await drive.until(lambda: drive.browse.folder and drive.browse.folder.location == HOME, "the first place")
        assert formats(drive)[1:] == ["raw"] * 4
        await settled(drive, engine)
        assert engine.asked[: len(before)] == before
        assert len(engine.asked) <= 2 * len(before), "the inner place has images of the same names"


@pytest.mark.parametrize(
    "change",
    [{"size": 2 << 30}, {"modified": datetime(2027, 1, 1)}],  # noqa: DTZ001 servers' times often have no zone
    ids=["size", "time"],
)
async def test_an_image_that_is_listed_as_another_is_judged_anew(change: dict[str, object]) -> None:
    engine = Glancing([entry(f"disk{number}.img", 1 << 30) for number in range(5)])
    async with driving(HOME, engine) as drive:
        await drive.until_probed()
        await settled(drive, engine)
        engine.asked.clear()
        engine.listed[3] = replace(engine.listed[3], **change)  # type: ignore[arg-type]  # they are its fields
        await drive.press("r")
        await drive.until(lambda: engine.asked, "the question")
        await settled(drive, engine)
        assert engine.asked == ["disk3.img"]
        assert engine.known["disk3.img"] is None


async def test_where_the_listing_proves_nothing_the_validator_is_compared() -> None:
    engine = Glancing([replace(entry(f"disk{number}.img"), modified=None) for number in range(5)])
    async with driving(HOME, engine) as drive:
        await drive.until_probed()
        await settled(drive, engine)
        engine.asked.clear()
        await drive.press("r")
        await drive.until(lambda: set(engine.asked) >= {f"disk{number}.img" for number in range(1, 5)}, "the question")
        assert all(engine.known[f"disk{number}.img"] for number in range(1, 5)), "what is known goes with it"


# When it is let be


async def test_an_image_that_cannot_be_read_is_left_blank_and_the_others_are_not() -> None:
    engine = Failing(lambda place: BadAnswer("read", place, "nonsense") if place.name in "disk002.img" else None)
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: formats(drive).count("raw") == page(drive) - 1, "all others")
        assert formats(drive)[2] == ""


async def test_images_that_their_owner_keeps_from_us_say_nothing_of_the_others() -> None:
    engine = Failing(lambda place: Denied("read", place, "permission denied") if place.name < "disk006" else None)
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: formats(drive)[6:] == ["raw"] * (page(drive) - 6), "all others")


@pytest.mark.parametrize(
    "failure",
    [
        lambda place: TimedOut("read", place, "no answer"),
        lambda place: Denied("read", place, "who are you?", wants=("password",)),
    ],
    ids=["a dead server", "a locked one"],
)
async def test_a_server_that_answers_to_none_is_not_asked_on(failure: Callable[[Location], Exception]) -> None:
    engine = Failing(failure)
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: len(engine.asked) == 3, "three questions")
        await settled(drive, engine)
        await drive.press("pagedown", "pagedown")
        await settled(drive, engine)
        assert len(engine.asked) == 3
        await drive.press("r")
        await drive.until(lambda: len(engine.asked) > 3, "another try, for it was asked for")


async def test_storage_that_gives_only_whole_images_is_asked_for_none() -> None:
    engine = Failing(lambda place: NotFetched("read", place, "it has no REST"))
    async with driving(HOME, engine) as drive:
        await drive.until(lambda: engine.asked, "the first")
        await settled(drive, engine)
        assert len(engine.asked) == 1


@pytest.mark.parametrize("place", ["nbd://host.example/", "ftp://host.example/", "host_device:"])
async def test_where_reading_an_image_costs_dearly_only_the_cursors_own_is_read(place: str) -> None:
    where = Location.parse(place)[0]
    engine = Glancing([entry(f"disk{number}", 1 << 30, where=where) for number in range(5)])
    engine.listed = [replace(each, kind=entry("x.img").kind) for each in engine.listed]
    async with driving(where, engine) as drive:
        await drive.until_seen("looked at")
        await settled(drive, engine)
        assert engine.asked == []
        assert formats(drive) == ["raw", "", "", "", ""]


# How it looks


class Mixed(Glancing):
    """Images of all verdicts."""

    def answer(self, location: Location) -> Image:
        verdict = {"ask": Verdict.ASK, "no": Verdict.REFUSE}.get(location.name.partition(".")[0], Verdict.OK)
        return Image("parallels", 40 << 30, 1 << 30, hazards=(Hazard("x", "It is so.", verdict),))


async def test_formats_are_marked_by_their_verdict_and_nothing_moves_when_they_come() -> None:
    engine = Mixed([entry(name, 1 << 30) for name in ("a.img", "ask.img", "no.img", "ok.img")])
    async with driving(HOME, engine) as drive:
        await drive.until_listed("a.img")
        blank = drive.screen.splitlines()[2:5]
        await drive.until_probed()
        await drive.until_seen("?paral~" if "?paral~" in drive.screen else "?paral…")
        lines = drive.screen.splitlines()[2:5]
        assert [mark in line for mark, line in zip(("?paral", "!paral", " paral"), lines, strict=True)] == [True] * 3
        for before, after in zip(blank, lines, strict=True):
            assert before[:49] == after[:49]
            assert before.index("1 GiB") == after.index("1 GiB")
            assert "40 GiB" not in after


async def test_the_guests_disk_has_its_size_beside_the_files_where_there_is_room() -> None:
    async with driving(HOME, Mixed([entry("a.img", 1 << 30), entry("ok.img", 1 << 30)]), size=(170, 30)) as drive:
        await drive.until_probed()
        await drive.until_seen("40 GiB     1 GiB")


# Real servers


@pytest.fixture
def site() -> Iterator[Site]:
    """A server of five images of 1 MiB, which serves no ranges and tells no sizes in its index."""

    def answer(request: Request) -> Reply:
        if request.path == "/":
            links = "".join(f'<a href="disk{number}.img">disk{number}.img</a>\n' for number in range(5))
            return Reply(
                body=f"<html><body><pre>{links}</pre></body></html>".encode(), headers={"Content-Type": "text/html"}
            )
        return Reply(body=bytes(1 << 20), headers={"Content-Type": "application/octet-stream"})

    with Site(answer) as running:
        yield running


async def test_a_web_server_without_ranges_sends_no_images_for_a_mere_glance(site: Site) -> None:
    async with driving(site.url) as drive:
        await drive.until_listed("disk4.img")
        await drive.until(lambda: all(row.entry.size == 1 << 20 for row in drive.browse.listing.seen), "the sizes")
        whole = [request.path for request in site.requests if request.headers.get("Range") == "bytes=0-65535"]
        others = {path for path in whole if path != "/disk0.img"}
        assert len(others) == 1, "one, which showed it; the cursor's own is looked at"


async def test_images_on_a_real_server_become_known_over_few_requests(nginx: Nginx, tmp_path: Path) -> None:
    folder = Path(nginx.root) / tmp_path.name
    folder.mkdir()
    for number in range(6):
        (folder / f"disk{number}.qcow2").write_bytes(b"QFI\xfb\0\0\0\7" + bytes(1 << 20))
    (folder / "gone.img").write_bytes(bytes(1 << 20))
    async with driving(f"{nginx.url}{tmp_path.name}/") as drive:
        await drive.until_listed("disk0.qcow2")
        await drive.until_probed()
        assert formats(drive) == ["qcow2"] * 6 + ["raw"]
        await drive.until_seen("!qcow2", " raw ")
