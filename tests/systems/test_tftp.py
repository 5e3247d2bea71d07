"""TFTP servers, from a typed path to the guest: the image is fetched once."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.servers.tftpd import Tftpd, start_atftpd
from tests.systems.contract import Listed, Stored, SystemContract


@pytest.fixture(scope="module")
def served(quick_guest: GuestImages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tftpd]:
    home = tmp_path_factory.mktemp("tftp")
    root = home / "root"
    root.mkdir()
    shutil.copy(quick_guest.iso, root / "tiny.iso")
    (root / "images").write_text("tiny.iso\n")
    running = start_atftpd(home / "atftpd", root)
    yield running
    running.server.stop()


class TestTftp(SystemContract):
    @pytest.fixture
    def stored(self, served: Tftpd) -> Stored:
        place = f"tftp://{served.authority}/"
        return Stored(f"{place}tiny.iso", "", "tiny.iso", route="fetch")


class TestTftpIndex(Listed, SystemContract):
    """The same by a list of names, which is opened as a folder is."""

    @pytest.fixture
    def stored(self, served: Tftpd) -> Stored:
        place = f"tftp://{served.authority}/"
        return Stored(f"{place}tiny.iso", f"{place}images/", "tiny.iso", route="fetch")


def test_the_second_boot_fetches_nothing(farboot: Farboot, served: Tftpd) -> None:
    place = f"tftp://{served.authority}/tiny.iso"
    first = farboot("fetch", place)
    assert first.returncode == 0, first.stderr
    before = {path: path.stat().st_mtime_ns for path in Path(farboot.environment["FARBOOT_CACHE_DIR"]).rglob("image")}
    assert len(before) == 1
    shown = farboot("command", place, "--json")
    assert json.loads(shown.stdout)["route"] == "fetch"
    assert before == {path: path.stat().st_mtime_ns for path in before}
    again = farboot("fetch", "--again", place)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} != before
