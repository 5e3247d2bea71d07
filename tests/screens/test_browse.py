"""Looking around: what a person sees and where the keys lead, on real files."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Input

from app.screens.folder import Folder
from probes.errors import BadAnswer
from probes.location import Location
from tests.screens.driving import driving
from tests.screens.fakes import HOME, FakeEngine, entry
from tests.servers.server import free_port


async def test_containers_come_first_and_numbers_count(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("archive")
        assert drive.names == ["archive", "disk1.raw", "disk2.raw", "disk10.raw", "notes.txt"]


async def test_the_place_and_the_count_stand_above(images: Path) -> None:
    async with driving(images, size=(160, 24)) as drive:
        await drive.until_listed()
        await drive.until_seen(str(images), "5 entries", "no guests")


async def test_without_a_location_the_places_have_the_cursor() -> None:
    async with driving() as drive:
        await drive.until_seen("Storage", "Files", "Block devices", "Web server", "Choose a place")
        assert drive.app.screen.focused is drive.browse.places


async def test_enter_opens_a_folder_and_esc_comes_back_to_it(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("archive")
        await drive.press("enter")
        await drive.until_listed("old.img")
        await drive.press("escape")
        await drive.until_listed("archive", "disk1.raw")
        assert drive.current == "archive"


async def test_esc_leads_up_to_the_root_and_then_to_the_places(images: Path) -> None:
    async with driving("/usr/") as drive:
        await drive.until_listed()
        await drive.press("escape")
        await drive.until_listed("usr")
        assert drive.current == "usr"
        await drive.press("escape")
        assert drive.app.screen.focused is drive.browse.places


async def test_an_image_given_is_shown_among_its_neighbours(images: Path) -> None:
    async with driving(images / "disk2.raw") as drive:
        await drive.until_listed("disk1.raw", "disk2.raw")
        assert drive.current == "disk2.raw"


def qcow2(path: Path, *options: str) -> Path:
    """Make an image with qemu-img."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "5G"], check=True)
    return path


async def test_an_image_under_the_cursor_is_described(tmp_path: Path) -> None:
    qcow2(tmp_path / "disk.qcow2")
    async with driving(tmp_path, size=(300, 30)) as drive:
        await drive.until_seen("qcow2", "5 GiB", "OK to boot", "format=qcow2")


async def test_an_image_that_is_refused_says_so_and_why(tmp_path: Path) -> None:
    odd = qcow2(tmp_path / "odd.qcow2", "-o", f"data_file={tmp_path}/data")
    async with driving(odd) as drive:
        await drive.until_seen("REFUSED")
        await drive.press("b")
        await drive.until_seen("It will not be booted", "esc closes")
        await drive.press("escape")
        assert drive.app.guests == ()


def make_empty(path: bytes) -> None:
    """Make an empty file, whatever its name."""
    with open(path, "wb"):
        pass


async def test_hostile_names_are_shown_harmlessly(tmp_path: Path) -> None:
    for name in (b"\x1b[31mred.img", b"[bold]x[bold].img", b"bad\xffbyte.img", "ω日本.img".encode()):
        make_empty(os.path.join(os.fsencode(tmp_path), name))
    async with driving(tmp_path) as drive:
        await drive.until_listed()
        screen = drive.screen
        assert "\x1b" not in screen
        for shown in (r"\x1b[31mred.img", "[bold]x[bold].img", r"bad\xffbyte.img", "ω日本.img"):
            assert shown in screen


