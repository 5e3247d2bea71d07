"""VMDK: made by qemu-img or as VMware streams it, changed by hand, judged by us and by QEMU."""

import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes.identify import identify
from probes.image import Backing, Verdict
from tests.formats.contract import CreatedContract, GuestContract, Pack, built, converted
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import MemoryReader
from tests.formats.streams import stream
from tests.formats.vmdks import (
    CAPACITY,
    COMPRESSION,
    DATA,
    DESCRIPTOR,
    DIRECTORY,
    ENTRIES,
    FLAGS,
    GRAIN,
    SECOND,
    TEXT_OFFSET,
    UNCLEAN,
    VARIANTS,
    VERSION,
    described,
)

qemu_opens = partial(opens_as, "vmdk")
refused = partial(refused_as, "vmdk")

GiB = 1 << 30

PARTED = ("monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain.vmdk", "64M", "vmdk")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "packed.vmdk", "64M", "vmdk", "-o", "subformat=streamOptimized")


@pytest.fixture
def streamed(tmp_path: Path, raw_disk: Path) -> Path:
    path = tmp_path / "streamed.vmdk"
    path.write_bytes(stream(raw_disk.read_bytes()))
    return path


class TestContract(CreatedContract, GuestContract):
    name = "vmdk"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": converted("vmdk"),
        "zeroed grains": converted("vmdk", "-o", "zeroed_grain=on"),
        "stream": converted("vmdk", "-o", "subformat=streamOptimized"),
        "stream, zeroed grains": converted("vmdk", "-o", "subformat=streamOptimized,zeroed_grain=on"),
    }
    cuts = (4, 79, 512, 600, 12000, 20000, 60000, 65536)
    empty = (512, MiB, MiB + 512, 1_000_001, 64 * MiB, 3 * GiB + 512, 2048 * GiB, 60_000 * GiB)


class TestStream(CreatedContract, GuestContract):
    """As VMware writes them, with a footer."""

    name = "vmdk"
    variants: ClassVar[Mapping[str, Pack]] = {"with a footer": built(stream)}
    trips = 2
    most_bytes = 88 << 10
    cuts = (4, 79, 512, 1000, 1535, 1536, 65536, -1536, -1024, -512)
    create = ("-o", "subformat=streamOptimized")
    empty = (512, MiB + 512, 3 * GiB + 512, 2048 * GiB)


