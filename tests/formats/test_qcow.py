"""qcow, version 1: made by qemu-img, changed by hand, judged by us and by QEMU."""

import struct
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes.mapping import CannotMap
from tests.formats.contract import BackingContract, CreatedContract, GuestContract, Pack
from tests.formats.disks import everything
from tests.formats.images import judge, patch, qemu_img_create
from tests.formats.judged import opens_as, refused_as

BACKING_OFFSET, BACKING_LENGTH, VIRTUAL_SIZE, CLUSTER_BITS, L2_BITS, ENCRYPTION, L1 = 8, 16, 24, 32, 33, 36, 40


opens = partial(opens_as, "qcow")
refused = partial(refused_as, "qcow")


def convert(disk: Path, path: Path, *options: str) -> None:
    """Convert `disk`. With -c qemu-img 7.2 writes all of it and then fails, without a word: the image is whole."""
    subprocess.run(["qemu-img", "convert", "-O", "qcow", *options, disk, path], check=not options)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain", "64M", "qcow")


class TestContract(CreatedContract, GuestContract, BackingContract):
    name = "qcow"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": convert,
        "compressed": lambda disk, path: convert(disk, path, "-c"),
    }
    cuts = (8, 20, 47, 48, 100)
    empty = (512, "1M", "64M", 1_000_001, "1T")
    writes = ("write -P 7 300k 3k", "write -P 8 20M 100k")


class TestLooksInside:
    def test_but_not_what_leads_nowhere(self, tmp_path: Path, raw_disk: Path) -> None:
        path = tmp_path / "image"
        convert(raw_disk, path)
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

    def test_encryption(self, tmp_path: Path) -> None:
        path = tmp_path / "image"
        words = ("--object", "secret,id=key,data=abc", "-o", "encrypt.format=aes,encrypt.key-secret=key")
        qemu_img_create(path, "1M", "qcow", *words)
        image = judge(path)
        refused(image, "qcow-aes")
        assert "encrypted (AES)" in image.features
