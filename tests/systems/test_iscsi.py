"""The tiny guest on LUNs: behind CHAP, as a disk, as a CD, and with the guest's own SCSI commands passed through."""

import itertools
import json

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.servers.tgt import Tgt, TgtTarget
from tests.systems.contract import HasDriver, Listed, Stored, SystemContract, boots

PASSWORD = "s3cret-CHAP-w0rd"
_NUMBERS = itertools.count()


@pytest.fixture
def target(tgt: Tgt, quick_guest: GuestImages) -> TgtTarget:
    """A target with the quick guest as a disk, and as a CD in a drive."""
    made = tgt.target(f"iqn.2026-01.org.example:guests-{next(_NUMBERS)}")
    made.lun(1, quick_guest.raw)
    made.lun(2, quick_guest.iso, "cd")
    return made


def place(tgt: Tgt, target: TgtTarget, lun: int | str = "") -> str:
    return f"iscsi://127.0.0.1:{tgt.port}/{target.name}/{lun}"


class TestIscsi(Listed, HasDriver, SystemContract):
    """With CHAP, for an initiator that the target knows."""

    @pytest.fixture
    def stored(self, tgt: Tgt, quick_guest: GuestImages) -> Stored:
        name, me = f"iqn.2026-01.org.example:locked-{next(_NUMBERS)}", "iqn.2026-01.org.example:me"
        locked = tgt.target(name, initiators=(me,), user="alice", password=PASSWORD)
        locked.lun(300, quick_guest.iso)  # whose number QEMU knows by another
        folder = f"iscsi://127.0.0.1:{tgt.port}/{name}/"
        return Stored(
            image=f"{folder}300?initiator={me}",
            folder=f"{folder}?initiator={me}",
            name="300",
            module="iscsi",
            environment={"FARBOOT_USERNAME": "alice", "FARBOOT_PASSWORD": PASSWORD},
            secrets=(PASSWORD,),
        )


@pytest.mark.boots
class TestDrives:
    """Each way in which a guest may see a LUN. The firmware reads its boot loader and 4 MB of data that way."""

    @pytest.mark.parametrize("disk", ["auto", "scsi", "lsi"])
    def test_a_disk(self, farboot: Farboot, tgt: Tgt, target: TgtTarget, disk: str) -> None:
        session = boots(farboot, Stored(place(tgt, target, 1), "", "1"), "--disk", disk)
        (guest,) = json.loads(farboot("ps", "--json").stdout)
        assert guest["id"] == session

    @pytest.mark.parametrize("disk", ["auto", "lsi", "sata"])
    def test_a_cd_in_a_drive(self, farboot: Farboot, tgt: Tgt, target: TgtTarget, disk: str) -> None:
        boots(farboot, Stored(place(tgt, target, 2), "", "2"), "--disk", disk)

    def test_the_guests_own_commands_pass_through_to_the_lun(
        self, farboot: Farboot, tgt: Tgt, target: TgtTarget
    ) -> None:
        image = place(tgt, target, 1)
        refused = farboot("boot", image, "--disk", "scsi-generic")
        assert refused.returncode != 0
        assert "--write" in refused.stderr
        boots(farboot, Stored(image, "", "1"), "--disk", "scsi-generic", "--write", "--yes")

    def test_through_an_lsi_controller_they_cannot_and_the_way_that_works_is_named(
        self, farboot: Farboot, tgt: Tgt, target: TgtTarget
    ) -> None:
        # SeaBIOS waits in vain for TEST UNIT READY there, with QEMU 7.2 and 10.0: QEMU's LSI controller ends no command
        # without data that is not done at once, as one that travels to a LUN never is.
        refused = farboot("boot", place(tgt, target, 1), "--disk", "lsi-generic", "--write", "--yes")
        assert refused.returncode != 0
        assert "LSI" in refused.stderr
        assert "--disk scsi-generic" in refused.stderr

    @pytest.mark.parametrize("disk", ["virtio", "scsi"])
    def test_a_lun_of_large_blocks(self, farboot: Farboot, tgt: Tgt, quick_guest: GuestImages, disk: str) -> None:
        large = tgt.target(f"iqn.2026-01.org.example:large-{next(_NUMBERS)}")
        large.lun(1, quick_guest.raw, block=4096)
        boots(farboot, Stored(place(tgt, large, 1), "", "1"), "--disk", disk)


def test_what_cannot_boot_says_so_and_why(farboot: Farboot, tgt: Tgt, target: TgtTarget) -> None:
    target.lun(3, None, "cd")
    for lun, why in ((0, "controller"), (3, "no medium"), (9, "no such LUN")):
        refused = farboot("boot", place(tgt, target, lun))
        assert refused.returncode != 0
        assert why in refused.stderr
        assert "Traceback" not in refused.stderr
