"""Sessions of the tests' own: their folders are new, and whatever runs in them at the end is ended."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.qemu.sessions.session import sessions, stop
from probes.errors import FarbootError


class Home:
    """A pair of session folders. They lie on the disk of /var/tmp, for pytest's own may be in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime = folder / "runtime"
        self.state = folder / "state"

    def guest_folders(self) -> list[str]:
        return sorted(os.listdir(self.state)) if self.state.exists() else []


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """Session folders for the tests of a module."""
    with (
        tempfile.TemporaryDirectory(prefix="farboot-sessions-", dir="/var/tmp") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = Path(name)
        made = Home(folder)
        patch.setenv("FARBOOT_RUNTIME_DIR", str(made.runtime))
        patch.setenv("FARBOOT_STATE_DIR", str(made.state))
        yield made
        for session in sessions():
            with suppress(FarbootError):
                stop(session.id, force=True)


@pytest.fixture
def scratch() -> Iterator[Callable[[str], Path]]:
    """Make files and folders on a real disk, where other accounts can reach them."""
    folder = Path(tempfile.mkdtemp(prefix="farboot-scratch-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield lambda name: folder / name
    shutil.rmtree(folder, ignore_errors=True)