class TestAgreesWithQemu:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_on_what_qemu_img_makes(self, tmp_path: Path, variant: str) -> None:
        path = qemu_img_create(tmp_path / "image", MiB, "vmdk", "-o", VARIANTS[variant])
        kind = qemu_img_info(path)["format-specific"]["data"]["create-type"]
        image = judge(path)
        assert image.features[0] == kind.replace("monolithicSparse", "sparse")
        assert not image.hazards

    def test_on_what_the_guest_is_to_find(self, tmp_path: Path) -> None:
        options = "adapter_type=lsilogic,hwversion=17,zeroed_grain=on"
        path = qemu_img_create(tmp_path / "image", "64M", "vmdk", "-o", options)
        words = ("sparse", "version 2", "zeroed grains", "adapter lsilogic", "hardware version 17")
        assert judge(path).features == words

    @pytest.mark.parametrize("subformat", PARTED)
    @pytest.mark.parametrize("size", [MiB, 1_000_001, 5 * GiB])
    def test_on_the_size_of_a_disk_in_several_files(self, tmp_path: Path, subformat: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image.vmdk", size, "vmdk", "-o", f"subformat={subformat}")
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == ("vmdk", theirs["virtual-size"])
        assert ours.features[0] == theirs["format-specific"]["data"]["create-type"]

    def test_on_a_stream_with_a_footer(self, streamed: Path) -> None:
        words = ("streamOptimized", "version 3", "adapter lsilogic", "hardware version 17")
        assert judge(streamed).features == words

    @pytest.mark.parametrize("entries", [1, 100, 511, 512])
    @pytest.mark.parametrize("grain", [1, 8, 4096, 1 << 17])
    def test_on_other_grains_and_tables(self, plain: Path, entries: int, grain: int) -> None:
        capacity = min(300 * entries * grain - 7, 1 << 32)
        for field, value in ((ENTRIES, entries), (GRAIN, grain), (CAPACITY, capacity)):
            set_field(plain, field, value)
        patch(plain, struct.unpack("<Q", plain.read_bytes()[56:64])[0] * 512, bytes(2048))
        ours = judge(plain)
        assert ours.verdict is Verdict.OK, ours.hazards
        assert ours.virtual_size == qemu_img_info(plain, "-f", "vmdk")["virtual-size"]

    def test_on_a_parent(self, tmp_path: Path) -> None:
        qemu_img_create(tmp_path / "base.vmdk", "64M", "vmdk")
        options = ("-b", "base.vmdk", "-F", "vmdk")
        for kind in ("monolithicSparse", "streamOptimized"):
            path = tmp_path / f"{kind}.vmdk"
            run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={kind}", *options, path)
            ours, theirs = judge(path), qemu_img_info(path)
            assert ours.backing == Backing(theirs["backing-filename"], "vmdk")
            assert ours.virtual_size == theirs["virtual-size"]
            assert codes(ours) == {"backing-file"}
            assert ours.verdict is Verdict.ASK


class TestTells:
    def test_that_it_was_not_closed(self, plain: Path) -> None:
        image = judge(set_field(plain, UNCLEAN, 1))
        assert codes(image) == {"dirty"}
        assert image.verdict is Verdict.OK

    def test_that_it_was_taken_for_a_text(self, plain: Path) -> None:
        image = judge(patch(plain, 73, b"\n \n\n"))
        assert codes(image) == {"vmdk-newlines"}
        assert image.verdict is Verdict.OK

    def test_grains_of_another_size(self, plain: Path) -> None:
        assert "grains of 4 KiB" in judge(set_field(plain, GRAIN, 8)).features


class TestRefuses:
    @pytest.mark.parametrize("version", [0, 4, 0xFFFFFFFF])
    def test_versions_that_nobody_knows(self, plain: Path, version: int) -> None:
        refused(judge(set_field(plain, VERSION, version)), "vmdk-version")
        assert qemu_opens(plain) == (version == 0)

    @pytest.mark.parametrize(
        ("change", "opens"),
        [
            ((ENTRIES, 0), False),
            ((ENTRIES, 513), False),
            ((ENTRIES, 0xFFFFFFFF), False),
            ((GRAIN, 0), False),
            ((GRAIN, 100), True),
            ((GRAIN, (1 << 32) + 128), False),
            ((GRAIN, (1 << 64) - 1), False),
            ((DIRECTORY, 0), True),
            ((TEXT_OFFSET, 2), True),
            ((TEXT_OFFSET, 1 << 62), True),
        ],
    )
    def test_headers_that_make_no_sense(self, plain: Path, change: tuple[tuple[int, str], int], opens: bool) -> None:
        refused(judge(set_field(plain, *change)), "vmdk-invalid")
        assert qemu_opens(plain) == opens

    @pytest.mark.parametrize("change", [("CID=", "CDI="), ("parentCID=ffffffff", "parentCID=none"), ("CID=", "CID =")])
    def test_a_descriptor_without_numbers(self, plain: Path, change: tuple[str, str]) -> None:
        refused(judge(described(plain, change)), "vmdk-invalid")
        assert not qemu_opens(plain)

    def test_an_image_without_a_descriptor(self, plain: Path) -> None:
        refused(judge(patch(plain, DESCRIPTOR, bytes(10240))), "vmdk-part")
        refused(judge(set_field(plain, TEXT_OFFSET, 0)), "vmdk-part")
        assert not qemu_opens(plain)

    @pytest.mark.parametrize(
        "change",
        [
            (DIRECTORY, 1 << 30),
            (DIRECTORY, 1 << 54),
            (DIRECTORY, (1 << 55) + 26),
            (SECOND, 1 << 40),
            (DATA, 1 << 30),
            (DATA, (1 << 64) - 1),
        ],
    )
    def test_what_lies_beyond_its_end(self, plain: Path, change: tuple[tuple[int, str], int]) -> None:
        refused(judge(set_field(plain, *change)), "vmdk-truncated")

    @pytest.mark.parametrize("change", [(CAPACITY, 1 << 54), (CAPACITY, (1 << 64) - 1), (CAPACITY, (1 << 48) + 1)])
    def test_a_directory_that_would_eat_memory(self, plain: Path, change: tuple[tuple[int, str], int]) -> None:
        refused(judge(set_field(plain, *change)), "vmdk-tables")

    def test_grains_that_would_eat_memory(self, plain: Path, packed: Path) -> None:
        refused(judge(set_field(plain, GRAIN, 1 << 18)), "vmdk-tables")
        assert qemu_opens(plain)
        refused(judge(set_field(packed, GRAIN, 1 << 13)), "vmdk-tables")
        assert judge(set_field(packed, GRAIN, 1 << 12)).verdict is Verdict.OK

    def test_a_disk_of_nothing(self, plain: Path) -> None:
        set_field(plain, CAPACITY, 0)
        refused(judge(set_field(plain, TEXT_OFFSET, 0)), "empty")

    @pytest.mark.parametrize(("flags", "method"), [(0x30003, 0), (0x30003, 2), (3, 1), (0x10003, 1), (3, 2)])
    def test_packing_that_nobody_knows(self, packed: Path, flags: int, method: int) -> None:
        set_field(packed, FLAGS, flags)
        refused(judge(set_field(packed, COMPRESSION, method)), "vmdk-compression")

    @pytest.mark.parametrize("kind", ["monolithicSparse", "streamOptimized"])
    def test_one_that_was_cut_in_half(self, tmp_path: Path, raw_disk: Path, kind: str) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "vmdk", "-o", f"subformat={kind}", raw_disk, path)
        data = path.read_bytes()
        assert identify(MemoryReader(data[: len(data) // 2])).verdict is Verdict.REFUSE


class TestFooter:
    """The end of a stream, whose header says nothing of where the grain directory lies."""

    def test_that_is_not_there_shows_that_it_was_cut_short(self, streamed: Path, tmp_path: Path) -> None:
        data = streamed.read_bytes()
        for size in (512, 1000, 1535, 1536, 65536, len(data) - 1536, len(data) - 1024, len(data) - 512):
            refused(identify(MemoryReader(data[:size])), "vmdk-truncated")
            (tmp_path / "cut").write_bytes(data[:size])
            assert not qemu_opens(tmp_path / "cut"), size

    @pytest.mark.parametrize(
        ("at", "value"),
        [(-1536 + 8, b"\1"), (-1536 + 12, b"\2"), (-1024, b"COWD"), (-512, b"\1"), (-504, b"\1"), (-500, b"\3")],
    )
    def test_of_another_kind_is_none(self, streamed: Path, at: int, value: bytes) -> None:
        refused(judge(patch(streamed, streamed.stat().st_size + at, value)), "vmdk-truncated")
        assert not qemu_opens(streamed)

    def test_counts_before_the_header(self, streamed: Path) -> None:
        footer = streamed.stat().st_size - 1024
        patch(streamed, CAPACITY[0], b"\1")
        assert judge(streamed).virtual_size == qemu_img_info(streamed, "-f", "vmdk")["virtual-size"]
        refused(judge(set_field(streamed, (footer + VERSION[0], "<I"), 4)), "vmdk-version")
        assert not qemu_opens(streamed)

    def test_that_sends_back_to_a_footer_is_refused(self, streamed: Path) -> None:
        footer = streamed.stat().st_size - 1024
        refused(judge(set_field(streamed, (footer + DIRECTORY[0], "<Q"), (1 << 64) - 1)), "vmdk-truncated")
        assert not qemu_opens(streamed)

    def test_that_lost_its_last_bytes_is_read_as_qemu_does(self, streamed: Path) -> None:
        with streamed.open("r+b") as file:
            file.truncate(streamed.stat().st_size - 500)
        assert judge(streamed).verdict is Verdict.OK
        assert qemu_opens(streamed)
