"""vpc: made by qemu-img, changed by hand, judged by us and by QEMU."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.formats import magics
from probes.identify import guest_disk, identify
from probes.image import Image, Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats.disks import everything, small_disk
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.test_hostile import sound

GiB = 1 << 30
MAX_GEOMETRY = 65535 * 16 * 255 * 512

VARIANTS: dict[str, tuple[str, ...]] = {
    "dynamic": (),
    "dynamic, size forced": ("-o", "force_size=on"),
    "fixed": ("-o", "subformat=fixed"),
    "fixed, size forced": ("-o", "subformat=fixed,force_size=on"),
}
SIZES = (512, MiB, MiB + 512, 1_000_001, 64 * MiB, 3 * GiB, 31 * GiB + 512)
VAST = (127 * GiB, MAX_GEOMETRY - 512, MAX_GEOMETRY, MAX_GEOMETRY + 512, 128 * GiB, 500 * GiB, 2040 * GiB)

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


def qemu_opens(path: Path) -> bool:
    done = subprocess.run(["qemu-img", "info", "-f", "vpc", path], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def dynamic(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "dynamic.vhd", "64M", "vpc")


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "fixed.vhd", "1M", "vpc", "-o", "subformat=fixed")


def refused(image: Image, code: str) -> None:
    assert image.format == "vpc"
    assert codes(image) == {code}
    assert image.verdict is Verdict.REFUSE
    assert all(hazard.text.isprintable() for hazard in image.hazards)


class TestAgreesWithQemu:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("size", SIZES)
    def test_on_what_qemu_img_makes(self, tmp_path: Path, variant: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vpc", *VARIANTS[variant])
        ours, theirs = judge(path), qemu_img_info(path, "-f", "vpc")
        assert (ours.format, ours.virtual_size) == ("vpc", theirs["virtual-size"])
        assert ours.file_size == path.stat().st_size
        assert not ours.hazards
        assert ours.features == (variant.partition(",")[0], "made by QEMU")

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("size", VAST)
    def test_on_vast_disks(self, tmp_path: Path, variant: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vpc", *VARIANTS[variant])
        ours = judge(path)
        assert ours.virtual_size == qemu_img_info(path, "-f", "vpc")["virtual-size"]
        assert not ours.hazards

    @pytest.mark.parametrize(
        "creator", ["vpc ", "qemu", "qem2", "win ", "d2v ", "tap\0", "CTXS", "tapx", "wa\0\0", "vbox"]
    )
    def test_on_whose_geometry_counts_and_whose_size(self, dynamic: Path, creator: str) -> None:
        changed(dynamic, (CREATOR, creator.encode()), (SIZE_FIELD, 20 * MiB + 700))
        assert judge(dynamic).virtual_size == qemu_img_info(dynamic, "-f", "vpc")["virtual-size"]

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

    def test_a_dynamic_disk_that_was_cut_short(self, tmp_path: Path) -> None:
        disk = small_disk(tmp_path)
        run("qemu-img", "convert", "-O", "vpc", disk, tmp_path / "image")
        data = (tmp_path / "image").read_bytes()
        for size in (8, 100, 512, 600, 1536, 1700, 4096, 100_000, MiB, len(data) - 1024):
            image = identify(MemoryReader(data[:size]))
            assert (image.format, image.verdict) == ("vpc", Verdict.REFUSE), size
        assert judge(tmp_path / "image").verdict is Verdict.OK


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


class TestReadsLittle:
    @pytest.mark.parametrize(("variant", "trips"), [("dynamic", 1), ("fixed", 2)])
    def test_one_read_settles_the_format_or_two_where_the_end_tells(
        self, tmp_path: Path, variant: str, trips: int
    ) -> None:
        path = qemu_img_create(tmp_path / "image", "64M", "vpc", *VARIANTS[variant])
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            assert identify(recorder, look_inside=False).format == "vpc"
            assert recorder.trips == recorder.reads == trips
            assert recorder.bytes_read <= 88 << 10

    def test_a_table_far_away_is_left_where_it_is(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "2040G", "vpc", "-o", "force_size=on")
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            assert identify(recorder, look_inside=False).verdict is Verdict.OK
            assert (recorder.trips, recorder.bytes_read) == (1, 64 << 10)


class TestLooksInside:
    @pytest.fixture(scope="class")
    def disk(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return small_disk(tmp_path_factory.mktemp("disk"))

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_and_sees_what_a_raw_disk_would_show(self, tmp_path: Path, disk: Path, variant: str) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "vpc", *VARIANTS[variant], disk, path)
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            image = identify(recorder)
            assert recorder.trips <= 8
        assert [part.filesystem and part.filesystem.type for part in image.media.partitions] == ["vfat", "ext4"]
        assert image.media == judge(disk).media

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_and_maps_every_byte_as_qemu_does(self, tmp_path: Path, disk: Path, variant: str) -> None:
        path, back = tmp_path / "image", tmp_path / "back"
        run("qemu-img", "convert", "-O", "vpc", *VARIANTS[variant], disk, path)
        run("qemu-img", "convert", "-f", "vpc", "-O", "raw", path, back)
        assert everything(path) == back.read_bytes()

    def test_and_survives_a_map_that_leads_nowhere(self, tmp_path: Path) -> None:
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


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    folder = tmp_path_factory.mktemp("seeds")
    run("mkfs.vfat", "-C", folder / "fat", "1000")
    run("qemu-img", "convert", "-O", "vpc", folder / "fat", folder / "dynamic")
    run("qemu-img", "convert", "-O", "vpc", "-o", "subformat=fixed", folder / "fat", folder / "fixed")
    return (folder / "dynamic").read_bytes(), (folder / "fixed").read_bytes()


FIELDS = st.sampled_from(
    [8, 16, 20, 24, 28, 48, 52, 56, 58, 60, 84, 512, 516, 528, 532, 540, 544, 548, 576, 1536, 1540]
)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 32, 512, 1536, 1 << 21, 1 << 31, 0x7FFFFFFF, 0xFFFFFFFF]),
    st.integers(0, 0xFFFFFFFF),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 1), changes=st.lists(st.tuples(FIELDS, NUMBERS), min_size=1, max_size=3), cut=st.integers(0, 9)
)
def test_what_is_judged_sound_after_any_change_opens_in_qemu_with_that_size(
    tmp_path: Path, seeds: tuple[bytes, ...], which: int, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seeds[which])
    start = 0 if which == 0 else len(data) - 512
    for offset, value in changes:
        if start + offset + 4 <= len(data):
            data[start + offset : start + offset + 4] = struct.pack(">I", value)
    seal(data, start, 512, 64)
    if which == 0:
        seal(data, 512, 1024, 36)
    whole = bytes(data[: len(data) * (20 - cut) // 20] if cut > 5 else data)
    recorder = RecordingReader(MemoryReader(whole))
    image = identify(recorder)
    sound(image, recorder)
    if image.format != "vpc" or image.verdict is Verdict.REFUSE:
        return
    path = tmp_path / "image"
    path.write_bytes(whole)
    assert qemu_img_info(path, "-f", "vpc")["virtual-size"] == image.virtual_size
