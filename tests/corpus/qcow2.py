"""qcow2 images: what their headers name outside themselves, and tables that would eat memory."""

import struct
from collections.abc import Callable
from pathlib import Path

from tests.corpus.recipe import ASK, REFUSE, Outside, Reach, Recipe, hazards
from tests.formats.images import (
    BACKING_LENGTH,
    BACKING_OFFSET,
    ENCRYPTION,
    INCOMPATIBLE,
    L1_ENTRIES,
    L1_OFFSET,
    REFCOUNT_CLUSTERS,
    SNAPSHOTS,
    SNAPSHOTS_OFFSET,
    VIRTUAL_SIZE,
    MiB,
    patch,
    qemu_img_create,
    run,
    set_field,
    sparse,
)

_DIRTY, _CORRUPT, _DATA_FILE = 1, 2, 4


def backed(name: str, claims: str = "raw") -> Callable[[Path, Outside], object]:
    """A qcow2 with the backing file `name`, in which {file}, {folder} and {port} are of the outside."""

    def make(path: Path, outside: Outside) -> object:
        told = name.replace("{file}", outside.file).replace("{folder}", outside.folder)
        told = told.replace("{port}", str(outside.port)).replace("{itself}", path.name)
        qemu_img_create(path, 64 * 1024, "qcow2")
        where = 512  # behind the header's extensions
        set_field(set_field(path, BACKING_OFFSET, where), BACKING_LENGTH, len(told))
        if claims:
            patch(path, 112, struct.pack(">II8sII", 0xE2792ACA, len(claims), claims.encode(), 0, 0))
        return patch(path, where, told.encode())

    return make


