"""Sheepdog, from the listing to the guest, which no QEMU of today reaches but over the bridge."""

import pytest

from app.demo.guest import GuestImages
from probes.errors import Denied
from probes.location import Location
from probes.sources.sheepdog import SheepdogSource
from tests.conftest import Farboot
from tests.servers.sheep import Sheep
from tests.servers.sheep_store import Vdi
from tests.systems.contract import Listed, Stored, SystemContract, boots

MARK, MARKED = b"written by the guest", 2047 * 512
"""What the tiny guest writes, and where."""


class TestSheepdog(Listed, SystemContract):
    @pytest.fixture
    def stored(self, sheep: Sheep, quick_guest: GuestImages) -> Stored:
        sheep.store.create("tiny", quick_guest.iso.read_bytes())
        return Stored(sheep.vdi("tiny"), sheep.url, "tiny", route="bridge")


class TestSnapshot(Listed, SystemContract):
    """A snapshot of a VDI whose current state holds nothing any more."""

    @pytest.fixture
    def stored(self, sheep: Sheep, quick_guest: GuestImages) -> Stored:
        sheep.store.create("tiny", quick_guest.raw.read_bytes())
        sheep.store.snapshot("tiny", "installed")
        sheep.store.delete(sheep.store.current(b"tiny"))
        return Stored(sheep.vdi("tiny#installed"), sheep.url, "tiny#installed", route="bridge")


@pytest.mark.boots
class TestWriting:
    """What the guest writes reaches the VDI, through copy-on-write, and no snapshot of it."""

    @pytest.fixture
    def tiny(self, sheep: Sheep, tiny_guest: GuestImages) -> Vdi:
        """The snapshot with which the guest's disk shares everything."""
        sheep.store.create("tiny", tiny_guest.raw.read_bytes())
        return sheep.store.snapshot("tiny", "installed")

    def test_a_write_boot_writes_the_vdi_and_gives_its_lock_back(
        self, farboot: Farboot, sheep: Sheep, tiny: Vdi, tiny_guest: GuestImages
    ) -> None:
        session = boots(farboot, Stored(sheep.vdi("tiny"), "", "tiny"), "--write", "--yes")
        second = farboot("boot", sheep.vdi("tiny"), "--write", "--yes")
        assert second.returncode != 0
        assert f"another guest of this host uses it: {session}" in second.stderr
        with SheepdogSource() as source, pytest.raises(Denied, match="locked"):
            source.open_for_writing(at(sheep.vdi("tiny")))
        assert farboot("stop", "--force", session).returncode == 0
        written = sheep.store.content(sheep.store.current(b"tiny"))
        assert written[MARKED : MARKED + len(MARK)] == MARK
        assert sheep.store.content(tiny) == tiny_guest.raw.read_bytes()
        with SheepdogSource() as source:
            source.open_for_writing(at(sheep.vdi("tiny"))).close()

    def test_a_snapshot_boot_writes_nothing(
        self, farboot: Farboot, sheep: Sheep, tiny: Vdi, tiny_guest: GuestImages
    ) -> None:
        boots(farboot, Stored(sheep.vdi("tiny"), "", "tiny"))
        assert sheep.store.content(sheep.store.current(b"tiny")) == tiny_guest.raw.read_bytes()

    def test_a_snapshot_is_not_booted_for_writing(self, farboot: Farboot, sheep: Sheep, tiny: Vdi) -> None:
        refused = farboot("boot", sheep.vdi("tiny#installed"), "--write", "--yes")
        assert refused.returncode != 0
        assert "cannot be written" in refused.stderr


def at(text: str) -> Location:
    return Location.parse(text)[0]
