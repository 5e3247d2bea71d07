"""Whole copies: fetched once, shared, given up without a trace, and bounded."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.errors import Cancelled, Denied, FarbootError, Unreachable
from probes.fetched import cache as module
from probes.fetched.cache import Cache, cache_folder, fetched_attachment
from probes.fetched.reader import CopyReader
from probes.location import Location
from probes.reader import Pin

PLACE = Location("tftp", "h", "/a.img")
OTHER = Location("tftp", "h", "/b.img")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def quiet(came: int, size: int | None) -> None:
    """Nobody listens."""


def keep(cache: Cache, place: Location, data: bytes = b"abc" * 1000, size: int | None = None) -> module.Copy:
    with cache.fetching(place, quiet, size):
        return cache.keep(place, iter([data]), len(data) if size is None else size, "v1", quiet)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_what_was_kept_is_found_and_is_for_its_owner_alone(cache: Cache, tmp_path: Path) -> None:
    assert cache.find(PLACE) is None
    kept = keep(cache, PLACE)
    assert cache.find(PLACE) == kept
    assert cache.find(OTHER) is None
    assert (kept.size, kept.validator, Path(kept.path).read_bytes()) == (3000, "v1", b"abc" * 1000)
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*") if path.name != "about.json")


def test_a_copy_that_was_tampered_with_is_none(cache: Cache) -> None:
    kept = keep(cache, PLACE)
    os.truncate(kept.path, 10)
    assert cache.find(PLACE) is None


def test_a_link_in_its_place_is_none(cache: Cache, tmp_path: Path) -> None:
    kept = keep(cache, PLACE)
    (tmp_path / "other").write_bytes(b"x" * 3000)
    Path(kept.path).unlink()
    Path(kept.path).symlink_to(tmp_path / "other")
    assert cache.find(PLACE) is None


def test_forgetting_it(cache: Cache, tmp_path: Path) -> None:
    keep(cache, PLACE)
    cache.forget(PLACE)
    cache.forget(PLACE)
    assert cache.find(PLACE) is None
    assert files(tmp_path) == {"lock"}


@pytest.mark.parametrize("error", [Unreachable("fetch", PLACE, "broken off"), KeyboardInterrupt()])
def test_a_fetch_that_breaks_off_leaves_nothing(cache: Cache, tmp_path: Path, error: BaseException) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise error

    with pytest.raises(type(error)), cache.fetching(PLACE, quiet, None):
        cache.keep(PLACE, pieces(), None, "", quiet)
    assert files(tmp_path) == {"lock"}
    assert cache.find(PLACE) is None


def test_whoever_is_told_how_far_it_is_can_stop_it(cache: Cache, tmp_path: Path) -> None:
    def stop(came: int, size: int | None) -> None:
        if came > 1_000_000:
            raise Cancelled("fetch", PLACE, "stopped")

    endless = iter(lambda: b"x" * 100_000, b"")
    with pytest.raises(Cancelled), cache.fetching(PLACE, quiet, None):
        cache.keep(PLACE, endless, None, "", stop)
    assert files(tmp_path) == {"lock"}


def test_a_second_fetch_waits_for_the_first_and_is_told_how_far_that_is(tmp_path: Path) -> None:
    begun, go_on, told = threading.Event(), threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"x" * 3_000_000
        begun.set()
        assert go_on.wait(30)

    def first() -> None:
        one = Cache(tmp_path)
        with one.fetching(PLACE, quiet, None):
            one.keep(PLACE, pieces(), 3_000_000, "", quiet)

    def hear(came: int, size: int | None) -> None:
        told.set()
        go_on.set()

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(30)
    other = Cache(tmp_path)
    with other.fetching(PLACE, hear, 3_000_000):
        assert told.is_set()
        found = other.find(PLACE)
        assert found is not None
        assert found.size == 3_000_000
    thread.join(30)


def test_without_room_it_says_how_much_is_missing(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(FarbootError, match="8 EiB") as caught:
        keep(cache, PLACE, size=1 << 63)
    assert "FARBOOT_CACHE_DIR" in caught.value.hint
    assert files(tmp_path) == {"lock"}


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, most=10_000)
    for number in range(3):
        keep(cache, Location("tftp", "h", f"/{number}"))
    about = [cache.find(Location("tftp", "h", f"/{number}")) for number in range(3)]
    for age, copy in ((30, about[1]), (20, about[0]), (10, about[2])):
        assert copy is not None
        path = Path(copy.path).with_name("about.json")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    keep(cache, OTHER)
    left = [number for number in range(3) if cache.find(Location("tftp", "h", f"/{number}"))]
    assert left == [0, 2]


def test_a_folder_that_is_not_ours_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "fetched").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Denied, match="not a folder of this account's own"):
        keep(Cache(tmp_path), PLACE)


def test_reading_a_copy(cache: Cache) -> None:
    kept = keep(cache, PLACE, bytes(range(256)) * 100)
    reader = CopyReader(PLACE, kept, Pin(kept.size, "v"))
    assert reader.pread(250, 10) == bytes([*range(250, 256), *range(4)])
    assert reader.pread(kept.size - 1, 10) == b"\xff"
    assert reader.pread(kept.size, 10) == b""
    cache.forget(PLACE)
    assert reader.pread(0, 2) == b"\0\1", "who reads it goes on reading it"
    reader.close()
    reader.close()
    with pytest.raises(Cancelled):
        reader.pread(0, 1)


def test_qemu_gets_it_as_an_open_file_of_no_trusted_storage(cache: Cache) -> None:
    kept = keep(cache, PLACE)
    attachment = fetched_attachment(PLACE, kept, Pin(kept.size), "because")
    assert [(file.option, file.path, file.writable) for file in attachment.files] == [("filename", kept.path, False)]
    assert (attachment.trusted, attachment.writable) == (False, False)


@pytest.mark.parametrize(
    ("variables", "uid", "folder"),
    [
        ({"FARBOOT_CACHE_DIR": "/own", "XDG_CACHE_HOME": "/xdg"}, 0, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, 0, "/var/cache/farboot"),
        ({"XDG_CACHE_HOME": "/xdg"}, 1000, "/xdg/farboot"),
        ({"HOME": "/home/a", "XDG_CACHE_HOME": "relative"}, 1000, "/home/a/.cache/farboot"),
    ],
)
def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], uid: int, folder: str) -> None:
    for name in ("FARBOOT_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert cache_folder() == Path(folder)
