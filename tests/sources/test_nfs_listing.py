"""NFS: exports, folders and links, and whose they are."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts
from probes.entry import Kind
from probes.errors import (
    Denied,
    NotAnImage,
    NotFound,
    Unreachable,
)
from probes.location import Location
from probes.nfs import services
from probes.nfs.rpc import RpcRefused
from probes.sources.nfs import NfsSource
from tests.conftest import Farboot
from tests.servers.ganesha import Ganesha, at, rows

OWNER = 1234
QEMU = QemuFacts((7, 2, 0), frozenset({"nfs", "raw", "qcow2"}))


class TestExports:
    def test_the_host_alone_lists_its_exports(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        found = rows(nfs_source, at(f"nfs://{ganesha.address}"))
        images = found[str(ganesha.folder("images"))]
        assert images.kind is Kind.CONTAINER
        assert str(images.location) == ganesha.location("images")

    def test_the_list_says_whom_an_export_is_for(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        found = rows(nfs_source, at(ganesha.location()))
        assert "192.0.2.1" in found[str(ganesha.folder("team"))].note

    def test_a_folder_above_the_exports_lists_them(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        above = at(f"nfs://{ganesha.address}{ganesha.root}/")
        assert nfs_source.stat(above).kind is Kind.CONTAINER
        assert str(ganesha.folder("nested")) in rows(nfs_source, above)
        with pytest.raises(NotAnImage, match="list of exports"):
            nfs_source.open(above)

    def test_an_export_inside_another_holds_what_is_below_it(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        (ganesha.folder("nested") / "outer.img").write_bytes(b"outer")
        (ganesha.folder("nested/inner") / "inner.img").write_bytes(b"inner")
        outer = at(ganesha.location("nested"))
        assert {"outer.img", "inner"} <= set(rows(nfs_source, outer))
        with nfs_source.open(outer.child("inner").child("inner.img")) as reader:
            assert reader.pread(0, 9) == b"inner"

    def test_an_export_that_is_not_for_us_is_denied(
        self, ganesha: Ganesha, nfs_source: NfsSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ganesha lists what it would let us mount; others list all."""
        closed = at(ganesha.location("closed"))
        with pytest.raises(NotFound, match="no such folder to this host"):
            list(nfs_source.entries(closed))
        monkeypatch.setattr(services, "exports", lambda *_: (services.ExportLine(str(ganesha.folder("closed"))),))
        with NfsSource() as other, pytest.raises(Denied, match="does not let this host mount") as caught:
            list(other.entries(closed))
        assert "/etc/exports" in caught.value.hint

    def test_a_path_outside_all_exports_is_not_found(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        with pytest.raises(NotFound, match="exports no such folder") as caught:
            nfs_source.stat(at(f"nfs://{ganesha.address}/nonesuch/a.img"))
        assert f"nfs://{ganesha.address}/" in caught.value.hint

    def test_an_export_that_came_later_is_listed(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        """The server is asked again for each listing of its exports."""
        place = at(ganesha.location())
        before = len(rows(nfs_source, place))
        with pytest.MonkeyPatch.context() as patch:  # Ganesha takes new exports over D-Bus only
            patch.setattr(services, "exports", lambda *_: (services.ExportLine("/new"),))
            assert set(rows(nfs_source, place)) == {"/new"}
        assert len(rows(nfs_source, place)) == before

    def test_where_the_list_is_hidden_the_folder_that_can_be_mounted_is_found(
        self, nfs_images: tuple[Path, Location], nfs_source: NfsSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ganesha always tells its list; other servers can refuse to."""
        folder, place = nfs_images
        (folder / "sub").mkdir()
        (folder / "sub" / "a.img").write_bytes(b"here")

        def refuse(*_: object) -> tuple[services.ExportLine, ...]:
            raise RpcRefused("no such procedure")

        monkeypatch.setattr(services, "exports", refuse)
        with nfs_source.open(place.child("sub").child("a.img")) as reader:
            assert reader.pread(0, 9) == b"here"
        assert set(rows(nfs_source, place)) == {"sub"}
        with pytest.raises(NotFound):
            nfs_source.stat(place.child("nonesuch"))
        with pytest.raises(Denied, match="does not tell its exports"):
            list(nfs_source.entries(at(f"nfs://{place.host}/")))

    def test_a_server_is_reached_by_ipv6(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        exports = rows(nfs_source, at(f"nfs://[{ganesha.address6}]/"))
        assert str(exports[str(ganesha.folder("images"))].location) == ganesha.location("images", host=ganesha.address6)
        assert isinstance(rows(nfs_source, at(ganesha.location("images", host=ganesha.address6))), dict)

    def test_the_one_tree_of_a_version_4_server_is_browsed(self, ganesha4: Ganesha, nfs_source: NfsSource) -> None:
        (ganesha4.folder("deep") / "a.img").write_bytes(b"deep")
        top = at(f"nfs://{ganesha4.address}/")
        assert set(rows(nfs_source, top)) == {"images", "a"}
        assert set(rows(nfs_source, top.child("a", container=True))) == {"b"}
        with nfs_source.open(top.child("a").child("b").child("deep").child("a.img")) as reader:
            assert reader.pread(0, 9) == b"deep"

    def test_version_4_can_be_asked_for(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        found = rows(nfs_source, at(f"nfs://{ganesha.address}/?version=4"))
        assert "images" in found
        assert found["images"].location.query == "version=4"

    def test_version_3_can_be_asked_for_where_it_is_not(self, ganesha4: Ganesha, nfs_source: NfsSource) -> None:
        with pytest.raises(Unreachable):
            list(nfs_source.entries(at(f"nfs://{ganesha4.address}/images/?version=3")))

    def test_a_host_that_nobody_knows_is_unreachable(self, nfs_source: NfsSource) -> None:
        with pytest.raises(Unreachable, match="not known"):
            list(nfs_source.entries(at("nfs://nonesuch.invalid/")))


class TestListing:
    def test_thousands_of_entries_come_with_size_and_time(
        self, nfs_images: tuple[Path, Location], nfs_source: NfsSource
    ) -> None:
        folder, place = nfs_images
        for number in range(3000):
            (folder / f"{number:05}.img").write_bytes(b"x" * (number % 7))
        found = list(nfs_source.entries(place))
        assert sorted((e.name, e.size) for e in found) == [(f"{n:05}.img", n % 7) for n in range(3000)]
        written = (folder / "00000.img").stat().st_mtime
        moment = next(entry.modified for entry in found if entry.name == "00000.img")
        assert moment is not None
        assert int(moment.timestamp()) == int(written)

    @pytest.mark.parametrize("version", ["3", "4"])
    def test_links_are_shown_as_what_they_lead_to(
        self, ganesha: Ganesha, nfs_images: tuple[Path, Location], nfs_source: NfsSource, version: str
    ) -> None:
        folder, place = nfs_images
        if version == "4":
            place = at(f"nfs://{ganesha.address}/images/{folder.name}/?version=4")
        (folder / "a-long-name-before-the-others.img").write_bytes(b"1234")
        (folder / "sub").mkdir()
        (folder / "sub" / "b.img").write_bytes(b"12345")
        (ganesha.folder("nested") / "c.img").write_bytes(b"123456")
        for name, target in {
            "file.img": "a-long-name-before-the-others.img",
            "folder": "sub",
            "through.img": "folder/b.img",
            "again.img": "file.img",
            "nowhere.img": "none",
            "loop.img": "loop.img",
            "other.img": "../../nested/c.img",
        }.items():
            (folder / name).symlink_to(target)
        (folder / "sub" / "up.img").symlink_to("../file.img")
        found = rows(nfs_source, place)
        assert (found["file.img"].kind, found["file.img"].size) == (Kind.IMAGE, 4)
        assert found["file.img"].note == "→ a-long-name-before-the-others.img"
        assert found["folder"].kind is Kind.CONTAINER
        assert found["through.img"].size == 5
        assert found["again.img"].size == 4
        assert (found["nowhere.img"].kind, found["nowhere.img"].note) == (Kind.OTHER, "→ none (leads nowhere)")
        assert found["loop.img"].kind is Kind.OTHER
        assert found["other.img"].size == 6
        assert rows(nfs_source, found["folder"].location)["up.img"].size == 4
        with nfs_source.open(found["folder"].location.child("up.img")) as reader:
            assert reader.pread(0, 9) == b"1234"
        with pytest.raises(NotFound, match="circle"):
            nfs_source.stat(place.child("loop.img"))

    def test_special_files_are_other_things(self, nfs_images: tuple[Path, Location], nfs_source: NfsSource) -> None:
        folder, place = nfs_images
        os.mkfifo(folder / "pipe.img")
        (entry,) = nfs_source.entries(place)
        assert (entry.kind, entry.note) == (Kind.OTHER, "pipe")
        with pytest.raises(NotAnImage, match="pipe"):
            nfs_source.open(place.child("pipe.img"))

    def test_large_files_without_an_ending_are_images(
        self, nfs_images: tuple[Path, Location], nfs_source: NfsSource
    ) -> None:
        folder, place = nfs_images
        for name, size in (("vm-100-disk-0", 2 << 20), ("README", 100)):
            with (folder / name).open("wb") as file:
                file.truncate(size)
        found = rows(nfs_source, place)
        assert (found["vm-100-disk-0"].kind, found["README"].kind) == (Kind.IMAGE, Kind.OTHER)
        assert nfs_source.stat(place.child("README")).kind is Kind.IMAGE, "a person asked for this one"

    def test_a_path_with_dots_is_tidied(self, nfs_images: tuple[Path, Location], nfs_source: NfsSource) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(b"1")
        assert nfs_source.stat(replace(place, path=place.path + "x/..//./a.img")).size == 1
        with pytest.raises(NotFound):
            nfs_source.stat(replace(place, path="/../../../etc/passwd"))


class TestWhoWeAre:
    @pytest.fixture
    def private(self, ganesha: Ganesha, tmp_path: Path) -> Location:
        """A folder that belongs to a user, on an export that takes root for nobody."""
        folder = ganesha.folder("squashed") / tmp_path.name
        folder.mkdir()
        (folder / "a.img").write_bytes(b"private")
        (folder / "a.img").chmod(0o600)
        folder.chmod(0o700)
        for path in (folder / "a.img", folder):
            os.chown(path, OWNER, OWNER)
        return at(ganesha.location("squashed")).child(tmp_path.name, container=True)

    def test_root_that_is_squashed_is_denied_and_told_of_it(self, private: Location, nfs_source: NfsSource) -> None:
        with pytest.raises(Denied, match="uid 0, gid 0") as caught:
            list(nfs_source.entries(private))
        assert "no_root_squash" in caught.value.hint
        assert "uid=" in caught.value.hint
        with pytest.raises(Denied):
            nfs_source.open(private.child("a.img"))

    def test_the_uid_of_the_owner_opens_it(self, private: Location, nfs_source: NfsSource) -> None:
        place = replace(private, query=f"uid={OWNER}&gid={OWNER}")
        (entry,) = nfs_source.entries(place)
        assert entry.location.query == place.query
        with nfs_source.open(entry.location) as reader:
            assert reader.pread(0, 20) == b"private"
        node = nfs_source.attach(entry.location, QEMU, Mode.SNAPSHOT).node
        assert (node["user"], node["group"]) == (OWNER, OWNER)

    def test_a_user_is_told_of_ports_below_1024(self, ganesha: Ganesha, farboot_of_a_user: Farboot) -> None:
        """Servers demand them by default (`secure`), and only root may use them."""
        (ganesha.folder("secure") / "a.img").write_bytes(b"1")
        denied = farboot_of_a_user("ls", ganesha.location("secure"), "--json")
        assert denied.returncode == 1
        error = json.loads(denied.stdout or denied.stderr)
        assert error["error"] == "denied", error
        assert "insecure" in error["hint"]
        assert farboot_of_a_user("ls", ganesha.location("images")).returncode == 0

    def test_root_uses_ports_below_1024(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        (ganesha.folder("secure") / "b.img").write_bytes(b"1")
        assert "b.img" in rows(nfs_source, at(ganesha.location("secure")))
