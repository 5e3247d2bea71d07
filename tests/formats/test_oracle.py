"""A second opinion: OpenStack's format_inspector (oslo.utils), on the corpus and on everything that qemu-img makes.

It reads whole images, and knows fewer formats than QEMU. Where it says otherwise than we do stands in `DIFFERENCES`,
with who is right and why; a new difference fails.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from oslo_utils.imageutils import format_inspector

from probes.image import Image, Verdict
from tests.corpus import RECIPES, Outside, Recipe
from tests.formats.images import judge
from tests.formats.test_qemu_agreement import DRIVERS, too_large, variants

MOST = 64 << 20
"""Bytes of an image that the oracle, which reads it whole, is given."""

# What it calls otherwise: its names for ours.
NAMES = {"vhd": "vpc", "iso": "raw", "gpt": "raw"}


@dataclass(frozen=True)
class Opinion:
    """What the oracle says: several formats where it is not sure; whether it is safe, None where it cannot tell."""

    formats: frozenset[str]
    size: int | None
    safe: bool | None


def ask(path: Path) -> Opinion:
    with path.open("rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        while wrapper.read(65536):
            pass
        wrapper.close()
    found = wrapper.formats or []
    names = frozenset(NAMES.get(str(one), str(one)) for one in found)
    if len(found) != 1:
        return Opinion(names, None, False if found else None)
    try:
        size = found[0].virtual_size
    except Exception:  # noqa: BLE001  it is the oracle's business what it stumbles over
        size = None
    try:
        found[0].safety_check()
        safe = True
    except format_inspector.SafetyCheckFailed:
        safe = False
    return Opinion(names, size, safe)


def differences(image: Image, opinion: Opinion) -> set[str]:
    """In what the two differ: "format", "size", "we refuse", "it refuses"."""
    found = set()
    if opinion.formats != {image.format}:
        found.add("format")
    elif opinion.size != image.virtual_size and image.verdict is not Verdict.REFUSE:
        found.add("size")
    ours = image.verdict is Verdict.OK
    if opinion.safe and not ours:
        found.add("we refuse")
    if opinion.safe is False and ours:
        found.add("it refuses")
    return found


@dataclass(frozen=True)
class Known:
    """A difference that is explained: in what, of which images (a pattern of the whole name)."""

    names: str
    what: frozenset[str]
    why: str


def _known(what: str, why: str, *names: str) -> Known:
    return Known("|".join(names), frozenset(what.split(", ")), why)


DIFFERENCES: tuple[Known, ...] = (
    _known(
        "we refuse",
        "It judges names and features, not numbers: QEMU fails on these, or its memory is eaten.",
        "qcow2-(huge-.*|l1-outside|of-2.63-bytes|magic-alone)", "vmdk-huge-directory",
        "vdi-(huge-map|of-3-blocks-less)",
        "vpc-(huge-table|table-outside|tiny-blocks|magic-alone)", "vhdx-(huge-log|without-regions|magic-alone)",
        "luks-(huge-.*|payload-outside|magic-alone)", "gzip.vdi",
    ),
    _known("we refuse", "QEMU runs no guest from such an image.", "qcow2-aes", "qcow2-.*encrypt.format=aes"),
    _known(
        "we refuse",
        "It does not look at parents: QEMU opens a VMDK's wherever it is, and shows the others without theirs.",
        "vmdk-parent-.*", "vdi-(differencing|with-parent)", "vpc-differencing", "vhdx-differencing",
    ),
    _known("we refuse", "It does not look into the log, which QEMU cannot replay read-only.", "vhdx-dirty-log"),
    _known("we refuse", "It does not count iterations: a core is busy for hours.", "luks-iterations.*"),
    _known(
        "it refuses", "It knows no extended L2 entries, as QEMU has since 5.2.", "qcow2-extended",
        "qcow2-.*extended_l2.*",
    ),
    _known(
        "format",
        "It knows no fixed VHD: like QEMU's own probing it takes it for raw, footer and all.",
        "vpc-fixed", "vpc-.*-subformat=fixed",
    ),
    _known("format, we refuse", "The same, damaged.", "vpc-fixed-differencing", "vpc-footer-alone"),
    _known(
        "format", "It does not know the format, and takes it for raw.", "parallels(-\\d.*)?", "cloop", "bochs",
        "dmg(-count-of-runs)?",
    ),
    _known(
        "format, we refuse",
        "It does not know the format, and takes for raw what QEMU fails on or what is no image at all.",
        "parallels-.*", "cloop-.*", "bochs-.*", "dmg-huge-.*", ".*-bomb", "tar-ova", "vmdk-cowd",
    ),
    _known("format, it refuses", "It takes version 1 for qcow2, of an unknown version.", "qcow(-(?!.*=aes)\\d.*)?"),
    _known("format", "The same; neither lets it pass.", "qcow-.*"),
    _known(
        "it refuses, size", "It lets no QED pass, and tells the file's size as the disk's.",
        "qed(-(?!.*(2M|table_size=1$))\\d.*)?",
    ),
    _known("size", "The same; neither lets it pass.", "qed-backing-beside"),
    _known(
        "format",
        "Several formats at once to both, whatever the first of them is called.",
        "qcow2-written-by-a-guest", "iso[+].*", "qcow2.vdi", "qed.vdi", "mbr.vdi",
    ),
    _known("format, it refuses", "A boot sector's mark in a VDI's text makes it two formats to it.", "vdi.mbr"),
    _known("it refuses, size", "A disc that is a disk as well is two formats to it, and common.", "iso-hybrid"),
    _known("size", "QEMU sees whole sectors of 512 bytes.", "raw-odd-size"),
)  # fmt: skip


def explained(name: str) -> frozenset[str]:
    """What the two may differ in about the image `name`."""
    return next((known.what for known in DIFFERENCES if re.fullmatch(known.names, name)), frozenset())


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_of_the_corpus_it_says_what_we_say_or_what_is_explained(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "image"
    recipe.make(path, Outside())
    assert differences(judge(path), ask(path)) == explained(recipe.name)


@pytest.mark.parametrize("driver", [driver for driver in DRIVERS if driver != "luks"])
def test_of_what_qemu_img_makes_it_says_what_we_say_or_what_is_explained(tmp_path: Path, driver: str) -> None:
    wrong = []
    for variant in variants():
        if variant.driver != driver or too_large(variant):
            continue
        path = tmp_path / "image"
        if variant.create(path) and path.stat().st_size <= MOST:
            found = differences(judge(path), ask(path))
            if found != explained(str(variant)):
                wrong.append(f"{variant}: {sorted(found)}, explained {sorted(explained(str(variant)))}")
        for file in tmp_path.iterdir():
            file.unlink()
    assert not wrong, "\n".join(wrong)


def test_an_image_that_leaks_is_safe_to_it(tmp_path: Path) -> None:
    """Why it is no judge: QEMU reads a file of the host for this one (tests/qemu/test_confined_opens.py)."""
    recipe = next(recipe for recipe in RECIPES if recipe.name == "vmdk-parent-absolute")
    path = tmp_path / "image"
    recipe.make(path, Outside())
    assert ask(path).safe
    assert judge(path).verdict is Verdict.REFUSE


def test_every_difference_is_still_there() -> None:
    names = [recipe.name for recipe in RECIPES] + [str(variant) for variant in variants()]
    idle = [known.why for known in DIFFERENCES if not any(re.fullmatch(known.names, name) for name in names)]
    assert not idle
