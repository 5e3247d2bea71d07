"""vdi, vpc, vhdx, parallels, qcow, qed: tables that would eat memory, parents, logs that nobody may replay."""

import struct
from collections.abc import Callable
from pathlib import Path

from tests.corpus.recipe import ASK, REFUSE, Outside, Reach, Recipe, hazards
from tests.formats.images import MiB, patch, qemu_img_create
from tests.formats.vhdx_images import Edit, differencing, dirty_log, header, locator


def created(driver: str, *options: str, size: str = "64M") -> Callable[[Path, Outside], object]:
    """As qemu-img makes it."""
    return lambda path, _outside: qemu_img_create(path, size, driver, *options)


def changed(driver: str, *changes: tuple[int, str, int], size: str = "4M") -> Callable[[Path, Outside], object]:
    """As qemu-img makes it, with other values at these offsets."""

    def make(path: Path, _outside: Outside) -> object:
        qemu_img_create(path, size, driver)
        for offset, form, value in changes:
            patch(path, offset, struct.pack(form, value))
        return path

    return make


# vpc: the footer's copy stands first in a dynamic image, then the dynamic header


def vpc(*changes: tuple[int, str, int], subformat: str = "dynamic") -> Callable[[Path, Outside], object]:
    """A VHD with other values in its footer (offsets below 512) and dynamic header; its sums are right."""

    def make(path: Path, _outside: Outside) -> object:
        qemu_img_create(path, "4M", "vpc", "-o", f"subformat={subformat}")
        data = bytearray(path.read_bytes())
        starts = [0, len(data) - 512] if subformat == "dynamic" else [len(data) - 512]
        for offset, form, value in changes:
            for start in starts if offset < 512 else [0]:
                struct.pack_into(form, data, start + offset, value)
        for start in starts:
            _sum(data, start, 512, 64)
        if subformat == "dynamic":
            _sum(data, 512, 1024, 36)
        return path.write_bytes(data)

    return make


def _sum(data: bytearray, start: int, length: int, field: int) -> None:
    data[start + field : start + field + 4] = bytes(4)
    struct.pack_into(">I", data, start + field, ~sum(data[start : start + length]) & 0xFFFFFFFF)


def vhdx(edit: Edit) -> Callable[[Path, Outside], object]:
    """A VHDX of 4 MiB with an edit that leaves its check sums right."""

    def make(path: Path, outside: Outside) -> object:
        qemu_img_create(path, "4M", "vhdx")
        data = bytearray(path.read_bytes())
        edit(data)
        return path.write_bytes(data)

    return make


_PARENT = locator(("relative_path", ".\\base.vhdx"), ("absolute_win32_path", "C:\\base.vhdx"))


# qcow and qed: their headers name backing files as qcow2's does


def qcow_backed(name: str) -> Callable[[Path, Outside], object]:
    def make(path: Path, outside: Outside) -> object:
        told = name.replace("{file}", outside.file).replace("{port}", str(outside.port)).encode()
        qemu_img_create(path, "64K", "qcow")
        patch(path, 8, struct.pack(">QI", 256, len(told)))
        return patch(path, 256, told)

    return make


def qed_backed(name: str, features: int = 1) -> Callable[[Path, Outside], object]:
    def make(path: Path, outside: Outside) -> object:
        told = name.replace("{file}", outside.file).replace("{port}", str(outside.port)).encode()
        qemu_img_create(path, "64K", "qed")
        patch(path, 16, struct.pack("<Q", features))
        patch(path, 56, struct.pack("<II", 1024, len(told)))
        return patch(path, 1024, told)

    return make


_BACKING = hazards("backing-outside")

