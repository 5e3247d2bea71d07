"""Where looking can begin: what the machine knows, what was saved, what was used before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.widgets import Input

from app.memory import Memory
from app.settings import load
from probes.entry import Entry
from probes.known.root import Root
from probes.location import Location
from tests.screens.driving import Drive, driving
from tests.screens.fakes import HOME, FakeEngine, entry


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a machine, empty."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def memory(tmp_path: Path, root: Path) -> Memory:
    """What this person and that machine know."""
    return Memory(f"{tmp_path}/settings.toml", f"{tmp_path}/history", Root(str(root), "/root"))


def write(root: Path, path: str, text: str) -> None:
    whole = root / path.lstrip("/")
    whole.parent.mkdir(parents=True, exist_ok=True)
    whole.write_text(text)


async def to(drive: Drive, title: str) -> None:
    """Put the places' cursor on this line."""
    for _ in drive.browse.places.places:
        if drive.browse.places.place and drive.browse.places.place.title == title:
            return
        await drive.press("down")
    raise AssertionError(drive.screen)


async def test_what_the_machine_knows_is_listed_under_where_it_was_found(memory: Memory, root: Path) -> None:
    write(root, "/etc/pve/storage.cfg", "nfs: backup-nas\n\texport /b\n\tserver 192.0.2.9\n")
    write(root, "/root/.ssh/config", "Host web01\n")
    async with driving(engine=FakeEngine(), memory=memory, size=(80, 40)) as drive:
        await drive.until_seen("Proxmox storage.cfg", "backup-nas", "~/.ssh/config", "web01")
        await to(drive, "backup-nas")
        await drive.until_seen("Enter lists nfs://192.0.2.9/b/", "Found in Proxmox storage.cfg")
        await drive.press("enter")
        await drive.until(lambda: drive.browse.folder and str(drive.browse.folder.location) == "nfs://192.0.2.9/b/")


async def test_nothing_is_contacted_before_it_is_opened(memory: Memory, root: Path) -> None:
    write(root, "/root/.ssh/config", "".join(f"Host host{number}\n" for number in range(300)))
    engine = FakeEngine()
    async with driving(engine=engine, memory=memory) as drive:
        await drive.until(lambda: len(drive.browse.places.places) > 300)
        await drive.press("end", "up", "pageup")
        await drive.until_seen("Enter lists ssh://host")
        assert engine.sources == []


async def test_the_cursor_stays_where_it_is_while_places_are_found(memory: Memory, root: Path) -> None:
    write(root, "/root/.ssh/config", "Host web01\n")
    async with driving(engine=FakeEngine(), memory=memory) as drive:
        await drive.until(lambda: any(place.title == "web01" for place in drive.browse.places.places))
        assert drive.browse.places.place is not None
        assert drive.browse.places.place.title == "Files"


async def test_hostile_names_in_files_are_harmless(memory: Memory, root: Path) -> None:
    write(root, "/etc/pve/storage.cfg", "nfs: \x1b[31mred[/]\n\texport /\x1b[0m\n\tserver h\n")
    async with driving(engine=FakeEngine(), memory=memory, size=(100, 40)) as drive:
        await drive.until_seen(r"\x1b[31mred[/]")
        await to(drive, "\x1b[31mred[/]")
        await drive.until_seen("Found in Proxmox")
        assert "\x1b" not in drive.screen


# Bookmarks


async def test_a_place_is_saved_renamed_and_removed(memory: Memory, tmp_path: Path) -> None:
    settings = str(tmp_path / "settings.toml")
    async with driving(HOME, FakeEngine(), memory=memory) as drive:
        await drive.until_listed("archive")
        await drive.press("m")
        await drive.until_seen("Save as a bookmark", f"{HOME}archive/")
        await drive.press("end", "1", "enter")
        await drive.until(lambda: [b.name for b in load(settings).bookmarks] == ["archive1"])
        await drive.press("tab", "tab")
        await drive.until_seen("Bookmarks", "archive1")
        await drive.press("home")
        await drive.until_seen("n Rename", "d Remove")
        await drive.press("n")
        await drive.until_seen("Name the bookmark anew")
        await drive.press("end", "2", "enter")
        await drive.until(lambda: [b.name for b in load(settings).bookmarks] == ["archive12"])
        await drive.until_seen("archive12")
        await drive.press("home", "d")
        await drive.until(lambda: load(settings).bookmarks == ())
        await drive.until(lambda: "Bookmarks" not in drive.screen)


