"""A server dies while a guest boots from it, and comes back: on every storage system, by QEMU's own driver."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.servers.ceph import Ceph
from tests.servers.gluster import Gluster
from tests.servers.nbdkit import start_nbdkit
from tests.servers.tgt import Tgt
from tests.systems.outages import DriverOutageContract, Outage

TARGET = "iqn.2026-01.org.example:away"


class TestRbd(DriverOutageContract):
    """The monitor and the OSD."""

    @pytest.fixture
    def outage(self, tiny_guest: GuestImages) -> Iterator[Outage]:
        with Ceph() as own, ExitStack() as outages:
            pool = own.fresh_pool()
            own.image(pool, "tiny", tiny_guest.raw.read_bytes())
            image = f"rbd:{pool}/tiny:conf={own.conf}"
            yield Outage(image, lambda: outages.enter_context(own.away()), outages.close)


class TestIscsi(DriverOutageContract):
    @pytest.fixture
    def outage(self, tiny_guest: GuestImages) -> Iterator[Outage]:
        with Tgt() as own:
            disk = own.target(TARGET).lun(1, tiny_guest.raw)

            def back() -> None:
                own.restart()
                own.target(TARGET).lun(1, disk)

            yield Outage(f"iscsi://127.0.0.1:{own.port}/{TARGET}/1", own.kill, back)


class TestNbd(DriverOutageContract):
    @pytest.fixture
    def outage(self, images: Path, tmp_path: Path) -> Iterator[Outage]:
        running = start_nbdkit(tmp_path / "nbdkit", "file", f"dir={images}")
        yield Outage(f"nbd://{running.authority}/tiny.img", running.server.kill, running.server.start)
        running.server.stop()


class TestGluster(DriverOutageContract):
    """The brick. That of glusterd alone disturbs nobody who has an image open."""

    @pytest.fixture
    def outage(self, gluster: Gluster, images: Path) -> Outage:
        volume = gluster.volume(f"outage-{images.name.rpartition('-')[2].replace('_', '-')}")
        gluster.fill(volume, images)
        return Outage(
            f"gluster://{gluster.host}/{volume}/tiny.img",
            lambda: gluster.signal_brick(volume, signal.SIGKILL),
            lambda: gluster.start_volume(volume),
        )
