"""Everything that qemu-img makes, in every variant, is to us what `qemu-img info` says that it is.

The variants are worked out from qemu-img's own list of options. There is no difference to list: what is refused though
qemu-img made it stands in `REFUSED`.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from probes.image import Verdict
from tests.formats.images import MiB, judge, patch, qemu_img_info, run, sparse

GiB, TiB = 1 << 30, 1 << 40

DRIVERS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels", "luks")

SIZES = (
    512, 513, 1000, 65536, 65537, MiB - 512, MiB, MiB + 1, 1_474_560, 64 * MiB, 64 * MiB + 512, 129 * MiB + 7 * 512,
    GiB, 2 * GiB, 2 * GiB + MiB, 127 * GiB, 136_899_993_600, 2 * TiB - 512, 2 * TiB, 2 * TiB + 512, 3 * TiB, 8 * TiB,
)  # fmt: skip

# Values for each option; those that qemu-img lists and that are not here are in WITHOUT_EFFECT.
VALUES: dict[str, tuple[str, ...]] = {
    "cluster_size": ("512", "4k", "32k", "64k", "128k", "1M", "2M"),
    "compat": ("0.10", "1.1"),
    "compression_type": ("zlib", "zstd"),
    "extended_l2": ("on",),
    "lazy_refcounts": ("on",),
    "refcount_bits": ("1", "2", "4", "8", "16", "32", "64"),
    "preallocation": ("off", "metadata", "falloc", "full"),
    "table_size": ("1", "2", "4", "16"),
    "adapter_type": ("ide", "lsilogic", "buslogic", "legacyESX"),
    "compat6": ("on",),
    "hwversion": ("4", "17"),
    "toolsversion": ("1",),
    "zeroed_grain": ("on",),
    "subformat": (
        "monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized",
        "dynamic", "fixed",
    ),
    "static": ("on",),
    "force_size": ("on", "off"),
    "block_size": ("1M", "2M", "8M", "256M"),
    "block_state_zero": ("on", "off"),
    "log_size": ("1M", "4M", "64M"),
    "encrypt.format": ("luks", "aes"),
}  # fmt: skip

WITHOUT_EFFECT = {
    "size", "nocow", "extent_size_hint",  # of the file that holds the image
    "detached-header",  # of a LUKS volume that lies elsewhere: it is refused
    "backing_file", "backing_fmt", "data_file", "data_file_raw",  # names: the corpus has them
    "cipher-alg", "cipher-mode", "hash-alg", "ivgen-alg", "ivgen-hash-alg",  # test_luks has them: each takes seconds
    "key-secret", "iter-time", "encryption",
    "encrypt.key-secret", "encrypt.iter-time", "encrypt.cipher-alg", "encrypt.cipher-mode", "encrypt.hash-alg",
    "encrypt.ivgen-alg", "encrypt.ivgen-hash-alg",
}  # fmt: skip

_SECRET = ("--object", "secret,id=key,data=open-sesame")


@dataclass(frozen=True)
class Variant:
    """One thing to have qemu-img make."""

    driver: str
    size: int
    option: str = ""
    value: str = ""

    def __str__(self) -> str:
        return f"{self.driver}-{self.size}" + (f"-{self.option}={self.value}" if self.option else "")

    def create(self, path: Path) -> bool:
        """Make it at `path`; False where qemu-img does not make such a thing."""
        options = [f"{self.option}={self.value}"] if self.option else []
        secret: tuple[str, ...] = ()
        if self.driver == "luks" or self.option == "encrypt.format":
            prefix = "encrypt." if self.option == "encrypt.format" else ""
            secret = _SECRET
            options.append(f"{prefix}key-secret=key")
            if self.value != "aes":
                options.append(f"{prefix}iter-time=1")
        words = ["-o", ",".join(options)] if options else []
        command = ["qemu-img", "create", "-q", "-f", self.driver, *secret, *words, str(path), str(self.size)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def option_names(driver: str) -> set[str]:
    listed = run("qemu-img", "create", "-f", driver, "-o", "help", "x")
    return set(re.findall(r"^  ([\w.-]+)=<", listed, re.MULTILINE))


def variants() -> Iterator[Variant]:
    for driver in DRIVERS:
        if driver == "luks":
            yield Variant(driver, 3 * TiB)
        else:
            yield from (Variant(driver, size) for size in SIZES)
        for option in sorted(option_names(driver) & set(VALUES)):
            for value in VALUES[option][-1 if driver == "luks" else 0 :]:  # each luks takes seconds to make
                yield Variant(driver, 5 * MiB + 512, option, value)
                if driver != "luks" and option != "encrypt.format":
                    yield Variant(driver, 3 * GiB + 512, option, value)


def too_large(variant: Variant) -> bool:
    """What would fill the disk, or take long, to make."""
    whole = variant.value in {"full", "falloc", "fixed"} or variant.option == "static" or "Flat" in variant.value
    return variant.size > 64 * MiB and whole


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_option_of_qemu_img_is_tried(driver: str) -> None:
    assert option_names(driver) <= set(VALUES) | WITHOUT_EFFECT


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_variant_is_to_us_what_it_is_to_qemu(tmp_path: Path, driver: str) -> None:
    made = 0
    wrong: list[str] = []
    for variant in variants():
        if variant.driver != driver or too_large(variant):
            continue
        path = tmp_path / "image"
        if variant.create(path):
            made += 1
            wrong += complaints(variant, path)
        for file in tmp_path.iterdir():
            file.unlink()
    assert not wrong, "\n".join(wrong)
    assert made >= (1 if driver == "luks" else len(SIZES) // 2)


# Codes of what is refused of an option's value, with the reason.
REFUSED: dict[tuple[str, str, str], str] = {
    ("qcow2", "encrypt.format", "aes"): "qcow2-aes",  # no guest runs from it
    ("qcow", "encrypt.format", "aes"): "qcow-aes",
    ("qed", "cluster_size", "2M"): "qed-tables",  # 8 MiB for a table's entry, of which QEMU keeps fifty
    ("vmdk", "subformat", "monolithicFlat"): "vmdk-external-extent",  # its data lie in other files
    ("vmdk", "subformat", "twoGbMaxExtentSparse"): "vmdk-external-extent",
    ("vmdk", "subformat", "twoGbMaxExtentFlat"): "vmdk-external-extent",
}


def complaints(variant: Variant, path: Path) -> Iterator[str]:
    image = judge(path)
    codes = {hazard.code for hazard in image.hazards if hazard.verdict is not Verdict.OK}
    if image.format != variant.driver:
        yield f"{variant}: {image.format}"
    try:
        told = qemu_img_info(path, "-f", variant.driver)
    except AssertionError:  # qemu-img makes some that QEMU does not open
        if not codes:
            yield f"{variant}: let through, and not to be opened"
        return
    if image.virtual_size != told["virtual-size"]:
        yield f"{variant}: {image.virtual_size} bytes, and {told['virtual-size']} to QEMU"
    if codes - {REFUSED.get((variant.driver, variant.option, variant.value))}:
        yield f"{variant}: {image.verdict} {codes}"


CONVERTED = ("qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels")


@pytest.mark.parametrize("driver", CONVERTED)
@pytest.mark.parametrize("size", [3 * MiB, 40 * MiB + 512])
def test_a_partitioned_disk_stays_what_it_is_in_every_format(tmp_path: Path, driver: str, size: int) -> None:
    disk = sparse(tmp_path / "disk", size)
    run("sfdisk", "-q", disk, stdin="label: gpt\nsize=1M, type=uefi\n")
    run("mkfs.vfat", "-C", tmp_path / "fat", "1000")
    patch(disk, MiB, (tmp_path / "fat").read_bytes())
    inside = judge(disk).media
    assert inside.table == "gpt"
    for subformat in ("", *(VALUES["subformat"] if driver in {"vmdk", "vpc", "vhdx"} else ())):
        path = tmp_path / f"converted{subformat}"
        options = ["-o", f"subformat={subformat}"] if subformat else []
        command = ["qemu-img", "convert", "-O", driver, *options, str(disk), str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            continue
        image, told = judge(path), qemu_img_info(path, "-f", driver)
        assert (image.format, image.virtual_size) == (driver, told["virtual-size"])
        if image.verdict is not Verdict.REFUSE:
            assert image.media.table == inside.table
            assert [part.start for part in image.media.partitions] == [part.start for part in inside.partitions]