def with_data_file(name: str) -> Callable[[Path, Outside], object]:
    """A qcow2 whose data are said to lie in `name`."""

    def make(path: Path, outside: Outside) -> object:
        told = name.replace("{file}", outside.file).replace("{port}", str(outside.port)).encode()
        qemu_img_create(path, 64 * 1024, "qcow2")
        set_field(path, INCOMPATIBLE, _DATA_FILE)
        padded = told.ljust(-(-len(told) // 8) * 8, b"\0")
        return patch(path, 112, struct.pack(">II", 0x44415441, len(told)) + padded + bytes(8))

    return make


def changed(*fields: tuple[tuple[int, str], int], size: str = "64K") -> Callable[[Path, Outside], object]:
    """A qcow2 with other values in these fields."""

    def make(path: Path, _outside: Outside) -> object:
        qemu_img_create(path, size, "qcow2")
        for field, value in fields:
            set_field(path, field, value)
        return path

    return make


def created(*options: str, size: str = "64M") -> Callable[[Path, Outside], object]:
    """A qcow2 as qemu-img makes it."""
    return lambda path, _outside: qemu_img_create(path, size, "qcow2", *options)


def written_by_a_guest(path: Path, outside: Outside) -> Path:
    """A raw disk into whose first sector its guest wrote the header of a qcow2 with a backing file."""
    sparse(path, 2 * MiB)
    name = outside.file.encode()
    header = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 256, len(name), 16, MiB, 0, 1, 65536, 131072, 1, 0, 0)
    patch(path, 0, header)
    patch(path, 256, name)
    patch(path, 131072, struct.pack(">Q", 196608))
    return patch(path, 510, b"\x55\xaa")


def snapshot_inside(path: Path, _outside: Outside) -> None:
    qemu_img_create(path, "1M", "qcow2")
    run("qemu-img", "snapshot", "-c", "one", path)


def greedy_snapshot(path: Path, _outside: Outside) -> Path:
    """One snapshot whose extra data are said to take 4 GiB."""
    qemu_img_create(path, "64K", "qcow2")
    where = 4 * 65536
    set_field(set_field(path, SNAPSHOTS, 1), SNAPSHOTS_OFFSET, where)
    return patch(path, where, struct.pack(">QIHHIIQII", 65536 * 3, 1, 1, 1, 0, 0, 0, 0, 0xFFFFFFF0).ljust(65536, b"\0"))


def _names(case: str, name: str, reach: Reach = Reach.FILE, claims: str = "raw") -> Recipe:
    codes = hazards("backing-outside")
    return Recipe(f"qcow2-backing-{case}", backed(name, claims), "qcow2", 65536, REFUSE, codes, reach, True)


_JSON = 'json:{"driver":"raw","file":{"driver":"file","filename":"{file}"}}'

RECIPES: tuple[Recipe, ...] = (
    _names("absolute", "{file}"),
    _names("absolute-probed", "{file}", claims=""),
    _names("file-protocol", "file:{file}"),
    _names("json", _JSON),
    _names("json-probed", _JSON, claims=""),
    _names("fat", "fat:{folder}", Reach.FOLDER),
    _names("nbd", "nbd://127.0.0.1:{port}/x", Reach.NETWORK),
    _names("http", "http://127.0.0.1:{port}/x", Reach.NETWORK),
    _names("dot-dot", "../../../../../../../../..{file}", Reach.NOTHING),  # of an image given by a descriptor
    _names("folder-then-dot-dot", "x/../../../../../../../../../..{file}", Reach.NOTHING),
    _names("descriptor", "/dev/fdset/3", Reach.NOTHING),
    _names("own-folder", "/guest/secret0", Reach.NOTHING),
    _names("own-environment", "/proc/self/environ"),
    _names("control-characters", "a\x1b]0;x\x07b", Reach.NOTHING),
    Recipe("qcow2-backing-beside", backed("base.raw"), "qcow2", 65536, ASK, hazards("backing-file")),
    Recipe("qcow2-backing-beside-probed", backed("base.raw", ""), "qcow2", 65536, ASK, hazards("backing-file")),
    Recipe("qcow2-backing-in-a-folder", backed("bases/base.raw"), "qcow2", 65536, ASK, hazards("backing-file")),
    Recipe("qcow2-backing-itself", backed("{itself}", "qcow2"), "qcow2", 65536, ASK, hazards("backing-file")),
    Recipe(
        "qcow2-data-file-absolute", with_data_file("{file}"), "qcow2", 65536, REFUSE,
        hazards("qcow2-data-file"), Reach.FILE,
    ),
    Recipe("qcow2-data-file-relative", with_data_file("x.raw"), "qcow2", 65536, REFUSE, hazards("qcow2-data-file")),
    # QEMU before 9.1 (of the old ones 7.2.13, for CVE-2024-4467) also took it for a protocol.
    Recipe(
        "qcow2-data-file-nbd", with_data_file("nbd://127.0.0.1:{port}/x"), "qcow2", 65536, REFUSE,
        hazards("qcow2-data-file"),
    ),
    Recipe(
        "qcow2-data-file-json", with_data_file(_JSON), "qcow2", 65536, REFUSE, hazards("qcow2-data-file"),
    ),
    Recipe(
        "qcow2-data-file-unnamed", changed((INCOMPATIBLE, _DATA_FILE)), "qcow2", 65536, REFUSE,
        hazards("qcow2-data-file"),
    ),
    Recipe("qcow2-version-4", changed(((4, ">I"), 4)), "qcow2", None, REFUSE, hazards("qcow2-version")),
    Recipe(
        "qcow2-unknown-feature", changed((INCOMPATIBLE, 1 << 40)), "qcow2", 65536, REFUSE,
        hazards("qcow2-unknown-feature"),
    ),
    Recipe("qcow2-huge-l1", changed((L1_ENTRIES, 0x7FFFFFFF)), "qcow2", 65536, REFUSE, hazards("qcow2-tables")),
    Recipe(
        "qcow2-huge-refcounts", changed((REFCOUNT_CLUSTERS, 0x7FFFFFFF)), "qcow2", 65536, REFUSE,
        hazards("qcow2-tables"),
    ),
    Recipe("qcow2-huge-snapshots", changed((SNAPSHOTS, 0xFFFFFFFF)), "qcow2", 65536, REFUSE, hazards("qcow2-tables")),
    Recipe("qcow2-greedy-snapshot", greedy_snapshot, "qcow2", 65536),
    Recipe("qcow2-l1-outside", changed((L1_OFFSET, 1 << 40)), "qcow2", 65536, REFUSE, hazards("qcow2-truncated")),
    Recipe("qcow2-of-2^63-bytes", changed((VIRTUAL_SIZE, 1 << 63)), "qcow2", 1 << 63, REFUSE, hazards("qcow2-invalid")),
    Recipe("qcow2-aes", changed((ENCRYPTION, 1)), "qcow2", 65536, REFUSE, hazards("qcow2-aes")),
    Recipe("qcow2-written-by-a-guest", written_by_a_guest, "qcow2", MiB, REFUSE, hazards("backing-outside"),
           Reach.FILE, True),
    Recipe("qcow2-dirty", changed((INCOMPATIBLE, _DIRTY)), "qcow2", 65536, codes=hazards("dirty")),
    Recipe("qcow2-corrupt", changed((INCOMPATIBLE, _CORRUPT)), "qcow2", 65536, codes=hazards("corrupt")),
    Recipe("qcow2-snapshot", snapshot_inside, "qcow2", MiB, codes=hazards("internal-snapshots")),
    Recipe("qcow2", created(), "qcow2", 64 * MiB),
    Recipe("qcow2-v2", created("-o", "compat=0.10"), "qcow2", 64 * MiB),
    Recipe("qcow2-extended", created("-o", "extended_l2=on"), "qcow2", 64 * MiB),
    Recipe("qcow2-zstd", created("-o", "compression_type=zstd"), "qcow2", 64 * MiB),
    Recipe("qcow2-small-clusters", created("-o", "cluster_size=512,refcount_bits=1", size="1M"), "qcow2", MiB),
)  # fmt: skip
