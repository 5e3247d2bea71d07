"""Apple disk images: built here, read by qemu-img and by us."""

import struct
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes import recording
from probes.formats import dmg as ours
from probes.identify import identify
from probes.image import Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats.contract import FormatContract, GuestContract, Pack, built
from tests.formats.disks import everything
from tests.formats.images import codes, judge
from tests.formats.judged import judge_bytes, opens_as, refused_as
from tests.formats.packed_disks import ADC, BZIP2, IGNORED, LAST, LZFSE, RAW, ZEROS, ZLIB, dmg, koly, mish, wrapped
from tests.formats.readers import MemoryReader

refused = partial(refused_as, "dmg", alone=False)


def opens(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    return opens_as("dmg", path)


@pytest.fixture(scope="module")
def data(raw_disk: Path) -> bytes:
    return raw_disk.read_bytes()


class TestContract(FormatContract, GuestContract):
    name = "dmg"
    variants: ClassVar[Mapping[str, Pack]] = {
        "zlib": built(dmg),
        "raw": built(partial(dmg, kinds=(RAW,))),
        "mixed": built(partial(dmg, kinds=(ZLIB, RAW, ZLIB))),
        "in parts": built(partial(dmg, parts=3)),
        "in a resource fork": built(partial(dmg, fork=True, parts=2)),
        "large chunks": built(partial(dmg, chunk=1 << 20)),
    }
    trips = 2  # the end tells
    most_bytes = 88 << 10
    cuts = ()  # what is cut has no end


class TestAgreesWithQemu:
    @pytest.mark.parametrize("size", [100_000, 100_352, 100_353, 100_863])
    @pytest.mark.parametrize("behind", [0, 1, 300, 508, 511, 512])
    def test_on_a_trailer_that_is_not_quite_at_the_end(self, tmp_path: Path, size: int, behind: int) -> None:
        table = wrapped(b"", [mish([(ZEROS, 0, 8, 0, 0)])], 8)[:-512]
        image = bytes(size - len(table)) + table + koly(size, 8, plist=(size - len(table), len(table))) + bytes(behind)
        judged = judge_bytes(image)
        assert judged.format == "dmg"
        assert (judged.verdict is Verdict.OK) == opens(tmp_path / "image", image)

    def test_and_its_end_is_read_together_with_that_of_others(self) -> None:
        assert ours._TAIL == recording.TAIL


class TestTells:
    @pytest.mark.parametrize("kinds", [(BZIP2,), (ZLIB, BZIP2)])
    def test_that_bzip2_needs_a_module_and_looks_inside_all_the_same(
        self, raw_disk: Path, data: bytes, kinds: tuple[int, ...]
    ) -> None:
        image = judge_bytes(dmg(data, kinds=kinds))  # which may begin as a file of bzip2's own does
        assert codes(image) == {"dmg-bzip2"}
        assert image.verdict is Verdict.OK
        assert "bzip2 compression" in image.features
        assert image.media == judge(raw_disk).media

    def test_that_lzfse_needs_one(self, data: bytes) -> None:
        image = judge_bytes(dmg(data, kinds=(LZFSE,)))
        assert codes(image) == {"dmg-lzfse"}
        assert image.verdict is Verdict.OK
        assert image.media.firmware is None


class TestIsQuick:
    def test_with_tables_that_are_nothing_but_blanks(self) -> None:
        for blanks in (b" " * 1500 + b"!", b"A=" + b" " * (1 << 20) + b"!", b" " * (1 << 20) + b"!"):
            text = b"<data>" + blanks + b"</data>"
            image = bytes(512) + text + koly(512 + len(text), 8, plist=(512, len(text)))
            began = time.process_time()
            refused(judge_bytes(image), "dmg-invalid")
            assert time.process_time() - began < 2

    def test_with_a_hundred_thousand_tables(self) -> None:
        text = b"<data></data>" * 100_000
        refused(judge_bytes(bytes(512) + text + koly(512 + len(text), 8, plist=(512, len(text)))), "dmg-invalid")
        fork = struct.pack(">IIII", 16, 16 + 500_000, 500_000, 0) + (struct.pack(">I", 1) + b"x") * 100_000
        refused(judge_bytes(bytes(512) + fork + koly(512 + len(fork), 8, resources=(512, len(fork)))), "dmg-invalid")


class TestAsks:
    def test_before_it_unpacks_more_than_compression_gives(self) -> None:
        entry = (BZIP2, 0, 128 << 10, 0, 45)
        image = judge_bytes(wrapped(bytes(45), [mish([entry])], 128 << 10))
        assert "decompression-ratio" in codes(image)
        assert image.verdict is Verdict.ASK

    def test_not_before_zeros_that_take_no_room(self) -> None:
        entry = (ZEROS, 0, 1 << 40, 0, 0)
        image = judge_bytes(wrapped(bytes(512), [mish([entry])], 1 << 40))
        assert image.verdict is Verdict.OK
        assert image.virtual_size == 1 << 49


class TestRefuses:
    def test_one_of_several_files(self, data: bytes) -> None:
        image = bytearray(dmg(data))
        image[-512 + 0x3C : -512 + 0x40] = struct.pack(">I", 2)
        refused(judge_bytes(bytes(image)), "dmg-segments")

    def test_what_no_qemu_unpacks(self, data: bytes) -> None:
        refused(judge_bytes(dmg(data, kinds=(ADC,))), "dmg-compression")
        refused(judge_bytes(dmg(data, kinds=(ZLIB, ADC))), "dmg-compression")

    @pytest.mark.parametrize(
        "entry", [(ZLIB, 0, (128 << 10) + 1, 0, 9), (ZLIB, 0, 8, 0, (64 << 20) + 1), (RAW, 0, 1 << 60, 0, 9)]
    )
    def test_chunks_that_would_eat_memory(self, tmp_path: Path, entry: tuple[int, int, int, int, int]) -> None:
        image = wrapped(bytes(512), [mish([entry])], 8)
        refused(judge_bytes(image), "dmg-tables")
        assert not opens(tmp_path / "image", image)

    def test_a_raw_chunk_that_is_shorter_than_it_says(self) -> None:
        """QEMU would hand its guest what lies behind the chunk in its own memory."""
        refused(judge_bytes(wrapped(bytes(512), [mish([(RAW, 0, 1000, 0, 512)])], 1000)), "dmg-invalid")
        fine = wrapped(bytes(512), [mish([(RAW, 0, 1, 0, 500)])], 1)
        assert judge_bytes(fine).verdict is Verdict.OK

    def test_tables_that_are_too_large_to_be_looked_at(self) -> None:
        image = bytes(4 << 20) + koly(4 << 20, 8, plist=(0, 4 << 20))
        recorder = RecordingReader(MemoryReader(image))
        refused(identify(recorder), "dmg-tables")
        assert recorder.bytes_read < 200_000

    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (0x18, 1 << 40),  # the data fork
            (0x28, 1 << 40),  # the resource fork
            (0x30, 1 << 40),
            (0xD8, 1 << 40),  # the property list
            (0xE0, 1 << 40),
            (0xE0, 0),
            (0x1EC, 1 << 63),  # sectors
        ],
    )
    def test_trailers_that_make_no_sense(self, tmp_path: Path, data: bytes, offset: int, value: int) -> None:
        image = bytearray(dmg(data))
        at = len(image) - 512 + offset
        image[at : at + 8] = struct.pack(">Q", value)
        refused(judge_bytes(bytes(image)), "dmg-invalid")
        assert not opens(tmp_path / "image", bytes(image))

    def test_one_of_no_disk(self, data: bytes) -> None:
        image = bytearray(dmg(data))
        image[-20:-12] = bytes(8)
        refused(judge_bytes(bytes(image)), "empty")

    def test_two_trailers(self, tmp_path: Path) -> None:
        """QEMU takes the first "koly" of the last kilobyte or so."""
        table = wrapped(b"", [mish([(ZEROS, 0, 8, 0, 0)])], 8)[:-512]
        at = 200 << 9
        image = bytes(at - len(table)) + table + koly(at, 8, plist=(at - len(table), len(table)))
        image = image[:-700] + b"koly" + image[-696:]
        refused(judge_bytes(image), "dmg-invalid")
        assert not opens(tmp_path / "image", image)

    @pytest.mark.parametrize("text", [b"<data>AAAA", b"<data>\0</data>", b"<data>AA=AAAA</data>", b"<data><x/></data>"])
    def test_property_lists_that_are_damaged(self, text: bytes) -> None:
        refused(judge_bytes(text.ljust(600) + koly(600, 8, plist=(0, 600))), "dmg-invalid")

    def test_resource_forks_that_are_damaged(self) -> None:
        for numbers in ((0, 0, 0, 0), (16, 0, 600, 0), (1000, 0, 8, 0), (16, 0, 8, 0, 0), (16, 0, 8, 0, 5)):
            fork = struct.pack(f">{len(numbers)}I", *numbers).ljust(600, b"\0")
            refused(judge_bytes(fork + koly(600, 8, resources=(0, 600))), "dmg-invalid")


class TestLooksInside:
    def test_but_not_through_chunks_that_are_out_of_order_missing_or_damaged(self, tmp_path: Path) -> None:
        for entries in (
            [(ZEROS, 8, 8, 0, 0), (ZEROS, 0, 8, 0, 0)],
            [(IGNORED, 4, 12, 0, 0), (LAST, 16, 0, 0, 0)],
            [(ZLIB, 0, 16, 0, 300)],
            [(BZIP2, 0, 16, 0, 300)],
            [(RAW, 0, 16, 1 << 63, 8192)],
            [],
        ):
            path = tmp_path / "image"
            path.write_bytes(wrapped(bytes(512), [mish(entries)], 16))
            assert judge(path).media.firmware is None
            with pytest.raises(CannotMap):
                everything(path)
