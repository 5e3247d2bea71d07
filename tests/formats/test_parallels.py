"""parallels: made by qemu-img, changed by hand, judged by us and by QEMU."""

import hashlib
import struct
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes.identify import guest_disk, identify
from probes.image import Verdict
from probes.mapping import CannotMap
from tests.formats.contract import CreatedContract, GuestContract, Pack, converted
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import FileReader, MemoryReader

VERSION, CLUSTER, ENTRIES, SECTORS = (16, "<I"), (28, "<I"), (32, "<I"), (36, "<Q")
IN_USE, DATA_OFFSET, EXTENSION, FIRST = (44, "<I"), (48, "<I"), (56, "<Q"), (64, "<I")


qemu_opens = partial(opens_as, "parallels")
refused = partial(refused_as, "parallels")


def old_kind(disk: Path, path: Path) -> None:
    """Make one of the kind that counts in sectors."""
    run("qemu-img", "convert", "-O", "parallels", "-o", "cluster_size=64k", disk, path)
    data = bytearray(path.read_bytes())
    data[:16] = b"WithoutFreeSpace"
    count = struct.unpack_from("<I", data, 32)[0]
    entries = struct.unpack_from(f"<{count}I", data, 64)
    struct.pack_into(f"<{count}I", data, 64, *(entry * 128 for entry in entries))
    path.write_bytes(data)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain", "20M", "parallels", "-o", "cluster_size=64k")


class TestContract(CreatedContract, GuestContract):
    name = "parallels"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": converted("parallels"),
        "512-byte clusters": converted("parallels", "-o", "cluster_size=512"),
        "4 KiB clusters": converted("parallels", "-o", "cluster_size=4k"),
        "63 sectors": converted("parallels", "-o", "cluster_size=32256"),
        "252 KiB clusters": converted("parallels", "-o", "cluster_size=252k"),
        "16 MiB clusters": converted("parallels", "-o", "cluster_size=16M"),
        "old kind": old_kind,
    }
    cuts = (16, 20, 63, 64)
    empty = (512, MiB, MiB + 512, 1_000_001, 64 * MiB, "640M", "2T", "15T")


class TestAgreesWithQemu:
    def test_on_the_old_kind_whose_size_has_32_bits(self, plain: Path) -> None:
        set_field(patch(plain, 0, b"WithoutFreeSpace"), SECTORS, 1 << 32 | 0x100)
        ours = judge(plain)
        assert not ours.hazards
        assert ours.virtual_size == qemu_img_info(plain)["virtual-size"] == 0x100 * 512
        assert ours.features == ("old kind", "clusters of 64 KiB")

    @pytest.mark.parametrize("value", [0, 1, 0xFFFFFFFF])
    def test_that_the_place_of_the_data_is_no_matter(self, plain: Path, value: int) -> None:
        set_field(plain, DATA_OFFSET, value)
        assert not judge(plain).hazards
        assert qemu_opens(plain)


class TestTells:
    def test_that_it_is_in_use_or_was_not_closed(self, plain: Path) -> None:
        image = judge(set_field(plain, IN_USE, 0x746F6E59))
        assert codes(image) == {"dirty"}
        assert image.verdict is Verdict.OK
        assert qemu_opens(plain)
        written = ["qemu-io", "-f", "parallels", "-c", "write 0 512", str(plain)]
        done = subprocess.run(written, capture_output=True, check=False)
        assert done.returncode or b"Repairing" in done.stderr  # as newer QEMUs do

    def test_a_format_extension(self, plain: Path) -> None:
        with plain.open("r+b") as file:
            file.truncate(192 << 10)
        cluster = (struct.pack("<Q", 0)).ljust((64 << 10) - 24, b"\0")
        head = struct.pack("<Q", 0xAB234CEF23DCEA87) + hashlib.md5(cluster).digest()
        set_field(patch(plain, 128 << 10, head + cluster), EXTENSION, 256)
        image = judge(plain)
        assert not image.hazards
        assert "format extension" in image.features
        assert qemu_opens(plain)


