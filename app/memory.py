"""What Farboot remembers between its runs, and what this machine knows: as the screens need it.

Everything here reads or writes files, and so may block: the screens call it in threads.
"""

import contextlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from app import history, settings_file
from app.settings import DEFAULTS, BadSettings, Bookmark, Settings, load
from probes.known.find import find
from probes.known.found import Found
from probes.known.guests import Owners, stamp
from probes.known.root import Root
from probes.location import Location


@dataclass(frozen=True)
class Remembered:
    """All of it, at one moment. `trouble` says what is wrong with the settings file, which is then as if it were not.

    `used` are locations as text, newest first.
    """

    settings: Settings = DEFAULTS
    found: tuple[Found, ...] = ()
    used: tuple[str, ...] = ()
    trouble: BadSettings | None = None


class Memory:
    """Where it is kept: the settings file, the history, the machine's own files below `root`."""

    def __init__(self, settings: str | None = None, used: str | None = None, root: Root | None = None) -> None:
        self._settings = settings
        self._used = used
        self._root = root or Root()
        self._owners: Owners | None = None
        self._reading: Future[None] | None = None
        self._lock = threading.Lock()

    def gather(self) -> Remembered:
        """Read the settings, the history and the machine's files."""
        settings, trouble = Settings(), None
        try:
            settings = load(self._settings)
        except BadSettings as error:
            trouble = error
        used = tuple(history.used_before(self._used))
        return Remembered(settings, tuple(find(self._root)), used, trouble)

    def owners(self, patience: float = 0.5) -> Owners | None:
        """Which disks are guests': as far as is known after `patience` seconds.

        Read again when something changed. A cluster's file system that hangs costs a thread of its own, no listing.
        """
        with self._lock:
            if self._reading is None or self._reading.done():
                self._reading = Future()
                work = (self._reading,)
                threading.Thread(target=self._read_owners, args=work, name="farboot-owners", daemon=True).start()
            reading = self._reading
        with contextlib.suppress(TimeoutError):
            reading.result(patience)
        return self._owners

    def _read_owners(self, reading: "Future[None]") -> None:
        try:
            if self._owners is None or self._owners.stamp != stamp(self._root):
                self._owners = Owners.read(self._root)
        finally:
            reading.set_result(None)

    def used_now(self, location: Location) -> None:
        """A location was used: put it first."""
        history.remember(location, self._used)

    def forget(self, text: str) -> None:
        """Take a location off the history."""
        history.forget(text, self._used)

    def save(self, name: str, location: Location) -> None:
        """Save a place under a name, or give a saved one another name. Raises BadSettings."""
        settings_file.add_bookmark(name, location, self._settings)

    def remove(self, bookmark: Bookmark) -> None:
        """Take a saved place off the list. Raises BadSettings."""
        settings_file.remove_bookmark(bookmark, self._settings)
