"""A guess whose disk or disc it is: by labels, types of partitions and filesystems, and the words in boot sectors.

It decides which hardware the guest is given, so it says nothing where nothing points anywhere. Volume names are those
that the makers' own discs carry; the words are those of the makers' own boot sectors.
"""

import re
from collections.abc import Sequence

from probes.image import Family, Guest, Partition

OLD_WINDOWS = "Windows XP or older"
"""The name of a Windows that starts by NTLDR (NT 4 to XP and Server 2003): it has no driver for AHCI."""

DOS = "DOS"
FREEDOS = "FreeDOS"

_LINUX, _WINDOWS, _BSD, _OTHER = Family.LINUX, Family.WINDOWS, Family.BSD, Family.OTHER

# What a disc's volume is called, as a regular expression; \1 is what the name takes over of it.
_DISCS: tuple[tuple[str, Family, str], ...] = (
    (r"debian (\d+).*", _LINUX, r"Debian \1"),
    (r"d-live (?:nf )?(?:\w+ )?(\d+).*", _LINUX, r"Debian \1"),
    (r"d-live.*", _LINUX, "Debian"),
    (r"((?:k|x|l)?ubuntu)[- ](?:\w+ )?([\d.]+).*", _LINUX, r"\1 \2"),
    (r"ubuntu.*", _LINUX, "Ubuntu"),
    (r"linux mint ([\d.]+).*", _LINUX, r"Linux Mint \1"),
    (r"pop_os ([\d.]+).*", _LINUX, r"Pop!_OS \1"),
    (r"fedora-.*?-(\d\d)(?:-.*)?", _LINUX, r"Fedora \1"),
    (r"fedora-coreos-(\d\d).*", _LINUX, r"Fedora CoreOS \1"),
    (r"fedora.*", _LINUX, "Fedora"),
    (r"arch(?:_|iso).*", _LINUX, "Arch Linux"),
    (r"manjaro.*", _LINUX, "Manjaro"),
    (r"eos_.*", _LINUX, "EndeavourOS"),
    (r"centos-stream-(\d+).*", _LINUX, r"CentOS Stream \1"),
    (r"centos[- _](\d+).*", _LINUX, r"CentOS \1"),
    (r"centos.*", _LINUX, "CentOS"),
    (r"rhel[- ](\d+).*", _LINUX, r"Red Hat Enterprise Linux \1"),
    (r"rocky-(\d+).*", _LINUX, r"Rocky Linux \1"),
    (r"almalinux-(\d+).*", _LINUX, r"AlmaLinux \1"),
    (r"ol-(\d+).*", _LINUX, r"Oracle Linux \1"),
    (r"opensuse[-_]leap[-_]([\d.]+).*", _LINUX, r"openSUSE Leap \1"),
    (r"opensuse[-_]tumbleweed.*", _LINUX, "openSUSE Tumbleweed"),
    (r"opensuse.*", _LINUX, "openSUSE"),
    (r"sle-?(\d+).*", _LINUX, r"SUSE Linux Enterprise \1"),
    (r"(?:rescue\d+|systemrescue.*|sysrcd.*)", _LINUX, "SystemRescue"),
    (r"grml.*", _LINUX, "Grml"),
    (r"pve", _LINUX, "Proxmox VE"),
    (r"pbs", _LINUX, "Proxmox Backup Server"),
    (r"pmg", _LINUX, "Proxmox Mail Gateway"),
    (r"kali .*", _LINUX, "Kali Linux"),
    (r"alpine-\w+ v?([\d.]+).*", _LINUX, r"Alpine Linux \1"),
    (r"nixos-(?:\w+-)?([\d.]+).*", _LINUX, r"NixOS \1"),
    (r"gentoo.*", _LINUX, "Gentoo"),
    (r"void_live.*", _LINUX, "Void Linux"),
    (r"slack.*", _LINUX, "Slackware"),
    (r"tails.*", _LINUX, "Tails"),
    (r"mx-live.*", _LINUX, "MX Linux"),
    (r"gparted.*", _LINUX, "GParted Live"),
    (r"clonezilla.*", _LINUX, "Clonezilla"),
    (r"talos.*", _LINUX, "Talos Linux"),
    (r"(?:cccoma|ccsa|cpba|cpra|cena|cspa|ccna)_.*|esd-(?:iso|usb)|j_c\w+_x\w+.*", _WINDOWS, "Windows"),
    (r"(?:\w+_)?sss_x\w+.*", _WINDOWS, "Windows Server"),
    (r"(?:\w+_)?c(?:csa|coma|ena|pra)_x\w+.*|win(?:dows|8|10|11).*", _WINDOWS, "Windows"),
    (r"(?:grmc|gsp1rmc).*|win7.*", _WINDOWS, "Windows 7"),
    (r"(?:wxp|grtmp|xrmp).*", _WINDOWS, OLD_WINDOWS),
    (r"(\d+)_(\d+)_release_\w+_(?:cd|dvd|bo|bootonly|disc1)", _BSD, r"FreeBSD \1.\2"),
    (r"freebsd.*", _BSD, "FreeBSD"),
    (r"openbsd(?:/\w+ +([\d.]+))?.*", _BSD, r"OpenBSD \1"),
    (r"netbsd.*", _BSD, "NetBSD"),
    (r"dragonfly.*", _BSD, "DragonFly BSD"),
    (r"pfsense.*", _BSD, "pfSense"),
    (r"opnsense.*", _BSD, "OPNsense"),
    (r"esxi-(\d+\.\d+).*", _OTHER, r"VMware ESXi \1"),
    (r"haiku.*", _OTHER, "Haiku"),
    (r"reactos.*", _OTHER, "ReactOS"),
    (r"mt86plus.*", _OTHER, "Memtest86+"),
)  # fmt: skip

