"""What nobody here opens is refused by its name; and what looks like two formats at once, because it is both."""

import io
import re
import struct
import tarfile
import zlib
from pathlib import Path

import pytest

from probes.identify import identify
from probes.image import Image, Verdict
from tests.formats.images import MiB, codes, judge, qemu_img_create, run, sparse
from tests.formats.readers import MemoryReader

UIMAGE = b"\x27\x05\x19\x56" + bytes(4) + b"name".rjust(56, b"\1") + bytes(600)
UIMAGE = UIMAGE[:4] + struct.pack(">I", zlib.crc32(UIMAGE[:64])) + UIMAGE[8:]


def refused(image: Image, name: str, code: str = "format-unsupported") -> None:
    assert image.format == name
    assert codes(image) == {code}
    assert image.verdict is Verdict.REFUSE
    assert all(hazard.text.isprintable() for hazard in image.hazards)


def test_all_that_qemu_img_can_make_has_a_format_of_its_own() -> None:
    supported = re.search(r"Supported (?:image )?formats:(.*?)\n\n(?! )", run("qemu-img", "--help"), re.DOTALL)
    assert supported
    disks = {"qcow2", "raw", "luks", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels"}
    built_here = {"bochs", "cloop", "dmg"}  # see packed_disks.py
    not_formats = {
        "blkdebug", "blklogwrites", "blkverify", "compress", "copy-before-write", "copy-on-read", "file", "ftp", "ftps",
        "gluster", "host_cdrom", "host_device", "http", "https", "iscsi", "iser", "nbd", "nfs", "null-aio",
        "null-co", "nvme", "preallocate", "quorum", "rbd", "replication", "snapshot-access", "ssh", "throttle", "vvfat",
        "io_uring", "nvme-io_uring", "virtio-blk-vfio-pci", "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa",
    }  # fmt: skip
    assert set(supported[1].split()) - not_formats - disks == built_here


BY_HAND: dict[str, tuple[str, bytes]] = {
    "dmg, encrypted": ("dmg", b"encrcdsa\0\0\0\2" + bytes(5000)),
    "dmg, encrypted of the first kind": ("dmg", bytes(200_000) + b"cdsaencr"),
    "vma": ("vma", b"VMA\0\0\0\0\1" + bytes(600)),
    "partclone": ("partclone", b"partclone-image\0" + bytes(600)),
    "partimage": ("partimage", b"PaRtImAgE-VoLuMe" + bytes(600)),
    "encase": ("ewf", b"EVF\x09\r\n\xff\0\1" + bytes(600)),
    "aff": ("aff", b"AFF10\r\n\0" + bytes(600)),
    "chd": ("chd", b"MComprHD\0\0\0\x7c" + bytes(600)),
    "a .bin of a CD": ("cd-sectors", b"\0" + b"\xff" * 10 + b"\0\0\2\0\1" + bytes(2336)),
    "rbd export": ("rbd-export", b"rbd image v2\nO" + bytes(600)),
    "rbd export-diff": ("rbd-export", b"rbd diff v1\nt" + bytes(600)),
    "btrfs send": ("btrfs-send", b"btrfs-stream\0\1\0\0\0" + bytes(600)),
    "zfs send": ("zfs-send", bytes(8) + struct.pack("<Q", 0x2F5BACBAC) + bytes(600)),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_formats_that_no_tool_here_makes_are_refused_by_name(case: str) -> None:
    name, data = BY_HAND[case]
    refused(identify(MemoryReader(data)), name)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("html", b"<!DOCTYPE html>\n<html><head>"),
        ("html", b"\xef\xbb\xbf\r\n  <HTML>\n<title>502 Bad Gateway</title>" + b"x" * 9000),
        ("html", b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"),
        ("text", b"404 page not found\n"),
        ("html", b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">\n<html xmlns="x">'),
        ("checksums", b"d41d8cd98f00b204e9800998ecf8427e  image.iso\n" * 1000),
        ("checksums", b"# a.img: 5 bytes\nSHA256 (a.img) = d41d8cd98f00b204e9800998ecf8427e\n"),
        ("pgp", b"-----BEGIN PGP SIGNATURE-----\n\niQIzBAABCgAdFiEE\n-----END PGP SIGNATURE-----\n"),
        ("git-lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"),
        ("torrent", b"d8:announce41:http://bttracker.debian.org:6969/announce7:comment" + bytes(range(256))),
        ("zsync", b"zsync: 0.6.2\nFilename: a.iso\nBlocksize: 2048\n\n" + bytes(range(256))),
        ("ovf", b'<?xml version="1.0"?>\n<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1">'),
        ("xml", b'<?xml version="1.0"?>\n<!-- ** DO NOT EDIT ** -->\n<VirtualBox version="1.15-linux">'),
        ("vmx", b'.encoding = "UTF-8"\nconfig.version = "8"\nvirtualHW.version = "19"\n'),
        ("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(600)),
        ("jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1" + bytes(600)),
        ("sqlite", b"SQLite format 3\0\x10\0" + bytes(600)),
        ("vm-state", b"QEVM\0\0\0\3" + bytes(600)),
        ("uimage", UIMAGE),
        ("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(600)),
        ("firmware", Path("/usr/share/OVMF/OVMF_VARS_4M.fd").read_bytes()),
        ("firmware", Path("/usr/share/OVMF/OVMF_CODE_4M.fd").read_bytes()),
        ("text", b"deadbeef is no check sum\n" * 99),
        ("text", "Über uns – ünïcode".encode() * 1000),
        ("text", b'{"error": "no such image"}'),
        ("elf", Path("/bin/true").read_bytes()),
        ("pe", Path("/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi").read_bytes()),
    ],
)
def test_what_is_no_image_at_all_is_told(name: str, data: bytes) -> None:
    refused(identify(MemoryReader(data)), name, "not-an-image")


class TestFalseFriends:
    """What begins like something else, and is a disk all the same."""

    def boot_sector(self, start: bytes) -> bytes:
        return start.ljust(510, b"\x90") + b"\x55\xaa" + bytes(MiB - 512)

    @pytest.mark.parametrize(
        "start",
        [
            b"MZ",
            b"\x1f\x8b",
            b"BZh",
            b"\x1f\x8b\x08\xff",
            b"PK",
            b"\x7fELF\xeb",
            b"QFI",
            b"GIF8",
            b"\x89PN",
            b"\xff\xd8\xff\xe0",
            b"\x27\x05\x19\x56",
        ],
    )
    def test_boot_code_that_begins_like_a_magic_is_raw(self, start: bytes) -> None:
        image = identify(MemoryReader(self.boot_sector(start)))
        assert image.format == "raw"
        assert image.verdict is Verdict.OK

    def test_a_boot_sector_that_holds_a_tars_mark_by_chance_is_raw(self) -> None:
        sector = bytearray(self.boot_sector(b"\xeb\x63\x90"))
        sector[257:262] = b"ustar"
        assert identify(MemoryReader(bytes(sector))).format == "raw"

    def test_the_word_conectix_elsewhere_in_the_last_sector_is_no_footer(self) -> None:
        data = bytearray(self.boot_sector(b"\xeb\x63\x90"))
        data[-400:-392] = b"conectix"
        data[-20:-16] = b"koly"
        assert identify(MemoryReader(bytes(data))).format == "raw"

    def test_an_archive_within_a_disk_is_no_matter(self) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add("/etc/hostname")
        data = bytearray(self.boot_sector(b"\xeb\x63\x90"))
        data[4096 : 4096 + len(packed.getvalue())] = packed.getvalue()
        assert identify(MemoryReader(bytes(data))).format == "raw"


class TestTwoFormats:
    MEMTEST = Path("/usr/lib/memtest86+/memtest86+x64.iso")

    def ambiguous(self, image: Image) -> None:
        assert "two-formats" in codes(image)
        assert image.verdict is Verdict.REFUSE

    @pytest.mark.parametrize("cluster", ["512", "4k", "64k", "2M"])
    def test_a_disc_that_is_a_qcow2_as_well_is_refused(self, tmp_path: Path, cluster: str) -> None:
        disc = bytearray(self.MEMTEST.read_bytes())
        image = qemu_img_create(tmp_path / "image", "64M", "qcow2", "-o", f"cluster_size={cluster}")
        disc[:512] = image.read_bytes()[:512]
        judged = identify(MemoryReader(bytes(disc)))
        self.ambiguous(judged)
        assert "qcow2 and ISO 9660" in judged.hazards[0].text

    @pytest.mark.parametrize("name", ["vmdk", "vdi", "vpc", "vhdx", "qed", "qcow", "parallels"])
    def test_a_disc_that_is_any_other_disk_format_as_well_is_refused(self, tmp_path: Path, name: str) -> None:
        disc = bytearray(self.MEMTEST.read_bytes())
        disc[:512] = qemu_img_create(tmp_path / "image", "64M", name).read_bytes()[:512]
        self.ambiguous(identify(MemoryReader(bytes(disc))))

    def test_a_qcow2_that_is_a_vdi_as_well_is_refused(self, tmp_path: Path) -> None:
        image = bytearray(qemu_img_create(tmp_path / "image", "64M", "qcow2", "-o", "compat=0.10").read_bytes())
        image[64:68] = b"\x7f\x10\xda\xbe"
        self.ambiguous(identify(MemoryReader(bytes(image))))

    def test_a_disc_that_begins_with_a_program_is_a_disc(self) -> None:
        disc = bytearray(self.MEMTEST.read_bytes())
        disc[:512] = Path("/bin/true").read_bytes()[:512]
        assert identify(MemoryReader(bytes(disc))).verdict is Verdict.OK


def test_an_image_of_zeros_is_raw(tmp_path: Path) -> None:
    assert judge(sparse(tmp_path / "zeros", MiB)).format == "raw"
