"""qcow, version 1: made by qemu-img, changed by hand, judged by us and by QEMU."""

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
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.test_hostile import sound

BACKING_OFFSET, BACKING_LENGTH, VIRTUAL_SIZE, CLUSTER_BITS, L2_BITS, ENCRYPTION, L1 = 8, 16, 24, 32, 33, 36, 40


def opens(path: Path) -> bool:
    return subprocess.run(["qemu-img", "info", "-f", "qcow", path], capture_output=True, check=False).returncode == 0


def refused(image: Image, code: str) -> None:
    assert image.format == "qcow"
    assert code in codes(image), image.hazards
    assert image.verdict is Verdict.REFUSE


def convert(disk: Path, path: Path, *options: str) -> None:
    """Convert `disk`. With -c qemu-img 7.2 writes all of it and then fails, without a word: the image is whole."""
    subprocess.run(["qemu-img", "convert", "-O", "qcow", *options, disk, path], check=not options)
    run("qemu-img", "compare", "-F", "qcow", disk, path)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain", "64M", "qcow")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_disk(tmp_path_factory.mktemp("disk"))


class TestAgreesWithQemu:
    @pytest.mark.parametrize("size", ["512", "1M", "64M", "1000001", "1T"])
    @pytest.mark.parametrize("options", [(), ("-u", "-b", "base.raw", "-F", "raw")])
    def test_on_what_qemu_img_makes(self, tmp_path: Path, size: str, options: tuple[str, ...]) -> None:
        path = qemu_img_create(tmp_path / "image", size, "qcow", *options)
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == (theirs["format"], theirs["virtual-size"])
        assert (ours.backing and ours.backing.name) == theirs.get("backing-filename")
        assert ours.verdict is (Verdict.ASK if options else Verdict.OK)

    def test_and_one_read_settles_it(self, plain: Path) -> None:
        with FileReader(plain) as reader:
            assert identify(reader, look_inside=False).format == "qcow"
            assert reader.trips == 1


class TestLooksInside:
    @pytest.mark.parametrize("options", [(), ("-c",)])
    def test_and_sees_what_a_raw_disk_would_show(self, tmp_path: Path, disk: Path, options: tuple[str, ...]) -> None:
        path = tmp_path / "image"
        convert(disk, path, *options)
        with FileReader(path) as reader:
            image = identify(reader)
            assert reader.trips <= 12
        assert image.media == judge(disk).media
        assert image.media.firmware == frozenset({Firmware.UEFI})
        assert everything(path) == disk.read_bytes()

    def test_over_a_backing_file(self, tmp_path: Path, disk: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "24M", "qcow", "-b", str(disk), "-F", "raw")
        run("qemu-io", "-c", "write -P 7 300k 3k", "-c", "write -P 8 20M 100k", path)
        run("qemu-img", "convert", "-O", "raw", path, tmp_path / "raw")
        assert everything(path, disk) == (tmp_path / "raw").read_bytes()

    def test_but_not_what_leads_nowhere(self, tmp_path: Path, disk: Path) -> None:
        path = tmp_path / "image"
        convert(disk, path)
        l1 = struct.unpack(">Q", path.read_bytes()[L1 : L1 + 8])[0]
        for value in (1 << 50, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 1 << 63):
            patch(path, l1, struct.pack(">Q", value))
            assert judge(path).media.firmware is None
            with pytest.raises(CannotMap):
                everything(path)


class TestRefuses:
    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (CLUSTER_BITS, b"\x08"),
            (CLUSTER_BITS, b"\x11"),
            (CLUSTER_BITS, b"\xff"),
            (L2_BITS, b"\x05"),
            (L2_BITS, b"\x0e"),
            (L2_BITS, b"\xff"),
            (ENCRYPTION, b"\0\0\0\2"),
            (BACKING_OFFSET, b"\0\0\0\0\0\0\0\x40\0\0\x04\0"),
            (BACKING_OFFSET, b"\x80\0\0\0\0\0\0\0\0\0\0\0"),
        ],
    )
    def test_headers_that_make_no_sense(self, plain: Path, offset: int, value: bytes) -> None:
        refused(judge(patch(plain, offset, value)), "qcow-invalid")
        assert not opens(plain)

    @pytest.mark.parametrize("size", [0, 1, 511])
    def test_one_of_no_disk(self, plain: Path, size: int) -> None:
        refused(judge(patch(plain, VIRTUAL_SIZE, struct.pack(">Q", size))), "empty")

    @pytest.mark.parametrize("size", [1 << 48, (1 << 63) - 1, (1 << 64) - 1])
    def test_tables_that_would_eat_memory(self, plain: Path, size: int) -> None:
        refused(judge(patch(plain, VIRTUAL_SIZE, struct.pack(">Q", size))), "qcow-tables")

    @pytest.mark.parametrize("at", [1 << 40, (1 << 64) - 8])
    def test_tables_beyond_its_end(self, plain: Path, at: int) -> None:
        refused(judge(patch(plain, L1, struct.pack(">Q", at))), "qcow-truncated")

    def test_one_that_was_cut_short(self, plain: Path) -> None:
        for size in (8, 20, 47, 48, 100):
            assert identify(MemoryReader(plain.read_bytes()[:size])).verdict is Verdict.REFUSE

    def test_encryption(self, tmp_path: Path) -> None:
        path = tmp_path / "image"
        words = ("--object", "secret,id=key,data=abc", "-o", "encrypt.format=aes,encrypt.key-secret=key")
        qemu_img_create(path, "1M", "qcow", *words)
        image = judge(path)
        refused(image, "qcow-aes")
        assert "encrypted (AES)" in image.features

    @pytest.mark.parametrize("name", ["/etc/hostname", "json:{}", "nbd://192.0.2.1/x", "../base"])
    def test_any_backing_file_but_one_beside_it(self, tmp_path: Path, name: str) -> None:
        image = judge(qemu_img_create(tmp_path / "image", "1M", "qcow", "-u", "-b", name, "-F", "raw"))
        assert image.backing is not None
        assert image.backing.name == name
        refused(image, "backing-outside")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(
        st.tuples(
            st.one_of(st.integers(8, 48), st.integers(48, 9000)),
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8), b"\x80" + bytes(7)])),
        ),
        max_size=4,
    )
)
def test_whatever_stands_in_it(tmp_path: Path, disk: Path, changes: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "packed"
    if not path.exists():
        convert(disk, path, "-c")
    data = bytearray(path.read_bytes()[: 2 * MiB])
    for offset, value in changes:
        data[offset : offset + len(value)] = value
    recorder = RecordingReader(MemoryReader(bytes(data)))
    sound(identify(recorder), recorder)
