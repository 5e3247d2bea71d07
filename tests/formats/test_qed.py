"""QED: made by qemu-img, changed by hand, judged by us and by QEMU."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.identify import identify
from probes.image import Firmware, Image, Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats.disks import everything, small_disk
from tests.formats.images import codes, judge, patch, qemu_img_create, qemu_img_info, run
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.test_hostile import sound

CLUSTER, TABLE, HEADER, FEATURES, L1, VIRTUAL_SIZE, BACKING_OFFSET, BACKING_LENGTH = 4, 8, 12, 16, 40, 48, 56, 60
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "4 KiB clusters": ("-o", "cluster_size=4k"),
    "1 MiB clusters": ("-o", "cluster_size=1M"),
    "small tables": ("-o", "table_size=2"),
    "large tables": ("-o", "table_size=16"),
    "backed": ("-u", "-b", "base.qcow2", "-F", "qcow2"),
    "backed by raw": ("-u", "-b", "base.raw", "-F", "raw"),
}


def opens(path: Path) -> bool:
    return subprocess.run(["qemu-img", "info", "-f", "qed", path], capture_output=True, check=False).returncode == 0


def refused(image: Image, code: str) -> None:
    assert image.format == "qed"
    assert code in codes(image), image.hazards
    assert image.verdict is Verdict.REFUSE


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain", "64M", "qed")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_disk(tmp_path_factory.mktemp("disk"))


class TestAgreesWithQemu:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("size", ["1M", "64M", "1000001"])
    def test_on_what_qemu_img_makes(self, tmp_path: Path, variant: str, size: str) -> None:
        path = qemu_img_create(tmp_path / "image", size, "qed", *VARIANTS[variant])
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == (theirs["format"], theirs["virtual-size"])
        assert (ours.backing and ours.backing.name) == theirs.get("backing-filename")
        assert (ours.backing and ours.backing.format) == theirs.get("backing-filename-format")
        assert ours.verdict is (Verdict.ASK if ours.backing else Verdict.OK)

    def test_and_one_read_settles_it(self, plain: Path) -> None:
        with FileReader(plain) as reader:
            assert identify(reader, look_inside=False).format == "qed"
            assert reader.trips == 1

    def test_on_tables_of_one_cluster_which_qemu_makes_and_does_not_open(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "1M", "qed", "-o", "table_size=1")
        refused(judge(path), "qed-invalid")
        assert not opens(path)


class TestTells:
    def test_that_it_is_dirty(self, plain: Path) -> None:
        image = judge(patch(plain, FEATURES, b"\2"))
        assert codes(image) == {"dirty"}
        assert image.verdict is Verdict.OK


class TestLooksInside:
    @pytest.mark.parametrize("options", [(), ("-o", "cluster_size=4k,table_size=2")])
    def test_and_sees_what_a_raw_disk_would_show(self, tmp_path: Path, disk: Path, options: tuple[str, ...]) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "qed", *options, disk, path)
        with FileReader(path) as reader:
            image = identify(reader)
            assert reader.trips <= 12
        assert image.media == judge(disk).media
        assert image.media.firmware == frozenset({Firmware.UEFI})
        assert everything(path) == disk.read_bytes()

    def test_over_a_backing_file(self, tmp_path: Path, disk: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "24M", "qed", "-b", str(disk), "-F", "raw")
        run("qemu-io", "-c", "write -P 7 300k 3k", "-c", "write -z 9M 128k", "-c", "write -P 8 20M 100k", path)
        run("qemu-img", "convert", "-O", "raw", path, tmp_path / "raw")
        assert everything(path, disk) == (tmp_path / "raw").read_bytes()

    @pytest.mark.parametrize("value", [1 << 50, 0x10200, 2, 0xFFFFFFFFFFFF0000, (1 << 64) - 1])
    def test_but_not_what_leads_nowhere(self, tmp_path: Path, disk: Path, value: int) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "qed", disk, path)
        l1 = struct.unpack("<Q", path.read_bytes()[L1 : L1 + 8])[0]
        l2 = struct.unpack("<Q", path.read_bytes()[l1 : l1 + 8])[0]
        for table in (l2, l1):
            patch(path, table, struct.pack("<Q", value))
            assert judge(path).media.firmware is None
            with pytest.raises(CannotMap):
                everything(path)


class TestRefuses:
    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (CLUSTER, struct.pack("<I", 2048)),
            (CLUSTER, struct.pack("<I", 128 << 20)),
            (CLUSTER, struct.pack("<I", 65537)),
            (CLUSTER, struct.pack("<I", 0)),
            (TABLE, struct.pack("<I", 0)),
            (TABLE, struct.pack("<I", 3)),
            (TABLE, struct.pack("<I", 32)),
            (HEADER, struct.pack("<I", 0xFFFFFFFF)),
            (HEADER, struct.pack("<I", 100)),
            (VIRTUAL_SIZE, struct.pack("<Q", 513)),
            (VIRTUAL_SIZE, struct.pack("<Q", 1 << 60)),
            (L1, struct.pack("<Q", 0)),
            (L1, struct.pack("<Q", 0x10200)),
            (L1, struct.pack("<Q", 1 << 40)),
            (L1, struct.pack("<Q", 0xFFFFFFFFFFFF0000)),
            (FEATURES, struct.pack("<Q", 1) + bytes(32) + struct.pack("<II", 0xFFFFFFFF, 10)),
            (FEATURES, struct.pack("<Q", 1) + bytes(32) + struct.pack("<II", 64, 1024)),
        ],
    )
    def test_headers_that_make_no_sense(self, plain: Path, offset: int, value: bytes) -> None:
        refused(judge(patch(plain, offset, value)), "qed-invalid")
        assert not opens(plain)

    @pytest.mark.parametrize("bit", [3, 40, 63])
    def test_unknown_features(self, plain: Path, bit: int) -> None:
        image = judge(patch(plain, FEATURES, struct.pack("<Q", 1 << bit)))
        refused(image, "qed-unknown-feature")
        assert f"bit {bit}" in image.hazards[0].text
        assert not opens(plain)

    def test_tables_that_would_eat_memory(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "64M", "qed", "-o", "cluster_size=1M,table_size=8")
        refused(judge(path), "qed-tables")

    def test_one_of_no_disk(self, plain: Path) -> None:
        refused(judge(patch(plain, VIRTUAL_SIZE, bytes(8))), "empty")

    def test_one_that_was_cut_short(self, plain: Path) -> None:
        for size in (4, 63, 64, 65536, 65536 * 4):
            assert identify(MemoryReader(plain.read_bytes()[:size])).verdict is Verdict.REFUSE

    @pytest.mark.parametrize("name", ["/etc/hostname", "json:{}", "nbd://192.0.2.1/x", "../base"])
    def test_any_backing_file_but_one_beside_it(self, tmp_path: Path, name: str) -> None:
        refused(
            judge(qemu_img_create(tmp_path / "image", "1M", "qed", "-u", "-b", name, "-F", "raw")), "backing-outside"
        )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(
            st.one_of(st.integers(4, 64), st.integers(65536, 66000), st.integers(0x50000, 0x50400)),
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8), bytes(7) + b"\x80"])),
        ),
        max_size=4,
    )
)
def test_whatever_stands_in_it(tmp_path: Path, disk: Path, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "whole"
    if not path.exists():
        run("qemu-img", "convert", "-O", "qed", disk, path)
    data = bytearray(path.read_bytes())
    for offset, value in changes:
        data[offset : offset + len(value)] = value
    recorder = RecordingReader(MemoryReader(bytes(data)))
    sound(identify(recorder), recorder)
