"""Bochs' and cloop's images: built here, read by qemu-img and by us."""

import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from probes.image import Verdict
from probes.mapping import CannotMap
from tests.formats.contract import FormatContract, GuestContract, Pack, built
from tests.formats.disks import everything
from tests.formats.images import codes, judge, qemu_img_info, qemu_version
from tests.formats.judged import judge_bytes, refused_as
from tests.formats.packed_disks import CLOOP_SCRIPT, bochs, cloop


def opens(path: Path, data: bytes, name: str) -> bool:
    path.write_bytes(data)
    return subprocess.run(["qemu-img", "info", "-f", name, path], capture_output=True, check=False).returncode == 0


def changed(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


class TestBochsContract(FormatContract, GuestContract):
    name = "bochs"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": built(bochs),
        "version 1": built(lambda disk: bochs(disk, version=1)),
        "large extents": built(lambda disk: bochs(disk, extent=1 << 20)),
        "small extents": built(lambda disk: bochs(disk, extent=4096)),
    }
    trips_inside = 9
    cuts = (22, 64, 511, 600)


class TestCloopContract(FormatContract, GuestContract):
    name = "cloop"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": built(cloop),
        "large blocks": built(lambda disk: cloop(disk, block=1 << 20)),
        "small blocks": built(lambda disk: cloop(disk, block=4096)),
    }
    cuts = (44, 100, 131, 136, 200, -1000)


