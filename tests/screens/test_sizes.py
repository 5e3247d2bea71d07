"""Sizes that a listing does not bring: Python's own web server tells none in its index, and each by a request."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.screens.driving import driving


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing on the tests' output."""

    def log_message(self, *_: object) -> None:  # the base class names its parameters otherwise
        return


@pytest.fixture
def hundred(tmp_path: Path) -> Iterator[str]:
    """The address of a folder with 100 images of 1 MiB and one text."""
    for number in range(100):
        (tmp_path / f"disk{number:03}.img").write_bytes(bytes(1 << 20))
    (tmp_path / "notes.txt").write_text("nothing to boot")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


async def test_the_sizes_of_what_is_seen_are_asked_for_and_no_others(hundred: str) -> None:
    async with driving(hundred) as drive:
        await drive.until_listed("disk000.img", "disk099.img")
        seen = drive.browse.listing.seen
        assert len(seen) < 30
        await drive.until(lambda: all(row.entry.size == 1 << 20 for row in seen), "the sizes")
        rows = drive.browse.listing.rows.visible
        assert rows[50].entry.size is None
        await drive.press("end")
        await drive.until(lambda: rows[99].entry.size == 1 << 20, "the last sizes")
        assert rows[50].entry.size is None
        assert rows[100].entry.size is None, "a text is not booted: its size matters less"


async def test_the_order_by_size_follows_the_sizes_that_come(hundred: str) -> None:
    async with driving(hundred) as drive:
        await drive.until_listed("disk000.img")
        await drive.press("greater_than_sign")
        seen = drive.browse.listing.seen
        await drive.until(lambda: all(row.entry.size for row in seen), "the sizes")
        await drive.until(lambda: drive.browse.listing.rows.visible[0].entry.size == 1 << 20)
        await drive.press("home")
        assert drive.browse.listing.row is drive.browse.listing.rows.visible[0]
