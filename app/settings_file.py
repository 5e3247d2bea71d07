"""Changing the settings file: a person's own words, order and comments in it stay as they are."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator

from app.settings import BadSettings, Bookmark, parse, read, settings_path
from probes.errors import MissingClient
from probes.location import Location

_HEAD = "# Farboot's settings: what can stand here is in its README.\n\n"


def add_bookmark(name: str, location: Location, path: str | None = None) -> None:
    """Save a place under a name; a place that is saved already gets the new name. Raises BadSettings."""
    import tomlkit
    from tomlkit.items import AoT

    def change(text: str) -> str:
        document = tomlkit.parse(text or _HEAD)
        rows = document.get("bookmark")
        if rows is None:
            rows = tomlkit.aot()
            document["bookmark"] = rows
        for row in rows:
            if row.get("location") == str(location):
                row["name"] = name
                break
        else:
            row = tomlkit.table() if isinstance(rows, AoT) else tomlkit.inline_table()
            row["name"] = name
            row["location"] = str(location)
            rows.append(row)
        return tomlkit.dumps(document)

    _edit(change, path)


def remove_bookmark(bookmark: Bookmark, path: str | None = None) -> None:
    """Take a place off the list; the other ones stay as they are. Raises BadSettings."""
    import tomlkit

    def change(text: str) -> str:
        document = tomlkit.parse(text)
        rows = document.get("bookmark", [])
        index = next((i for i, row in enumerate(rows) if row.get("location") == bookmark.location), None)
        if index is None:
            return text
        del rows[index]
        if not rows:
            del document["bookmark"]
        return tomlkit.dumps(document)

    _edit(change, path)


def _edit(change: Callable[[str], str], path: str | None) -> None:
    """Read, change and write the file while no other Farboot does. Never writes over what cannot be read."""
    path = os.path.realpath(path or settings_path())  # where it is kept by way of a link, the link stays
    try:
        import tomlkit.exceptions
    except ImportError:
        remedy = "apt install python3-tomlkit or dnf install python3-tomlkit or pip install tomlkit"
        raise MissingClient("write", path, "the Python package tomlkit is not installed", remedy) from None
    try:
        with locked(os.path.dirname(path)):
            text = read(path)
            parse(text, path)  # what is wrong in it is told, and stays for a person to correct
            new = change(text)
            if new != text:
                parse(new, path)
                write_whole(path, new)
    except OSError as error:
        raise BadSettings("write", path, (error.strerror or "it cannot be written").lower()) from None
    except tomlkit.exceptions.TOMLKitError as error:
        raise BadSettings("change", path, f"it is written in a way that cannot be kept: {error}") from None


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold a folder, which is made where there is none, against other Farboots that would write into it."""
    os.makedirs(folder, 0o700, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_whole(path: str, text: str) -> None:
    """Replace a file at once, so that nobody ever sees half of it: 0600. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(prefix=".farboot-", dir=os.path.dirname(path))
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
