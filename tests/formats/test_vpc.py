"""vpc: made by qemu-img, changed by hand, judged by us and by QEMU."""

import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes.formats import magics
from probes.identify import guest_disk, identify
from probes.image import Verdict
from probes.mapping import CannotMap
from tests.formats.contract import CreatedContract, GuestContract, Pack, converted
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, qemu_version
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import FileReader, MemoryReader

GiB = 1 << 30
# The largest that a geometry tells
MAX_GEOMETRY = 65535 * 16 * 255 * 512

# A footer's fields, as (offset, struct format)
HEADER_OFFSET, CREATOR, SIZE_FIELD, TYPE, SAVED = (16, ">Q"), (28, ">4s"), (48, ">Q"), (60, ">I"), (84, ">B")
GEOMETRY = (56, ">HBB")
# The second header's, which follows the first in what qemu-img makes
COOKIE, TABLE_OFFSET, TABLE_ENTRIES, BLOCK_SIZE = (512, ">8s"), (528, ">Q"), (540, ">I"), (544, ">I")
PARENT = (576, ">512s")
TABLE = 1536


def seal(data: bytearray, at: int, length: int, field: int) -> None:
    """Put the right checksum into the header of `length` bytes at `at`."""
    data[at + field : at + field + 4] = bytes(4)
    total = sum(data[at : at + length])
    data[at + field : at + field + 4] = struct.pack(">I", ~total & 0xFFFFFFFF)


def changed(path: Path, *changes: tuple[tuple[int, str], object], footer_at: int = 0) -> Path:
    """Change fields of the footer at `footer_at` and what follows it, with the right checksums."""
    data = bytearray(path.read_bytes())
    start = len(data) + footer_at if footer_at < 0 else footer_at
    for (offset, kind), value in changes:
        values = value if isinstance(value, tuple) else (value,)
        struct.pack_into(kind, data, start + offset, *values)
    seal(data, start, 512, 64)
    if footer_at == 0:
        seal(data, 512, 1024, 36)
    path.write_bytes(data)
    return path


qemu_opens = partial(opens_as, "vpc")
refused = partial(refused_as, "vpc")


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "dynamic.vhd", "64M", "vpc")


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "fixed.vhd", "1M", "vpc", "-o", "subformat=fixed")


class TestContract(CreatedContract, GuestContract):
    name = "vpc"
    variants: ClassVar[Mapping[str, Pack]] = {
        "dynamic": converted("vpc"),
        "dynamic, size forced": converted("vpc", "-o", "force_size=on"),
    }
    cuts = (8, 100, 512, 600, 1536, 1700, 4096, 100_000, MiB, -1024)
    empty = (
        512, MiB, MiB + 512, 1_000_001, 64 * MiB, 3 * GiB, 31 * GiB + 512, 127 * GiB, MAX_GEOMETRY - 512, MAX_GEOMETRY,
        MAX_GEOMETRY + 512, 128 * GiB, 500 * GiB, 2040 * GiB,
    )  # fmt: skip


class TestFixed(CreatedContract, GuestContract):
    name = "vpc"
    variants: ClassVar[Mapping[str, Pack]] = {
        "fixed": converted("vpc", "-o", "subformat=fixed"),
        "fixed, size forced": converted("vpc", "-o", "subformat=fixed,force_size=on"),
    }
    trips = 2  # the end tells
    most_bytes = 88 << 10
    empty = (512, MiB, 1_000_001, 64 * MiB, 3 * GiB)
    create = ("-o", "subformat=fixed")
    cuts = ()  # what is cut has no end: it is a raw disk


