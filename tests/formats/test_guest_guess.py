"""Whose disk or disc it is, guessed by what is cheap to see; and the name that a Linux gives itself."""

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.identify import identify
from probes.image import Family, Filesystem, Guest, Partition
from probes.media.ext_files import ExtFiles
from probes.media.guest import DOS, FREEDOS, OLD_WINDOWS, disc_guest, disk_guest
from probes.recording import RecordingReader
from tests.formats.images import MiB, copy_into, judge, run
from tests.formats.partitioned import Disk
from tests.formats.readers import FileReader, MemoryReader

RELEASE = 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'

# Volume names as the makers' discs carry them.
DISCS = {
    "Debian 12.5.0 amd64 n": "linux Debian 12",
    "Debian 13.1.0 amd64 1": "linux Debian 13",
    "d-live 12.5.0 gn amd64": "linux Debian 12",
    "d-live nf 11.7.0 gn amd64": "linux Debian 11",
    "Ubuntu 24.04 LTS amd64": "linux Ubuntu 24.04",
    "Ubuntu-Server 22.04.3 LTS amd64": "linux Ubuntu 22.04.3",
    "Kubuntu 23.10 amd64": "linux Kubuntu 23.10",
    "Linux Mint 21.3 Cinnamon 64-bit": "linux Linux Mint 21.3",
    "Fedora-WS-Live-39-1-5": "linux Fedora 39",
    "Fedora-S-dvd-x86_64-40": "linux Fedora 40",
    "fedora-coreos-39.20240210.3.0": "linux Fedora CoreOS 39",
    "ARCH_202404": "linux Arch Linux",
    "CentOS 7 x86_64": "linux CentOS 7",
    "CentOS-Stream-9-BaseOS-x86_64": "linux CentOS Stream 9",
    "RHEL-9-3-0-BaseOS-x86_64": "linux Red Hat Enterprise Linux 9",
    "Rocky-9-3-x86_64-dvd": "linux Rocky Linux 9",
    "AlmaLinux-9-3-x86_64-dvd": "linux AlmaLinux 9",
    "OL-9-3-0-BaseOS-x86_64": "linux Oracle Linux 9",
    "openSUSE-Leap-15.5-DVD-x86_64491": "linux openSUSE Leap 15.5",
    "openSUSE_Tumbleweed_KDE_Live": "linux openSUSE Tumbleweed",
    "RESCUE1100": "linux SystemRescue",
    "grml64-full 2024.02": "linux Grml",
    "PVE": "linux Proxmox VE",
    "Kali Live": "linux Kali Linux",
    "alpine-std 3.19.1 x86_64": "linux Alpine Linux 3.19.1",
    "nixos-minimal-23.11-x86_64": "linux NixOS 23.11",
    "CCCOMA_X64FRE_EN-US_DV9": "windows Windows",
    "CCSA_X64FRE_DE-DE_DV5": "windows Windows",
    "ESD-ISO": "windows Windows",
    "J_CCSA_X64FRE_EN-US_DV5": "windows Windows",
    "SSS_X64FREE_EN-US_DV9": "windows Windows Server",
    "IR3_SSS_X64FREV_EN-US_DV9": "windows Windows Server",
    "GRMCPRXFRER_EN_DVD": "windows Windows 7",
    "GSP1RMCPRXFRER_EN_DVD": "windows Windows 7",
    "WXPVOL_EN": f"windows {OLD_WINDOWS}",
    "GRTMPVOL_EN": f"windows {OLD_WINDOWS}",
    "14_0_RELEASE_AMD64_CD": "bsd FreeBSD 14.0",
    "OpenBSD/amd64   7.4 Install CD": "bsd OpenBSD 7.4",
    "ESXI-8.0U2-22380479-STANDARD": "other VMware ESXi 8.0",
    "MT86PLUS_64": "other Memtest86+",
}


@pytest.mark.parametrize("label", DISCS)
def test_discs_are_known_by_their_volume_names(label: str) -> None:
    family, _, name = DISCS[label].partition(" ")
    assert disc_guest(label) == Guest(Family(family), name, live=True)


@pytest.mark.parametrize(
    "label", ["", "CDROM", "ISOIMAGE", "cidata", "config-2", "virtio-win-0.1.240", "BACKUP", "A" * 32]
)
def test_of_other_discs_nothing_is_said(label: str) -> None:
    assert disc_guest(label) is None


