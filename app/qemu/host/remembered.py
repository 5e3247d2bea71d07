"""What was once found out about this host, remembered until what it depends on changes.

One JSON file a question under `$XDG_CACHE_HOME/farboot` (0700). Nothing depends on it: a cache that cannot be read,
trusted or written only costs the time to find out again.
"""

import json
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

Key = Sequence[object]
"""Whatever the answer depends on: texts, numbers and lists of them."""


def remember(question: str, key: Key, find_out: Callable[[], T]) -> T:
    """Return the remembered answer to `question` for exactly this `key`, or find it out and remember it.

    The answer must survive a round trip through JSON. What `find_out` raises is not remembered.
    """
    folder = cache_folder()
    wanted = json.loads(json.dumps(list(key)))
    if folder is not None:
        with (
            suppress(OSError, ValueError, KeyError, TypeError),
            open(_path(folder, question), encoding="utf-8") as file,
        ):
            known = json.load(file)
            if known["key"] == wanted:
                answer: T = known["answer"]
                return answer
    answer = find_out()
    if folder is not None:
        with suppress(OSError):
            _write(_path(folder, question), json.dumps({"key": wanted, "answer": answer}))
    return answer


def cache_folder() -> str | None:
    """Return the folder, made if it must be, or None where there is none that only we can write."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    folder = os.path.join(base, "farboot")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError:
        return None
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
    return folder if ours else None


def fingerprint(path: str) -> list[object]:
    """What changes when the file or folder at `path` does: its path, mode, owner, size, time and inode."""
    try:
        found = os.stat(path)
    except OSError as error:
        return [path, error.errno]
    return [path, found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_ino]


def _path(folder: str, question: str) -> str:
    return os.path.join(folder, f"{question}.json")


def _write(path: str, text: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
