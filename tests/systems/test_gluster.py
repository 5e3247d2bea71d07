"""GlusterFS, from the listing to the guest."""

import uuid
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.servers.gluster import Gluster
from tests.systems.contract import HasDriver, Listed, Stored, SystemContract


class TestGluster(Listed, HasDriver, SystemContract):
    @pytest.fixture(scope="class")
    def volume(self, gluster: Gluster, quick_guest: GuestImages, tmp_path_factory: pytest.TempPathFactory) -> str:
        folder = Path(tmp_path_factory.mktemp("images"))
        (folder / "images").mkdir()
        (folder / "images" / "tiny.iso").write_bytes(quick_guest.iso.read_bytes())
        name = gluster.volume(f"images-{uuid.uuid4().hex[:8]}")
        gluster.fill(name, folder)
        return name

    @pytest.fixture
    def stored(self, gluster: Gluster, volume: str) -> Stored:
        url = f"gluster://{gluster.host}/{volume}/images/"
        return Stored(f"{url}tiny.iso", url, "tiny.iso", module="gluster")
