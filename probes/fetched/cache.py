"""Whole copies of images, kept for the next time: where a server cannot be read in the middle.

    FOLDER/fetched/DIGEST/image        the bytes
                         /about.json   {location, size, sha256, validator, when}
                         /lock         held (flock) by whoever fetches

FOLDER is $FARBOOT_CACHE_DIR, else /var/cache/farboot for root, else $XDG_CACHE_HOME/farboot or ~/.cache/farboot. DIGEST
is of the location. Copies are written beside (`image.part`) and renamed, so what lies there is whole; a fetch that is
broken off leaves nothing. Together they take up `MOST_BYTES` at most, those not used for longest going first; all of
it may be deleted at any time, even while guests run from it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from probes.attachment import Attachment, HostFile, Route
from probes.errors import Denied, FarbootError
from probes.location import Location
from probes.reader import Pin
from probes.source import Progress
from probes.words import human_size

MOST_BYTES = 64 << 30
"""Bytes that all copies together take up, at most."""
SPARE = 64 << 20
"""Bytes that stay free on the disk."""

_WRITE = 1 << 20
_POLL = 0.1  # seconds between looks at a fetch that another process does


@dataclass(frozen=True)
class Copy:
    """A whole copy: `path` on this host, `size` in bytes, the hex SHA-256 of it all, and the validator that the server
    gave for it, where it gives any.
    """

    path: str
    size: int
    sha256: str
    validator: str = ""


def cache_folder() -> Path:
    """Where what can be had again is kept."""
    own = os.environ.get("FARBOOT_CACHE_DIR", "")
    if os.path.isabs(own):
        return Path(own)
    if os.geteuid() == 0:
        return Path("/var/cache/farboot")
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "farboot"


class Cache:
    """The copies in one folder."""

    def __init__(self, folder: Path | None = None, most: int = MOST_BYTES) -> None:
        self._folder = (folder or cache_folder()) / "fetched"
        self._most = most

    def find(self, location: Location) -> Copy | None:
        """The copy of `location`, if there is one; whether it is still good is for the caller to ask the server."""
        place = self._place(location)
        try:
            about = json.loads((place / "about.json").read_text("utf-8"))
            size, digest, validator = about["size"], about["sha256"], about["validator"]
            found = os.lstat(place / "image")
            if not (stat.S_ISREG(found.st_mode) and found.st_size == size and about["location"] == str(location)):
                return None
            os.utime(place / "about.json")  # it is used
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return Copy(str(place / "image"), size, str(digest), str(validator))

    def forget(self, location: Location) -> None:
        """Delete the copy of `location`. A guest that runs from it goes on."""
        for name in ("about.json", "image"):
            with contextlib.suppress(OSError):
                (self._place(location) / name).unlink()

    @contextlib.contextmanager
    def fetching(self, location: Location, progress: Progress, size: int | None) -> Iterator[None]:
        """Be the only one, in all processes, who fetches `location`. While another does, its progress is told."""
        place = self._place(location)
        self._make(place, location)
        try:
            lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _disk_error(error, location, place) from None
        try:
            pause = threading.Event()
            while not _is_locked(lock):
                with contextlib.suppress(OSError):
                    progress(os.stat(place / "image.part").st_size, size)
                pause.wait(_POLL)  # flock(2) itself could not be cancelled
            yield
        finally:
            os.close(lock)

    def keep(
        self, location: Location, pieces: Iterable[bytes], size: int | None, validator: str, progress: Progress
    ) -> Copy:
        """Write `pieces` down as the copy of `location`, within `fetching`. Nothing is left where that fails.

        Raises FarbootError where the disk has no room, and whatever `pieces` and `progress` raise.
        """
        place = self._place(location)
        part = place / "image.part"
        self._make_room(location, place, size or 0)
        self.forget(location)
        try:
            digest, came = hashlib.sha256(), 0
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", _WRITE) as file:
                told = -_WRITE
                for piece in pieces:
                    file.write(piece)
                    digest.update(piece)
                    came += len(piece)
                    if came - told >= _WRITE // 4:
                        told = came
                        progress(came, size)
            progress(came, size)
            part.rename(place / "image")
            about = {
                "location": str(location),
                "size": came,
                "sha256": digest.hexdigest(),
                "validator": validator,
                "when": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            (place / "about.part").write_text(json.dumps(about), "utf-8")
            (place / "about.part").rename(place / "about.json")
            return Copy(str(place / "image"), came, digest.hexdigest(), validator)
        except OSError as error:
            raise _disk_error(error, location, place, size) from None
        finally:
            with contextlib.suppress(OSError):
                part.unlink()

    def _place(self, location: Location) -> Path:
        name = str(location).encode("utf-8", "surrogateescape")
        return self._folder / hashlib.sha256(name).hexdigest()[:32]

    def _make(self, place: Path, location: Location) -> None:
        try:
            place.mkdir(0o700, parents=True, exist_ok=True)
            for folder in (self._folder, place):
                found = os.lstat(folder)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                    why = f"{folder} is not a folder of this account's own"
                    raise Denied("keep a copy of", location, why, "remove it, or set FARBOOT_CACHE_DIR")
                if found.st_mode & 0o077:
                    folder.chmod(0o700)
        except OSError as error:
            raise _disk_error(error, location, place) from None

    def _make_room(self, location: Location, place: Path, need: int) -> None:
        """Delete the copies that were not used for longest, as far as the room for `need` bytes takes it."""
        others = sorted(self._others(place))
        total = sum(size for _, size, _ in others)
        free = shutil.disk_usage(place).free
        while others and (total + need > self._most or free < need + SPARE):
            _, size, folder = others.pop(0)
            shutil.rmtree(folder, ignore_errors=True)
            total -= size
            free = shutil.disk_usage(place).free
        if free < need + SPARE:
            raise _no_room(location, place, need)

    def _others(self, place: Path) -> Iterator[tuple[float, int, Path]]:
        """When each other copy was used last, its size, and its folder; those being fetched are left out."""
        for folder in self._folder.iterdir():
            with contextlib.suppress(OSError):
                if folder != place and not (folder / "image.part").exists():
                    yield os.stat(folder / "about.json").st_mtime, os.stat(folder / "image").st_size, folder


def fetched_attachment(location: Location, copy: Copy, pin: Pin, why: str) -> Attachment:
    """How QEMU gets at a copy: as a file of this host, from somebody else's server all the same."""
    node = {"driver": "file", "filename": copy.path}
    files = (HostFile("filename", copy.path),)
    return Attachment(location, Route.FETCH, pin, node, files=files, why=why)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _disk_error(error: OSError, location: Location, place: Path, need: int | None = None) -> FarbootError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _no_room(location, place, need)
    hint = "set FARBOOT_CACHE_DIR to a folder that can be written"
    return Denied("keep a copy of", location, f"{place.parent}: {error.strerror or error}", hint)


def _no_room(location: Location, place: Path, need: int | None) -> FarbootError:
    free = human_size(shutil.disk_usage(place).free)
    why = f"it is {human_size(need)}, and {free} are free at {place.parent}" if need else f"{place.parent} is full"
    return FarbootError("fetch", location, why, "make room there, or set FARBOOT_CACHE_DIR to a larger disk")
