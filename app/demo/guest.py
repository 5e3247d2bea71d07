"""The tiny guest: a real Linux that Farboot builds itself, from Debian's packages, to be booted at once.

A kernel (out of its package, which is unpacked and not installed), busybox as its only program, and GRUB: 20 MB that
boot by BIOS and by UEFI, as CD and as disk, and print `MARKER` on the serial line. No root, no mount, no loop device.
"""

import gzip
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from probes.errors import FarbootError, MissingClient

MARKER = "FARBOOT-GUEST-READY"
PACKAGES = (
    "busybox-static", "fdisk", "grub-common", "grub-efi-amd64-bin", "grub-pc-bin", "mtools", "qemu-utils", "xorriso",
)  # fmt: skip
_KERNEL_PACKAGE = "linux-image-cloud-amd64"
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "button", "evdev")
_COMMAND_LINE = "console=tty0 console=ttyS0 quiet panic=-1"
_GRUB_CONFIG = f"""\
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
search --no-floppy --file --set=root /farboot/vmlinuz
linux /farboot/vmlinuz {_COMMAND_LINE}
initrd /farboot/initrd.gz
boot
"""
_GRUB_MODULES = (
    "normal", "configfile", "linux", "search", "search_fs_file", "serial", "terminal",
    "part_msdos", "part_gpt", "fat", "iso9660",
)  # fmt: skip
_SECTOR = 512
_PARTITION_START = 2048  # sectors
_IMAGES = ("farboot-tiny-guest.iso", "farboot-tiny-guest.img", "farboot-tiny-guest.qcow2")


