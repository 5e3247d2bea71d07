"""VMDK: made by qemu-img or as VMware streams it, changed by hand, judged by us and by QEMU."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.identify import identify
from probes.image import Backing, Verdict
from probes.recording import RecordingReader
from tests.formats.disks import small_disk
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.readers import MemoryReader
from tests.formats.streams import stream
from tests.formats.test_hostile import sound
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
    qemu_opens,
    refused,
)

GiB = 1 << 30

PARTED = ("monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat")
SIZES = (512, MiB, MiB + 512, 1_000_001, 64 * MiB, 3 * GiB + 512, 2048 * GiB, 60_000 * GiB)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain.vmdk", "64M", "vmdk")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "packed.vmdk", "64M", "vmdk", "-o", "subformat=streamOptimized")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def streamed(tmp_path: Path, disk: Path) -> Path:
    path = tmp_path / "streamed.vmdk"
    path.write_bytes(stream(disk.read_bytes()))
    return path


class TestAgreesWithQemu:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("size", SIZES)
    def test_on_what_qemu_img_makes(self, tmp_path: Path, variant: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vmdk", "-o", VARIANTS[variant])
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == (theirs["format"], theirs["virtual-size"])
        assert not ours.hazards
        kind = theirs["format-specific"]["data"]["create-type"]
        assert ours.features[0] == kind.replace("monolithicSparse", "sparse")

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

    def test_on_a_stream_with_a_footer(self, streamed: Path, disk: Path) -> None:
        ours, theirs = judge(streamed), qemu_img_info(streamed, "-f", "vmdk")
        assert ours.virtual_size == theirs["virtual-size"] == disk.stat().st_size
        assert not ours.hazards
        assert ours.features == ("streamOptimized", "version 3", "adapter lsilogic", "hardware version 17")

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

    def test_one_that_was_cut_short(self, tmp_path: Path, disk: Path) -> None:
        for options in ("subformat=monolithicSparse", "subformat=streamOptimized"):
            path = tmp_path / "image"
            run("qemu-img", "convert", "-O", "vmdk", "-o", options, disk, path)
            data = path.read_bytes()
            for size in (4, 79, 512, 600, 12000, 20000, 60000, 65536, len(data) // 2):
                image = identify(MemoryReader(data[:size]))
                assert (image.format, image.verdict) == ("vmdk", Verdict.REFUSE), (options, size)
            assert identify(MemoryReader(data)).verdict is Verdict.OK


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


FIELDS = st.sampled_from([4, 8, 12, 16, 20, 24, 28, 44, 48, 52, 56, 60, 64, 72, 76])
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 8, 20, 26, 128, 512, 513, 1 << 16, 0x30003, 1 << 21, 1 << 31, 0xFFFFFFFF]),
    st.integers(0, 0xFFFFFFFF),
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    folder = tmp_path_factory.mktemp("seeds")
    run("mkfs.vfat", "-C", folder / "fat", "1000")
    for name, options in (("plain", "zeroed_grain=on"), ("packed", "subformat=streamOptimized")):
        run("qemu-img", "convert", "-O", "vmdk", "-o", options, folder / "fat", folder / name)
    files = [(folder / name).read_bytes() for name in ("plain", "packed")]
    return (*files, stream((folder / "fat").read_bytes()))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 2),
    changes=st.lists(st.tuples(FIELDS, NUMBERS), max_size=3),
    words=st.lists(st.tuples(st.integers(512, 1100), st.binary(min_size=1, max_size=4)), max_size=2),
    cut=st.integers(0, 12),
)
def test_what_is_judged_sound_after_any_change_opens_in_qemu_with_that_size(
    tmp_path: Path,
    seeds: tuple[bytes, ...],
    which: int,
    changes: list[tuple[int, int]],
    words: list[tuple[int, bytes]],
    cut: int,
) -> None:
    data = bytearray(seeds[which])
    start = len(data) - 1024 if which == 2 else 0
    for offset, value in changes:
        data[start + offset : start + offset + 4] = struct.pack("<I", value)
    for offset, raw in words:
        data[offset : offset + len(raw)] = raw
    whole = bytes(data[: len(data) * (20 - cut) // 20] if cut > 8 else data)
    recorder = RecordingReader(MemoryReader(whole))
    image = identify(recorder)
    sound(image, recorder)
    if image.format != "vmdk" or image.verdict is not Verdict.OK:
        return
    path = tmp_path / "image"
    path.write_bytes(whole)
    told = qemu_img_info(path, "-f", "vmdk")
    assert told["virtual-size"] == image.virtual_size
    assert "backing-filename" not in told
    assert [extent["filename"] for extent in told["format-specific"]["data"]["extents"]] == [str(path)]
