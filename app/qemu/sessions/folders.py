"""Where sessions and guests live on this host, and who is alive.

    RUNTIME/ID/    control.sock, state, serial.log, supervisor.log        (small; /run or alike)
    STATE/ID/      overlay, UEFI variables, QEMU's sockets: its working directory        (on a real disk)

Both roots are 0700, ours, and opened without following links; whoever holds the descriptor of a folder in them
need not trust a path again. A folder is alive as long as somebody holds its flock (systemd-tmpfiles leaves locked
folders alone, too). It is published under its name by a rename once that lock is held: an unlocked one is dead.
"""

import ctypes
import errno
import fcntl
import os
import pwd
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from probes.errors import FarbootError, Refused, Unsupported

CONTROL, STATE, LOG = "control.sock", "state", "serial.log"
LOG_LIMIT = 4 << 20
"""Bytes that a session's serial log may have."""
_NEW = ".new-"
_NEW_LIVES = 60.0
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that is taken for another when read aloud
_SLUG_LENGTH = 16
_IN_MEMORY = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}  # statfs(2)
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """An open folder. `descriptor` stays open, and locked if it was locked, until `close`."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    def reach(self, name: str) -> str:
        """A path to `name` in this very folder: short enough for a socket, and blind to what its own path says."""
        return f"/proc/self/fd/{self.descriptor}/{name}"

    def read(self, name: str, limit: int, offset: int = 0) -> bytes:
        """At most `limit` bytes of the regular file `name`, never through a link. Raises OSError."""
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.descriptor)
        with os.fdopen(file, "rb") as content:
            status = os.fstat(content.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            content.seek(offset if offset >= 0 else max(0, status.st_size + offset))
            return content.read(limit)

    def write(self, name: str, data: bytes) -> None:
        """Put `data` into the file `name` (0600), all of it or nothing."""
        new = f"{name}.new"
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=self.descriptor)
        self.create(new, data)
        os.rename(new, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)

    def create(self, name: str, data: bytes = b"") -> None:
        """Make the file `name` (0600), which must not exist."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=self.descriptor), "wb") as file:
            file.write(data)

    def make_way(self, name: str) -> None:
        """Make the folder (0700) that `name` is in, if it is in one below this."""
        below = os.path.dirname(name)
        if below:
            with suppress(FileExistsError):
                os.mkdir(below, 0o700, dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove the file `name`, never through a link to another folder; it may be gone."""
        above, file = os.path.split(name)
        with suppress(FileNotFoundError):
            folder = os.open(above, _OPEN_FOLDER, dir_fd=self.descriptor) if above else self.descriptor
            try:
                os.unlink(file, dir_fd=folder)
            finally:
                if folder != self.descriptor:
                    os.close(folder)

    def is_alive(self) -> bool:
        """Whether somebody holds the lock."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def runtime_root() -> Folder:
    """Open the folder of sessions, making it if need be. Raises Refused if somebody else could meddle with it.

    `/run/farboot` for root; for others the one that systemd keeps after a logout, if it does so for them, else one
    in /tmp; FARBOOT_RUNTIME_DIR overrides.
    """
    chosen = os.environ.get("FARBOOT_RUNTIME_DIR")
    if chosen:
        return open_private(chosen)
    user = os.geteuid()
    if user == 0:
        return open_private("/run/farboot")
    lasting = f"/run/user/{user}"
    if _lingers(user) and os.path.isdir(lasting):
        return open_private(f"{lasting}/farboot")
    return open_private(f"/tmp/farboot-{user}")


def state_root() -> Folder:
    """Open the folder of guests, on a disk. Raises Unsupported if there is only memory, Refused as above.

    `/var/tmp/farboot-UID`, else XDG_STATE_HOME's; FARBOOT_STATE_DIR overrides.
    """
    chosen = os.environ.get("FARBOOT_STATE_DIR")
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    places = [chosen] if chosen else [f"/var/tmp/farboot-{os.geteuid()}", f"{home}/farboot/guests"]
    problem: FarbootError | None = None
    for place in places:
        try:
            folder = open_private(place)
        except FarbootError as error:
            problem = problem or error
            continue
        kind = _IN_MEMORY.get(_filesystem(folder.descriptor))
        if kind is None:
            return folder
        folder.close()
        why = f"it is in memory ({kind}), and what a guest writes would fill it"
        problem = problem or Unsupported("keep guests in", place, why, "set FARBOOT_STATE_DIR to a folder on a disk")
    assert problem is not None
    raise problem


def open_private(path: str) -> Folder:
    """Open the folder `path`, made if it is missing: ours, for nobody else, and no link. Raises Refused."""
    hint = "remove it, or set FARBOOT_RUNTIME_DIR and FARBOOT_STATE_DIR to folders of yours"
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        descriptor = os.open(path, _OPEN_FOLDER)
    except OSError as error:
        why = "it is a link or no folder" if error.errno in {errno.ELOOP, errno.ENOTDIR} else error.strerror
        raise Refused("use the folder", path, why or "it failed", hint) from None
    status = os.fstat(descriptor)
    why = ""
    if status.st_uid != os.geteuid():
        why = f"it belongs to {_user_name(status.st_uid)}, not to you"
    elif status.st_mode & 0o077:
        why, hint = f"others may look into it (mode {status.st_mode & 0o777:o})", f"chmod 700 {path}"
    if why:
        os.close(descriptor)
        raise Refused("use the folder", path, why, hint)
    return Folder(os.path.realpath(path), descriptor)


def open_in(root: Folder, name: str) -> Folder | None:
    """Open the folder `name` of `root`, or None if there is no such folder of ours."""
    try:
        descriptor = os.open(name, _OPEN_FOLDER, dir_fd=root.descriptor)
    except OSError:
        return None
    return Folder(f"{root.path}/{name}", descriptor)


@contextmanager
def create_locked(root: Folder) -> Iterator[tuple[Folder, Callable[[str], bool]]]:
    """Make a folder in `root` that is locked before anyone can see it.

    Gives it, and a function that publishes it under a name, unless that is taken. What was not published in the
    end is removed; what was is the caller's to close.
    """
    hidden = _NEW + secrets.token_hex(8)
    os.mkdir(hidden, 0o700, dir_fd=root.descriptor)
    folder = open_in(root, hidden)
    if folder is None:
        raise Refused("use the folder", f"{root.path}/{hidden}", "somebody else meddles with it")
    fcntl.flock(folder.descriptor, fcntl.LOCK_EX)

    def publish(name: str) -> bool:
        path = f"{root.path}/{name}"
        if os.path.lexists(path):  # a rename would take the place of an empty folder
            return False
        try:
            os.rename(hidden, name, src_dir_fd=root.descriptor, dst_dir_fd=root.descriptor)
        except OSError as error:
            if error.errno in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                return False
            raise
        folder.path = path
        return True

    try:
        yield folder, publish
    finally:
        if os.path.basename(folder.path) == hidden:
            folder.close()
            remove_tree(root, hidden)


def remove_tree(root: Folder, name: str) -> None:
    """Remove the folder `name` of `root` with all that is in it; another may be doing the same."""
    shutil.rmtree(name, ignore_errors=True, dir_fd=root.descriptor)


def names_in(root: Folder) -> list[str]:
    """The published folders of `root`, sorted; on the way, those that were never published are removed."""
    names = []
    for name in os.listdir(root.descriptor):
        if name.startswith(_NEW):
            with suppress(OSError):
                if time.time() - os.stat(name, dir_fd=root.descriptor, follow_symlinks=False).st_ctime > _NEW_LIVES:
                    remove_dead(root, name)
        elif not name.startswith("."):
            names.append(name)
    return sorted(names)


def remove_dead(root: Folder, name: str) -> bool:
    """Remove the folder `name` of `root` unless somebody holds its lock; whether that was so."""
    folder = open_in(root, name)
    if folder is None:
        return False
    try:
        if folder.is_alive():
            return False
    finally:
        folder.close()
    remove_tree(root, name)
    return True


def invent_id(name: str) -> str:
    """A short name for a session, made of its image's: `tiny-x4k`. To be tried until it is free."""
    stem = os.path.splitext(name)[0] or name
    words = "".join(c if c.isascii() and c.isalnum() else " " for c in stem.lower()).split()
    slug = words[0][:_SLUG_LENGTH] if words else "guest"
    for word in words[1:]:
        if len(slug) + 1 + len(word) > _SLUG_LENGTH:
            break
        slug += "-" + word
    return slug + "-" + "".join(secrets.choice(_LETTERS) for _ in range(3))


def _lingers(user: int) -> bool:
    try:
        return os.path.exists(f"/var/lib/systemd/linger/{pwd.getpwuid(user).pw_name}")
    except KeyError:
        return False


def _user_name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _filesystem(descriptor: int) -> int:
    """The f_type of fstatfs(2), which the os module does not give."""
    buffer = ctypes.create_string_buffer(512)
    if ctypes.CDLL(None, use_errno=True).fstatfs(descriptor, buffer) != 0:
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], "little") & 0xFFFFFFFF
