"""NFS, from the listing to the guest: by QEMU's own driver, and by the bridge where only that will do."""

import json
import shutil

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.servers.ganesha import Ganesha
from tests.systems.contract import HasDriver, Listed, Stored, SystemContract, boots

MARK = b"written by the guest"
MARKED = 2047 * 512
"""Where the tiny guest leaves its mark on its disk."""


class TestNfs(Listed, HasDriver, SystemContract):
    @pytest.fixture
    def stored(self, ganesha: Ganesha, quick_guest: GuestImages) -> Stored:
        shutil.copy(quick_guest.iso, ganesha.folder("images") / "tiny.iso")
        place = ganesha.location("images")
        return Stored(f"{place}tiny.iso", place, "tiny.iso", module="nfs")


@pytest.mark.boots
class TestNfs4:
    """A server for version 4 only, which QEMU cannot open."""

    @pytest.fixture
    def stored(self, ganesha4: Ganesha, quick_guest: GuestImages) -> Stored:
        shutil.copy(quick_guest.iso, ganesha4.folder("images") / "tiny.iso")
        place = f"nfs://{ganesha4.address}/images/"
        return Stored(f"{place}tiny.iso", place, "tiny.iso", route="bridge")

    def test_it_boots_over_the_bridge_and_says_why(self, farboot: Farboot, stored: Stored) -> None:
        shown = json.loads(farboot("command", stored.image, "--json").stdout)
        assert shown["route"] == "bridge"
        assert "version 3 only" in json.dumps(shown)
        boots(farboot, stored)

    def test_what_the_guest_writes_goes_over_the_bridge(
        self, farboot: Farboot, ganesha4: Ganesha, tiny_guest: GuestImages
    ) -> None:
        image = ganesha4.folder("images") / "written.img"
        shutil.copy(tiny_guest.raw, image)
        place = f"nfs://{ganesha4.address}/images/"
        boots(farboot, Stored(f"{place}written.img", place, "written.img", route="bridge"), "--write", "--yes")
        with image.open("rb") as file:
            file.seek(MARKED)
            assert file.read(len(MARK)) == MARK


@pytest.mark.boots
def test_an_image_that_is_its_owners_alone_boots_as_the_owner(
    farboot: Farboot, ganesha: Ganesha, tiny_guest: GuestImages
) -> None:
    """QEMU's account is another one than ours, and root is squashed: the node tells the server who asks."""
    image = ganesha.folder("squashed") / "owned.iso"
    shutil.copy(tiny_guest.iso, image)
    image.chmod(0o600)
    shutil.chown(image, 1234, 1234)
    place = ganesha.location("squashed")
    assert farboot("inspect", f"{place}owned.iso").returncode == 1
    stored = Stored(f"{place}owned.iso?uid=1234&gid=1234", place, "owned.iso")
    boots(farboot, stored)