RECIPES: tuple[Recipe, ...] = (
    Recipe("vdi-huge-map", changed("vdi", (384, "<I", 0x1FFFFF80), (368, "<Q", 0x1FFFFF80 << 20)), "vdi", None,
           REFUSE),
    Recipe("vdi-differencing", changed("vdi", (76, "<I", 4)), "vdi", None, REFUSE),
    Recipe("vdi-with-parent", changed("vdi", (440, "<Q", 1)), "vdi", None, REFUSE),
    Recipe("vdi-of-3-blocks-less", changed("vdi", (384, "<I", 1)), "vdi", None, REFUSE),
    Recipe("vdi", created("vdi"), "vdi", 64 * MiB),
    Recipe("vdi-static", created("vdi", "-o", "static=on", size="4M"), "vdi", 4 * MiB),
    Recipe("vpc-differencing", vpc((60, ">I", 4)), "vpc", None, REFUSE, hazards("vpc-differencing")),
    Recipe("vpc-fixed-differencing", vpc((60, ">I", 4), subformat="fixed"), "vpc", None, REFUSE,
           hazards("vpc-invalid")),
    Recipe("vpc-huge-table", vpc((512 + 28, ">I", 0xFFFFFFFF)), "vpc", None, REFUSE, hazards("vpc-tables")),
    Recipe("vpc-table-outside", vpc((512 + 16, ">Q", 1 << 60)), "vpc", None, REFUSE, hazards("vpc-truncated")),
    Recipe("vpc-tiny-blocks", vpc((512 + 32, ">I", 1)), "vpc", None, REFUSE, hazards("vpc-invalid")),
    Recipe("vpc", created("vpc", "-o", "force_size=on"), "vpc", 64 * MiB),
    Recipe("vpc-fixed", created("vpc", "-o", "subformat=fixed,force_size=on", size="4M"), "vpc", 4 * MiB),
    Recipe("vhdx-dirty-log", vhdx(dirty_log), "vhdx", 4 * MiB, REFUSE, hazards("vhdx-dirty-log")),
    Recipe("vhdx-differencing", vhdx(differencing(_PARENT)), "vhdx", None, REFUSE, hazards("vhdx-differencing")),
    Recipe("vhdx-huge-log", vhdx(header(68, "I", 0xFFF00000)), "vhdx", None, REFUSE, hazards("vhdx-invalid")),
    Recipe("vhdx-without-regions", changed("vhdx", (196608, "<Q", 0), (262144, "<Q", 0)), "vhdx", None, REFUSE,
           hazards("vhdx-invalid")),
    Recipe("vhdx", created("vhdx"), "vhdx", 64 * MiB),
    Recipe("parallels-huge-table", changed("parallels", (32, "<I", 0xFFFFFFFF), (36, "<Q", 1 << 40)), "parallels",
           None, REFUSE, hazards("parallels-tables")),
    Recipe("parallels-version-3", changed("parallels", (16, "<I", 3)), "parallels", None, REFUSE,
           hazards("parallels-version")),
    Recipe("parallels", created("parallels"), "parallels", 64 * MiB),
    Recipe("qcow-backing-absolute", qcow_backed("{file}"), "qcow", 65536, REFUSE, _BACKING, Reach.FILE, True),
    Recipe("qcow-backing-nbd", qcow_backed("nbd://127.0.0.1:{port}/x"), "qcow", 65536, REFUSE, _BACKING,
           Reach.NETWORK, True),
    Recipe("qcow-backing-beside", qcow_backed("base.raw"), "qcow", 65536, ASK, hazards("backing-file")),
    Recipe("qcow-huge-table", changed("qcow", (24, ">Q", 1 << 62)), "qcow", None, REFUSE, hazards("qcow-tables")),
    Recipe("qcow-aes", changed("qcow", (36, ">I", 1)), "qcow", None, REFUSE, hazards("qcow-aes")),
    Recipe("qcow", created("qcow"), "qcow", 64 * MiB),
    Recipe("qed-backing-absolute", qed_backed("{file}", 5), "qed", 65536, REFUSE, _BACKING, Reach.FILE, True),
    Recipe("qed-backing-probed", qed_backed("{file}"), "qed", 65536, REFUSE, _BACKING, Reach.FILE, True),
    Recipe("qed-backing-http", qed_backed("http://127.0.0.1:{port}/x"), "qed", 65536, REFUSE, _BACKING,
           Reach.NETWORK, True),
    Recipe("qed-backing-beside", qed_backed("base.raw", 5), "qed", 65536, ASK, hazards("backing-file")),
    Recipe("qed-unknown-feature", changed("qed", (16, "<Q", 1 << 20)), "qed", None, REFUSE,
           hazards("qed-unknown-feature")),
    Recipe("qed-huge-tables", changed("qed", (4, "<I", 1 << 31), (8, "<I", 1 << 30)), "qed", None, REFUSE,
           hazards("qed-invalid")),
    Recipe("qed", created("qed"), "qed", 64 * MiB),
)  # fmt: skip
