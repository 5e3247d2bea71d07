"""An encrypted qcow2, its bitmaps, its extensions: what QEMU reads of them when it opens it, judged before."""

import shutil
import struct
import subprocess
from functools import partial
from pathlib import Path

import pytest

from probes.identify import identify
from probes.image import Verdict
from tests.formats import images
from tests.formats.encryption import create_encrypted
from tests.formats.images import codes, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import FileReader

CRYPTO = struct.pack(">I", 0x0537BE77)
BITMAPS = struct.pack(">I", 0x23852875)
AUTOCLEAR = (88, ">Q")


opens = partial(opens_as, "qcow2")
refused = partial(refused_as, "qcow2", alone=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_encrypted(tmp_path_factory.mktemp("made") / "image", "8M", "qcow2")


@pytest.fixture
def encrypted(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "image"))


def luks_at(path: Path) -> int:
    data = path.read_bytes()
    at = data.index(CRYPTO)
    return int(struct.unpack(">Q", data[at + 8 : at + 16])[0])


class TestEncrypted:
    def test_it_wants_a_passphrase_and_says_how_it_is_encrypted(self, encrypted: Path) -> None:
        image = judge(encrypted)
        assert image.needs_passphrase
        assert image.verdict is Verdict.OK
        assert codes(image) == {"encrypted"}
        assert image.features == ("version 3", "encrypted (LUKS)", "aes-xts-plain64", "sha256")
        assert image.virtual_size == qemu_img_info(encrypted)["virtual-size"]

    def test_nobody_looks_for_a_disk_in_what_is_encrypted(self, encrypted: Path) -> None:
        with FileReader(encrypted) as reader:
            image = identify(reader)
            assert reader.trips <= 2
        assert image.media.firmware is None

    def test_extreme_iterations_inside_are_asked_about(self, encrypted: Path) -> None:
        patch(encrypted, luks_at(encrypted) + 208 + 4, struct.pack(">I", 1 << 31))
        image = judge(encrypted)
        assert "luks-iterations" in codes(image)
        assert image.verdict is Verdict.ASK

    @pytest.mark.parametrize(("offset", "value"), [(0, b"LUXS"), (6, b"\0\2"), (8, b"rot13\0"), (252, bytes(4))])
    def test_a_header_inside_that_qemu_refuses_is_refused(self, encrypted: Path, offset: int, value: bytes) -> None:
        patch(encrypted, luks_at(encrypted) + offset, value)
        assert judge(encrypted).verdict is Verdict.REFUSE
        assert not opens(encrypted)

    def test_a_header_outside_the_file_is_refused(self, encrypted: Path) -> None:
        patch(encrypted, encrypted.read_bytes().index(CRYPTO) + 8, struct.pack(">Q", 1 << 40))
        refused(judge(encrypted), "qcow2-invalid")
        assert not opens(encrypted)

    @pytest.mark.parametrize(
        ("offset", "value"),
        [(4, struct.pack(">I", 24)), (8, struct.pack(">Q", 0x40200)), (16, struct.pack(">Q", 500))],
    )
    def test_an_extension_that_qemu_refuses_is_refused(self, encrypted: Path, offset: int, value: bytes) -> None:
        patch(encrypted, encrypted.read_bytes().index(CRYPTO) + offset, value)
        refused(judge(encrypted), "qcow2-invalid")
        assert not opens(encrypted)

    def test_one_without_the_extension_is_refused(self, tmp_path: Path) -> None:
        path = set_field(qemu_img_create(tmp_path / "image"), images.ENCRYPTION, 2)
        image = judge(path)
        refused(image, "qcow2-invalid")
        assert "encrypted" in codes(image)

    def test_the_extension_of_one_that_is_not_encrypted_is_refused(self, encrypted: Path) -> None:
        refused(judge(set_field(encrypted, images.ENCRYPTION, 0)), "qcow2-invalid")
        assert not opens(encrypted)

    def test_two_of_them_are_refused(self, encrypted: Path) -> None:
        """QEMU would open both: the second could be what the first is not."""
        data = encrypted.read_bytes()
        at = data.index(CRYPTO)
        patch(encrypted, at + 24, data[at : at + 24])
        refused(judge(encrypted), "qcow2-invalid")


