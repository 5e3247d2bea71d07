"""The marks of what neither QEMU nor Farboot opens: known, so that it is refused by name and never taken for raw.

They are disk images of other programs, and what is no image at all. The marks are those of libmagic and of the programs
themselves. A mark must be long, or be checked further (a firmware's
check sum, a PE's second signature): the boot sector of a raw disk is code, and may begin with any two bytes.
"""

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from probes.fields import big, little
from probes.image import Hazard, Image, Verdict
from probes.reader import Reader
from probes.recording import TAIL

_HEAD = 8 << 10
_CHECKSUM = re.compile(rb"(#[^\n]{0,200}\n)*([0-9A-Fa-f]{32,128} [ *]|(MD5|SHA[0-9]{1,3}) \()[^\n]")
_TEXT_BYTES = bytes([*b"\t\n\r\f\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)])


@dataclass(frozen=True, slots=True)
class Magic:
    """A kind of file that is recognised and refused.

    `name` is a plain word; `title` completes "This is …"; `hint` is what to do; `code` is the
    hazard's. `test` looks at the first 8 KiB, or for those that lie at the end at the last `TAIL` bytes.
    """

    name: str
    title: str
    test: Callable[[bytes], bool]
    code: str = "format-unsupported"
    hint: str = ""


def recognise(reader: Reader) -> list[Image]:
    """Return what the first bytes are the mark of: usually nothing. Raises what `reader` raises."""
    head = reader.pread(0, _HEAD)
    found = [magic for magic in MAGICS if magic.test(head)]
    serious = [magic for magic in found if magic.code != "not-an-image"]
    return [_image(magic, reader.size) for magic in serious or found[:1]]


def recognise_tail(reader: Reader) -> list[Image]:
    """Return what the last bytes are the mark of, for images whose head says nothing: they look raw, and are not."""
    tail = reader.pread(max(reader.size - TAIL, 0), TAIL)
    return [_image(magic, reader.size) for magic in _TAIL_MAGICS if magic.test(tail)]


def title(name: str) -> str:
    """Return what completes "This is …" for the format called `name`, nothing where it is none of these."""
    return next((magic.title for magic in (*MAGICS, *_TAIL_MAGICS) if magic.name == name), "")


def is_tame(image: Image) -> bool:
    """Whether `image` is of a kind that no QEMU driver would open: a program or a text, that is."""
    return any(hazard.code == "not-an-image" for hazard in image.hazards)


def _image(magic: Magic, size: int) -> Image:
    text = {
        "format-unsupported": f"This is {magic.title}, which QEMU does not open.",
        "not-an-image": f"This is {magic.title}, not a disk image.",
    }[magic.code]
    hazard = Hazard(magic.code, f"{text} {magic.hint}".strip(), Verdict.REFUSE)
    return Image(magic.name, 0, size, hazards=(hazard,))


def _starts(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


def _is_program(head: bytes) -> bool:
    """A PE file: Windows' and UEFI's programs. `MZ` alone could be code."""
    at = little(head, 60, 4)
    return head.startswith(b"MZ") and head[at : at + 4] == b"PE\0\0"


def _is_elf(head: bytes) -> bool:
    return head[:4] == b"\x7fELF" and head[4:5] in {b"\1", b"\2"} and head[5:6] in {b"\1", b"\2"} and head[6:7] == b"\1"


def _is_web_page(head: bytes) -> bool:
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<error>", b"<!--")):
        return True
    return start.startswith(b"<?xml") and any(mark in start for mark in (b"<html", b"<error"))


def _is_xml(head: bytes) -> bool:
    """XML that is no web page and no error of a storage service (S3's)."""
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith(b"<?xml") and not any(mark in start for mark in (b"<html", b"<error"))


def _is_ovf(head: bytes) -> bool:
    return _is_xml(head) and b"schemas.dmtf.org/ovf/envelope" in head


def _is_vmx(head: bytes) -> bool:
    return _is_text(head) and b"virtualHW.version" in head and b"config.version" in head


def _is_checksums(head: bytes) -> bool:
    """Lines as of sha256sum, or of BSD's `SHA256 (NAME) = …`."""
    return _CHECKSUM.match(head) is not None and _is_text(head)


def _is_jpeg(head: bytes) -> bool:
    return head[:3] == b"\xff\xd8\xff" and head[6:11] in {b"JFIF\0", b"Exif\0"}


def _is_firmware_volume(head: bytes) -> bool:
    """A UEFI firmware volume (PI specification, volume 3, section 3.2.1): its mark, and its header's check sum."""
    length = little(head, 48, 2)
    return (
        head[40:44] == b"_FVH"
        and 56 <= length <= 1024
        and not sum(little(head, at, 2) for at in range(0, length, 2)) & 0xFFFF
    )


def _is_uimage(head: bytes) -> bool:
    """A file for U-Boot: 64 bytes of header, with a check sum of themselves."""
    return head[:4] == b"\x27\x05\x19\x56" and zlib.crc32(head[:4] + bytes(4) + head[8:64]) == big(head, 4, 4)


def _is_zfs_stream(head: bytes) -> bool:
    return head[:4] == bytes(4) and little(head, 8, 8) == 0x2F5BACBAC


def _is_text(head: bytes) -> bool:
    """Nothing but text, to the last byte looked at: no disk begins so, for a boot sector ends in 55 AA."""
    if not head or head.translate(None, _TEXT_BYTES):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and error.reason == "unexpected end of data"
    return True


def _disk(name: str, title: str, *marks: bytes, hint: str) -> Magic:
    return Magic(name, title, _starts(*marks), hint=hint)


def _tame(name: str, title: str, *marks: bytes, hint: str = "") -> Magic:
    return Magic(name, title, _starts(*marks), "not-an-image", hint)


MAGICS: tuple[Magic, ...] = (
    # Disk formats of others than QEMU
    _disk("vma", "a Proxmox backup (VMA)", b"VMA\0", hint="Restore it with qmrestore, or use vma extract."),
    _disk("dmg", "an encrypted Apple disk image (DMG)", b"encrcdsa", hint="Decrypt it with hdiutil convert."),
    _disk("sparseimage", "an Apple sparse image", b"sprs", hint="Convert it with hdiutil."),
    _disk("android-sparse", "an Android sparse image", b"\x3a\xff\x26\xed\1\0", hint="Expand it with simg2img."),
    _disk(
        "ewf",
        "a forensic image (EnCase)",
        b"EVF\x09\x0d\x0a\xff\0",
        b"EVF2\r\n\x81\0",
        hint="Turn it into raw with ewfexport.",
    ),
    _disk("aff", "a forensic image (AFF)", b"AFF10\r\n\0", hint="Turn it into raw with affconvert."),
    _disk("partimage", "a partimage image", b"PaRtImAgE-VoLuMe", hint="Restore it with partimage."),
    _disk("fsarchiver", "an fsarchiver archive", b"FsArCh_0", hint="Restore it with fsarchiver."),
    _disk("partclone", "a partclone image", b"partclone-image", hint="Restore it with partclone.restore."),
    _disk("wim", "a Windows image file (WIM)", b"MSWIM\0\0\0", hint="It holds files, not a disk."),
    _disk("chd", "a CHD image (MAME)", b"MComprHD", hint="Unpack it with chdman."),
    _disk(
        "cd-sectors",
        "a CD's sectors with their check sums (a .bin or .mdf)",
        b"\0" + b"\xff" * 10 + b"\0",
        hint="Turn it into an ISO with bchunk or iat.",
    ),
    _disk(
        "rbd-export",
        "what `rbd export` made in its format 2, or `rbd export-diff`",
        b"rbd image v2\n",
        b"rbd diff v1\n",
        b"rbd diff v2\n",
        hint="Import it with rbd import, or import-diff.",
    ),
    _disk("btrfs-send", "a stream of btrfs send", b"btrfs-stream\0", hint="Take it in with btrfs receive."),
    Magic("zfs-send", "a stream of zfs send", _is_zfs_stream, hint="Take it in with zfs receive."),
    # Not images at all
    Magic("elf", "a program (ELF)", _is_elf, "not-an-image"),
    Magic("pe", "a program for Windows or UEFI", _is_program, "not-an-image"),
    Magic("firmware", "UEFI firmware", _is_firmware_volume, "not-an-image", "QEMU takes it as pflash, not as a disk."),
    Magic("uimage", "a kernel or the like for U-Boot", _is_uimage, "not-an-image"),
    _tame("android-boot", "an Android boot image", b"ANDROID!"),
    _tame(
        "vm-state", "the saved state of a running guest", b"QEVM\0\0\0\3", b"LibvirtQemudSave", b"VirtualBox SavedState"
    ),
    _tame("pdf", "a PDF document", b"%PDF-1.", b"%PDF-2."),
    _tame("png", "a picture (PNG)", b"\x89PNG\r\n\x1a\n"),
    Magic("jpeg", "a picture (JPEG)", _is_jpeg, "not-an-image"),
    _tame("gif", "a picture (GIF)", b"GIF87a", b"GIF89a"),
    _tame("ole", "an OLE file (a Windows installer, or an old Office document)", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
    _tame("cab", "a Windows cabinet", b"MSCF\0\0\0\0"),
    _tame("sqlite", "an SQLite database", b"SQLite format 3\0"),
    _tame(
        "torrent", "a torrent: it tells where an image can be had", b"d8:announce", b"d13:announce-list", b"d7:comment"
    ),
    _tame("zsync", "a zsync file: it tells how an image can be had", b"zsync: 0."),
    _tame(
        "git-lfs",
        "a pointer of Git LFS",
        b"version https://git-lfs.github.com/spec/v1\n",
        hint="The file itself comes with git lfs pull.",
    ),
    _tame("pgp", "a signature or a key (PGP)", b"-----BEGIN PGP "),
    Magic("checksums", "a list of check sums", _is_checksums, "not-an-image", "The image has another name."),
    Magic(
        "ovf", "the description of a virtual appliance (OVF)", _is_ovf, "not-an-image", "Its disks are files beside it."
    ),
    Magic(
        "vmx",
        "the description of a virtual machine (VMware)",
        _is_vmx,
        "not-an-image",
        "Its disks are the .vmdk files that it names.",
    ),
    Magic(
        "xml",
        "a description in XML",
        _is_xml,
        "not-an-image",
        "If it is one of a virtual machine, its disks are other files.",
    ),
    Magic("html", "a web page", _is_web_page, "not-an-image", "The server may have sent an error or a login page."),
    Magic("text", "a text", _is_text, "not-an-image"),
)

_TAIL_MAGICS = (
    Magic(
        "dmg",
        "an encrypted Apple disk image (DMG)",
        lambda tail: tail.endswith(b"cdsaencr"),
        hint="Decrypt it with hdiutil convert.",
    ),
)
