"""FTP servers, from the listing to the guest: over the bridge, and by QEMU's own driver where that is asked for."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.servers.pyftpd import PASSWORD, USER, Pyftpd
from tests.servers.vsftpd import start_vsftpd
from tests.systems.contract import Listed, Stored, SystemContract, boots


@pytest.fixture(scope="module")
def root(quick_guest: GuestImages) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="farboot-ftp-", dir="/var/tmp") as name:
        folder = Path(name) / "root"
        folder.mkdir()
        for path in (Path(name), folder):
            path.chmod(0o755)
        shutil.copy(quick_guest.iso, folder / "tiny.iso")
        yield folder


class TestAnonymous(Listed, SystemContract):
    """vsftpd, with LIST."""

    @pytest.fixture
    def stored(self, root: Path, tmp_path: Path) -> Iterator[Stored]:
        running = start_vsftpd(tmp_path / "vsftpd", root)
        place = f"ftp://{running.authority}/"
        yield Stored(f"{place}tiny.iso", place, "tiny.iso", route="bridge")
        running.server.stop()


class TestUser(Listed, SystemContract):
    """pyftpdlib, with a user and a password."""

    @pytest.fixture
    def stored(self, root: Path) -> Iterator[Stored]:
        with Pyftpd(root, users={USER: PASSWORD}) as running:
            place = f"ftp://{USER}@{running.authority}/"
            environment = {"FARBOOT_PASSWORD": PASSWORD}
            yield Stored(f"{place}tiny.iso", place, "tiny.iso", "bridge", environment=environment, secrets=(PASSWORD,))


@pytest.mark.boots
def test_by_wish_qemus_own_driver_boots_it(farboot: Farboot, root: Path) -> None:
    with Pyftpd(root, users={USER: PASSWORD}) as running:
        farboot.environment["FARBOOT_PASSWORD"] = PASSWORD
        place = f"ftp://{USER}@{running.authority}/"
        shown = farboot("command", f"{place}tiny.iso", "--route", "direct", "--json")
        assert json.loads(shown.stdout)["route"] == "driver", shown.stderr
        assert PASSWORD not in shown.stdout
        boots(farboot, Stored(f"{place}tiny.iso", place, "tiny.iso", "driver"), "--route", "direct")
