"""NFS: QEMU's node, and when it is the bridge instead."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.errors import (
    BadLocation,
    NotAnImage,
    Unsupported,
)
from probes.location import Location
from probes.nfs import services
from probes.nfs.rpc import Deadline
from probes.sources.nfs import NfsSource
from tests.servers.faults import FaultyProxy
from tests.servers.ganesha import MOUNTD, Export, Ganesha, at
from tests.servers.netns import Netns

QEMU = QemuFacts((7, 2, 0), frozenset({"nfs", "raw", "qcow2"}))


class TestOptions:
    @pytest.mark.parametrize(
        ("query", "why"),
        [
            ("colour=red", "no option 'colour'"),
            ("uid=root", "uid is not a number"),
            ("uid=-1", "uid is not a number"),
            ("uid=99999999999999999999", "uid is not a number"),
            ("version=2", "from 3 to 4"),
            ("nfsport=0", "from 1 to 65535"),
        ],
    )
    def test_what_libnfs_would_not_understand_is_refused(self, nfs_source: NfsSource, query: str, why: str) -> None:
        with pytest.raises(BadLocation, match=why):
            list(nfs_source.entries(Location("nfs", "host", "/export/", query)))

    def test_two_ports_for_one_thing_are_refused(self, nfs_source: NfsSource) -> None:
        with pytest.raises(BadLocation, match="two ports"):
            nfs_source.stat(at("nfs://host:2050/export/?nfsport=2051"))

    def test_those_for_tuning_reach_qemu(self, nfs_images: tuple[Path, Location], nfs_source: NfsSource) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(b"1")
        where = replace(place.child("a.img"), query="readahead=65536&pagecache=16&debug=1&tcp-syncnt=3")
        node = nfs_source.attach(where, QEMU, Mode.SNAPSHOT).node
        wanted = {"readahead-size": 65536, "page-cache-size": 16, "debug": 1, "tcp-syn-count": 3}
        assert {name: node[name] for name in wanted} == wanted


class TestAttaching:
    @pytest.fixture
    def attach(self, nfs_source: NfsSource) -> Callable[..., Attachment]:
        return lambda place, qemu=QEMU: nfs_source.attach(place, qemu, Mode.WRITE)

    def test_qemu_is_given_host_path_and_who_we_are(
        self, nfs_images: tuple[Path, Location], attach: Callable[..., Attachment]
    ) -> None:
        folder, place = nfs_images
        (folder / "a b?.img").write_bytes(b"1")
        found = attach(place.child("a b?.img"))
        assert found.route is Route.DRIVER
        assert found.node == {
            "driver": "nfs",
            "server": {"type": "inet", "host": place.host},
            "path": str(folder / "a b?.img"),
            "user": os.getuid(),
            "group": os.getgid(),
        }
        assert (found.writable, found.trusted, found.secrets, found.files) == (True, True, (), ())

    def test_a_link_is_followed_for_qemu(
        self, nfs_images: tuple[Path, Location], attach: Callable[..., Attachment]
    ) -> None:
        """QEMU mounts the folder that holds the file, and sees nothing outside it."""
        folder, place = nfs_images
        (folder / "real").mkdir()
        (folder / "real" / "a.img").write_bytes(b"1")
        (folder / "link.img").symlink_to("real/a.img")
        (folder / "folder").symlink_to("real")
        real = str(folder / "real" / "a.img")
        assert attach(place.child("link.img")).node["path"] == real
        assert attach(place.child("folder").child("a.img")).node["path"] == real

    def test_the_node_is_of_an_ipv6_host_without_brackets(
        self, nfs_images: tuple[Path, Location], ganesha: Ganesha, attach: Callable[..., Attachment]
    ) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(b"1")
        node = attach(replace(place.child("a.img"), authority=f"[{ganesha.address6}]")).node
        assert node["server"] == {"type": "inet", "host": ganesha.address6}

    def test_a_folder_that_qemu_may_not_mount_takes_the_bridge(
        self, nfs_images: tuple[Path, Location], attach: Callable[..., Attachment], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some servers let the export alone be mounted; Ganesha lets every folder."""
        folder, place = nfs_images
        (folder / "a.img").write_bytes(b"1")
        monkeypatch.setattr(services, "mount", lambda *_: (b"", "access denied"))
        found = attach(place.child("a.img"))
        assert found.route is Route.BRIDGE
        assert f"({folder}: access denied)" in found.why

    def test_the_server_is_asked_whether_a_folder_can_be_mounted(self, ganesha: Ganesha) -> None:
        port = ganesha.port(MOUNTD)
        asked = [
            services.mount(ganesha.address, port, path, (0, 0), Deadline(10))[1]
            for path in (str(ganesha.folder("images")), "/nonesuch")
        ]
        assert asked == ["", "access denied"]

    def test_what_speaks_version_4_only_takes_the_bridge(
        self, ganesha4: Ganesha, attach: Callable[..., Attachment]
    ) -> None:
        (ganesha4.folder("images") / "four.img").write_bytes(b"1")
        found = attach(at(f"nfs://{ganesha4.address}/images/four.img"))
        assert (found.route, found.node) == (Route.BRIDGE, {})
        assert "version 3 only" in found.why
        assert found.writable

    def test_ports_of_ones_own_take_the_bridge(
        self,
        nfs_images: tuple[Path, Location],
        nfs_proxied: tuple[FaultyProxy, str],
        attach: Callable[..., Attachment],
    ) -> None:
        folder, _ = nfs_images
        (folder / "a.img").write_bytes(b"1")
        found = attach(at(nfs_proxied[1].format(folder / "a.img")))
        assert found.route is Route.BRIDGE
        assert "portmapper" in found.why

    def test_a_name_that_is_not_utf_8_takes_the_bridge(
        self, nfs_images: tuple[Path, Location], attach: Callable[..., Attachment]
    ) -> None:
        folder, place = nfs_images
        name = os.fsdecode(b"\xff.img")
        (folder / name).write_bytes(b"1")
        assert "UTF-8" in attach(place.child(name)).why

    @pytest.mark.parametrize(
        ("qemu", "why"),
        [
            (replace(QEMU, drivers=frozenset({"raw"})), "qemu-block-extra"),
            (replace(QEMU, route=RouteWish.BRIDGE), "asked for"),
        ],
    )
    def test_without_the_driver_or_by_wish_it_takes_the_bridge(
        self, nfs_images: tuple[Path, Location], attach: Callable[..., Attachment], qemu: QemuFacts, why: str
    ) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(b"1")
        found = attach(place.child("a.img"), qemu)
        assert found.route is Route.BRIDGE
        assert why in found.why

    def test_direct_without_the_driver_is_refused(
        self, nfs_images: tuple[Path, Location], attach: Callable[..., Attachment]
    ) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(b"1")
        with pytest.raises(Unsupported, match="no nfs driver"):
            attach(place.child("a.img"), QemuFacts((7, 2, 0), frozenset({"raw"}), RouteWish.DIRECT))

    def test_a_folder_cannot_be_attached(
        self, nfs_images: tuple[Path, Location], attach: Callable[..., Attachment]
    ) -> None:
        with pytest.raises(NotAnImage):
            attach(nfs_images[1])


def test_an_export_that_is_the_root_has_a_path_that_qemu_takes(nfs_source: NfsSource) -> None:
    """QEMU splits at the last slash, and of "/a.img" nothing would be left to mount."""
    with Netns() as netns, Ganesha(netns, (Export("top", pseudo="/"),), by_pseudo=True) as server:
        (server.folder("top") / "a.img").write_bytes(b"top")
        place = at(f"nfs://{server.address}/a.img")
        with nfs_source.open(place) as reader:
            assert reader.pread(0, 9) == b"top"
        assert nfs_source.attach(place, QEMU, Mode.SNAPSHOT).node["path"] == "//a.img"
