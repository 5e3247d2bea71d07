"""What all tests share: the servers' fixtures, the tiny guest, and a Farboot whose folders are the test's own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.demo.guest import GuestImages, build
from app.demo.show import cache_folder
from tests.unprivileged import NOBODY, Readable, becoming, make_readable

ROOT = Path(__file__).resolve().parents[1]
_SERVERS = ROOT / "tests" / "servers"

pytest_plugins = ["tests.quick_guest", *(f"tests.servers.{path.stem}" for path in sorted(_SERVERS.glob("[a-z]*.py")))]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: at the end no process waits long for the other's last one."""
    items.sort(key=lambda item: "systems" not in item.path.parts)


@pytest.fixture(scope="session")
def tiny_guest() -> GuestImages:
    """The tiny guest's images, built once and kept between runs."""
    return build(cache_folder().parent / "guest")


class Farboot:
    """The command line, run as a person runs it: in a process of its own."""

    def __init__(self, environment: dict[str, str], python: str = sys.executable, user: int | None = None) -> None:
        self.environment = environment
        self.python = python
        self.user = user

    def __call__(self, *arguments: str, timeout: float = 180, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run `farboot ARGUMENTS` and return what it said."""
        return subprocess.run(
            [*self.as_user(), self.python, "-m", "app", *arguments],
            env=self.environment,
            cwd=self.environment["HOME"],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            input=stdin,
            check=False,
        )

    def as_user(self) -> list[str]:
        """The argv prefix that makes a command that user's."""
        return [] if self.user is None else becoming(self.user)


@pytest.fixture
def farboot(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Farboot]:
    """Farboot's command line with runtime, state and configuration folders of its own; its guests end with the test."""
    yield from _farboot(tmp_path, Readable(sys.executable, str(ROOT)), None)


@pytest.fixture(scope="session")
def readable() -> Iterator[Readable]:
    """This project where every account can run it."""
    with make_readable() as found:
        yield found


@pytest.fixture
def farboot_of_a_user(open_folder: Callable[[str], Path], readable: Readable) -> Iterator[Farboot]:
    """The same, run by a user who is not root."""
    home = open_folder("home")
    os.chown(home, NOBODY, NOBODY)
    yield from _farboot(home, readable, NOBODY)


@pytest.fixture
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Make folders that every user can reach (pytest's own are for their owner alone)."""
    import shutil
    import tempfile

    made: list[Path] = []

    def make(name: str) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"farboot-{name}-", dir="/var/tmp"))
        folder.chmod(0o755)
        made.append(folder)
        return folder

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


def _farboot(home: Path, readable: Readable, user: int | None) -> Iterator[Farboot]:
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "FARBOOT_TRACEBACK") if name in os.environ}
    names = ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR", "FARBOOT_CACHE_DIR")
    folders = {name: str(home / name.lower()) for name in names}
    environment = keep | folders | {"HOME": str(home), "PYTHONPATH": readable.path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PATH"] = keep.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    command = Farboot(environment, readable.python, user)
    yield command
    import json

    listed = command("ps", "--json")
    for session in json.loads(listed.stdout) if listed.returncode == 0 else ():
        command("stop", "--force", session["id"])
