"""Web servers, from the listing to the guest."""

from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.servers.nginx import Nginx
from tests.systems.contract import Listed, Stored, SystemContract


class TestHttp(Listed, SystemContract):
    @pytest.fixture
    def stored(self, nginx: Nginx, quick_guest: GuestImages, tmp_path: Path) -> Stored:
        folder = Path(nginx.root) / tmp_path.name
        folder.mkdir()
        (folder / "tiny.iso").symlink_to(quick_guest.iso)
        place = f"{nginx.url}{tmp_path.name}/"
        return Stored(f"{place}tiny.iso", place, "tiny.iso", route="bridge")
