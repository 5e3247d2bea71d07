"""qcow2: made by qemu-img, changed by hand, judged by us."""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from probes.identify import identify
from probes.image import Image, Verdict
from tests.formats import images
from tests.formats.contract import BackingContract, CreatedContract, GuestContract, Pack, converted
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.readers import MemoryReader


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain.qcow2")


def only_hazard(image: Image) -> str:
    assert len(image.hazards) == 1, image.hazards
    return image.hazards[0].text


class TestContract(CreatedContract, GuestContract, BackingContract):
    name = "qcow2"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": converted("qcow2"),
        "version 2": converted("qcow2", "-o", "compat=0.10"),
        "4k": converted("qcow2", "-o", "cluster_size=4k"),
        "2M": converted("qcow2", "-o", "cluster_size=2M"),
        "compressed": converted("qcow2", "-c"),
        "compressed 4k": converted("qcow2", "-c", "-o", "cluster_size=4k"),
        "compressed 2M": converted("qcow2", "-c", "-o", "cluster_size=2M"),
        "metadata": converted("qcow2", "-o", "preallocation=metadata"),
        "zstd": converted("qcow2", "-c", "-o", "compression_type=zstd"),
        "zstd 2M": converted("qcow2", "-c", "-o", "compression_type=zstd,cluster_size=2M"),
        "extended": converted("qcow2", "-o", "extended_l2=on"),
        "extended 16k": converted("qcow2", "-o", "extended_l2=on,cluster_size=16k"),
        "extended 2M": converted("qcow2", "-o", "extended_l2=on,cluster_size=2M"),
        "extended, metadata": converted("qcow2", "-o", "extended_l2=on,preallocation=metadata"),
        "extended, zstd": converted("qcow2", "-c", "-o", "extended_l2=on,compression_type=zstd"),
    }
    trips_inside = 6
    cuts = (4, 72, 104, 512)
    empty = ("1M", "64M", 1_000_001, "8T", "100T")
    writes = ("write -P 7 300k 3k", "write -z 9M 128k", "write -P 8 20M 100k")
    qemu_looks_further = True  # into the table of snapshots


class TestAgreesWithQemu:
    def test_on_a_vast_disk(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "1P", "qcow2", "-o", "cluster_size=2M")
        assert judge(path).virtual_size == qemu_img_info(path)["virtual-size"]
        assert judge(path).verdict is Verdict.OK

    def test_that_an_image_of_nothing_is_empty(self, tmp_path: Path) -> None:
        image = judge(qemu_img_create(tmp_path / "image", 0))
        assert image.format == "qcow2"
        assert codes(image) == {"empty"}
        assert image.verdict is Verdict.REFUSE


class TestTells:
    def test_its_features(self, tmp_path: Path) -> None:
        path = qemu_img_create(
            tmp_path / "image", 1 * MiB, "qcow2", "-o", "cluster_size=32k,extended_l2=on,compression_type=zstd"
        )
        assert judge(path).features == ("version 3", "clusters of 32 KiB", "zstd compression", "extended L2")

    def test_bitmaps(self, plain: Path) -> None:
        run("qemu-img", "bitmap", "--add", plain, "b0")
        assert "bitmaps" in judge(plain).features

    def test_that_it_is_dirty(self, plain: Path) -> None:
        image = judge(set_field(plain, images.INCOMPATIBLE, 1))
        assert codes(image) == {"dirty"}
        assert image.verdict is Verdict.OK

    def test_that_it_is_corrupt(self, plain: Path) -> None:
        image = judge(set_field(plain, images.INCOMPATIBLE, 2))
        assert codes(image) == {"corrupt"}
        assert image.verdict is Verdict.OK

    def test_its_snapshots(self, plain: Path) -> None:
        run("qemu-img", "snapshot", "-c", "before", plain)
        run("qemu-img", "snapshot", "-c", "after", plain)
        image = judge(plain)
        assert "2 snapshots" in only_hazard(image)
        assert image.verdict is Verdict.OK


