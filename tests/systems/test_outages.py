"""A server dies while a guest boots from it, and comes back: on every storage system, by the route it takes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from app.qemu.sessions.guest import SILENT
from tests.conftest import Farboot
from tests.servers.ganesha import Ganesha
from tests.servers.nginx import start_nginx
from tests.servers.server import wait_until
from tests.servers.sheep import Sheep
from tests.servers.sshd import make_home, start_sshd
from tests.servers.vsftpd import start_vsftpd
from tests.systems.outages import BridgeOutageContract, Outage, OutageContract, kill_with_children, paused


class TestNfs(OutageContract):
    @pytest.fixture
    def outage(self, ganesha: Ganesha, tiny_guest: GuestImages) -> Outage:
        shutil.copy(tiny_guest.raw, ganesha.folder("images") / "outage.img")
        return Outage(f"{ganesha.location('images')}outage.img", ganesha.kill, ganesha.start)


class TestHttp(OutageContract):
    @pytest.fixture
    def outage(self, images: Path, tmp_path: Path) -> Iterator[Outage]:
        running = start_nginx(tmp_path / "nginx", images)
        yield Outage(f"{running.url}tiny.img", running.server.kill, running.server.start)
        running.server.stop()


class TestFtp(BridgeOutageContract):
    @pytest.fixture
    def outage(self, images: Path, tmp_path: Path) -> Iterator[Outage]:
        running = start_vsftpd(tmp_path / "vsftpd", images)
        yield Outage(
            f"ftp://{running.authority}/tiny.img", lambda: kill_with_children(running.server), running.server.start
        )
        running.server.stop()


class TestSsh(OutageContract):
    """QEMU's driver never finds back by itself: its node is opened anew."""

    @pytest.fixture
    def outage(self, images: Path, tmp_path: Path) -> Iterator[Outage]:
        running = start_sshd(tmp_path / "sshd")
        home = make_home(tmp_path / "person")
        running.authorize(home.key())
        home.trust(running.known())
        yield Outage(
            running.url(images / "tiny.img"),
            lambda: kill_with_children(running.server),
            running.server.start,
            {"HOME": str(home.path)},
        )
        running.server.stop()

    def test_a_server_that_falls_silent_stops_all_of_qemu_which_is_told_and_can_be_ended(
        self, farboot: Farboot, outage: Outage, tmp_path: Path
    ) -> None:
        """libssh waits in QEMU's main loop: not even the monitor answers meanwhile."""
        farboot.environment |= outage.environment
        started = farboot("boot", outage.image, "--route", "direct")
        assert started.returncode == 0, started.stderr
        with paused(int((tmp_path / "sshd" / "pid").read_text())):

            def told() -> str:
                (listed,) = json.loads(farboot("ps", "--json").stdout)
                return str(listed["error"])

            wait_until(lambda: told() == SILENT, "QEMU's silence to be told", 60)
            stopped = farboot("stop", "--force", started.stdout.strip())
            assert stopped.returncode == 0, stopped.stderr
            (listed,) = json.loads(farboot("ps", "--json").stdout)
            assert (listed["state"], listed["pid"]) == ("ended", None)


class TestSheepdog(BridgeOutageContract):
    @pytest.fixture
    def outage(self, sheep: Sheep, tiny_guest: GuestImages) -> Outage:
        sheep.store.create("tiny", tiny_guest.raw.read_bytes())
        return Outage(sheep.vdi("tiny"), sheep.server.kill, sheep.server.start)
