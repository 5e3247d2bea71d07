"""Running this project's code as somebody who is not root, wherever the checkout lies."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534


def becoming(user: int) -> list[str]:
    """The argv prefix that makes a command run as `user`, without any group of ours."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]


@dataclass(frozen=True)
class Readable:
    """A Python that every account can start, and the PYTHONPATH with which it finds this project and its packages."""

    python: str
    path: str

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """Ours, with that path."""
        return {**os.environ, "PYTHONPATH": self.path, "PYTHONDONTWRITEBYTECODE": "1"}


@contextlib.contextmanager
def make_readable() -> Iterator[Readable]:
    """The checkout and its environment themselves where everybody may read them, else copies."""
    packages = sysconfig.get_path("purelib")
    if all(_nobody_reads(path) for path in (sys.executable, packages, str(ROOT / "app" / "main.py"))):
        yield Readable(sys.executable, str(ROOT))
        return
    copy = Path(tempfile.mkdtemp(prefix="farboot-readable-", dir="/var/tmp"))
    copy.chmod(0o755)
    try:
        for name in ("app", "probes", "tests", "widgets"):
            shutil.copytree(ROOT / name, copy / name)
        shutil.copytree(packages, copy / "packages")
        python = os.path.realpath(sys.executable)
        yield Readable(python, f"{copy}:{copy / 'packages'}")
    finally:
        shutil.rmtree(copy)


def _nobody_reads(path: str) -> bool:
    command = [*becoming(NOBODY), "test", "-r", path]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
