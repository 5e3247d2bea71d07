"""Compressed files, made by the real programs: what they are, how large in full, and what is inside."""

import bz2
import gzip
import lzma
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from probes.formats.lz4 import Lz4
from probes.formats.packed import UNPACKED, Bzip2, Gzip, Packed
from probes.formats.xz import Xz
from probes.formats.zstd import Zstd
from probes.identify import identify
from probes.image import Image, Verdict
from probes.recording import RecordingReader
from probes.words import human_size
from tests.formats.images import MiB, codes, patch, qemu_img_create, run, sparse
from tests.formats.judged import sound
from tests.formats.readers import FileReader, MemoryReader

NOISE = random.Random(4).randbytes(5 * MiB)
MEMTEST = Path("/usr/lib/memtest86+/memtest86+x64.iso")

PROGRAMS: dict[str, tuple[str, ...]] = {
    "gzip": ("gzip",),
    "gzip, fast": ("gzip", "-1"),
    "xz": ("xz",),
    "xz, threads": ("xz", "-T2", "--block-size=1MiB"),
    "xz, no check": ("xz", "-C", "none", "-9"),
    "bzip2": ("bzip2", "-1"),
    "zstd": ("zstd", "-q"),
    "zstd, far": ("zstd", "-q", "--ultra", "-22", "--long=27"),
    "lz4": ("lz4", "-q", "--content-size"),
    "lz4, independent, with sums": ("lz4", "-q", "-B4", "-BI", "-BX", "--content-size"),
    "lz4, dependent": ("lz4", "-q", "-BD", "--content-size"),
    "lz4, legacy": ("lz4", "-q", "-l"),
}
KNOWN_IN_FULL = {"xz", "zstd", "lz4"}