async def test_a_bookmark_of_the_last_run_opens_its_place(memory: Memory) -> None:
    memory.save("the web", HOME)
    async with driving(engine=FakeEngine(), memory=memory) as drive:
        await drive.until_seen("Bookmarks", "the web")
        await drive.press("home", "enter")
        await drive.until_listed("archive")
        await drive.press("tab", "tab")
        await drive.until(lambda: drive.browse.places.place and drive.browse.places.place.title == "the web")


async def test_a_broken_settings_file_is_told_and_left_alone(memory: Memory, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('boot = "maybe"\n')
    async with driving(HOME, FakeEngine(), memory=memory) as drive:
        await drive.until_seen("line 1: boot is either")
        await drive.until_listed("archive")
        await drive.press("m", "enter")
        await drive.until(lambda: len(drive.app._notifications) > 1)
        assert (tmp_path / "settings.toml").read_text() == 'boot = "maybe"\n'


# History


async def test_what_was_listed_is_offered_in_the_next_run_and_what_could_not_be_is_not(memory: Memory) -> None:
    engine = FakeEngine(_listed)
    async with driving(engine=engine, memory=memory) as drive:
        for text in ("http://a.example.org/good/", "http://a.example.org/bad/"):
            await drive.press("o")
            await drive.type(text + "\n")
            await drive.until(lambda: drive.browse.folder and drive.browse.folder.done)
        await drive.until(lambda: memory.gather().used == ("http://a.example.org/good/",))
    async with driving(engine=engine, memory=memory, size=(80, 40)) as drive:
        await drive.until_seen("Used before", "rg/good/")
        await drive.press("end")
        await drive.until_seen("Enter lists http://a.example.org/good/")
        await drive.press("d")
        await drive.until(lambda: "Used before" not in drive.screen)
        assert memory.gather().used == ()


def _listed(location: Location) -> Iterator[Entry]:
    if "bad" in str(location):
        from probes.errors import NotFound

        raise NotFound("list", location, "it is not there")
    yield entry("a.img", 1, where=location)


async def test_paths_used_before_on_a_server_that_lists_nothing_are_offered(memory: Memory) -> None:
    for text in ("tftp://boot/one.iso", "tftp://boot/two.iso", "http://h/three.iso"):
        memory.used_now(Location.parse(text)[0])
    async with driving(engine=FakeEngine(), memory=memory, size=(80, 40)) as drive:
        await drive.until_seen("Used before")
        await to(drive, "TFTP")
        await drive.press("enter")
        await drive.until(lambda: drive.app.screen.query(Input))
        screen = drive.screen.partition("Open a location")[2]
        assert "tftp://boot/one.iso" in screen
        assert "http://h/three.iso" not in screen.partition("Examples")[0]
        await drive.press("down", "down", "enter", "enter")
        await drive.until(lambda: drive.browse.folder and drive.browse.folder.location.host == "boot")


# Whose disk it is


async def test_a_row_says_whose_disk_it_is(memory: Memory, root: Path, images: Path) -> None:
    write(root, "/etc/hostname", "pve1\n")
    write(root, "/etc/pve/nodes/pve1/qemu-server/100.conf", f"name: web01\nscsi0: {images}/disk2.raw\n")
    write(root, "/run/qemu-server/100.pid", "7\n")
    write(root, "/proc/7/comm", "kvm")
    async with driving(images, memory=memory) as drive:
        await drive.until_listed("disk2.raw")
        await drive.until_seen("VM 100 web01's, running")
        assert drive.screen.count("web01") == 1