class TestRefuses:
    @pytest.mark.parametrize("magic", [b"WithoutFreeSpace", b"WithouFreSpacExt"])
    @pytest.mark.parametrize("version", [0, 1, 3, 0xFFFFFFFF])
    def test_unknown_versions(self, plain: Path, magic: bytes, version: int) -> None:
        refused(judge(set_field(patch(plain, 0, magic), VERSION, version)), "parallels-version")
        assert not qemu_opens(plain)

    @pytest.mark.parametrize("sectors", [0, (1 << 31) // 513 + 1, 0xFFFFFFFF])
    def test_clusters_that_make_no_sense(self, plain: Path, sectors: int) -> None:
        refused(judge(set_field(plain, CLUSTER, sectors)), "parallels-invalid")
        assert not qemu_opens(plain)

    def test_a_disk_of_nothing(self, plain: Path) -> None:
        refused(judge(set_field(plain, SECTORS, 0)), "empty")

    @pytest.mark.parametrize("sectors", [20 * 2048 + 1, 1 << 54, 1 << 63, (1 << 64) - 1])
    def test_a_disk_that_its_table_does_not_cover(self, plain: Path, sectors: int) -> None:
        refused(judge(set_field(plain, SECTORS, sectors)), "parallels-invalid")

    def test_a_table_that_would_eat_memory(self, plain: Path) -> None:
        refused(judge(set_field(plain, ENTRIES, (16 << 20) + 1)), "parallels-tables")
        refused(judge(set_field(plain, ENTRIES, 0xFFFFFFFF)), "parallels-tables")

    def test_a_table_beyond_its_end(self, plain: Path) -> None:
        refused(judge(set_field(plain, ENTRIES, 16 << 10)), "parallels-truncated")

    @pytest.mark.parametrize("entry", [1, 100, 0xFFFFFFFF])
    def test_a_cluster_beyond_its_end_which_qemu_would_show_as_zeros(self, plain: Path, entry: int) -> None:
        refused(judge(set_field(plain, FIRST, entry)), "parallels-truncated")
        assert qemu_opens(plain)
        set_field(patch(plain, 0, b"WithoutFreeSpace"), FIRST, max(entry, 128))
        assert judge(plain).verdict is Verdict.REFUSE

    @pytest.mark.parametrize("offset", [1 << 54, 1 << 55, 1 << 63, (1 << 64) - 1, 1 << 20])
    def test_a_format_extension_beyond_its_end_which_may_end_qemu(self, plain: Path, offset: int) -> None:
        refused(judge(set_field(plain, EXTENSION, offset)), "parallels-truncated")
        assert not qemu_opens(plain)

    def test_a_format_extension_that_is_none(self, plain: Path) -> None:
        refused(judge(set_field(plain, EXTENSION, 1)), "parallels-invalid")
        assert not qemu_opens(plain)

    def test_a_format_extension_that_would_eat_memory(self, plain: Path) -> None:
        set_field(set_field(plain, CLUSTER, 4_000_000), EXTENSION, 1)
        refused(judge(plain), "parallels-tables")

    def test_a_file_that_was_cut_short(self, plain: Path) -> None:
        data = plain.read_bytes()
        for size in (100, 64 + 319 * 4):
            image = identify(MemoryReader(data[:size]))
            assert (image.format, image.verdict) == ("parallels", Verdict.REFUSE), size


class TestLooksInside:
    def test_and_survives_a_map_that_leads_nowhere(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "64M", "parallels", "-o", "cluster_size=512")
        last = 64 + ((64 << 11) - 1) * 4  # out of sight
        patch(path, last, struct.pack("<I", 0xFFFFFFF))
        image = judge(path)
        assert image.verdict is Verdict.OK
        with FileReader(path) as reader:
            guest = guest_disk(image, reader)
            assert guest.pread(0, 512) == bytes(512)
            with pytest.raises(CannotMap):
                guest.pread(guest.size - 512, 512)