def pack(path: Path, *program: str) -> Path:
    """Give `path` to a program as a file, which it then knows the size of."""
    if program[0] in {"lz4", "zstd"}:
        packed = path.with_name("packed")
        option = () if program[0] == "lz4" else ("-o",)
        run(*program, "-f", path, *option, packed)
        return packed
    packed = path.with_name("packed")
    packed.write_bytes(subprocess.run([*program, "-c", path], capture_output=True, check=True).stdout)
    return packed


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT disk with an EFI System partition, a root partition, and 5 MiB that no program makes smaller."""
    path = sparse(tmp_path_factory.mktemp("disk") / "image", 40 * MiB)
    run("sfdisk", "-q", path, stdin="label: gpt\nsize=16M, type=uefi\ntype=linux\n")
    efi = path.with_name("efi")
    run("mkfs.vfat", "-C", efi, str(16 << 10))
    patch(path, MiB, efi.read_bytes())
    return patch(path, 20 * MiB, NOISE)


def judged(data: bytes | Path) -> tuple[Image, RecordingReader]:
    recorder = RecordingReader(FileReader(data) if isinstance(data, Path) else MemoryReader(data))
    image = identify(recorder)
    sound(image, recorder)
    assert image.verdict is Verdict.REFUSE
    return image, recorder


def told(data: bytes | Path) -> str:
    return judged(data)[0].hazards[0].text


@pytest.mark.parametrize("variant", PROGRAMS)
def test_a_compressed_disk_is_told_with_what_it_is_and_what_to_do(disk: Path, variant: str) -> None:
    image, recorder = judged(pack(disk, *PROGRAMS[variant]))
    name = variant.partition(",")[0]
    assert image.format == name
    assert codes(image) == {"compressed"}
    text = image.hazards[0].text
    assert text.startswith(
        f"This is a raw disk (GPT, 2 partitions: vfat, Linux · boots by UEFI), compressed with {name}"
    )
    assert " NAME." in text
    assert recorder.trips <= 2
    assert recorder.bytes_read <= 100 << 10
    known = name in KNOWN_IN_FULL and variant != "lz4, legacy"
    assert image.virtual_size == (40 * MiB if known else 0)
    assert ("(40 MiB in full)" in text) == known


@pytest.mark.parametrize("variant", PROGRAMS)
def test_the_command_that_is_told_gives_the_disk_back_and_keeps_the_file(tmp_path: Path, variant: str) -> None:
    path = qemu_img_create(tmp_path / "image", "64M")
    data = path.read_bytes()
    packed = pack(path, *PROGRAMS[variant])
    name = variant.partition(",")[0]
    path.unlink()
    end = {"gzip": "gz", "xz": "xz", "bzip2": "bz2", "zstd": "zst", "lz4": "lz4"}[name]
    file = packed.rename(tmp_path / f"image.{end}")
    command = told(file).rpartition("first: ")[2].removesuffix(".")
    run(*(str(file) if word == "NAME" else word for word in command.split()))
    assert path.read_bytes() == data
    assert file.exists()


INSIDE: dict[str, tuple[Callable[[Path], object], str]] = {
    "qcow2": (lambda path: qemu_img_create(path, "20G"), "This is a qcow2 image of 20 GiB, compressed with"),
    "disc": (
        lambda path: path.write_bytes(MEMTEST.read_bytes()),
        ' iso9660 "MT86PLUS_64" · boots by BIOS or UEFI), compressed with',
    ),
    "gzip again": (
        lambda path: path.write_bytes(gzip.compress(bytes(4096))),
        "This is something compressed with gzip, compressed with",
    ),
    "tar": (
        lambda path: run("tar", "-cf", path, "-C", qemu_img_create(path.parent / "a.qcow2", "1M").parent, "a.qcow2"),
        'This is a tar archive holding "a.qcow2" (192 KiB), compressed with',
    ),
    "program": (lambda path: path.write_bytes(Path("/bin/true").read_bytes()), "This is a program (ELF), compressed"),
    "text": (lambda path: path.write_text("words\n" * 9000), "This is a text, compressed with"),
    "zeros": (lambda path: sparse(path, 4096), "This is compressed with"),
    "nothing": (lambda path: sparse(path, 0), "This is compressed with"),
}


@pytest.mark.parametrize("program", ["gzip", "xz", "bzip2", "zstd", "lz4"])
@pytest.mark.parametrize("case", INSIDE)
def test_what_is_inside_is_told(tmp_path: Path, case: str, program: str) -> None:
    make, words = INSIDE[case]
    make(tmp_path / "image")
    text = told(pack(tmp_path / "image", *PROGRAMS[program]))
    assert words in text
    assert case != "disc" or text.startswith("This is a disc (")


def test_a_packed_tar_is_unpacked_by_tar_itself(tmp_path: Path) -> None:
    INSIDE["tar"][0](tmp_path / "image")
    assert told(pack(tmp_path / "image", "xz")).endswith("Unpack it first: tar -xf NAME.")


def test_without_a_look_inside_nothing_is_unpacked() -> None:
    image = identify(MemoryReader(gzip.compress(MEMTEST.read_bytes())), look_inside=False)
    assert image.hazards[0].text.startswith("This is compressed with gzip")


class TestFullSize:
    """How much would come out: said only where it is sure."""

    def test_gzip_counts_to_4_gib_only_so_a_file_that_may_be_more_gives_the_least(self, tmp_path: Path) -> None:
        small = gzip.compress(bytes(MiB) + MEMTEST.read_bytes()[: 2 * MiB])
        image, _ = judged(small)
        assert image.virtual_size == 3 * MiB
        assert "(3 MiB in full)" in image.hazards[0].text
        large, _ = judged(gzip.compress(NOISE, 1))
        assert large.virtual_size == 0
        assert "(at least " in large.hazards[0].text

    def test_what_is_larger_than_gzips_count_had_several_members_or_4_gib(self) -> None:
        packed = gzip.compress(NOISE[:MiB], 1)
        assert "in full" not in told(packed[:-4] + struct.pack("<I", 5000))

    def test_of_two_gzip_members_the_last_alone_is_counted(self) -> None:
        image, _ = judged(gzip.compress(b"x" * 9000) + gzip.compress(b"y" * 20_000))
        assert image.virtual_size == 0
        assert "at least 19.5 KiB in full" in image.hazards[0].text

    def test_xz_adds_up_its_streams_and_their_padding(self) -> None:
        whole = lzma.compress(b"x" * 5000) + bytes(8) + lzma.compress(b"y" * 7000) + bytes(4)
        assert judged(whole)[0].virtual_size == 12_000

    def test_an_index_that_is_longer_than_the_first_read_is_read(self, tmp_path: Path) -> None:
        path = sparse(tmp_path / "image", 24 * MiB)
        packed = pack(path, "xz", "-0", "--block-size=2048")
        image, recorder = judged(packed)
        assert image.virtual_size == 24 * MiB
        assert recorder.trips <= 3

    @pytest.mark.parametrize("place", [-1, -5, -9, -20])
    def test_a_damaged_end_says_nothing(self, place: int) -> None:
        packed = bytearray(lzma.compress(b"x" * 5000))
        packed[place] ^= 0x55
        assert judged(bytes(packed))[0].virtual_size == 0

    def test_zstd_without_a_size_in_its_header_says_nothing(self) -> None:
        packer = zstandard.ZstdCompressor(write_content_size=False)
        assert judged(packer.compress(b"x" * 9000))[0].virtual_size == 0

    @pytest.mark.parametrize("size", [20, 255, 256, 65_791, 65_792, 3 * MiB])
    def test_zstds_sizes_of_every_width_are_read(self, size: int) -> None:
        assert judged(zstandard.ZstdCompressor().compress(NOISE[:size]))[0].virtual_size == size

    def test_a_seekable_zstd_adds_up_its_table(self) -> None:
        packer = zstandard.ZstdCompressor()
        frames = [packer.compress(bytes([number]) * 9000) for number in range(40)]
        rows = b"".join(struct.pack("<II", len(frame), 9000) for frame in frames)
        table = struct.pack("<II", 0x184D2A5E, len(rows) + 9) + rows + struct.pack("<IBI", 40, 0, 0x8F92EAB1)
        assert judged(b"".join(frames) + table)[0].virtual_size == 360_000
        bent = table[:-9] + struct.pack("<IBI", 0xFFFFFFFF, 0x80, 0x8F92EAB1)
        assert judged(b"".join(frames) + bent)[0].virtual_size == 0

    def test_zstd_in_pieces_that_are_announced_says_nothing_and_is_unpacked_all_the_same(self) -> None:
        packed = b""
        for at in range(0, MiB, 64 << 10):
            frame = zstandard.ZstdCompressor().compress(MEMTEST.read_bytes()[at : at + (64 << 10)])
            packed += struct.pack("<III", 0x184D2A50, 4, len(frame)) + frame
        image, _ = judged(packed)
        assert image.virtual_size == 0
        assert "This is a disc (" in image.hazards[0].text

    def test_lzip_says_its_size_in_its_last_bytes(self) -> None:
        packed = b"LZIP\1\x0c" + bytes(1000)
        packed += struct.pack("<IQQ", 0, 5000, len(packed) + 20)
        assert judged(packed)[0].virtual_size == 5000


class TestGrowth:
    """What would fill a disk."""

    def test_a_file_that_would_grow_a_thousandfold_is_warned_of(self) -> None:
        image, _ = judged(lzma.compress(bytes(64 * MiB)))
        assert image.virtual_size == 64 * MiB
        assert codes(image) == {"compressed", "decompression-ratio"}
        growth = image.hazards[1]
        assert growth.verdict is Verdict.ASK
        assert "-fold, to 64 MiB" in growth.text

    def test_a_size_that_a_header_only_claims_is_taken_for_what_it_says(self) -> None:
        frame = bytearray(zstandard.ZstdCompressor().compress(bytes(20_000_000)))
        at = frame.index(struct.pack("<I", 20_000_000))
        frame[at : at + 4] = b"\xff\xff\xff\xff"
        image, _ = judged(bytes(frame))
        assert image.virtual_size == 0xFFFFFFFF
        assert "decompression-ratio" in codes(image)

    def test_a_size_that_no_file_can_have_is_warned_of_and_not_believed(self) -> None:
        image, _ = judged(b"\x04\x22\x4d\x18\x68\x40" + b"\xff" * 8 + bytes(100))
        assert image.virtual_size == 0
        assert "decompression-ratio" in codes(image)

    @pytest.mark.parametrize("form", [Gzip(), Xz(), Zstd(), Bzip2(), Lz4()], ids=lambda form: form.name)
    def test_no_more_is_unpacked_than_is_looked_at(self, form: Packed, tmp_path: Path) -> None:
        path = sparse(tmp_path / "image", 20 * MiB)
        with FileReader(pack(path, *PROGRAMS[form.name])) as reader:
            assert form.head(reader) == bytes(UNPACKED)


@pytest.mark.parametrize("variant", PROGRAMS)
def test_the_first_bytes_are_unpacked_exactly(tmp_path: Path, variant: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(MEMTEST.read_bytes())
    forms = {form.name: form for form in (Gzip(), Xz(), Zstd(), Bzip2(), Lz4())}
    with FileReader(pack(path, *PROGRAMS[variant])) as reader:
        first = forms[variant.partition(",")[0]].head(reader)
    assert len(first) > 40_000
    assert first == MEMTEST.read_bytes()[: len(first)]


def test_of_bzip2_a_first_block_that_is_larger_than_what_is_read_stays_closed() -> None:
    packed = bz2.compress(NOISE[:MiB])
    assert Bzip2().head(MemoryReader(packed)) == b""
    assert told(packed).startswith("This is compressed with bzip2: a disk image may be inside")


def test_a_file_that_unpacks_to_itself_ends() -> None:
    """What is inside is looked into once: whether that is compressed again or not."""
    nested = bytes(100)
    for _ in range(30):
        nested = gzip.compress(nested)
    assert told(nested).startswith("This is something compressed with gzip, compressed with gzip")


SEEDS = (
    gzip.compress(MEMTEST.read_bytes()[:150_000]),
    lzma.compress(MEMTEST.read_bytes()[:150_000]) + lzma.compress(b"more"),
    bz2.compress(MEMTEST.read_bytes()[:150_000]),
    zstandard.ZstdCompressor().compress(MEMTEST.read_bytes()[:150_000]),
    b"\x04\x22\x4d\x18\x68\x40" + struct.pack("<QB", 70_000, 0) + struct.pack("<I", 9) + b"\x1fa\1\0\xff\xff\xff\xff\7",
    b"LZIP\1\x0c" + bytes(100),
    b"\x89LZO\0\r\n\x1a\n" + bytes(100),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(-40, 300), st.binary(min_size=1, max_size=9)), max_size=5),
    cut=st.integers(0, 60),
)
@example(seed=SEEDS[1], changes=[], cut=30)
def test_bent_files_are_judged(seed: bytes, changes: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(seed)
    for offset, value in changes:
        at = offset % len(data)
        data[at : at + len(value)] = value
    whole = bytes(data[: len(data) - cut])
    recorder = RecordingReader(MemoryReader(whole))
    sound(identify(recorder), recorder)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=3000))
def test_noise_after_a_mark_unpacks_to_little_or_nothing(data: bytes) -> None:
    for form, mark in ((Lz4(), b"\x02\x21\x4c\x18"), (Zstd(), b"\x28\xb5\x2f\xfd"), (Gzip(), b"\x1f\x8b\x08\0")):
        assert len(form.unpack(mark + data)) <= UNPACKED + (4 << 20)
        assert len(form.head(MemoryReader(mark + data))) <= UNPACKED


def test_zstd_is_told_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "zstandard", None)
    packed = zstandard.ZstdCompressor().compress(MEMTEST.read_bytes())
    image, _ = judged(packed)
    size = human_size(MEMTEST.stat().st_size)
    assert image.hazards[0].text.startswith(f"This is compressed with zstd ({size} in full): a disk image may be")
