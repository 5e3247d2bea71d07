"""The marks of what Farboot does not open (yet): known, so that it is refused by name and never taken for raw.

The names of disk formats are those of QEMU's drivers, and their marks are what QEMU itself looks for (block/*.c, the
`bdrv_probe` functions); the others are named in plain words. A mark must be long, or be checked further (a tar's check
sum, a PE's second signature): the boot sector of a raw disk is code, and may begin with any two bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass

from probes.fields import big, little
from probes.image import Hazard, Image, Verdict
from probes.reader import Reader

TAIL = 20 << 10
"""Bytes at an image's end, read for what lies only there: a fixed VHD's footer, a DMG's trailer, the GPT's copy."""

_HEAD = 8 << 10
_TEXT_BYTES = bytes([*b"\t\n\r\f\x1b", *range(0x20, 0x7F), *range(0x80, 0x100)])


@dataclass(frozen=True, slots=True)
class Magic:
    """A kind of file that is recognised and refused.

    `name` is QEMU's driver or a plain word; `title` completes "This is …"; `hint` is what to do; `code` is the
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


def is_tame(image: Image) -> bool:
    """Whether `image` is of a kind that no QEMU driver would open: a program or a text, that is."""
    return any(hazard.code == "not-an-image" for hazard in image.hazards)


def _image(magic: Magic, size: int) -> Image:
    text = {
        "format-unsupported": f"This is {magic.title}, which Farboot does not open yet.",
        "compressed": f"This is {magic.title}: a disk image may be inside, but cannot be read where it lies.",
        "not-an-image": f"This is {magic.title}, not a disk image.",
    }[magic.code]
    hint = magic.hint
    if not hint and magic.code == "format-unsupported":
        hint = f"If you trust it, convert a copy: qemu-img convert -f {magic.name} -O qcow2 FROM TO."
    hazard = Hazard(magic.code, f"{text} {hint}".strip(), Verdict.REFUSE)
    return Image(magic.name, 0, size, hazards=(hazard,))


