"""Disks to be packed into images, and the guest's bytes by our maps."""

from pathlib import Path
from random import Random

from probes.identify import guest_disk, identify
from probes.recording import RecordingReader
from tests.formats.images import MiB, copy_into, patch, run, sparse
from tests.formats.readers import FileReader


def small_disk(folder: Path) -> Path:
    """A raw disk of 24 MiB: GPT, an EFI System partition with a filesystem, an ext4 one, and behind that what packs
    well and what does not.
    """
    path = sparse(folder / "disk.raw", 24 * MiB)
    run("sfdisk", "-q", path, stdin="label: gpt\nsize=8M, type=uefi\ntype=linux\n")
    run("mkfs.vfat", "-n", "ESP", "-C", folder / "esp", str(4 << 10))
    copy_into(path, 1 * MiB, folder / "esp")
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", folder / "root", "12M")
    copy_into(path, 9 * MiB, folder / "root")
    patch(path, 21 * MiB, b"".join(bytes([n % 251]) * n for n in range(1000)))
    return patch(path, 22 * MiB, Random(4).randbytes(MiB))


def everything(path: Path, backing: Path | None = None) -> bytes:
    """The whole of the guest's disk, by our map; `backing` is a raw one."""
    with FileReader(path) as file:
        reader = RecordingReader(file, max_bytes=1 << 30, max_reads=1 << 20)
        image = identify(reader, look_inside=False)
        below = FileReader(backing) if backing else None
        return guest_disk(image, reader, below).pread(0, image.virtual_size)
