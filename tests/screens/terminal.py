"""A program in a terminal of its own, as a person runs it."""

import contextlib
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

from tests.conftest import ROOT

DEADLINE = 60.0
LEAVES_THE_SCREEN = b"\x1b[?1049l"


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._terminal, own = pty.openpty()
        termios.tcsetwinsize(own, (24, 80))
        self.before = self.after = termios.tcgetattr(own)
        self._process = subprocess.Popen(
            argv, cwd=ROOT, env=own_environment(environment), stdin=own, stdout=own, stderr=own, start_new_session=True
        )
        os.close(own)
        self.said = b""

    def read(self) -> bool:
        """Take what it prints; whether there may be more."""
        if select.select([self._terminal], [], [], 0.05)[0]:
            try:
                piece = os.read(self._terminal, 65536)
            except OSError:  # EIO: the program has left the terminal
                return False
            self.said += piece
            return bool(piece)
        return True

    def until(self, text: bytes) -> None:
        """Read until it printed `text`, or ended."""
        end = time.monotonic() + DEADLINE
        while text not in self.said and self.read():
            assert time.monotonic() < end, self.said[-4000:]

    def type(self, keys: bytes) -> None:
        """Press keys; a program that has ended does not hear them."""
        with contextlib.suppress(OSError):
            os.write(self._terminal, keys)

    def end(self) -> int:
        """Read until it ends, and return its exit code."""
        end = time.monotonic() + DEADLINE
        while self.read():
            assert time.monotonic() < end, self.said[-4000:]
        self.after = termios.tcgetattr(self._terminal)
        os.close(self._terminal)
        return self._process.wait(DEADLINE)


def own_environment(more: Mapping[str, str]) -> dict[str, str]:
    """What a Farboot of the test's own needs of this environment, and `more`."""
    keep = {name: os.environ[name] for name in os.environ if name.startswith("FARBOOT_") or name in {"PATH", "HOME"}}
    return keep | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **more}


def plain(said: bytes) -> list[str]:
    """The lines of it that say anything, without what a terminal acts on."""
    text = re.sub(r"\x1b(\[[0-9;?<>=]*[A-Za-z]|[=>])", "", said.decode(errors="replace"))
    return [line for line in text.replace("\r", "").split("\n") if line.strip()]