# Labels of filesystems and names of partitions that only one system gives.
_LABELS: tuple[tuple[str, Family, str], ...] = (
    (r"cloudimg-rootfs", _LINUX, "Ubuntu"),
    (r"cirros-rootfs", _LINUX, "CirrOS"),
    (r"hassos-.*", _LINUX, "Home Assistant OS"),
    (r"fedora.*", _LINUX, "Fedora"),
    (r"nixos.*", _LINUX, "NixOS"),
    (r"grmlcfg.*", _LINUX, "Grml"),
    (r"vtoyefi", _OTHER, "Ventoy"),
    (r"(?:boot-pool|freenas-boot)", _LINUX, "TrueNAS"),
    (r"zroot", _BSD, "FreeBSD"),
    (r"pfsense", _BSD, "pfSense"),
    (r"opnsense.*", _BSD, "OPNsense"),
    (r"bootbank\d", _OTHER, "VMware ESXi"),
)

_OF_LINUX = frozenset({
    "ext2", "ext3", "ext4", "jbd", "xfs", "btrfs", "f2fs", "bcachefs", "jfs", "reiserfs", "reiser4", "nilfs2", "ocfs2",
    "erofs", "squashfs", "swap", "swsuspend", "LVM2_member", "linux_raid_member", "crypto_LUKS",
})  # fmt: skip
_OF_WINDOWS = frozenset({"ntfs", "ReFS", "BitLocker"})
_TYPES_OF_WINDOWS = frozenset({
    "Microsoft reserved", "Windows recovery", "Windows LDM data", "Windows LDM metadata", "Windows storage spaces",
})  # fmt: skip
_TYPES_OF_BSD = {
    "FreeBSD": "FreeBSD", "FreeBSD boot": "FreeBSD", "FreeBSD UFS": "FreeBSD", "FreeBSD ZFS": "FreeBSD",
    "FreeBSD swap": "FreeBSD", "OpenBSD": "OpenBSD", "NetBSD": "NetBSD", "NetBSD FFS": "NetBSD", "BSD FFS": "BSD",
}  # fmt: skip
_TYPES_OF_LINUX = ("Linux root", "Linux usr", "Linux LVM", "Linux RAID", "Linux LUKS", "Linux extended boot")
_DOS_FILES = (b"IO      SYS", b"MSDOS   SYS", b"WINBOOT SYS", b"IBMBIO  COM")


def disc_guest(label: str) -> Guest | None:
    """Guess what a disc with this volume name installs, or runs."""
    return _by_name(label, _DISCS, live=True)


def disk_guest(sector0: bytes, partitions: Sequence[Partition], boots: Sequence[bytes]) -> Guest | None:
    """Guess what a disk starts. `boots` are the first sectors of its filesystems; a disk without partitions is given
    as one that holds all of it.
    """
    filesystems = [part.filesystem for part in partitions if part.filesystem]
    kinds = {filesystem.type for filesystem in filesystems}
    types = {part.type for part in partitions}
    for name in (*(filesystem.label for filesystem in filesystems), *(part.name for part in partitions)):
        if guest := _by_name(name, _LABELS, live=False):
            return guest
    if windows := _windows(kinds, types, boots):
        return windows
    for filesystem in filesystems:  # a stick that was made of a disc keeps its name
        if filesystem.type in {"vfat", "exfat"} and (guest := disc_guest(filesystem.label)):
            return guest
    if any(b"KERNEL  SYS" in boot for boot in (sector0, *boots)):
        return Guest(Family.OTHER, FREEDOS)
    if any(file in boot for file in _DOS_FILES for boot in (sector0, *boots)):
        return Guest(Family.OTHER, DOS)
    if "ufs" in kinds or types & _TYPES_OF_BSD.keys():
        named = sorted((_TYPES_OF_BSD[kind] for kind in types & _TYPES_OF_BSD.keys()), key="BSD".__eq__)
        return Guest(_BSD, named[0] if named else "BSD")
    if kinds & {"apfs", "hfsplus"}:
        return Guest(Family.MACOS, "macOS")
    if "VMware VMFS" in types or "VMware diagnostic" in types:
        return Guest(_OTHER, "VMware ESXi")
    if any(kind.startswith("ChromeOS") for kind in types):
        return Guest(_LINUX, "ChromeOS")
    if "Flatcar usr" in types:
        return Guest(_LINUX, "Flatcar")
    linux = kinds & _OF_LINUX or any(kind.startswith(_TYPES_OF_LINUX) for kind in types) or b"GRUB" in sector0[:440]
    return Guest(_LINUX, "Linux") if linux else None


def _windows(kinds: set[str], types: set[str], boots: Sequence[bytes]) -> Guest | None:
    """Windows, by what nobody else makes; by a filesystem that others only read, where there is none of theirs."""
    of_ntfs = [boot for boot in boots if boot[3:11] == b"NTFS    "]
    telling = boots if not kinds & _OF_LINUX else of_ntfs
    if any(b"NTLDR" in boot for boot in telling):
        return Guest(_WINDOWS, OLD_WINDOWS)
    if any(b"BOOTMGR" in boot for boot in telling) or types & _TYPES_OF_WINDOWS:
        return Guest(_WINDOWS, "Windows")
    return Guest(_WINDOWS, "Windows") if kinds & _OF_WINDOWS and not kinds & _OF_LINUX else None


def _by_name(name: str, known: Sequence[tuple[str, Family, str]], live: bool) -> Guest | None:
    for pattern, family, template in known:
        if found := re.fullmatch(pattern, name, re.IGNORECASE):
            return Guest(family, found.expand(template).strip(), live)
    return None
