"""VDI: made by qemu-img, changed by hand, judged by us and by QEMU."""

import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes.identify import guest_disk
from probes.image import Verdict
from probes.mapping import CannotMap
from tests.formats.contract import CreatedContract, GuestContract, Pack, converted
from tests.formats.disks import everything
from tests.formats.images import MiB, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import FileReader

GiB = 1 << 30

# The header's fields, as (offset, struct format)
VERSION, TYPE, MAP, DATA, SECTOR = (68, "<I"), (76, "<I"), (340, "<I"), (344, "<I"), (360, "<I")
SIZE, BLOCK, EXTRA, BLOCKS, ALLOCATED = (368, "<Q"), (376, "<I"), (380, "<I"), (384, "<I"), (388, "<I")
LAST_SNAPSHOT, LINK, PARENT = (408, "<Q"), (424, "<Q"), (440, "<Q")


qemu_opens = partial(opens_as, "vdi")
refused = partial(refused_as, "vdi")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain.vdi", "64M", "vdi")


def far_map(disk: Path, path: Path) -> Path:
    """A VDI of `disk` as VirtualBox lays it out: the map 1 MiB from the start, the data on the next whole MiB."""
    run("qemu-img", "convert", "-O", "vdi", disk, path)
    data = path.read_bytes()
    old_map, old_data = struct.unpack_from("<II", data, 340)
    blocks = struct.unpack_from("<I", data, 384)[0]
    head = bytearray(data[:512].ljust(MiB, b"\0") + data[old_map : old_map + blocks * 4].ljust(MiB, b"\0"))
    struct.pack_into("<II", head, 340, MiB, 2 * MiB)
    path.write_bytes(bytes(head) + data[old_data:])
    return path


class TestContract(CreatedContract, GuestContract):
    name = "vdi"
    variants: ClassVar[Mapping[str, Pack]] = {
        "dynamic": converted("vdi"),
        "static": converted("vdi", "-o", "static=on"),
        "as VirtualBox lays it out": far_map,
    }
    cuts = (68, 100, 511, 512, 1024, 65536, MiB, -MiB)
    empty = (512, MiB, MiB + 512, 1_000_001, 64 * MiB, 3 * GiB + 512, "16T")


class TestAgreesWithQemu:
    def test_on_whether_all_of_it_lies_there(self, tmp_path: Path) -> None:
        assert judge(qemu_img_create(tmp_path / "image", MiB, "vdi")).features == ("dynamic",)
        assert judge(qemu_img_create(tmp_path / "image", MiB, "vdi", "-o", "static=on")).features == ("static",)

    @pytest.mark.parametrize("size", [1, 511, 513, 20 * MiB + 100, 64 * MiB])
    def test_on_odd_sizes_as_virtualbox_makes_them(self, plain: Path, size: int) -> None:
        set_field(plain, SIZE, size)
        ours = judge(plain)
        assert ours.virtual_size == qemu_img_info(plain)["virtual-size"] == -(-size // 512) * 512
        assert ours.verdict is Verdict.OK

    def test_on_a_snapshots_mark_which_every_virtualbox_image_has(self, plain: Path) -> None:
        assert judge(set_field(plain, LAST_SNAPSHOT, 77)).verdict is Verdict.OK
        assert qemu_opens(plain)


class TestRefuses:
    @pytest.mark.parametrize("version", [0, 1, 0x10000, 0x10002, 0x20001, 0xFFFFFFFF])
    def test_versions_that_qemu_does_not_know(self, plain: Path, version: int) -> None:
        refused(judge(set_field(plain, VERSION, version)), "vdi-version")
        assert not qemu_opens(plain)

    @pytest.mark.parametrize("field", [LINK, PARENT])
    def test_what_hangs_on_another_image(self, plain: Path, field: tuple[int, str]) -> None:
        image = judge(set_field(plain, field, 0xDEADBEEF))
        refused(image, "vdi-differencing")
        assert "(deadbeef-0000-0000-0000-000000000000)" in image.hazards[0].text
        assert not qemu_opens(plain)

    @pytest.mark.parametrize(("kind", "word"), [(3, "undo"), (4, "differencing")])
    def test_what_calls_itself_so_whatever_qemu_makes_of_it(self, plain: Path, kind: int, word: str) -> None:
        image = judge(set_field(plain, TYPE, kind))
        refused(image, "vdi-differencing")
        assert image.features == (word,)
        assert qemu_opens(plain)

    @pytest.mark.parametrize(
        ("change", "opens"),
        [
            ((TYPE, 0), True),
            ((TYPE, 5), True),
            ((MAP, 513), False),
            ((MAP, 0), True),
            ((DATA, 1025), False),
            ((DATA, 512), True),
            ((SECTOR, 4096), False),
            ((SECTOR, 0), False),
            ((BLOCK, 1 << 21), False),
            ((BLOCK, 0), False),
            ((EXTRA, 512), True),
            ((BLOCKS, 63), False),
            ((BLOCKS, 0), False),
            ((SIZE, 64 * MiB + 1), False),
            ((SIZE, 1 << 60), False),
            ((SIZE, (1 << 64) - 1), False),
        ],
    )
    def test_headers_that_make_no_sense(self, plain: Path, change: tuple[tuple[int, str], int], opens: bool) -> None:
        refused(judge(set_field(plain, *change)), "vdi-invalid")
        assert qemu_opens(plain) == opens

    @pytest.mark.parametrize("blocks", [(16 << 20) + 1, 0x1FFFFF80, 0x3FFFFFFF])
    def test_a_map_that_would_eat_memory(self, plain: Path, blocks: int) -> None:
        refused(judge(set_field(plain, BLOCKS, blocks)), "vdi-tables")

    def test_more_blocks_than_qemu_counts(self, plain: Path) -> None:
        refused(judge(set_field(plain, BLOCKS, 0x40000000)), "vdi-invalid")
        assert not qemu_opens(plain)

    def test_a_disk_of_nothing(self, plain: Path) -> None:
        refused(judge(set_field(plain, SIZE, 0)), "empty")

    def test_a_map_beyond_its_end(self, plain: Path) -> None:
        set_field(plain, DATA, 0xFFFFFE00)
        refused(judge(set_field(plain, MAP, 0x10000000)), "vdi-truncated")
        assert qemu_opens(plain)  # and shows the first block everywhere

    @pytest.mark.parametrize("entry", [0, 100, 0xFFFFFFFD])
    def test_a_block_beyond_its_end(self, plain: Path, entry: int) -> None:
        refused(judge(patch(plain, 512 + 4, struct.pack("<I", entry))), "vdi-truncated")


class TestLooksInside:
    def test_with_blocks_written_out_of_order_and_discarded(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", 9 * MiB + 512, "vdi")
        commands = ("write -P 1 8M 1k", "write -P 2 1M 3M", "write -P 3 100 512", "write -P 4 9M 512")
        run("qemu-io", *(word for command in commands for word in ("-c", command)), path)
        patch(path, 512 + 2 * 4, struct.pack("<I", 0xFFFFFFFE))
        run("qemu-img", "convert", "-f", "vdi", "-O", "raw", path, tmp_path / "raw")
        assert everything(path) == (tmp_path / "raw").read_bytes()

    def test_but_not_what_leads_nowhere(self, tmp_path: Path, raw_disk: Path) -> None:
        path = far_map(raw_disk, tmp_path / "image")
        patch(path, MiB, struct.pack("<I", 1000))
        image = judge(path)
        assert image.verdict is Verdict.OK
        assert image.media.firmware is None
        with FileReader(path) as reader, pytest.raises(CannotMap):
            guest_disk(image, reader).pread(0, 512)