def _starts(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


def _is_vmdk_text(head: bytes) -> bool:
    """A VMDK descriptor as QEMU takes it: comments and blank lines, then `version=1` to `3`; or its usual title."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(b"# disk descriptorfile"):
        return True
    for line in head.splitlines():
        if line.startswith(b"#") or not line.strip(b" \t"):
            continue
        return line in {b"version=1", b"version=2", b"version=3"}
    return False


def _is_tar(head: bytes) -> bool:
    header = head[:512]
    if header[257:262] != b"ustar":
        return False
    total = sum(header[:148]) + 8 * 0x20 + sum(header[156:])
    return header[148:156].strip(b" \0").lstrip(b"0") == b"%o" % total


def _is_program(head: bytes) -> bool:
    """A PE file: Windows' and UEFI's programs. `MZ` alone could be code."""
    at = little(head, 60, 4)
    return head.startswith(b"MZ") and head[at : at + 4] == b"PE\0\0"


def _is_elf(head: bytes) -> bool:
    return head[:4] == b"\x7fELF" and head[4:5] in {b"\1", b"\2"} and head[5:6] in {b"\1", b"\2"} and head[6:7] == b"\1"


def _is_bzip2(head: bytes) -> bool:
    return head[:3] == b"BZh" and head[3:4].isdigit() and head[4:10] in {b"1AY&SY", b"\x17rE8P\x90"}


def _is_gzip(head: bytes) -> bool:
    return head[:3] == b"\x1f\x8b\x08" and little(head, 3, 1) < 0x20


def _is_zstd(head: bytes) -> bool:
    return head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F)


def _is_qcow1(head: bytes) -> bool:
    return head[:4] == b"QFI\xfb" and big(head, 4, 4) == 1


def _is_web_page(head: bytes) -> bool:
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<?xml", b"<error>", b"<!--"))


def _is_text(head: bytes) -> bool:
    """Nothing but text, to the last byte looked at: no disk begins so, for a boot sector ends in 55 AA."""
    if not head or head.translate(None, _TEXT_BYTES):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and error.reason == "unexpected end of data"
    return True


def _has_dmg_trailer(tail: bytes) -> bool:
    """The trailer "koly", version 4, 512 bytes long; QEMU looks for it a little beyond the exact place too."""
    return b"koly\0\0\0\4\0\0\2\0" in tail[-1024:]


def _disk(name: str, title: str, *marks: bytes, hint: str = "") -> Magic:
    return Magic(name, title, _starts(*marks), hint=hint)


def _packed(name: str, test: Callable[[bytes], bool], tool: str) -> Magic:
    return Magic(name, f"compressed with {name}", test, "compressed", f"Decompress it first ({tool}).")


def _archive(name: str, title: str, test: Callable[[bytes], bool], tool: str) -> Magic:
    return Magic(name, title, test, "compressed", f"Unpack it first ({tool}).")


MAGICS: tuple[Magic, ...] = (
    # Disk formats of QEMU's
    Magic("qcow", "a qcow image of version 1 (QEMU, before 2008)", _is_qcow1),
    Magic("vmdk", "a VMDK descriptor (VMware; the data lie in other files)", _is_vmdk_text),
    Magic("vdi", "a VDI image (VirtualBox)", lambda head: head[64:68] == b"\x7f\x10\xda\xbe"),
    _disk("vmdk", "a VMDK image (VMware)", b"KDMV", b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0"),
    _disk("qed", "a QED image (QEMU)", b"QED\0"),
    _disk("vhdx", "a VHDX image (Hyper-V)", b"vhdxfile"),
    _disk("parallels", "a Parallels image", b"WithoutFreeSpace", b"WithouFreSpacExt"),
    _disk("luks", "an encrypted volume (LUKS)", b"LUKS\xba\xbe\0\1", hint="Passphrases are not supported yet."),
    _disk("luks", "an encrypted volume (LUKS 2)", b"LUKS\xba\xbe\0\2", hint="QEMU itself opens only LUKS 1."),
    _disk("bochs", "a Bochs image", b"Bochs Virtual HD Image"),
    _disk("cloop", "a cloop image", b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file="),
    # Disk formats of others
    _disk("vma", "a Proxmox backup (VMA)", b"VMA\0", hint="Restore it with qmrestore, or use vma extract."),
    _disk("sparseimage", "an Apple sparse image", b"sprs", hint="Convert it with hdiutil."),
    _disk("android-sparse", "an Android sparse image", b"\x3a\xff\x26\xed\1\0", hint="Expand it with simg2img."),
    _disk("ewf", "a forensic image (EnCase)", b"EVF\x09\x0d\x0a\xff\0", hint="Turn it into raw with ewfexport."),
    _disk("partclone", "a partclone image", b"partclone-image", hint="Restore it with partclone.restore."),
    _disk("wim", "a Windows image file (WIM)", b"MSWIM\0\0\0", hint="It holds files, not a disk."),
    # Compressed, or packed with others
    _packed("gzip", _is_gzip, "gunzip"),
    _packed("xz", _starts(b"\xfd7zXZ\0"), "unxz"),
    _packed("zstd", _is_zstd, "unzstd"),
    _packed("bzip2", _is_bzip2, "bunzip2"),
    _packed("lz4", _starts(b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"), "unlz4"),
    _packed("lzop", _starts(b"\x89LZO\0\r\n\x1a\n"), "lzop -d"),
    _packed("lzip", _starts(b"LZIP\0", b"LZIP\1"), "lzip -d"),
    _archive("zip", "a ZIP archive", _starts(b"PK\3\4", b"PK\5\6", b"PK\7\x08"), "unzip"),
    _archive("7z", "a 7z archive", _starts(b"7z\xbc\xaf\x27\x1c"), "7z x"),
    _archive("rar", "a RAR archive", _starts(b"Rar!\x1a\7"), "unrar x"),
    _archive("tar", "a tar archive (an OVA is one, too)", _is_tar, "tar -x"),
    _archive("cpio", "a cpio archive", _starts(b"070701", b"070702", b"070707"), "cpio -i"),
    _archive("ar", "an ar archive (a Debian package is one)", _starts(b"!<arch>\n"), "ar x"),
    _archive("rpm", "an RPM package", _starts(b"\xed\xab\xee\xdb"), "rpm2cpio"),
    # Not images at all
    Magic("elf", "a program (ELF)", _is_elf, "not-an-image"),
    Magic("pe", "a program for Windows or UEFI", _is_program, "not-an-image"),
    Magic("html", "a web page", _is_web_page, "not-an-image", "The server may have sent an error or a login page."),
    Magic("text", "a text", _is_text, "not-an-image"),
)

_TAIL_MAGICS = (
    Magic("dmg", "an Apple disk image (DMG)", _has_dmg_trailer, hint="If you trust it, convert a copy with dmg2img."),
)
