"""Images that are two things at once, and raw ones that are not what they seem."""

import struct
from collections.abc import Callable
from pathlib import Path

from tests.corpus.qcow2 import backed
from tests.corpus.recipe import REFUSE, Outside, Recipe, hazards
from tests.formats.images import MiB, copy_into, patch, qemu_img_create, run, sparse

ISO = Path("/usr/lib/memtest86+/memtest86+x64.iso")
_VDI = b"\x7f\x10\xda\xbe"
_TWO = hazards("two-formats")


def iso_and(make: Callable[[Path, Outside], object]) -> Callable[[Path, Outside], object]:
    """A real disc whose first 32 KiB, which ISO 9660 leaves to others, are the head of another image."""

    def both(path: Path, outside: Outside) -> object:
        head = path.with_suffix(".head")
        make(head, outside)
        path.write_bytes(ISO.read_bytes())
        patch(path, 0, head.read_bytes()[:32768])
        head.unlink()
        return path

    return both


def marked(driver: str, *marks: tuple[int, bytes], size: str = "1M") -> Callable[[Path, Outside], object]:
    """An image by qemu-img with the marks of other formats in it."""

    def make(path: Path, _outside: Outside) -> object:
        qemu_img_create(path, size, driver)
        for offset, mark in marks:
            patch(path, offset, mark)
        return path

    return make


def raw(*marks: tuple[int, bytes], size: int = MiB) -> Callable[[Path, Outside], object]:
    def make(path: Path, _outside: Outside) -> object:
        sparse(path, size)
        for offset, mark in marks:
            patch(path, offset if offset >= 0 else size + offset, mark)
        return path

    return make


def partitioned(label: str) -> Callable[[Path, Outside], object]:
    def make(path: Path, _outside: Outside) -> object:
        sparse(path, 4 * MiB)
        run("sfdisk", "-q", path, stdin=f"label: {label}\nsize=1M\n")
        return path

    return make


def text_and_disc(path: Path, outside: Outside) -> Path:
    """A VMDK descriptor in the room that ISO 9660 leaves at the start of a disc."""
    path.write_bytes(ISO.read_bytes())
    text = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    text += f'RW 1 FLAT "{outside.file}" 0\n'
    return patch(path, 0, text.encode().ljust(32768, b"\n"))


def _tar_header() -> bytes:
    header = bytearray(b"disk.img".ljust(148, b"\0") + b" " * 8 + b"0".ljust(109, b"\0")[:101] + b"ustar\x0000")
    header = header.ljust(512, b"\0")
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def disc(path: Path, _outside: Outside) -> None:
    path.write_bytes(ISO.read_bytes())


def filesystem(path: Path, _outside: Outside) -> None:
    run("mkfs.ext4", "-q", "-F", path, "1M")


def disk_that_ends_in_a_disc(path: Path, _outside: Outside) -> None:
    sparse(path, 16 * MiB)
    copy_into(path, 8 * MiB, ISO)


_ISO_SIZE = -(-ISO.stat().st_size // 512) * 512 if ISO.exists() else 0

RECIPES: tuple[Recipe, ...] = (
    Recipe("iso+qcow2", iso_and(backed("{file}")), "qcow2", 65536, REFUSE, _TWO),
    Recipe("iso+vdi", iso_and(marked("vdi")), "vdi", None, REFUSE, _TWO),
    Recipe("iso+vmdk-descriptor", text_and_disc, "vmdk", None, REFUSE, _TWO),
    Recipe("qcow2+vdi", marked("qcow2", (4, b"\0\0\0\2"), (64, _VDI)), "qcow2", MiB, REFUSE, _TWO),
    Recipe("qcow2+tar", marked("qcow2", (257, _tar_header()[257:])), "qcow2", MiB),
    Recipe("vdi+mbr", marked("vdi", (510, b"\x55\xaa")), "vdi", MiB),
    Recipe("mbr+vdi", raw((64, _VDI), (510, b"\x55\xaa")), "vdi", None, REFUSE),
    Recipe("qed+vdi", marked("qed", (64, _VDI)), "qed", MiB, REFUSE, _TWO),
    Recipe("gzip+vdi", raw((0, b"\x1f\x8b\x08\0"), (64, _VDI)), "vdi", None, REFUSE),
    Recipe("vdi+dmg", marked("vdi", (MiB, b"koly\0\0\0\4\0\0\2\0".ljust(512, b"\0"))), "vdi", MiB),
    Recipe("qcow2+vpc-footer", marked("qcow2", (MiB, b"conectix".ljust(512, b"\0"))), "qcow2", MiB),
    Recipe("vmdk-magic-alone", raw((0, b"KDMV")), "vmdk", None, REFUSE),
    Recipe("qed-magic-alone", raw((0, b"QED\0")), "qed", None, REFUSE),
    Recipe("vhdx-magic-alone", raw((0, b"vhdxfile")), "vhdx", None, REFUSE),
    Recipe("vpc-magic-alone", raw((0, b"conectix")), "vpc", None, REFUSE),
    Recipe("vpc-footer-alone", raw((-512, b"conectix")), "vpc", None, REFUSE),
    Recipe("parallels-magic-alone", raw((0, b"WithoutFreeSpace")), "parallels", None, REFUSE),
    Recipe("luks-magic-alone", raw((0, b"LUKS\xba\xbe\0\1")), "luks", None, REFUSE),
    Recipe("qcow-magic-alone", raw((0, b"QFI\xfb\0\0\0\1")), "qcow", None, REFUSE),
    Recipe("qcow2-magic-alone", raw((0, b"QFI\xfb\0\0\0\3")), "qcow2", None, REFUSE),
    Recipe("bochs-magic-alone", raw((0, b"Bochs Virtual HD Image")), "bochs", None, REFUSE),
    Recipe("raw-mbr", partitioned("dos"), "raw", 4 * MiB),
    Recipe("raw-gpt", partitioned("gpt"), "raw", 4 * MiB),
    Recipe("raw-filesystem", filesystem, "raw", MiB),
    Recipe("raw-zeros", raw(), "raw", MiB),
    Recipe("raw-odd-size", raw((0, struct.pack("<Q", 1)), size=1_000_001), "raw", 1_000_448),
    Recipe("raw-with-a-disc-inside", disk_that_ends_in_a_disc, "raw", 16 * MiB),
    Recipe("iso-hybrid", disc, "raw", _ISO_SIZE),
)  # fmt: skip