def test_a_discs_guest_is_told(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    made = ("-V", "Debian 12.5.0 amd64 n", "-o", tmp_path / "image", tmp_path / "tree")
    run("xorriso", "-as", "mkisofs", "-quiet", *made)
    media = judge(tmp_path / "image").media
    assert media.guest == Guest(Family.LINUX, "Debian 12", live=True)
    assert media.summary.startswith("Debian 12 (live) · CD")


def of(*kinds: str, types: tuple[str, ...] = (), label: str = "") -> list[Partition]:
    """Partitions with these filesystems, then some of these types without."""
    held = [Partition(n, n * MiB, MiB, "", filesystem=Filesystem(kind, label)) for n, kind in enumerate(kinds, 1)]
    return held + [Partition(20 + n, n * MiB, MiB, kind) for n, kind in enumerate(types)]


NTFS = b"\xeb\x52\x90NTFS    ".ljust(390, b"\0")


@pytest.mark.parametrize(
    ("partitions", "boots", "expected"),
    [
        (of("ext4"), (), "linux Linux"),
        (of("vfat", "xfs"), (), "linux Linux"),
        (of("LVM2_member"), (), "linux Linux"),
        (of("crypto_LUKS"), (), "linux Linux"),
        (of("vfat", types=("Linux root (x86-64)",)), (), "linux Linux"),
        (of("ext4", label="cloudimg-rootfs"), (), "linux Ubuntu"),
        (of(types=("ChromeOS kernel",)), (), "linux ChromeOS"),
        (of("ntfs"), (NTFS + b"BOOTMGR is missing",), "windows Windows"),
        (of("ntfs"), (NTFS + b"NTLDR is missing",), f"windows {OLD_WINDOWS}"),
        (of("vfat", "ntfs", types=("Microsoft reserved",)), (), "windows Windows"),
        (of("BitLocker"), (), "windows Windows"),
        (of("ext4", "ntfs"), (NTFS + b"BOOTMGR",), "windows Windows"),
        (of("ext4", "ntfs"), (NTFS,), "linux Linux"),
        (of("ext4", "vfat"), (b"MSDOS5.0".ljust(400) + b"BOOTMGR",), "linux Linux"),
        (of("vfat", label="ESD-USB"), (), "windows Windows"),
        (of("ufs", types=("FreeBSD boot",)), (), "bsd FreeBSD"),
        (of(types=("OpenBSD", "BSD FFS")), (), "bsd OpenBSD"),
        (of("ufs"), (), "bsd BSD"),
        (of("zfs_member", label="zroot"), (), "bsd FreeBSD"),
        (of("apfs"), (), "macos macOS"),
        (of("VMFS_volume_member", types=("VMware VMFS",)), (), "other VMware ESXi"),
        (of("vfat"), (b"\xeb\x3c\x90MSDOS5.0".ljust(480) + b"IO      SYSMSDOS   SYS",), f"other {DOS}"),
        (of("vfat"), (b"\xeb\x3c\x90FRDOS5.1".ljust(480) + b"KERNEL  SYS",), f"other {FREEDOS}"),
    ],
)
def test_disks_are_known_by_what_lies_on_them(
    partitions: list[Partition], boots: tuple[bytes, ...], expected: str
) -> None:
    guest = disk_guest(bytes(512), partitions, boots)
    assert guest is not None
    assert f"{guest.family} {guest.name}" == expected


@pytest.mark.parametrize("partitions", [of(), of("vfat"), of("exfat"), of(types=("Linux", "EFI System"))])
def test_of_other_disks_nothing_is_said(partitions: list[Partition]) -> None:
    assert disk_guest(bytes(512), partitions, [bytes(512)]) is None


def root(path: Path, *options: str, release: str = RELEASE, link: bool = True) -> Path:
    """An ext filesystem with the files of a Linux, as a distribution lays them."""
    tree = path.with_name("tree")
    for folder in ("etc", "usr/lib", "usr/bin", "var", "boot"):
        (tree / folder).mkdir(parents=True)
    for number in range(300):
        (tree / "usr" / "lib" / f"libsomething-{number}.so.{number}").touch()
        (tree / "etc" / f"configuration-{number}.conf").touch()
    if link:
        (tree / "usr/lib/os-release").write_text(release)
        (tree / "etc/os-release").symlink_to("../usr/lib/os-release")
    else:
        (tree / "etc/os-release").write_text(release)
    run("mke2fs", "-q", *options, "-d", tree, path, "200M")
    return path


EXT = {
    "ext4": ("-t", "ext4"),
    "ext4, 1 KiB blocks": ("-t", "ext4", "-b", "1024"),
    "ext4, no 64bit": ("-t", "ext4", "-O", "^64bit"),
    "ext3": ("-t", "ext3", "-b", "4096"),
    "ext2, small inodes": ("-t", "ext2", "-b", "4096", "-I", "128"),
}


class TestRelease:
    @pytest.mark.parametrize("kind", EXT)
    @pytest.mark.parametrize("link", [True, False])
    def test_of_a_linux_on_ext_is_read(self, disk: Disk, tmp_path: Path, kind: str, link: bool) -> None:
        filesystem = root(tmp_path / "root", *EXT[kind], link=link)
        path = copy_into(disk("label: gpt\nsize=20M, type=uefi\ntype=linux\n", size=240 * MiB), 21 * MiB, filesystem)
        with FileReader(path) as file:
            reader = RecordingReader(file)
            guest = identify(reader).media.guest
            assert guest == Guest(Family.LINUX, "Debian GNU/Linux 12 (bookworm)")
            assert reader.trips <= 2 + 10
            assert reader.bytes_read <= 250 << 10

    def test_is_not_looked_for_where_a_label_tells_already(self, tmp_path: Path) -> None:
        with FileReader(root(tmp_path / "root", "-t", "ext4", "-L", "cloudimg-rootfs")) as file:
            reader = RecordingReader(file)
            assert identify(reader).media.guest == Guest(Family.LINUX, "Ubuntu")
            assert reader.trips == 2

    @pytest.mark.parametrize(
        ("release", "name"),
        [
            ("NAME=Fedora\nVERSION_ID=39\n", "Fedora 39"),
            ("PRETTY_NAME='Arch Linux'\n", "Arch Linux"),
            ('PRETTY_NAME="\x1b[31mred\\"\x07"\n', '\\x1b[31mred"\\x07'),
            ("nothing of it\n", "Linux"),
            ("", "Linux"),
            ("PRETTY_NAME=" + "x" * 5000, "x" * 59 + "…"),
        ],
    )
    def test_says_who_it_is_and_is_made_harmless(self, tmp_path: Path, release: str, name: str) -> None:
        guest = judge(root(tmp_path / "root", "-t", "ext4", release=release)).media.guest
        assert guest is not None
        assert guest.name == name

    def test_of_a_root_before_others_is_found(self, disk: Disk, tmp_path: Path) -> None:
        run("mke2fs", "-q", "-t", "ext4", tmp_path / "boot", "15M")
        path = disk("label: gpt\nsize=20M\ntype=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n", size=240 * MiB)
        copy_into(copy_into(path, MiB, tmp_path / "boot"), 21 * MiB, root(tmp_path / "root", "-t", "ext4"))
        guest = judge(path).media.guest
        assert guest is not None
        assert guest.name.startswith("Debian")


@functools.cache
def small_root() -> bytes:
    """An ext4 of a megabyte with an os-release."""
    with tempfile.TemporaryDirectory() as name:
        tree, image = Path(name) / "tree", Path(name) / "image"
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/os-release").write_text(RELEASE)
        run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-d", tree, image, "1M")
        return image.read_bytes()


def release_in(data: bytes) -> bytes | None:
    reader = RecordingReader(MemoryReader(data))
    found = ExtFiles(reader, 0, reader.size).first("etc/os-release", "usr/lib/os-release")
    assert reader.bytes_read < 300 << 10
    return found


@pytest.mark.parametrize("field", [0, 20, 24, 40, 76, 88, 96, 254])
@pytest.mark.parametrize("value", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0"])
def test_a_superblock_that_lies_costs_little(field: int, value: bytes) -> None:
    data = bytearray(small_root())
    assert release_in(bytes(data)) == RELEASE.encode()
    data[1024 + field : 1024 + field + len(value)] = value
    assert release_in(bytes(data)) in {None, RELEASE.encode()}


@given(changes=st.lists(st.tuples(st.integers(1024, 300_000), st.binary(min_size=1, max_size=8)), max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_damaged_ext_is_no_matter(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(small_root())
    for at, value in changes:
        data[at : at + len(value)] = value
    found = release_in(bytes(data))
    assert found is None or len(found) <= 4096
