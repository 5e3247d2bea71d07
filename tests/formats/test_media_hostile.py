"""Tables and filesystems that somebody bent: a judgement, never an exception, never past the budget."""

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.identify import identify
from probes.recording import RecordingReader
from tests.formats.images import MiB, copy_into, patch, run, sparse
from tests.formats.judged import sound
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.test_guest_guess import RELEASE
from tests.formats.test_partitions import disklabel
from tests.formats.test_volumes_by_hand import nvlist


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Disks of every kind of table, with filesystems in them, and ext filesystems with an os-release."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tree" / "etc").mkdir(parents=True)
        (folder / "tree" / "etc" / "os-release").write_text(RELEASE)
        ext = folder / "ext"
        run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-d", folder / "tree", ext, "1M")
        ntfs, exfat = sparse(folder / "ntfs", 3 * MiB), sparse(folder / "exfat", 3 * MiB)
        run("mkfs.ntfs", "-q", "-F", "-f", "-L", "lbl", ntfs)
        run("mkfs.exfat", "-L", "lbl", exfat)
        run("mkfs.vfat", "-C", folder / "fat", "1000")
        run("makefs", "-t", "ffs", "-s", "2m", "-o", "version=2", folder / "ffs", folder / "tree")
        gpt = sparse(folder / "gpt", 12 * MiB)
        run(
            "sfdisk", "-q", gpt, stdin="label: gpt\nsize=1M, type=uefi\nsize=1M\nsize=3M\nsize=3M\nsize=1M, type=raid\n"
        )
        for start, part in ((1, "fat"), (2, "ext"), (3, "ntfs"), (6, "exfat")):
            copy_into(gpt, start * MiB, folder / part)
        mbr = sparse(folder / "mbr", 12 * MiB)
        run("sfdisk", "-q", mbr, stdin="label: dos\nsize=3M, type=a5\nsize=2M\ntype=5\nsize=1M\nsize=1M\n")
        patch(mbr, MiB + 512, disklabel([(8192, 2 * MiB, 7), (2 * MiB, MiB, 1)]))
        copy_into(mbr, MiB + 8192, folder / "ffs")
        copy_into(mbr, 4 * MiB, ext)
        apple = sparse(folder / "apple", 12 * MiB)
        run("parted", "-s", apple, "mklabel", "mac", "mkpart", "one", "hfs", "1MiB", "10MiB")
        copy_into(apple, MiB, ext)
        zfs = patch(sparse(folder / "zfs", MiB), 16 << 10, nvlist(version=5000, name="rpool", pool_guid=7, txg=1))
        qcow2 = folder / "qcow2"
        run("qemu-img", "convert", "-O", "qcow2", "-o", "cluster_size=4k", gpt, qcow2)
        return tuple(path.read_bytes() for path in (gpt, mbr, apple, zfs, ext, ntfs, exfat, qcow2))


PLACES = st.one_of(
    st.integers(0, 2048),
    st.integers(16384, 17000),
    st.tuples(st.sampled_from([1, 2, 3, 4, 6, 7, 8]), st.integers(0, 3000)).map(lambda at: at[0] * MiB + at[1]),
    st.integers(0, 400_000),
    st.integers(2 * MiB, 3 * MiB),
)
VALUES = st.one_of(
    st.binary(min_size=1, max_size=16),
    st.sampled_from(
        [b"\xff" * 8, bytes(8), b"\xff" * 4, bytes(4), b"\x7f" + b"\xff" * 7, b"\x1b]0;x\x07", b"\1\0\0\0"]
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
@given(seed=st.integers(0, 7), changes=st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=8))
def test_bent_disks_are_judged(seed: int, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(seeds()[seed])
    for offset, value in changes:
        if offset < len(data):
            data[offset : offset + len(value)] = value
    recorder = RecordingReader(MemoryReader(bytes(data)))
    image = identify(recorder)
    sound(image, recorder)
    if image.media.guest:
        assert image.media.guest.name.isprintable()


@pytest.mark.parametrize("seed", range(8))
def test_disks_cut_anywhere_are_judged(seed: int) -> None:
    data = seeds()[seed]
    for size in (*range(1024, 70_000, 3331), 100_000, MiB, MiB + 100, 2 * MiB + 1100, 3 * MiB + 500, 7 * MiB):
        recorder = RecordingReader(MemoryReader(data[:size]))
        sound(identify(recorder), recorder)


def test_sixty_partitions_stay_within_the_budget(tmp_path: Path) -> None:
    """Of which none has a filesystem where it is usual."""
    path = sparse(tmp_path / "disk", 200 * MiB)
    run("sfdisk", "-q", path, stdin="label: gpt\n" + "size=2M\n" * 60)
    with FileReader(path) as file:
        recorder = RecordingReader(file)
        image = identify(recorder)
        sound(image, recorder)
        assert len(image.media.partitions) == 60
        assert recorder.trips <= 3
        assert recorder.reads <= 45


@pytest.fixture(scope="module")
def three_volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk of 400 MiB with filesystems far apart."""
    folder = tmp_path_factory.mktemp("volumes")
    raw = sparse(folder / "raw", 400 * MiB)
    run("sfdisk", "-q", raw, stdin="label: gpt\nsize=50M, type=uefi\nsize=100M\nsize=200M\n")
    run("mkfs.vfat", "-n", "ESP", "-C", folder / "esp", "40000")
    run("mke2fs", "-q", "-t", "ext4", "-L", "cloudimg-rootfs", folder / "root", "90M")
    run("mkfs.btrfs", "-q", sparse(folder / "data", 190 * MiB))
    for start, part in ((1, "esp"), (51, "root"), (151, "data")):
        copy_into(raw, start * MiB, folder / part)
    return raw


@pytest.mark.parametrize("driver", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_inside_a_format_the_superblocks_take_one_more_round_trip_and_what_the_map_takes(
    tmp_path: Path, three_volumes: Path, driver: str
) -> None:
    path = tmp_path / "image"
    run("qemu-img", "convert", "-f", "raw", "-O", driver, three_volumes, path)
    with FileReader(path) as file:
        recorder = RecordingReader(file)
        image = identify(recorder)
        kinds = [part.filesystem and part.filesystem.type for part in image.media.partitions]
        assert kinds == ["vfat", "ext4", "btrfs"]
        assert image.media.guest is not None
        assert image.media.guest.name == "Ubuntu"
        assert recorder.trips <= 5
        assert recorder.bytes_read <= 220 << 10