class TestBochs:
    CATALOG, BITMAP, EXTENT, SIZE = 72, 76, 80, 88

    @pytest.fixture
    def data(self) -> bytes:
        return bochs(b"x" * (1 << 20))

    def test_it_says_its_version(self, data: bytes) -> None:
        assert judge_bytes(data).features[0] == "version 2"
        assert judge_bytes(bochs(b"x" * 512, version=1)).features[0] == "version 1"

    @pytest.mark.parametrize(
        ("offset", "value"),
        [(22, b"!"), (32, b"Fixed\0"), (48, b"Undoable\0"), (48, b"Volatile\0"), (64, struct.pack("<I", 3 << 16))],
    )
    def test_kinds_that_qemu_does_not_open(self, tmp_path: Path, data: bytes, offset: int, value: bytes) -> None:
        data = changed(data, offset, value)
        refused_as("bochs", judge_bytes(data), "bochs-kind")
        assert not opens(tmp_path / "image", data, "bochs")

    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (EXTENT, 0),
            (EXTENT, 256),
            (EXTENT, 24 << 10),
            (EXTENT, 16 << 20),
            (CATALOG, 3),
            (CATALOG, (1 << 20) + 1),
            (CATALOG, 0xFFFFFFFF),
        ],
    )
    def test_headers_that_make_no_sense(self, tmp_path: Path, data: bytes, offset: int, value: int) -> None:
        data = changed(data, offset, struct.pack("<I", value))
        refused_as("bochs", judge_bytes(data), "bochs-invalid")
        assert not opens(tmp_path / "image", data, "bochs")

    def test_extents_without_a_bitmap(self, data: bytes) -> None:
        refused_as("bochs", judge_bytes(changed(data, self.BITMAP, bytes(4))), "bochs-invalid")

    def test_a_disk_of_no_size_or_too_much(self, tmp_path: Path, data: bytes) -> None:
        refused_as("bochs", judge_bytes(changed(data, self.SIZE, bytes(8))), "empty")
        for size in (1 << 40, (1 << 64) - 1):
            refused_as("bochs", judge_bytes(changed(data, self.SIZE, struct.pack("<Q", size))), "bochs-invalid")
            assert not opens(tmp_path / "image", changed(data, self.SIZE, struct.pack("<Q", size)), "bochs")

    def test_one_that_was_cut_short(self, data: bytes) -> None:
        for size in (22, 64, 511):
            refused_as("bochs", judge_bytes(data[:size]), "bochs-invalid")
        refused_as("bochs", judge_bytes(data[:600]), "bochs-truncated")

    def test_a_catalog_that_leads_nowhere(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "image"
        path.write_bytes(changed(data, 512, struct.pack("<I", 0xFFFFFFFE)))
        assert judge(path).media.firmware is None
        with pytest.raises(CannotMap):
            everything(path)


class TestCloop:
    BLOCK, BLOCKS, PLACES = 128, 132, 136

    @pytest.fixture
    def data(self) -> bytes:
        return cloop(bytes(range(256)) * 4096)

    @pytest.mark.parametrize(
        ("offset", "value"), [(BLOCK, 0), (BLOCK, 1000), (BLOCK, 65 << 20), (BLOCK, 0xFFFFFFFF), (BLOCKS, 16 << 10)]
    )
    def test_headers_that_make_no_sense(self, tmp_path: Path, data: bytes, offset: int, value: int) -> None:
        data = changed(data, offset, struct.pack(">I", value))
        assert judge_bytes(data).verdict is Verdict.REFUSE
        assert judge_bytes(data).format == "cloop"
        assert not opens(tmp_path / "image", data, "cloop")

    def test_a_disk_of_nothing(self, data: bytes) -> None:
        refused_as("cloop", judge_bytes(changed(data, self.BLOCKS, bytes(4))), "empty")

    @pytest.mark.parametrize("value", [0, 1 << 40, 1 << 63, (1 << 64) - 1])
    def test_blocks_out_of_order(self, tmp_path: Path, data: bytes, value: int) -> None:
        data = changed(data, self.PLACES + 16, struct.pack(">Q", value))
        refused_as("cloop", judge_bytes(data), "cloop-invalid")
        assert not opens(tmp_path / "image", data, "cloop")

    def test_a_size_that_qemu_counts_wrong(self, tmp_path: Path) -> None:
        """Its sectors in 32 bits: what is 2 TiB and a block to the header is a block to QEMU."""
        blocks = (1 << 41 >> 26) + 1
        head = CLOOP_SCRIPT.ljust(128, b"\0") + struct.pack(">II", 64 << 20, blocks)
        data = (head + struct.pack(">Q", 1000) * (blocks + 1)).ljust(300_000, b"\0")
        refused_as("cloop", judge_bytes(data), "cloop-invalid")
        assert opens(tmp_path / "image", data, "cloop")
        theirs = qemu_img_info(tmp_path / "image", "-f", "cloop")["virtual-size"]
        assert theirs == (64 << 20 if qemu_version() < (10,) else blocks << 26)

    def test_a_table_that_would_eat_memory(self, data: bytes) -> None:
        for blocks in (5 << 20, 0xFFFFFFFF):
            refused_as("cloop", judge_bytes(changed(data, self.BLOCKS, struct.pack(">I", blocks))), "cloop-tables")

    def test_more_than_compression_gives_is_asked_about(self, tmp_path: Path) -> None:
        blocks = 1000
        head = CLOOP_SCRIPT.ljust(128, b"\0") + struct.pack(">II", 1 << 20, blocks)
        data = head + struct.pack(">Q", 9000) * (blocks + 1) + bytes(5000)
        image = judge_bytes(data)
        assert codes(image) == {"decompression-ratio"}
        assert image.verdict is Verdict.ASK
        assert opens(tmp_path / "image", data, "cloop")

    def test_nothing_but_zeros_is_not_too_much(self) -> None:
        assert judge_bytes(cloop(bytes(64 << 20), block=1 << 20)).verdict is Verdict.OK

    def test_a_damaged_block_is_not_followed(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "image"
        start = struct.unpack(">Q", data[self.PLACES : self.PLACES + 8])[0]
        path.write_bytes(changed(data, start, b"\xff\xff\xff"))
        assert judge(path).media.firmware is None
        with pytest.raises(CannotMap):
            everything(path)