class TestRefuses:
    def test_an_external_data_file_and_names_it(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "1M", "qcow2", "-o", f"data_file={tmp_path}/away.raw")
        image = judge(path)
        assert codes(image) == {"qcow2-data-file"}
        assert image.verdict is Verdict.REFUSE
        assert "away.raw" in only_hazard(image)

    def test_the_bit_of_a_data_file_without_its_name(self, plain: Path) -> None:
        assert codes(judge(set_field(plain, images.INCOMPATIBLE, 4))) == {"qcow2-data-file"}

    def test_the_name_of_a_data_file_without_its_bit(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "1M", "qcow2", "-o", f"data_file={tmp_path}/away.raw")
        assert codes(judge(set_field(path, images.INCOMPATIBLE, 0))) == {"qcow2-data-file"}

    def test_a_backing_file_of_an_unknown_format_too(self, plain: Path) -> None:
        patch(plain, 0x300, b"/etc/passwd")
        set_field(plain, images.BACKING_OFFSET, 0x300)
        set_field(plain, images.BACKING_LENGTH, 11)
        backing = judge(plain).backing
        assert backing is not None
        assert (backing.name, backing.format) == ("/etc/passwd", None)

    def test_a_backing_files_name_that_is_no_text(self, plain: Path) -> None:
        patch(plain, 0x300, b"\xff\xfe\x80/x\0after")
        set_field(plain, images.BACKING_OFFSET, 0x300)
        set_field(plain, images.BACKING_LENGTH, 11)
        image = judge(plain)
        assert image.backing is not None
        assert image.backing.name.encode("utf-8", "surrogateescape") == b"\xff\xfe\x80/x"
        assert "\\xff\\xfe\\x80/x" in only_hazard(image)

    def test_a_backing_files_name_far_out_in_a_large_cluster(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "1M", "qcow2", "-o", "cluster_size=2M")
        patch(path, 0x100000, b"/etc/shadow")
        set_field(path, images.BACKING_OFFSET, 0x100000)
        set_field(path, images.BACKING_LENGTH, 11)
        image = judge(path)
        assert image.backing is not None
        assert image.backing.name == "/etc/shadow"
        assert "backing-outside" in codes(image)

    def test_the_old_encryption(self, plain: Path) -> None:
        assert codes(judge(set_field(plain, images.ENCRYPTION, 1))) == {"qcow2-aes"}

    def test_unknown_features_by_number_or_by_the_name_that_the_image_gives_them(self, plain: Path) -> None:
        image = judge(set_field(plain, images.INCOMPATIBLE, 1 << 40 | 1 << 63))
        assert codes(image) == {"qcow2-unknown-feature"}
        assert "bit 40, bit 63" in only_hazard(image)
        table = plain.read_bytes().index(b"dirty bit") - 2
        patch(plain, table, bytes([0, 40]) + b"time \x1b[1mtravel".ljust(46, b"\0"))
        assert only_hazard(judge(plain)).isprintable()
        assert "travel" in only_hazard(judge(plain))

    @pytest.mark.parametrize("version", [0, 4, 0xFFFFFFFF])
    def test_unknown_versions(self, plain: Path, version: int) -> None:
        image = judge(patch(plain, 4, struct.pack(">I", version)))
        assert (image.format, codes(image)) == ("qcow2", {"qcow2-version"})

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            (images.CLUSTER_BITS, 0),
            (images.CLUSTER_BITS, 8),
            (images.CLUSTER_BITS, 22),
            (images.CLUSTER_BITS, 0xFFFFFFFF),
            (images.VIRTUAL_SIZE, (1 << 61) + 512),
            (images.VIRTUAL_SIZE, (1 << 64) - 1),
            (images.VIRTUAL_SIZE, 1 << 50),  # its L1 table is far too small for that
            (images.ENCRYPTION, 3),
            (images.HEADER_LENGTH, 0),
            (images.HEADER_LENGTH, 72),
            (images.HEADER_LENGTH, 107),
            (images.HEADER_LENGTH, 0xFFFFFFF8),
            (images.REFCOUNT_ORDER, 7),
            (images.REFCOUNT_CLUSTERS, 0),
            (images.COMPRESSION, 1),
            (images.INCOMPATIBLE, 8),
            (images.L1_OFFSET, 0x30001),
            (images.REFCOUNT_OFFSET, 0x10200),
            (images.BACKING_OFFSET, 0x10001),
            (images.BACKING_OFFSET, 1 << 63),
        ],
    )
    def test_headers_that_make_no_sense(self, plain: Path, field: tuple[int, str], value: int) -> None:
        image = judge(set_field(plain, field, value))
        assert "qcow2-invalid" in codes(image)
        assert image.verdict is Verdict.REFUSE

    def test_a_backing_files_name_that_is_too_long(self, plain: Path) -> None:
        set_field(plain, images.BACKING_OFFSET, 0x300)
        assert "qcow2-invalid" in codes(judge(set_field(plain, images.BACKING_LENGTH, 1024)))
        assert "qcow2-invalid" in codes(judge(set_field(plain, images.BACKING_LENGTH, 0xFFFFFFFF)))

    @pytest.mark.parametrize(
        ("field", "value"),
        [(images.L1_ENTRIES, 0x10000000), (images.REFCOUNT_CLUSTERS, 0x1000), (images.SNAPSHOTS, 65537)],
    )
    def test_tables_that_would_eat_memory(self, plain: Path, field: tuple[int, str], value: int) -> None:
        image = judge(set_field(plain, field, value))
        assert "qcow2-tables" in codes(image)
        assert image.verdict is Verdict.REFUSE

    @pytest.mark.parametrize("field", [images.L1_OFFSET, images.REFCOUNT_OFFSET])
    def test_tables_beyond_its_end(self, plain: Path, field: tuple[int, str]) -> None:
        assert "qcow2-truncated" in codes(judge(set_field(plain, field, 1 << 50)))
        assert "qcow2-truncated" in codes(judge(set_field(plain, field, 0x7FFFFFFFFFFF0000)))
        assert "qcow2-invalid" in codes(judge(set_field(plain, field, 0xFFFFFFFFFFFF0000)))

    def test_a_file_that_was_cut_short(self, plain: Path) -> None:
        for size in (65536, 100_000, 196_608):
            image = identify(MemoryReader(plain.read_bytes()[:size]))
            assert image.format == "qcow2"
            assert image.verdict is Verdict.REFUSE, size

    def test_extensions_without_end(self, plain: Path) -> None:
        header_end = 112
        patch(plain, header_end, struct.pack(">II", 0x12345678, 0xFFFFFFF0))
        assert "qcow2-invalid" in codes(judge(plain))
        patch(plain, header_end, struct.pack(">II", 0x12345678, 0) * 5000)
        assert "qcow2-invalid" in codes(judge(plain))

    def test_a_data_file_behind_many_extensions(self, plain: Path) -> None:
        filler = struct.pack(">II", 0x12345678, 8) + bytes(8)
        patch(plain, 112, filler * 60 + struct.pack(">II", 0x44415441, 4) + b"/x/y" + bytes(12))
        assert codes(judge(plain)) == {"qcow2-data-file"}

    def test_extensions_that_go_on_where_the_first_64_kib_end(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "64M", "qcow2", "-o", "cluster_size=2M")
        filler = (64 << 10) - 112 - 8
        bitmaps = struct.pack(">II", 0x23852875, 24) + struct.pack(">IIQQ", 65535, 0, 65535 * 32, 0x800000)
        patch(path, 112, struct.pack(">II", 0x12345678, filler) + bytes(filler) + bitmaps + bytes(8))
        assert "qcow2-invalid" in codes(judge(path))
