"""Whatever bytes come: a judgement, never an exception, never past the budget, nothing that speaks to a terminal."""

import functools
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from probes.identify import identify
from probes.image import Verdict
from probes.recording import RecordingReader
from tests.formats.images import MiB, patch, qemu_img_create, run, sparse
from tests.formats.judged import judge_bytes, sound
from tests.formats.readers import MemoryReader

ISO = Path("/usr/lib/memtest86+/memtest86+x64.iso")

# Marks that lead a parser somewhere, so that chance gets further than the first four bytes.
MARKS: tuple[tuple[int, bytes], ...] = (
    (0, b"QFI\xfb\0\0\0\2"),
    (0, b"QFI\xfb\0\0\0\3"),
    (0, b"QFI\xfb\0\0\0\1"),
    (20, b"\0\0\0\x10"),
    (510, b"\x55\xaa"),
    (446, b"\0"),
    (450, b"\x05"),
    (450, b"\xee"),
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
    (0, b"KDMV"),
    (0, b"# Disk DescriptorFile\n"),
    (64, b"\x7f\x10\xda\xbe"),
    (257, b"ustar"),
    (0, b"MZ"),
    (3, b"NTFS    "),
    (11, b"\0\2\1\1\0\2"),
    (512, b"LABELONE"),
    (1080, b"\x53\xef"),
    (0, b"XFSB"),
    (32768, b"\x01CD001"),
    (34816, b"\0CD001\1EL TORITO SPECIFICATION"),
    (65600, b"_BHRfS_M"),
)


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Real images of every kind that has a parser, to be mutated."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk = sparse(folder / "gpt", 3 * MiB)
        run("sfdisk", "-q", disk, stdin="label: gpt\nsize=1M, type=uefi\n")
        run("mkfs.vfat", "-C", folder / "fat", "1000")
        patch(disk, MiB, (folder / "fat").read_bytes())
        mbr = sparse(folder / "mbr", 3 * MiB)
        run("sfdisk", "-q", mbr, stdin="label: dos\nsize=512K\ntype=5\nsize=256K\nsize=256K\n")
        run("qemu-img", "convert", "-O", "qcow2", disk, folder / "qcow2")
        run("qemu-img", "convert", "-O", "qcow2", "-c", "-o", "cluster_size=4k", disk, folder / "packed")
        run("qemu-img", "convert", "-O", "qcow2", "-o", "compat=0.10", mbr, folder / "old")
        backed = ("-u", "-b", "/etc/hostname", "-F", "raw")
        qemu_img_create(folder / "backed", "64M", "qcow2", *backed)
        names = ("gpt", "fat", "mbr", "qcow2", "packed", "old", "backed")
        return (*((folder / name).read_bytes() for name in names), ISO.read_bytes()[:2_000_000])


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=2000), marks=st.lists(st.sampled_from(MARKS), max_size=4), pad=st.integers(0, 80_000))
@example(data=b"", marks=[], pad=0)
@example(data=b"QFI\xfb", marks=[], pad=0)
def test_arbitrary_bytes_are_judged(data: bytes, marks: list[tuple[int, bytes]], pad: int) -> None:
    whole = bytearray(data.ljust(pad, b"\0"))
    for offset, mark in marks:
        whole[offset : offset + len(mark)] = mark if len(whole) >= offset else b""
    judge_bytes(bytes(whole))


# Where parsers look: headers, tables, descriptors, and the first tables of a qcow2.
PLACES = st.one_of(
    st.integers(0, 600),
    st.integers(1024, 2048),
    st.integers(32768, 32768 + 6000),
    st.integers(0, 2_000_000),
    st.sampled_from([65536, 131072, 196608, 262144, 327680, MiB]).flatmap(lambda at: st.integers(at, at + 600)),
)
VALUES = st.one_of(
    st.binary(min_size=1, max_size=16),
    st.sampled_from([b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7), b"\x1b]0;x\x07", b"\xff" * 4]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
@given(
    seed=st.integers(0, 7), changes=st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=6), cut=st.integers(0, 30)
)
def test_mutated_images_are_judged(seed: int, changes: list[tuple[int, bytes]], cut: int) -> None:
    data = bytearray(seeds()[seed])
    for offset, value in changes:
        if offset < len(data):
            data[offset : offset + len(value)] = value
    judge_bytes(bytes(data[: len(data) * (40 - cut) // 40] if cut > 20 else data))


@pytest.mark.parametrize("seed", range(8))
def test_images_cut_anywhere_are_judged(seed: int) -> None:
    data = seeds()[seed]
    for size in (*range(0, 600, 7), 1024, 4095, 4096, 32769, 32800, 65535, 65537, 100_000, 200_000, 300_000, 400_000):
        judge_bytes(data[:size])


def test_a_qcow2_whose_map_is_scattered_over_the_file_costs_no_more_than_the_budget() -> None:
    """Clusters of 512 bytes, each a megabyte from the last: the media stay unknown, and the image is not blamed."""
    data = bytearray(130 * MiB)
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 9, 32768 * 3, 0, 3, 512, 1024, 1, 0, 0)
    data[: len(header)] = header
    for index in range(3):
        data[512 + index * 8 : 520 + index * 8] = struct.pack(">Q", 1 << 63 | (2048 + index * 512))
    for cluster in range(192):
        at = 2048 + cluster * 8
        data[at : at + 8] = struct.pack(">Q", 1 << 63 | (MiB + cluster % 128 * MiB) & ~511)
    recorder = RecordingReader(MemoryReader(bytes(data)))
    image = identify(recorder)
    sound(image, recorder)
    assert image.format == "qcow2"
    assert image.verdict is Verdict.OK
    assert image.media.firmware is None


def test_a_deflated_cluster_that_would_grow_without_bound_is_not_followed() -> None:
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    bomb = packer.compress(bytes(64 * MiB)) + packer.flush()
    data = bytearray(512 * 1024)
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, MiB, 0, 1, 65536, 131072, 1, 0, 0)
    data[: len(header)] = header
    data[65536:65544] = struct.pack(">Q", 1 << 63 | 196608)
    data[262144 : 262144 + len(bomb)] = bomb
    data[196608:196616] = struct.pack(">Q", 1 << 62 | 255 << 54 | 262144)
    image = judge_bytes(bytes(data))
    assert image.verdict is Verdict.OK
    assert image.media.filesystem is None


def test_an_image_that_would_cost_too_much_to_tell_is_refused() -> None:
    recorder = RecordingReader(MemoryReader(bytes(MiB)), max_bytes=1000)
    image = identify(recorder)
    assert [hazard.code for hazard in image.hazards] == ["too-costly"]
    assert image.verdict is Verdict.REFUSE


def test_a_server_that_answers_another_image_at_every_read_is_judged_by_its_first_answers() -> None:
    """The head is read once: what is judged as raw cannot turn into a qcow2 for a second look."""

    class Fickle(MemoryReader):
        def pread(self, offset: int, length: int) -> bytes:
            data = super().pread(offset, length)
            return data if self.trips == 1 else b"QFI\xfb\0\0\0\3".ljust(len(data), b"\xff")[: len(data)]

    recorder = RecordingReader(Fickle(bytes(MiB)))
    image = identify(recorder)
    assert image.format == "raw"
    assert recorder.pread(0, 4) == bytes(4)
