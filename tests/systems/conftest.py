"""What the tests of whole storage systems share: QEMUs that lack a driver, and a folder with the tiny guest."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from app.qemu.host.binary import find_qemu, find_qemu_img, module_folders


@pytest.fixture
def images(open_folder: Callable[[str], Path], tiny_guest: GuestImages) -> Path:
    """A folder that every server can serve, with the tiny guest in it."""
    folder = open_folder("images")
    shutil.copy(tiny_guest.raw, folder / "tiny.img")
    return folder


@pytest.fixture(scope="session")
def qemu_without(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Give a folder for PATH in which QEMU has no `block-MODULE.so`: the very same binary, moved (it finds its modules
    relative to itself).
    """
    made: dict[str, str] = {}
    root = Path("/var/tmp") / f"farboot-qemus-{os.getpid()}"  # not pytest's folder, which is for its owner alone

    def make(module: str) -> str:
        if module not in made:
            made[module] = str(_without(module, root / module))
        return made[module]

    yield make
    shutil.rmtree(root, ignore_errors=True)


def _without(module: str, root: Path) -> Path:
    binary = Path(os.path.realpath(find_qemu()))
    programs = root / "bin"
    programs.mkdir(parents=True)
    shutil.copy2(binary, programs / "qemu-system-x86_64")
    (programs / "qemu-img").symlink_to(os.path.realpath(find_qemu_img()))
    (root / "share").symlink_to(binary.parents[1] / "share")
    for folder in module_folders(str(binary)):
        copy = root / Path(folder).relative_to(binary.parents[1])
        copy.mkdir(parents=True, exist_ok=True)
        for file in Path(folder).iterdir():
            if file.name != f"block-{module}.so":
                (copy / file.name).symlink_to(file)
    assert (root / "share").exists(), "the firmware is found relative to the binary as well"
    return programs