class TestAgreesWithQemu:
    @pytest.mark.parametrize("kind", ["dynamic", "fixed"])
    @pytest.mark.parametrize("size", [1_000_001, MAX_GEOMETRY, MAX_GEOMETRY + 512])
    def test_on_a_size_that_is_forced(self, tmp_path: Path, kind: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vpc", "-o", f"subformat={kind},force_size=on")
        ours = judge(path)
        assert ours.virtual_size == qemu_img_info(path, "-f", "vpc")["virtual-size"]
        assert ours.features == (kind, "made by QEMU")
        assert not ours.hazards

    @pytest.mark.parametrize(
        "creator", ["vpc ", "qemu", "qem2", "win ", "d2v ", "tap\0", "CTXS", "tapx", "wa\0\0", "vbox"]
    )
    def test_on_whose_geometry_counts_and_whose_size(self, dynamic: Path, creator: str) -> None:
        changed(dynamic, (CREATOR, creator.encode()), (SIZE_FIELD, 20 * MiB + 700))
        assert judge(dynamic).size_in(qemu_version()) == qemu_img_info(dynamic, "-f", "vpc")["virtual-size"]

    @pytest.mark.parametrize("geometry", [(65535, 16, 255), (65535, 16, 254), (65534, 16, 255)])
    def test_on_a_geometry_that_says_that_it_is_too_small(self, dynamic: Path, geometry: tuple[int, int, int]) -> None:
        changed(dynamic, (GEOMETRY, geometry), (BLOCK_SIZE, 1 << 31), (TABLE_ENTRIES, 64), (SIZE_FIELD, 20 * MiB))
        patch(dynamic, TABLE, b"\xff" * 512)
        assert judge(dynamic).virtual_size == qemu_img_info(dynamic, "-f", "vpc")["virtual-size"]

    def test_on_a_footer_of_511_bytes(self, fixed: Path) -> None:
        with fixed.open("r+b") as file:
            file.truncate(fixed.stat().st_size - 1)
        ours = judge(fixed)
        assert (ours.format, ours.verdict) == ("vpc", Verdict.OK)
        assert ours.virtual_size == qemu_img_info(fixed, "-f", "vpc")["virtual-size"]


class TestTells:
    def test_that_two_versions_of_qemu_read_two_sizes(self, dynamic: Path) -> None:
        image = judge(changed(dynamic, (CREATOR, b"wa\0\0"), (SIZE_FIELD, 64 * MiB)))
        assert codes(image) == {"vpc-size"}
        assert image.size_in((10, 0, 2)) == 64 * MiB != image.size_in((9, 2, 4)) == image.virtual_size
        assert image.verdict is Verdict.OK
        assert str(64 * MiB) in image.hazards[0].text
        assert "made by Azure" in image.features

    def test_but_not_where_both_are_one(self, dynamic: Path) -> None:
        size = judge(dynamic).virtual_size
        assert not judge(changed(dynamic, (CREATOR, b"vbox"), (SIZE_FIELD, size))).hazards

    def test_a_saved_state(self, dynamic: Path) -> None:
        image = judge(changed(dynamic, (SAVED, 1)))
        assert codes(image) == {"saved-state"}
        assert image.verdict is Verdict.OK

    def test_a_second_header_with_a_wrong_checksum(self, dynamic: Path) -> None:
        image = judge(patch(dynamic, 512 + 800, b"x"))
        assert codes(image) == {"vpc-checksum"}
        assert qemu_opens(dynamic)

    def test_blocks_of_another_size(self, dynamic: Path) -> None:
        changed(dynamic, (BLOCK_SIZE, 4 * MiB))
        assert judge(dynamic).features == ("dynamic", "blocks of 4 MiB", "made by QEMU")


class TestRefuses:
    def test_a_differencing_disk_and_names_its_parent(self, dynamic: Path) -> None:
        parent = "base \x1b[31mdisk.vhd".encode("utf-16-be").ljust(512, b"\0")
        image = judge(changed(dynamic, (TYPE, 4), (PARENT, parent)))
        refused(image, "vpc-differencing")
        assert "disk.vhd" in image.hazards[0].text
        assert image.features[0] == "differencing"
        assert qemu_opens(dynamic)  # with its parent ignored

    @pytest.mark.parametrize("kind", [0, 2, 5, 0xFFFFFFFF])
    def test_a_head_of_another_type_which_qemu_would_show_to_the_guest(self, dynamic: Path, kind: int) -> None:
        refused(judge(changed(dynamic, (TYPE, kind))), "vpc-invalid")

    @pytest.mark.parametrize("at", [8, 40, 60, 70, 511])
    def test_a_footer_whose_checksum_is_wrong(self, dynamic: Path, fixed: Path, at: int) -> None:
        refused(judge(patch(dynamic, at, b"\xa5")), "vpc-invalid")
        assert not qemu_opens(dynamic)
        refused(judge(patch(fixed, fixed.stat().st_size - 512 + at, b"\xa5")), "vpc-invalid")
        assert not qemu_opens(fixed)

    @pytest.mark.parametrize(
        "change",
        [
            (HEADER_OFFSET, 1024),
            (HEADER_OFFSET, (1 << 64) - 1),
            (HEADER_OFFSET, 1 << 40),
            (COOKIE, b"cxsparsf"),
            (BLOCK_SIZE, 0),
            (BLOCK_SIZE, 256),
            (BLOCK_SIZE, 3 * MiB),
            (BLOCK_SIZE, 0xFFFFFFFF),
            (TABLE_ENTRIES, 31),
            (TABLE_ENTRIES, 0),
        ],
    )
    def test_headers_that_make_no_sense(self, dynamic: Path, change: tuple[tuple[int, str], object]) -> None:
        refused(judge(changed(dynamic, change)), "vpc-invalid")
        assert not qemu_opens(dynamic)

    def test_a_disk_of_more_than_2040_gib(self, dynamic: Path) -> None:
        changed(dynamic, (CREATOR, b"win "), (SIZE_FIELD, 2040 * GiB + 512))
        refused(judge(dynamic), "vpc-invalid")
        assert not qemu_opens(dynamic)
        changed(dynamic, (SIZE_FIELD, (1 << 64) - 1))
        refused(judge(dynamic), "vpc-invalid")

    def test_a_disk_of_nothing(self, dynamic: Path, fixed: Path) -> None:
        refused(judge(changed(dynamic, (GEOMETRY, (0, 16, 63)))), "empty")
        refused(judge(changed(fixed, (GEOMETRY, (10, 0, 63)), footer_at=-512)), "empty")

    def test_a_table_that_would_eat_memory(self, dynamic: Path) -> None:
        refused(judge(changed(dynamic, (TABLE_ENTRIES, (8 << 20) + 1))), "vpc-tables")
        refused(judge(changed(dynamic, (TABLE_ENTRIES, 0xFFFFFFFF))), "vpc-tables")

    @pytest.mark.parametrize("offset", [1 << 40, 1 << 63, (1 << 64) - 512])
    def test_a_table_beyond_its_end(self, dynamic: Path, offset: int) -> None:
        refused(judge(changed(dynamic, (TABLE_OFFSET, offset))), "vpc-truncated")
        assert not qemu_opens(dynamic)

    @pytest.mark.parametrize("entry", [4, 100, 0x7FFFFFFF, 0xFFFFFFFE])
    def test_a_block_beyond_its_end(self, dynamic: Path, entry: int) -> None:
        refused(judge(patch(dynamic, TABLE + 4, struct.pack(">I", entry))), "vpc-truncated")
        assert not qemu_opens(dynamic)


class TestFooterBehindADisk:
    """Which may be a fixed VHD's, or the work of the guest whose raw disk it is."""

    def test_is_believed_where_all_of_it_fits(self, fixed: Path) -> None:
        image = judge(fixed)
        assert (image.format, image.verdict) == ("vpc", Verdict.OK)
        assert image.virtual_size == fixed.stat().st_size - 512

    def test_is_not_believed_by_its_first_word_alone(self) -> None:
        for footer in (b"conectix".ljust(512, b"\0"), b"conectix".ljust(512, b"\xff")):
            refused(identify(MemoryReader(bytes(MiB) + footer)), "vpc-invalid")

    @pytest.mark.parametrize("kind", [0, 3, 4, 0xFFFFFFFF])
    def test_of_another_type_of_disk_is_the_rest_of_something_else(self, fixed: Path, kind: int) -> None:
        refused(judge(changed(fixed, (TYPE, kind), footer_at=-512)), "vpc-invalid")
        assert not qemu_opens(fixed)

    def test_that_claims_more_than_there_is_shows_that_the_rest_is_missing(self, fixed: Path) -> None:
        data = fixed.read_bytes()
        refused(identify(MemoryReader(data[512:])), "vpc-truncated")
        refused(judge(changed(fixed, (GEOMETRY, (65535, 16, 63)), footer_at=-512)), "vpc-truncated")

    def test_that_claims_less_than_there_is_does_not_fit(self, fixed: Path) -> None:
        refused(identify(MemoryReader(bytes(512) + fixed.read_bytes())), "vpc-invalid")

    def test_at_an_odd_place_is_not_found_by_qemu(self) -> None:
        for size, length in ((200_000, 511), (200_000, 512), (200_001, 512)):
            refused(identify(MemoryReader(bytes(size) + b"conectix".ljust(length, b"\0"))), "vpc-invalid")

    def test_that_lost_a_byte_or_two_is_read_as_qemu_does(self, fixed: Path) -> None:
        data = fixed.read_bytes()
        for lost in (1, 2, 100):
            assert identify(MemoryReader(data[:-lost])).verdict is Verdict.OK
        assert identify(MemoryReader(data + bytes(1))).format == "raw"  # as to QEMU, which finds no footer there

    def test_is_not_looked_for_where_the_head_says_what_it_is(self, fixed: Path, tmp_path: Path) -> None:
        qcow2 = qemu_img_create(tmp_path / "image", "1M")
        image = identify(MemoryReader(qcow2.read_bytes() + fixed.read_bytes()[-512:]))
        assert (image.format, image.verdict) == ("qcow2", Verdict.OK)

    def test_was_recognised_by_its_mark_before_and_is_no_more(self) -> None:
        assert magics.recognise_tail(MemoryReader(bytes(MiB) + b"conectix".ljust(512, b"\0"))) == []


class TestLooksInside:
    def test_but_not_by_a_map_that_leads_nowhere(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "64G", "vpc")
        last = -(-judge(path).virtual_size // (2 * MiB)) - 1
        patch(path, TABLE + last * 4, struct.pack(">I", 0xFFFFFF))  # out of sight, so it is QEMU's to judge
        image = judge(path)
        assert image.verdict is Verdict.OK
        with FileReader(path) as reader:
            guest = guest_disk(image, reader)
            assert guest.pread(0, 512) == bytes(512)
            with pytest.raises(CannotMap):
                guest.pread(guest.size - 512, 512)
        assert not qemu_opens(path)
