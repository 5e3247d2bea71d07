"""QED: made by qemu-img, changed by hand, judged by us and by QEMU."""

import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes.identify import identify
from probes.image import Verdict
from probes.mapping import CannotMap
from tests.formats.contract import BackingContract, CreatedContract, GuestContract, Pack, converted
from tests.formats.disks import everything
from tests.formats.images import codes, judge, patch, qemu_img_create, run
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import MemoryReader

CLUSTER, TABLE, HEADER, FEATURES, L1, VIRTUAL_SIZE, BACKING_OFFSET, BACKING_LENGTH = 4, 8, 12, 16, 40, 48, 56, 60
opens = partial(opens_as, "qed")
refused = partial(refused_as, "qed", alone=False)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain", "64M", "qed")


class TestContract(CreatedContract, GuestContract, BackingContract):
    name = "qed"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": converted("qed"),
        "4 KiB clusters, small tables": converted("qed", "-o", "cluster_size=4k,table_size=2"),
        "1 MiB clusters": converted("qed", "-o", "cluster_size=1M"),
        "large tables": converted("qed", "-o", "table_size=16"),
    }
    cuts = (4, 63, 64)
    empty = ("1M", "64M", 1_000_001)
    writes = ("write -P 7 300k 3k", "write -z 9M 128k", "write -P 8 20M 100k")


class TestAgreesWithQemu:
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
    @pytest.mark.parametrize("value", [1 << 50, 0x10200, 2, 0xFFFFFFFFFFFF0000, (1 << 64) - 1])
    def test_but_not_what_leads_nowhere(self, tmp_path: Path, raw_disk: Path, value: int) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "qed", raw_disk, path)
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
        for size in (65536, 65536 * 4):
            assert identify(MemoryReader(plain.read_bytes()[:size])).verdict is Verdict.REFUSE
