"""NFS: reading and writing images, also across outages."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts
from probes.errors import (
    BadAnswer,
    Cancelled,
    Changed,
    Denied,
    FarbootError,
    Unreachable,
)
from probes.location import Location
from probes.nfs import open as nfs_open
from probes.nfs.library import Context
from probes.sources.nfs import NfsSource
from tests.servers.faults import FaultyProxy
from tests.servers.ganesha import MOUNTD, Ganesha, at, rows
from tests.sources.contract import content

QEMU = QemuFacts((7, 2, 0), frozenset({"nfs", "raw", "qcow2"}))


class TestReading:
    @pytest.fixture
    def image(self, nfs_images: tuple[Path, Location]) -> tuple[Path, Location]:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(content(300_000))
        return folder / "a.img", place.child("a.img")

    def test_the_pin_is_of_another_file_after_a_change(
        self, image: tuple[Path, Location], nfs_source: NfsSource
    ) -> None:
        file, place = image
        pins = [nfs_source.open(place).pin]
        os.utime(file, ns=(1, 1))
        pins.append(nfs_source.open(place).pin)
        file.rename(file.with_name("old"))
        file.write_bytes(content(300_000))
        os.utime(file, ns=(1, 1))
        pins.append(nfs_source.open(place).pin)
        assert len(set(pins)) == 3
        assert not any(pin.strong for pin in pins)

    @pytest.mark.parametrize("change", ["written", "longer"])
    def test_a_file_that_changes_under_a_reader_is_noticed(
        self, image: tuple[Path, Location], nfs_source: NfsSource, change: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, place = image
        monkeypatch.setattr(nfs_open, "_BELIEVED", 0.0)  # else a few seconds later
        with nfs_source.open(place) as reader:
            assert reader.pread(0, 8) == content(8)
            file.write_bytes(content(300_000 if change == "written" else 300_001, seed=1))
            with pytest.raises(Changed):
                reader.pread(8, 8)

    def test_a_file_is_read_by_the_connection_over_which_it_was_opened(
        self, image: tuple[Path, Location], nfs_source: NfsSource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, place = image
        with nfs_source.open(place) as first:
            assert isinstance(first, nfs_open.OpenFile)
            with first._export.use("hold", place, 5.0), nfs_source.open(place) as second:
                monkeypatch.setattr(Context, "open", None)
                assert second.pread(0, 4096) == content(300_000)[:4096]
            assert first.pread(0, 4096) == content(300_000)[:4096]

    def test_a_connection_that_the_server_dropped_meanwhile_is_made_again(
        self, image: tuple[Path, Location], nfs_source: NfsSource, nfs_proxied: tuple[FaultyProxy, str]
    ) -> None:
        proxy, place = nfs_proxied
        with nfs_source.open(at(place.format(image[1].path))) as reader:
            assert reader.pread(0, 8) == content(8)
            proxy.hang_up()
            assert reader.pread(8, 8) == content(16)[8:]

    def test_a_reader_goes_on_after_an_outage(
        self, image: tuple[Path, Location], nfs_source: NfsSource, nfs_proxied: tuple[FaultyProxy, str]
    ) -> None:
        proxy, place = nfs_proxied
        with nfs_source.open(at(place.format(image[1].path))) as reader:
            proxy.refuse = True
            proxy.hang_up()
            with pytest.raises(FarbootError):
                reader.pread(0, 8)
            proxy.refuse = False
            assert reader.pread(0, 300_000) == content(300_000)

    @pytest.mark.parametrize("version", ["3", "4"])
    def test_a_server_that_was_restarted_is_found_again(
        self, image: tuple[Path, Location], nfs_source: NfsSource, ganesha: Ganesha, version: str
    ) -> None:
        """Its MOUNT service has another port then."""
        file, place = image
        if version == "4":
            place = at(f"nfs://{ganesha.address}/images/{file.parent.name}/a.img?version=4")
        folder = place.parent
        assert folder is not None
        with nfs_source.open(place) as reader:
            assert set(rows(nfs_source, folder)) == {"a.img"}
            before = ganesha.port(MOUNTD)
            ganesha.kill()
            with pytest.raises(Unreachable):
                reader.pread(0, 8)
            with pytest.raises(Unreachable):
                rows(nfs_source, folder)
            ganesha.start()
            assert ganesha.port(MOUNTD) != before
            assert reader.pread(0, 300_000) == content(300_000)
            assert set(rows(nfs_source, folder)) == {"a.img"}
            assert nfs_source.attach(place, QEMU, Mode.SNAPSHOT).pin == reader.pin

    def test_a_file_that_was_replaced_during_an_outage_is_noticed(
        self, image: tuple[Path, Location], nfs_source: NfsSource, nfs_proxied: tuple[FaultyProxy, str]
    ) -> None:
        proxy, place = nfs_proxied
        with nfs_source.open(at(place.format(image[1].path))) as reader:
            proxy.hang_up()
            image[0].write_bytes(content(300_000, seed=2))
            with pytest.raises(Changed):
                reader.pread(0, 8)

    def test_closing_the_source_from_another_thread_frees_a_read(
        self, image: tuple[Path, Location], nfs_source: NfsSource, ganesha: Ganesha
    ) -> None:
        reader = nfs_source.open(image[1])
        ganesha.pause()
        try:
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(reader.pread, 0, 8)
                nfs_source.close()
                with pytest.raises(Cancelled):
                    asked.result(60)
        finally:
            ganesha.resume()


class TestWriting:
    @pytest.mark.parametrize("version", ["3", "4"])
    def test_what_is_written_is_there(
        self, nfs_images: tuple[Path, Location], nfs_source: NfsSource, ganesha: Ganesha, version: str
    ) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(bytes(500_000))
        where = place.child("a.img")
        if version == "4":
            where = at(f"nfs://{ganesha.address}/images/{folder.name}/a.img?version=4")
        with nfs_source.open_for_writing(where) as writer:
            writer.pwrite(100_001, content(333_333))
            writer.flush()
            assert writer.pread(100_001, 333_333) == content(333_333)
            assert writer.size == 500_000
        assert (folder / "a.img").read_bytes() == bytes(100_001) + content(333_333) + bytes(66_666)

    def test_what_a_restarted_server_may_have_lost_does_not_count_as_flushed(
        self, nfs_images: tuple[Path, Location], nfs_source: NfsSource, nfs_proxied: tuple[FaultyProxy, str]
    ) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(bytes(1000))
        proxy, proxied = nfs_proxied
        with nfs_source.open_for_writing(at(proxied.format(place.child("a.img").path))) as writer:
            writer.pwrite(0, b"before")
            writer.flush()
            writer.flush()  # there is nothing more to flush
            writer.pwrite(0, b"unsure")
            proxy.hang_up()  # as a server does that is restarted, and nobody is asking it anything
            assert writer.pread(500, 4) == bytes(4)
            writer.pwrite(900, b"after")
            for _ in range(2):
                with pytest.raises(Unreachable):
                    writer.flush()

    def test_nothing_is_written_past_the_end(self, nfs_images: tuple[Path, Location], nfs_source: NfsSource) -> None:
        folder, place = nfs_images
        (folder / "a.img").write_bytes(bytes(10))
        with nfs_source.open_for_writing(place.child("a.img")) as writer:
            for offset, data in ((5, b"123456"), (-1, b"1"), (11, b"1")):
                with pytest.raises(BadAnswer):
                    writer.pwrite(offset, data)
        assert (folder / "a.img").read_bytes() == bytes(10)

    def test_a_read_only_export_cannot_be_written(self, ganesha: Ganesha, nfs_source: NfsSource) -> None:
        (ganesha.folder("readonly") / "a.img").write_bytes(b"123")
        place = at(ganesha.location("readonly")).child("a.img")
        with pytest.raises(Denied):
            nfs_source.open_for_writing(place)
        assert not nfs_source.attach(place, QEMU, Mode.WRITE).writable
        with nfs_source.open(place) as reader:
            assert reader.pread(0, 9) == b"123"
