"""VDI: made by qemu-img, changed by hand, judged by us and by QEMU."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.identify import guest_disk, identify
from probes.image import Firmware, Image, Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats.disks import everything, small_disk
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.test_hostile import sound

GiB = 1 << 30

# The header's fields, as (offset, struct format)
VERSION, TYPE, MAP, DATA, SECTOR = (68, "<I"), (76, "<I"), (340, "<I"), (344, "<I"), (360, "<I")
SIZE, BLOCK, EXTRA, BLOCKS, ALLOCATED = (368, "<Q"), (376, "<I"), (380, "<I"), (384, "<I"), (388, "<I")
LAST_SNAPSHOT, LINK, PARENT = (408, "<Q"), (424, "<Q"), (440, "<Q")


def qemu_opens(path: Path) -> bool:
    return subprocess.run(["qemu-img", "info", "-f", "vdi", path], capture_output=True, check=False).returncode == 0


def refused(image: Image, code: str) -> None:
    assert image.format == "vdi"
    assert codes(image) == {code}, image.hazards
    assert image.verdict is Verdict.REFUSE
    assert all(hazard.text.isprintable() for hazard in image.hazards)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain.vdi", "64M", "vdi")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_disk(tmp_path_factory.mktemp("disk"))


def far_map(path: Path, disk: Path) -> Path:
    """A VDI of `disk` as VirtualBox lays it out: the map 1 MiB from the start, the data on the next whole MiB."""
    run("qemu-img", "convert", "-O", "vdi", disk, path)
    data = path.read_bytes()
    old_map, old_data = struct.unpack_from("<II", data, 340)
    blocks = struct.unpack_from("<I", data, 384)[0]
    head = bytearray(data[:512].ljust(MiB, b"\0") + data[old_map : old_map + blocks * 4].ljust(MiB, b"\0"))
    struct.pack_into("<II", head, 340, MiB, 2 * MiB)
    path.write_bytes(bytes(head) + data[old_data:])
    return path


class TestAgreesWithQemu:
    @pytest.mark.parametrize("size", [512, MiB, MiB + 512, 1_000_001, 64 * MiB, 3 * GiB + 512, 16 << 40])
    def test_on_what_qemu_img_makes(self, tmp_path: Path, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vdi")
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == (theirs["format"], theirs["virtual-size"])
        assert ours.features == ("dynamic",)
        assert not ours.hazards

    @pytest.mark.parametrize("size", [512, MiB, 1_000_001, 64 * MiB])
    def test_on_what_lies_there_whole(self, tmp_path: Path, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vdi", "-o", "static=on")
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == (theirs["format"], theirs["virtual-size"])
        assert ours.features == ("static",)
        assert not ours.hazards

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

    def test_one_that_was_cut_short(self, tmp_path: Path, disk: Path) -> None:
        for path in (tmp_path / "near", tmp_path / "far"):
            if path.name == "far":
                far_map(path, disk)
            else:
                run("qemu-img", "convert", "-O", "vdi", disk, path)
            data = path.read_bytes()
            for size in (68, 100, 511, 512, 1024, 65536, MiB, len(data) // 2, len(data) - MiB):
                image = identify(MemoryReader(data[:size]))
                assert (image.format, image.verdict) == ("vdi", Verdict.REFUSE), (path.name, size)
            assert identify(MemoryReader(data)).verdict is Verdict.OK


class TestReadsLittle:
    @pytest.mark.parametrize("size", ["1M", "16T"])
    def test_one_read_settles_it(self, tmp_path: Path, size: str) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vdi")
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            assert identify(recorder, look_inside=False).verdict is Verdict.OK
            assert (recorder.trips, recorder.bytes_read) == (1, min(path.stat().st_size, 64 << 10))

    def test_wherever_its_map_lies(self, tmp_path: Path, disk: Path) -> None:
        with FileReader(far_map(tmp_path / "image", disk)) as reader:
            recorder = RecordingReader(reader)
            assert identify(recorder, look_inside=False).verdict is Verdict.OK
            assert recorder.trips == 1


class TestLooksInside:
    @pytest.mark.parametrize("kind", ["dynamic", "static", "as VirtualBox"])
    def test_and_sees_what_a_raw_disk_would_show(self, tmp_path: Path, disk: Path, kind: str) -> None:
        path = tmp_path / "image"
        if kind == "as VirtualBox":
            far_map(path, disk)
        else:
            run("qemu-img", "convert", "-O", "vdi", "-o", f"static={'on' if kind == 'static' else 'off'}", disk, path)
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            image = identify(recorder)
            assert recorder.trips <= 8
        assert image.media == judge(disk).media
        assert image.media.firmware == frozenset({Firmware.UEFI})
        run("qemu-img", "convert", "-f", "vdi", "-O", "raw", path, tmp_path / "raw")
        assert everything(path) == (tmp_path / "raw").read_bytes() == disk.read_bytes()

    def test_with_blocks_written_out_of_order_and_discarded(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", 9 * MiB + 512, "vdi")
        commands = ("write -P 1 8M 1k", "write -P 2 1M 3M", "write -P 3 100 512", "write -P 4 9M 512")
        run("qemu-io", *(word for command in commands for word in ("-c", command)), path)
        patch(path, 512 + 2 * 4, struct.pack("<I", 0xFFFFFFFE))
        run("qemu-img", "convert", "-f", "vdi", "-O", "raw", path, tmp_path / "raw")
        assert everything(path) == (tmp_path / "raw").read_bytes()

    def test_but_not_what_leads_nowhere(self, tmp_path: Path, disk: Path) -> None:
        path = far_map(tmp_path / "image", disk)
        patch(path, MiB, struct.pack("<I", 1000))
        image = judge(path)
        assert image.verdict is Verdict.OK
        assert image.media.firmware is None
        with FileReader(path) as reader, pytest.raises(CannotMap):
            guest_disk(image, reader).pread(0, 512)


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("seeds")
    run("mkfs.vfat", "-C", folder / "fat", "3000")
    run("qemu-img", "convert", "-O", "vdi", folder / "fat", folder / "image")
    return (folder / "image").read_bytes()


FIELDS = st.sampled_from(
    [64, 68, 72, 76, 80, 340, 344, 360, 368, 372, 376, 380, 384, 388, 392, 424, 440, 512, 516, 520]
)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 512, 1024, 0x10001, 1 << 20, 1 << 21, 1 << 31, 0x1FFFFF80, 0xFFFFFFFE, 0xFFFFFFFF]),
    st.integers(0, 0xFFFFFFFF),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(FIELDS, NUMBERS), max_size=3), cut=st.integers(0, 12))
def test_what_is_judged_sound_after_any_change_opens_in_qemu_with_that_size(
    tmp_path: Path, seed: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(seed)
    for offset, value in changes:
        data[offset : offset + 4] = struct.pack("<I", value)
    whole = bytes(data[: len(data) * (20 - cut) // 20] if cut > 8 else data)
    recorder = RecordingReader(MemoryReader(whole))
    image = identify(recorder)
    sound(image, recorder)
    if image.format != "vdi" or image.verdict is Verdict.REFUSE:
        return
    path = tmp_path / "image"
    path.write_bytes(whole)
    assert qemu_img_info(path, "-f", "vdi")["virtual-size"] == image.virtual_size
