"""VMDK images: extents and parents that they name."""

import struct
from collections.abc import Callable
from pathlib import Path

from tests.corpus.recipe import ASK, REFUSE, Outside, Reach, Recipe, hazards
from tests.formats.images import MiB, patch, qemu_img_create, run, sparse

_DESCRIPTOR = """\
# Disk DescriptorFile
version=1
CID=12345678
parentCID={parent}
createType="{kind}"
{hint}
# Extent description
{extent}

# The Disk Data Base
#DDB
ddb.adapterType = "ide"
"""


def descriptor(
    extent: str, kind: str = "monolithicFlat", parent: str = "ffffffff", hint: str = ""
) -> Callable[[Path, Outside], object]:
    """A descriptor alone, as text, with the extent line `extent`, in which {file} and {port} are of the outside."""

    def make(path: Path, outside: Outside) -> object:
        told = extent.replace("{file}", outside.file).replace("{port}", str(outside.port))
        text = _DESCRIPTOR.format(kind=kind, extent=told, parent=parent, hint=hint.replace("{file}", outside.file))
        return path.write_text(text)

    return make


def sparse_with(
    extent: str, kind: str = "monolithicFlat", parent: str = "ffffffff", hint: str = "", capacity: int | None = None
) -> Callable[[Path, Outside], object]:
    """A sparse image whose own descriptor says something else than qemu-img wrote; `capacity` in sectors."""

    def make(path: Path, outside: Outside) -> object:
        qemu_img_create(path, "1M", "vmdk")
        told = extent.replace("{file}", outside.file).replace("{itself}", path.name)
        text = _DESCRIPTOR.format(kind=kind, extent=told, parent=parent, hint=hint.replace("{file}", outside.file))
        patch(path, 512, text.encode().ljust(20 * 512, b"\0"))
        if capacity is not None:
            patch(path, 12, struct.pack("<Q", capacity))
        return path

    return make


def created(*options: str, size: str = "64M") -> Callable[[Path, Outside], object]:
    """As qemu-img makes it."""
    return lambda path, _outside: qemu_img_create(path, size, "vmdk", *options)


def streamed(path: Path, _outside: Outside) -> None:
    disk = sparse(path.with_suffix(".raw"), 2 * MiB)
    patch(disk, MiB, b"something" * 1000)
    run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", disk, path)
    disk.unlink()


def huge_directory(path: Path, _outside: Outside) -> None:
    """A capacity whose grain directory would take gigabytes."""
    qemu_img_create(path, "1M", "vmdk")
    patch(path, 12, struct.pack("<QQ", 1 << 54, 1))


def cowd(path: Path, _outside: Outside) -> None:
    """ESX's COW disk: magic, version 1, flags, sectors, granularity, directory's sector, entries."""
    header = struct.pack("<4sIIIIIII", b"COWD", 1, 3, 2048, 1, 4, 1, 5)
    path.write_bytes(header.ljust(MiB, b"\0"))


_OUTSIDE = hazards("vmdk-external-extent")
_OWN = 'RW 2048 SPARSE "{itself}"'


def _refused(case: str, make: Callable[[Path, Outside], object], reach: Reach = Reach.FILE) -> Recipe:
    return Recipe(f"vmdk-{case}", make, "vmdk", None, REFUSE, _OUTSIDE, reach)


RECIPES: tuple[Recipe, ...] = (
    _refused("flat-absolute", descriptor('RW 1 FLAT "{file}" 0')),
    _refused("flat-vmfs", descriptor('RW 1 VMFS "{file}"', "vmfs")),
    _refused("flat-relative", descriptor('RW 1 FLAT "x-flat.vmdk" 0'), Reach.NOTHING),
    # No name of an extent is taken for a protocol, not since CVE-2024-4467 was mended.
    _refused("flat-nbd", descriptor('RW 1 FLAT "nbd://127.0.0.1:{port}/x" 0'), Reach.NOTHING),
    _refused("flat-http", descriptor('RW 1 FLAT "http://127.0.0.1:{port}/x" 0'), Reach.NOTHING),
    _refused("flat-json", descriptor('RW 1 FLAT "json:{}" 0'), Reach.NOTHING),
    _refused("split-sparse", descriptor('RW 1 SPARSE "x-s001.vmdk"', "twoGbMaxExtentSparse"), Reach.NOTHING),
    _refused("raw-device", descriptor('RW 1 VMFSRDM "{file}"', "vmfsRawDeviceMap"), Reach.NOTHING),
    _refused("hidden-descriptor", sparse_with('RW 1 FLAT "{file}" 0', capacity=0)),
    Recipe(
        "vmdk-parent-absolute", sparse_with(_OWN, "monolithicSparse", "12345678", 'parentFileNameHint="{file}"'),
        "vmdk", MiB, REFUSE,
        hazards("backing-outside"), Reach.FILE, True,
    ),
    Recipe(
        "vmdk-parent-beside",
        sparse_with(_OWN, "monolithicSparse", "12345678", 'parentFileNameHint="base.vmdk"'),
        "vmdk", MiB, ASK, hazards("backing-file"),
    ),
    Recipe("vmdk-huge-directory", huge_directory, "vmdk", None, REFUSE),
    Recipe("vmdk-cowd", cowd, "vmdk", None, REFUSE, hazards("vmdk-part")),
    Recipe("vmdk", created(), "vmdk", 64 * MiB),
    Recipe("vmdk-version-3", created("-o", "compat6=on"), "vmdk", 64 * MiB),
    Recipe("vmdk-stream-optimised", streamed, "vmdk", 2 * MiB),
)  # fmt: skip
