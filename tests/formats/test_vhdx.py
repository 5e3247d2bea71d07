"""vhdx: made by qemu-img, changed by hand, judged by us and by QEMU."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.formats.vhdx_checksum import crc32c
from probes.identify import guest_disk, identify
from probes.image import Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats.contract import CreatedContract, GuestContract, Pack, converted
from tests.formats.images import MiB, codes, judge, qemu_img_create, qemu_img_info, run
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.vhdx_images import (
    GUID,
    ITEMS,
    METADATA,
    SOUND,
    TABLE,
    UNSOUND,
    Edit,
    differencing,
    dirty_log,
    field,
    header,
    locator,
    region,
    several,
)

Change = Callable[[Edit], Path]


qemu_opens = partial(opens_as, "vhdx")
refused = partial(refused_as, "vhdx")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("vhdx") / "image"
    return qemu_img_create(path, "20M", "vhdx", "-o", "block_size=1M").read_bytes()


@pytest.fixture
def change(tmp_path: Path, pristine: bytes) -> Change:
    def changed(edit: Edit) -> Path:
        data = bytearray(pristine)
        edit(data)
        path = tmp_path / "image.vhdx"
        path.write_bytes(data)
        return path

    return changed


class TestContract(CreatedContract, GuestContract):
    name = "vhdx"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": converted("vhdx"),
        "fixed": converted("vhdx", "-o", "subformat=fixed"),
        "1 MiB blocks": converted("vhdx", "-o", "block_size=1M"),
        "256 MiB blocks": converted("vhdx", "-o", "block_size=256M"),
        "fixed, 1 MiB blocks": converted("vhdx", "-o", "subformat=fixed,block_size=1M"),
    }
    trips = 2
    most_bytes = 92 << 10
    qemu_looks_further = True  # over all 64 KiB of the region table, of which the first four are read
    cuts = (
        8, 600, 65536, 65540, 70_000, 135_000, 200_000, 300_000, MiB, 2 * MiB, 3 * MiB, ITEMS, ITEMS + 20,
    )  # fmt: skip
    empty = (512, MiB, MiB + 512, 1_000_001, 64 * MiB, 5 << 30, "1T", 2040 << 30)


class TestAgreesWithQemu:
    @pytest.mark.parametrize("kind", ["dynamic", "fixed"])
    def test_on_whether_all_of_it_lies_there(self, tmp_path: Path, kind: str) -> None:
        path = qemu_img_create(tmp_path / "image", MiB, "vhdx", "-o", f"subformat={kind}")
        assert judge(path).features[0] == kind

    @pytest.mark.parametrize("size", [33 << 40, 64 << 40])
    def test_on_vast_disks(self, tmp_path: Path, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vhdx")
        ours = judge(path)
        assert ours.virtual_size == qemu_img_info(path)["virtual-size"]
        assert not ours.hazards

    @pytest.mark.parametrize("case", SOUND)
    def test_on_what_is_sound(self, change: Change, case: str) -> None:
        path = change(SOUND[case])
        ours = judge(path)
        assert not ours.hazards
        assert ours.virtual_size == qemu_img_info(path)["virtual-size"]


class TestTells:
    def test_that_it_was_not_closed_though_nothing_is_missing(self, change: Change) -> None:
        path = change(header(48, "16s", GUID))
        image = judge(path)
        assert codes(image) == {"dirty"}
        assert image.verdict is Verdict.OK
        assert qemu_opens(path)


class TestRefuses:
    def test_a_dirty_log_and_says_what_to_do(self, change: Change) -> None:
        path = change(dirty_log)
        image = judge(path)
        refused(image, "vhdx-dirty-log")
        assert not qemu_opens(path)
        assert "qemu-img check -r all" in image.hazards[0].text
        assert image.virtual_size == 20 * MiB
        run("qemu-img", "check", "-q", "-r", "all", path)
        assert not judge(path).hazards

    def test_a_dirty_log_of_another_length_unseen(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "20M", "vhdx", "-o", "log_size=2M")
        data = bytearray(path.read_bytes())
        header(48, "16s", GUID)(data)
        refused(identify(MemoryReader(bytes(data))), "vhdx-dirty-log")

    def test_a_differencing_disk_and_names_its_parent(self, change: Change) -> None:
        texts = (("parent_linkage", "{1-2-3}"), ("relative_path", "..\\base \x1b[31mdisk.vhdx"))
        path = change(differencing(locator(*texts)))
        image = judge(path)
        refused(image, "vhdx-differencing")
        assert "base \\x1b[31mdisk.vhdx" in image.hazards[0].text
        assert image.features[0] == "differencing"
        assert image.virtual_size == 20 * MiB
        assert not qemu_opens(path)

    def test_a_differencing_disk_whose_locator_is_garbage(self, change: Change) -> None:
        refused(judge(change(differencing(b"\xff" * 60))), "vhdx-differencing")

    def test_a_disk_of_4_kib_sectors(self, change: Change) -> None:
        path = change(field(ITEMS + 32, "I", 4096))
        refused(judge(path), "vhdx-sectors")
        assert not qemu_opens(path)

    def test_a_disk_of_nothing(self, change: Change) -> None:
        path = change(field(ITEMS + 8, "Q", 0))
        refused(judge(path), "empty")
        assert not qemu_opens(path)

    @pytest.mark.parametrize("case", UNSOUND)
    def test_what_is_unsound(self, change: Change, case: str) -> None:
        code, how = UNSOUND[case]
        path = change(how)
        refused(judge(path), code)
        assert not qemu_opens(path)

    def test_a_table_that_would_eat_memory(self, change: Change) -> None:
        path = change(region(0, 4 * MiB, (64 << 20) + 8))
        refused(judge(path), "vhdx-tables")
        assert qemu_opens(path)  # and takes as much memory

    def test_a_table_beyond_its_end(self, change: Change) -> None:
        path = change(region(0, 1 << 40, MiB))
        refused(judge(path), "vhdx-truncated")
        assert qemu_opens(path)  # and shows the guest zeros


class TestReadsLittle:
    def test_also_where_hyper_v_lays_its_table(self, change: Change) -> None:
        """The metadata before the table."""

        def turned(data: bytearray) -> None:
            table, metadata = data[TABLE : TABLE + MiB], data[METADATA : METADATA + MiB]
            data[TABLE : TABLE + MiB], data[METADATA : METADATA + MiB] = metadata, table
            several(region(0, METADATA, MiB), region(1, TABLE, MiB))(data)

        path = change(turned)
        assert qemu_opens(path)
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            assert not identify(recorder, look_inside=False).hazards
            assert recorder.trips == 2

    def test_and_in_three_where_the_log_is_longer(self, tmp_path: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "64M", "vhdx", "-o", "log_size=8M")
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            assert not identify(recorder, look_inside=False).hazards
            assert recorder.trips == 3


class TestChecksum:
    def test_is_castagnolis(self) -> None:
        assert crc32c(b"123456789") == 0xE3069283  # RFC 3720 has more
        assert crc32c(bytes(32)) == 0x8A9136AA
        assert crc32c(b"\xff" * 32) == 0x62A8AB43
        assert crc32c(bytes(range(32))) == 0x46DD794E

    @given(st.binary(max_size=300), st.integers(0, 70_000))
    def test_of_zeros_is_that_of_zeros_that_are_there(self, data: bytes, zeros: int) -> None:
        walked = crc32c(data + bytes(zeros) + b"\1")
        assert crc32c(data, len(data) + zeros) == crc32c(data + bytes(zeros))
        assert walked != crc32c(data, len(data) + zeros + 1)


class TestLooksInside:
    def test_and_counts_the_bitmaps_between_the_blocks(self, tmp_path: Path) -> None:
        """Of 1 MiB, every 4096 blocks."""
        path, size = tmp_path / "image", 5 << 30
        qemu_img_create(path, size, "vhdx", "-o", "block_size=1M")
        for index in (0, 4095, 4096, 4097, 5119):
            run("qemu-io", "-f", "vhdx", "-c", f"write -P {index % 251 + 1} {index}M 1M", path)
        with FileReader(path) as reader:
            guest = guest_disk(judge(path), reader)
            for index in (0, 4095, 4096, 4097, 5119):
                assert guest.pread(index * MiB, MiB) == bytes([index % 251 + 1]) * MiB
            assert guest.pread(5000 * MiB, MiB) == bytes(MiB)

    @pytest.mark.parametrize("state", [4, 7])
    def test_and_says_nothing_of_blocks_that_qemu_does_not_read(self, change: Change, state: int) -> None:
        path = change(field(TABLE, "Q", state))
        image = judge(path)
        assert image.verdict is Verdict.OK
        assert image.media.firmware is None
        with FileReader(path) as reader, pytest.raises(CannotMap):
            guest_disk(image, reader).pread(0, 512)