class GuestImages:
    """The folder that holds the built images, and their paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.iso, self.raw, self.qcow2 = (folder / name for name in _IMAGES)

    @property
    def complete(self) -> bool:
        """Whether all of them were built by this version of the recipe."""
        stamp = self.folder / "recipe"
        return stamp.exists() and stamp.read_text() == _recipe() and self.raw.exists()


def build(folder: Path) -> GuestImages:
    """Build the images in `folder` unless they are there, in some 10 seconds, and return where they are.

    Raises MissingClient when a tool is not installed, FarbootError when one fails (the kernel's package is downloaded
    from the machine's own package source when it is not at hand).
    """
    images = GuestImages(folder)
    if images.complete:
        return images
    _require("busybox", "sfdisk", "grub-mkimage", "grub-mkrescue", "mformat", "qemu-img", "xorriso")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="farboot-guest-", dir=folder) as name:
        work = Path(name)
        kernel, modules = _unpack_kernel(work)
        tree = work / "tree" / "farboot"
        tree.mkdir(parents=True)
        shutil.copy(kernel, tree / "vmlinuz")
        (tree / "initrd.gz").write_bytes(gzip.compress(_initramfs(modules), 6, mtime=0))
        made = (make_iso(work, _GRUB_CONFIG), make_disk(work, _GRUB_CONFIG))
        qcow2 = work / "disk.qcow2"
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", str(made[1]), str(qcow2))
        for path, target in zip((*made, qcow2), (images.iso, images.raw, images.qcow2), strict=True):
            path.replace(target)
    (folder / "recipe").write_text(_recipe())
    return images


def _recipe() -> str:
    return f"3 {_COMMAND_LINE}\n{files('app.demo').joinpath('init').read_text()}"


def _require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program, path=_path()) is None:
            why = f"{program} is not installed"
            raise MissingClient("build", "the tiny guest", why, "apt install " + " ".join(PACKAGES))


def _path() -> str:
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def _run(*command: str, cwd: Path | None = None, stdin: bytes | None = None) -> bytes:
    environment = os.environ | {"PATH": _path(), "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1", "SOURCE_DATE_EPOCH": "0"}
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, env=environment, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        raise FarbootError("build", "the tiny guest", f"{command[0]} failed: {words[-1] if words else 'no message'}")
    return done.stdout


def _unpack_kernel(work: Path) -> tuple[Path, dict[str, bytes]]:
    depends = _run("apt-cache", "depends", "--important", _KERNEL_PACKAGE).decode()
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if package is None:
        why = f"the package {_KERNEL_PACKAGE} is not known"
        raise FarbootError("build", "the tiny guest", why, "run: apt-get update")
    _run("apt-get", "download", package[1], cwd=work)
    archive = next(work.glob("linux-image-*.deb"))
    tarball = _run("dpkg-deb", "--fsys-tarfile", str(archive))
    kernel = work / "vmlinuz"
    modules: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(tarball)) as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            if name.startswith("vmlinuz-") or name.endswith(".ko"):
                data = tar.extractfile(member)
                assert data is not None
                if name.endswith(".ko"):
                    modules[name.removesuffix(".ko").replace("-", "_")] = data.read()
                else:
                    kernel.write_bytes(data.read())
    return kernel, modules


def _in_order(wanted: Iterable[str], modules: dict[str, bytes]) -> list[str]:
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in modules:
            return
        depends = re.search(rb"\0depends=([^\0]*)", modules[name])
        for other in (depends[1].decode() if depends else "").replace("-", "_").split(","):
            add(other)
        order.append(name)

    for name in wanted:
        add(name)
    return order


def _initramfs(modules: dict[str, bytes]) -> bytes:
    order = _in_order(_MODULES, modules)
    busybox = shutil.which("busybox", path=_path())
    assert busybox is not None
    lease = '#!/bin/sh\n[ "$1" = bound ] && ip address add "$ip/${mask:-24}" dev "$interface"\n'
    entries: list[tuple[str, int, bytes]] = [
        ("bin", 0o40755, b""),
        ("dev", 0o40755, b""),
        ("modules", 0o40755, b""),
        ("etc", 0o40755, b""),
        ("etc/acpi", 0o40755, b""),
        ("etc/acpi/PWRF", 0o40755, b""),
        ("bin/busybox", 0o100755, Path(busybox).read_bytes()),
        ("init", 0o100755, files("app.demo").joinpath("init").read_bytes()),
        ("etc/udhcpc.script", 0o100755, lease.encode()),
        ("etc/acpi/PWRF/00000080", 0o100755, b"#!/bin/sh\npoweroff -f\n"),
        ("modules/order", 0o100644, "".join(f"{name}.ko\n" for name in order).encode()),
    ]
    entries += [(f"modules/{name}.ko", 0o100644, modules[name]) for name in order]
    return cpio(entries)


def cpio(entries: Sequence[tuple[str, int, bytes]]) -> bytes:
    """Pack (name, mode, content) into a cpio archive, newc form, as the kernel takes its initramfs.

    Format: Linux' Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    packed = bytearray()
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        packed += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        packed += bytes(-len(packed) % 4) + content
        packed += bytes(-len(packed) % 4)
    return bytes(packed)


def make_iso(work: Path, config: str, more: Sequence[str] = ()) -> Path:
    """Make the hybrid ISO of the files in `work`/tree/farboot, whose GRUB does as `config` says, with `more` modules.

    Raises FarbootError.
    """
    tree = work / "tree"
    grub = tree / "boot" / "grub"
    grub.mkdir(parents=True)
    (grub / "grub.cfg").write_text(config)
    iso = work / "guest.iso"
    modules = f"--install-modules={' '.join((*_GRUB_MODULES, *more))}"
    _run(
        "grub-mkrescue",
        modules,
        "--locales=",
        "--fonts=",
        "--themes=",
        "-o",
        str(iso),
        str(tree),
        "--",
        "-volid",
        "FARBOOT_TINY",
    )
    shutil.rmtree(tree / "boot")
    return iso


def make_disk(work: Path, config: str, more: Sequence[str] = ()) -> Path:
    """Make the same as an MBR disk: GRUB for BIOS in the gap before its one FAT partition, which is an EFI System
    Partition too. Raises FarbootError.
    """
    embedded = work / "embedded.cfg"
    embedded.write_text(config)
    core, loader = work / "core.img", work / "BOOTX64.EFI"
    common = ("grub-mkimage", "-c", str(embedded), "-p", "/boot/grub")
    _run(*common, "-O", "i386-pc", "-o", str(core), "biosdisk", *_GRUB_MODULES, *more)
    _run(*common, "-O", "x86_64-efi", "-o", str(loader), *_GRUB_MODULES, *more)
    disk = work / "disk.img"
    held = sum(path.stat().st_size for path in (*(work / "tree" / "farboot").iterdir(), loader))
    sectors = _PARTITION_START + (held * 9 // 8 + (2 << 20)) // _SECTOR // 2048 * 2048
    with disk.open("wb") as file:
        file.truncate(sectors * _SECTOR)
    table = f"label: dos\nstart={_PARTITION_START}, type=ef, bootable\n"
    _run("sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", str(disk), stdin=table.encode())
    boot = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()
    with disk.open("r+b") as file:
        file.write(boot[:440])
        file.seek(_SECTOR)
        file.write(core.read_bytes())
    partition = f"{disk}@@{_PARTITION_START * _SECTOR}"
    _run("mformat", "-i", partition, "-T", str(sectors - _PARTITION_START), "-h", "16", "-s", "63",
         "-H", str(_PARTITION_START), "-v", "FARBOOT", "-N", "FA5B0070", "::")  # fmt: skip
    _run("mmd", "-i", partition, "::/EFI", "::/EFI/BOOT", "::/farboot")
    _run("mcopy", "-i", partition, str(loader), "::/EFI/BOOT/")
    for path in sorted((work / "tree" / "farboot").iterdir()):
        _run("mcopy", "-i", partition, str(path), "::/farboot/")
    return disk