class TestBitmaps:
    @pytest.fixture
    def image(self, tmp_path: Path) -> Path:
        path = qemu_img_create(tmp_path / "image", "64M")
        run("qemu-img", "bitmap", "--add", path, "one")
        run("qemu-img", "bitmap", "--add", "-g", "512", path, "another, of a longer name")
        return path

    def extension(self, path: Path) -> int:
        return path.read_bytes().index(BITMAPS)

    def directory(self, path: Path) -> int:
        at = self.extension(path) + 8
        return int(struct.unpack(">Q", path.read_bytes()[at + 16 : at + 24])[0])

    def test_those_that_qemu_made_are_fine(self, image: Path) -> None:
        judged = judge(image)
        assert "bitmaps" in judged.features
        assert not judged.hazards

    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (4, struct.pack(">I", 16)),  # the extension's length
            (8, struct.pack(">I", 0)),  # number of bitmaps
            (8, struct.pack(">I", 1)),
            (8, struct.pack(">I", 3)),
            (12, struct.pack(">I", 1)),  # reserved
            (16, struct.pack(">Q", 0)),  # the directory's size
            (16, struct.pack(">Q", 40)),
            (24, struct.pack(">Q", 512)),  # its place
        ],
    )
    def test_an_extension_that_qemu_refuses_is_refused(self, image: Path, offset: int, value: bytes) -> None:
        patch(image, self.extension(image) + offset, value)
        assert judge(image).verdict is Verdict.REFUSE
        assert not opens(image)

    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (0, struct.pack(">Q", 0)),  # the table's place
            (0, struct.pack(">Q", 512)),
            (0, struct.pack(">Q", 1 << 63)),
            (8, struct.pack(">I", 0)),  # its clusters
            (8, struct.pack(">I", 2)),
            (8, struct.pack(">I", 0x7FFFFFF)),
            (12, struct.pack(">I", 8)),  # flags
            (16, b"\2"),  # type
            (17, b"\x08"),  # granularity
            (17, b"\x20"),
            (18, struct.pack(">H", 0)),  # the name's length
            (18, struct.pack(">H", 1024)),
            (20, struct.pack(">I", 8)),  # extra data
        ],
    )
    def test_a_directory_that_qemu_refuses_is_refused(self, image: Path, offset: int, value: bytes) -> None:
        patch(image, self.directory(image) + offset, value)
        refused(judge(image), "qcow2-invalid")
        assert not opens(image)

    def test_they_are_ignored_where_the_image_says_that_they_hold_no_more(self, image: Path) -> None:
        patch(image, self.directory(image), bytes(64))
        refused(judge(image), "qcow2-invalid")
        set_field(image, AUTOCLEAR, 0)
        assert judge(image).verdict is Verdict.OK
        assert opens(image)

    def test_those_that_would_eat_memory_are_refused(self, tmp_path: Path) -> None:
        """QEMU bounds one, to 512 MiB, and not how many: a few hundred bytes would take all memory there is."""
        path = qemu_img_create(tmp_path / "image", "1T")
        run("qemu-img", "bitmap", "--add", "-g", "2k", path, "large")
        assert judge(path).verdict is Verdict.OK
        run("qemu-img", "bitmap", "--add", "-g", "512", path, "larger")
        refused(judge(path), "qcow2-tables")

    def test_a_vast_directory_is_refused_unread(self, image: Path) -> None:
        patch(image, self.extension(image) + 8, struct.pack(">I", 60000))
        patch(image, self.extension(image) + 16, struct.pack(">Q", 60 << 20))
        with FileReader(image) as reader:
            refused(identify(reader), "qcow2-tables")
            assert reader.trips == 1


class TestHeaders:
    def test_a_snapshot_table_at_no_place_is_refused_even_without_snapshots(self, tmp_path: Path) -> None:
        path = set_field(qemu_img_create(tmp_path / "image"), images.SNAPSHOTS_OFFSET, 1 << 63)
        refused(judge(path), "qcow2-invalid")
        assert not opens(path)

    def test_a_data_file_said_to_be_raw_and_not_there_is_refused(self, tmp_path: Path) -> None:
        path = set_field(qemu_img_create(tmp_path / "image"), AUTOCLEAR, 2)
        refused(judge(path), "qcow2-invalid")
        assert opens(path)  # to look at; but not to read
        done = subprocess.run(["qemu-io", "-f", "qcow2", "-r", "-c", "quit", path], capture_output=True, check=False)
        assert b"data-file-raw requires a data file" in done.stderr

    def test_an_extension_cut_by_the_backing_files_name_is_refused(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "1M", "qcow2", "-u", "-b", "base", "-F", "raw")
        patch(path, 112, struct.pack(">II", 0x12345678, 0))
        patch(path, 120, b"\0\0\0\1")
        patch(path, 124, b"base")
        set_field(path, images.BACKING_OFFSET, 124)
        refused(judge(path), "qcow2-invalid")
        done = subprocess.run(
            ["qemu-img", "info", "-f", "qcow2", path], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert "too large" in done.stderr
