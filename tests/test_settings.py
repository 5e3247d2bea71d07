"""The settings file: read as a person wrote it, changed without losing a word of theirs."""

import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from app.history import forget, remember, used_before
from app.qemu.options import Network, Options
from app.settings import DEFAULTS, BadSettings, Bookmark, Settings, load, settings_path
from app.settings_file import add_bookmark, remove_bookmark
from probes.attachment import Mode
from probes.location import Location

NAS = Location.parse("nfs://nas/golden/")[0]
WEB = Location.parse("http://web.example.org/images/")[0]

BY_HAND = """\
# my own words
boot    = "write"     # I know what I do
colour  = "blue"      # of a later Farboot

[[bookmark]]
name = "golden"   # kept
location = "nfs://nas/golden/"
since = 2026-01-01

[of_another_program]
x = 1
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "farboot" / "settings.toml")


@pytest.fixture
def by_hand(path: str) -> Path:
    """A file that a person wrote."""
    file = Path(path)
    file.parent.mkdir()
    file.write_text(BY_HAND)
    return file


def test_without_a_file_everything_is_as_it_is(path: str) -> None:
    assert load(path) == DEFAULTS
    assert DEFAULTS.options(Mode.SNAPSHOT) == Options()


def test_a_snapshot_is_what_b_boots_unless_said_otherwise(path: str, by_hand: Path) -> None:
    assert DEFAULTS.boot is Mode.SNAPSHOT
    assert load(path).boot is Mode.WRITE


def test_every_setting_is_read(path: str) -> None:
    os.mkdir(os.path.dirname(path))
    Path(path).write_text('boot = "snapshot"\ndeadline = 2.5\nmemory = "2G"\ncpus = 4\nnetwork = "none"\n')
    assert load(path) == Settings(Mode.SNAPSHOT, 2.5, 2 << 30, 4, Network.NONE)


def test_what_farboot_does_not_know_is_let_be(path: str, by_hand: Path) -> None:
    assert load(path).bookmarks == (Bookmark("golden", "nfs://nas/golden/"),)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('# one\nboot = "maybe"\n', "line 2: boot is either"),
        ("deadline = 0\n", "line 1: deadline is a number of seconds"),
        ("deadline = true\n", "line 1: deadline is a number of seconds"),
        ('memory = "lots"\n', "line 1: memory is a size"),
        ("\n\ncpus = 1.5\n", "line 3: cpus is a whole number"),
        ('network = "open"\n', "line 1: network is one of"),
        ("bookmark = 3\n", "line 1: bookmarks are written as"),
        ("[[bookmark]]\nname = 'x'\n", "needs a location"),
        ("[[bookmark]]\nlocation = 3\n", "needs a location"),
        ("boot = \n", "line 1"),
        ("[x\n", "line 1"),
    ],
)
def test_a_broken_file_is_told_with_its_line_and_never_written(path: str, text: str, why: str) -> None:
    os.mkdir(os.path.dirname(path))
    Path(path).write_text(text)
    with pytest.raises(BadSettings) as told:
        load(path)
    assert why in told.value.why
    assert path in str(told.value)
    with pytest.raises(BadSettings):
        add_bookmark("nas", NAS, path)
    assert Path(path).read_text() == text


def test_a_file_that_is_not_text_is_told(path: str) -> None:
    os.mkdir(os.path.dirname(path))
    Path(path).write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match="UTF-8"):
        load(path)


def test_a_folder_in_its_place_is_told(path: str) -> None:
    os.makedirs(path)
    with pytest.raises(BadSettings):
        load(path)


# Bookmarks


def test_a_place_is_saved_and_found_again(path: str) -> None:
    add_bookmark("golden images", NAS, path)
    add_bookmark("web", WEB, path)
    assert load(path).bookmarks == (Bookmark("golden images", str(NAS)), Bookmark("web", str(WEB)))
    assert load(path).bookmarks[0].place == NAS


def test_the_file_is_for_its_owner_alone(path: str) -> None:
    add_bookmark("nas", NAS, path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.listdir(os.path.dirname(path)) == ["settings.toml"]


def test_comments_order_and_unknown_keys_survive_a_change(path: str, by_hand: Path) -> None:
    add_bookmark("web", WEB, path)
    add_bookmark("gold", NAS, path)
    text = by_hand.read_text()
    for kept in ("# my own words", "# I know what I do", 'colour  = "blue"', "# kept", "since = 2026-01-01", "x = 1"):
        assert kept in text
    assert [bookmark.name for bookmark in load(path).bookmarks] == ["gold", "web"]
    remove_bookmark(Bookmark("web", str(WEB)), path)
    assert by_hand.read_text().replace('"gold"', '"golden"') == BY_HAND


def test_the_last_one_that_is_removed_leaves_nothing_behind(path: str) -> None:
    add_bookmark("nas", NAS, path)
    remove_bookmark(Bookmark("nas", str(NAS)), path)
    assert load(path) == DEFAULTS
    remove_bookmark(Bookmark("nas", str(NAS)), path)


def test_bookmarks_in_one_line_are_added_to_as_well(path: str) -> None:
    os.mkdir(os.path.dirname(path))
    Path(path).write_text('bookmark = [{name = "a", location = "/srv/"}]\n')
    add_bookmark("nas", NAS, path)
    assert [bookmark.name for bookmark in load(path).bookmarks] == ["a", "nas"]


def test_names_may_be_anything(path: str) -> None:
    for name in ('"quoted"', "new\nline", "ω日本", "\x1b[31m", "]]"):
        add_bookmark(name, NAS, path)
        assert load(path).bookmarks[0].name == name


def test_what_is_no_location_any_more_stays_in_the_list(path: str) -> None:
    os.mkdir(os.path.dirname(path))
    Path(path).write_text('[[bookmark]]\nlocation = "htpt://x"\n')
    assert load(path).bookmarks == (Bookmark("htpt://x", "htpt://x"),)
    assert load(path).bookmarks[0].place is None


def test_a_file_that_is_kept_elsewhere_by_a_link_stays_there(path: str, tmp_path: Path) -> None:
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "farboot.toml").write_text("# here\n")
    os.mkdir(os.path.dirname(path))
    os.symlink(dotfiles / "farboot.toml", path)
    add_bookmark("nas", NAS, path)
    assert os.path.islink(path)
    assert "nas" in (dotfiles / "farboot.toml").read_text()


def _add_ten(path: str, who: int) -> None:
    for number in range(10):
        add_bookmark(f"{who}-{number}", Location.parse(f"/srv/{who}/{number}/")[0], path)


def test_farboots_that_save_at_once_lose_nothing(path: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add_ten, args=(path, who)) for who in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert len(load(path).bookmarks) == 30


def test_the_file_is_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FARBOOT_SETTINGS", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert settings_path() == f"{tmp_path}/farboot/settings.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings_path() == f"{tmp_path}/.config/farboot/settings.toml"


# History


def test_what_was_used_last_comes_first_and_once(tmp_path: Path) -> None:
    path = str(tmp_path / "state" / "history")
    for location in (NAS, WEB, NAS):
        remember(location, path)
    assert used_before(path) == [str(NAS), str(WEB)]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    forget(str(NAS), path)
    assert used_before(path) == [str(WEB)]


def test_the_history_has_an_end(tmp_path: Path) -> None:
    path = str(tmp_path / "history")
    Path(path).write_text("".join(f"/srv/{number}/\n" for number in range(1000)))
    remember(NAS, path)
    assert len(used_before(path)) == 200
    assert used_before(path)[0] == str(NAS)


def test_a_history_that_cannot_be_kept_is_no_error() -> None:
    remember(NAS, "/proc/history")
    assert used_before("/proc/history") == []
