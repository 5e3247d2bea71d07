"""The demonstration: its images, and its web server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from app.demo.guest import GuestImages, build, cpio
from app.demo.server import start
from app.demo.show import demonstration, prepare
from tests.conftest import Farboot


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "image.img").write_bytes(bytes(range(256)) * 16)
    (tmp_path / "empty.img").write_bytes(b"")
    server = start(tmp_path)
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def test_the_tiny_guest_is_built_once(tiny_guest: GuestImages) -> None:
    before = tiny_guest.raw.stat().st_mtime_ns
    assert build(tiny_guest.folder).raw.stat().st_mtime_ns == before


def test_the_archive_of_the_guest_is_a_cpio_archive(tmp_path: Path) -> None:
    (tmp_path / "a.cpio").write_bytes(cpio([("folder", 0o40755, b""), ("folder/file", 0o100644, b"text")]))
    busybox = ["busybox", "cpio", "-idF", "a.cpio"]
    subprocess.run(busybox, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "folder" / "file").read_bytes() == b"text"


@pytest.mark.parametrize(
    ("wanted", "start_at", "end"), [("bytes=0-0", 0, 1), ("bytes=100-199", 100, 200), ("bytes=4000-9999", 4000, 4096)]
)
def test_the_server_answers_a_range_exactly(server_url: str, wanted: str, start_at: int, end: int) -> None:
    answer = requests.get(server_url + "image.img", headers={"Range": wanted}, timeout=10)
    assert answer.status_code == 206
    assert answer.content == (bytes(range(256)) * 16)[start_at:end]
    assert answer.headers["Content-Range"] == f"bytes {start_at}-{end - 1}/4096"


def test_the_server_refuses_a_range_past_the_end(server_url: str) -> None:
    assert requests.get(server_url + "image.img", headers={"Range": "bytes=4096-"}, timeout=10).status_code == 416


def test_a_changed_file_is_sent_whole_to_who_asks_for_the_old_one(server_url: str) -> None:
    headers = {"Range": "bytes=0-0", "If-Range": '"other"'}
    assert requests.get(server_url + "image.img", headers=headers, timeout=10).status_code == 200


def test_the_server_keeps_its_folder(server_url: str) -> None:
    for path in ("../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "missing.img"):
        assert requests.get(server_url + path, timeout=10).status_code == 404


def test_the_demonstration_lists_bootable_images_the_tiny_guest_first(tmp_path: Path, farboot: Farboot) -> None:
    with demonstration(tmp_path / "demonstration") as place:
        listed = json.loads(farboot("ls", str(place), "--json").stdout)
        assert listed[0]["name"] == "farboot-tiny-guest.img"
        assert {entry["kind"] for entry in listed} == {"image"}
        for entry in listed:
            verdict = json.loads(farboot("inspect", entry["location"], "--json").stdout)["verdict"]
            assert verdict == "ok", entry


def test_gathering_the_images_twice_changes_nothing(tmp_path: Path) -> None:
    first = sorted(path.name for path in prepare(tmp_path / "demonstration").iterdir())
    assert first == sorted(path.name for path in prepare(tmp_path / "demonstration").iterdir())


def test_without_a_terminal_the_screen_is_not_opened(farboot: Farboot) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "/"], env=farboot.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "not a terminal" in done.stderr