async def test_what_is_typed_after_a_slash_filters_at_once_and_esc_clears_it(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("disk10.raw")
        await drive.press("slash")
        await drive.type("K1")
        await drive.until(lambda: drive.names == ["disk1.raw", "disk10.raw"])
        await drive.until_seen("2 of 5")
        await drive.press("enter", "escape")
        await drive.until(lambda: len(drive.names) == 5)


async def test_a_filter_that_matches_nothing_says_how_to_get_out(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("disk10.raw")
        await drive.press("slash")
        await drive.type("zzz")
        await drive.until_seen("Nothing matches. Esc clears the filter.")


async def test_what_is_typed_in_one_burst_with_the_slash_is_text(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("disk10.raw")
        drive.burst("slash", "q", "b", "x")
        await drive.until(lambda: drive.browse.listing.rows.needle == "qbx")
        assert drive.app.is_running


async def test_a_location_typed_in_one_burst_is_not_lost(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("disk10.raw")
        drive.burst("o", *"rbdq")
        await drive.until(lambda: [line.value for line in drive.app.screen.query(Input)] == ["rbdq"], "the text")


async def test_a_question_is_answered_once_however_fast_one_types(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("archive")
        drive.burst("o", *"/nowhere/", "enter", "enter", "enter")
        await drive.until_seen("there is no such")
        assert drive.app.screen is drive.browse


async def test_a_note_takes_the_room_of_columns_that_are_empty() -> None:
    note = "at 192.0.2.1:3260, 192.0.2.2:3260 and 192.0.2.3:3260"
    rows = [replace(entry("iqn.x/", note=note), modified=None), entry("b.img", 1)]
    async with driving(HOME, FakeEngine(rows)) as drive:
        await drive.until_seen(note)


async def test_an_empty_folder_says_that_it_is_empty(tmp_path: Path) -> None:
    async with driving(tmp_path) as drive:
        await drive.until_seen("Nothing here", "0 entries")


async def test_sorting_goes_round(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("disk10.raw")
        await drive.press("greater_than_sign")
        assert drive.names[:3] == ["archive", "disk10.raw", "disk2.raw"]
        await drive.until_seen("largest first")
        await drive.press("less_than_sign")
        assert drive.names[:3] == ["archive", "disk1.raw", "disk2.raw"]


async def test_reloading_shows_what_is_new_and_keeps_the_cursor(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("disk2.raw")
        await drive.press("down", "down")
        (images / "aaa.raw").write_bytes(b"\0" * 512)
        await drive.press("r")
        await drive.until(lambda: "aaa.raw" in drive.names)
        assert drive.current == "disk2.raw"


async def test_a_typed_location_is_opened_and_a_wrong_one_is_corrected_in_place(images: Path) -> None:
    async with driving() as drive:
        await drive.press("o")
        await drive.type("htpt://x/")
        await drive.press("enter")
        await drive.until_seen("not a storage system that Farboot knows")
        for _ in "htpt://x/":
            await drive.press("backspace")
        await drive.type(f"{images}/")
        await drive.press("enter")
        await drive.until_listed("disk1.raw")


async def test_the_name_of_a_server_alone_is_told_how_to_type_it() -> None:
    async with driving() as drive:
        await drive.press("o")
        await drive.type("nas.example\n")
        await drive.until_seen("no such file here", "nfs://nas.example/")


async def test_a_pasted_password_never_reaches_the_screen_and_is_remembered() -> None:
    async with driving() as drive:
        await drive.press("o")
        await drive.type(f"http://alice:hunter2@127.0.0.1:{free_port()}/")
        await drive.press("enter")
        await drive.until_seen("failed")
        assert "hunter2" not in drive.screen
        await drive.press("o")
        await drive.until_seen("Used before")
        assert "hunter2" not in drive.screen.partition("Used before")[2]
        folder = drive.browse.folder
        assert folder is not None
        remembered = drive.app.engine.keychain.get(folder.location)
        assert remembered.username == "alice"
        assert remembered.password is not None


async def test_a_dead_server_costs_its_own_pane_only(images: Path) -> None:
    async with driving(f"http://127.0.0.1:{free_port()}/") as drive:
        await drive.until_seen("r tries again", "failed")
        await drive.press("o")
        await drive.type(f"{images}/")
        await drive.press("enter")
        await drive.until_listed("disk1.raw")
        await drive.until_seen("5 entries")


async def test_a_path_that_is_not_there_says_so(tmp_path: Path) -> None:
    async with driving(tmp_path / "none.img") as drive:
        await drive.until_seen("failed", "r tries again")


async def test_the_location_is_copied_and_said_to_be(images: Path) -> None:
    async with driving(images / "disk1.raw") as drive:
        await drive.until_listed("disk1.raw")
        await drive.press("y")
        await drive.until_seen("sent to the terminal's clipboard")
        assert drive.app.clipboard == str(images / "disk1.raw")


async def test_on_a_bare_console_a_script_is_had_by_a_command(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    async with driving(images / "disk1.raw", size=(200, 24)) as drive:
        await drive.until_listed("disk1.raw")
        await drive.press("Y")
        await drive.until_seen("no clipboard", "farboot command", "> boot.sh")


async def test_on_a_bare_console_the_location_is_shown_instead(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "linux")
    async with driving(images / "disk1.raw") as drive:
        await drive.until_listed("disk1.raw")
        await drive.press("y")
        await drive.until_seen("The location", "esc closes")
        assert drive.app.clipboard == ""


async def test_the_whole_command_is_one_key_away_and_can_be_copied(images: Path) -> None:
    async with driving(images / "disk1.raw") as drive:
        await drive.until_listed("disk1.raw")
        await drive.press("v")
        await drive.until_seen("#!/bin/sh")
        await drive.press("Y")
        await drive.until(lambda: "qemu-system" in drive.app.clipboard)
        await drive.press("escape")
        assert drive.app.screen is drive.browse


async def test_a_description_that_is_longer_than_its_room_says_so_and_how_to_see_it(tmp_path: Path) -> None:
    long = "x" * 200 + "-and-the-end.qcow2"
    qcow2(tmp_path / "disk.qcow2", "-F", "raw", "-b", f"/{long}", "-u")
    async with driving(tmp_path, size=(60, 20)) as drive:
        await drive.until_seen("Backing", "more lines: tab")
        await drive.press("tab")
        await drive.until(lambda: drive.browse.details.has_focus)
        await drive.press("end")
        await drive.until(lambda: "more line" not in drive.screen)
        await drive.pilot.resize_terminal(120, 50)
        await drive.until(lambda: "more line" not in drive.screen)


async def test_help_that_is_longer_than_the_screen_says_so(images: Path) -> None:
    async with driving(images) as drive:
        await drive.press("question_mark")
        await drive.until_seen("there is more below")


async def test_b_on_a_folder_does_nothing(images: Path) -> None:
    async with driving(images) as drive:
        await drive.until_listed("archive")
        assert drive.current == "archive"
        await drive.press("b")
        assert drive.app.screen is drive.browse


async def test_another_kind_of_file_is_read_only_when_asked(images: Path) -> None:
    async with driving(images / "notes.txt") as drive:
        await drive.until_listed("notes.txt")
        await drive.until_seen("looks what it is")
        assert drive.browse.details.facts.image is None
        assert "b Boot" not in drive.screen
        await drive.press("enter")
        await drive.until(lambda: drive.browse.details.facts.image is not None)
        await drive.until_seen("b Boot snapshot")


async def test_help_names_the_keys(images: Path) -> None:
    async with driving(images, size=(80, 40)) as drive:
        await drive.press("question_mark")
        await drive.until_seen("Keys", "boot it", "ctrl+]")
        await drive.press("escape")
        assert drive.app.screen is drive.browse


@pytest.mark.parametrize("size", [(60, 20), (40, 12), (200, 60)])
async def test_any_size_that_is_promised_shows_the_listing(images: Path, size: tuple[int, int]) -> None:
    async with driving(images, size=size) as drive:
        await drive.until_listed("disk1.raw")
        await drive.until_seen("archive/", "disk1.raw", "? Help")


async def test_a_terminal_that_is_too_small_says_so_and_recovers(images: Path) -> None:
    async with driving(images, size=(38, 10)) as drive:
        await drive.until_seen("needs a terminal of")
        await drive.pilot.resize_terminal(80, 24)
        await drive.until_seen("disk1.raw")


async def test_narrow_and_wide_differ_in_where_the_description_lies(images: Path) -> None:
    async with driving(images / "disk1.raw", size=(80, 24)) as drive:
        await drive.until_listed("disk1.raw")
        assert drive.browse.details.region.y > drive.browse.listing.region.y
        await drive.pilot.resize_terminal(140, 40)
        await drive.until(lambda: drive.browse.details.region.x > drive.browse.listing.region.right - 1)
        assert drive.browse.places.display


async def test_tab_goes_through_the_panes(images: Path) -> None:
    async with driving(images / "disk1.raw") as drive:
        await drive.until_listed("disk1.raw")
        panes = []
        for _ in range(3):
            await drive.press("tab")
            panes.append(drive.app.screen.focused)
        assert panes == [drive.browse.details, drive.browse.places, drive.browse.listing]


async def test_locations_opened_stay_among_the_places(images: Path) -> None:
    async with driving(images, size=(140, 30)) as drive:
        await drive.until_listed("disk1.raw")
        place = next(place for place in drive.browse.places.places if place.location and not place.typed)
        assert Location.parse(f"{images}/")[0] in [place.location for place in drive.browse.places.places]
        assert place.title == "Files"


def test_a_place_without_an_end_is_told_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.screens.folder.MOST_ROWS", 3)
    folder = Folder(HOME)
    for name in ("a", "b"):
        folder.receive(entry(name))
    folder.rows.add(folder.take())
    folder.receive(entry("c"))
    with pytest.raises(BadAnswer, match="more than 3 entries"):
        folder.receive(entry("d"))
