"""Small lists that Farboot keeps for itself below `$XDG_STATE_HOME/farboot`: text files of one thing a line, 0600.

Losing one is no loss: what cannot be read is empty, what cannot be written is let be.
"""

import contextlib
import os

from app.settings_file import locked, write_whole


def state_file(name: str) -> str:
    """The path of a list."""
    base = os.environ.get("XDG_STATE_HOME", "")
    base = base if os.path.isabs(base) else os.path.expanduser("~/.local/state")
    return os.path.join(base, "farboot", name)


def lines(path: str) -> list[str]:
    """What is in the list, first things first, each once."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            found = file.read(1 << 20).splitlines()
    except OSError:
        return []
    return list(dict.fromkeys(line for line in found if line.strip()))


def put_first(path: str, line: str, most: int) -> None:
    """Put a line first; of more than `most` the last ones go."""
    with contextlib.suppress(OSError), locked(os.path.dirname(path)):
        _write(path, [line, *(other for other in lines(path) if other != line)][:most])


def take_off(path: str, line: str) -> None:
    """Take a line off the list."""
    with contextlib.suppress(OSError), locked(os.path.dirname(path)):
        found = lines(path)
        if line in found:
            _write(path, [other for other in found if other != line])


def _write(path: str, found: list[str]) -> None:
    write_whole(path, "".join(f"{line}\n" for line in found))
