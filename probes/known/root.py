"""The files of this machine that tell what it knows: read as they are, or not at all.

Whatever cannot be read is as if it were not there. What a file holds is bounded, and nothing but regular files is
opened: a FIFO in a configuration folder would wait for ever.
"""

import glob
import os
import socket
import stat

_LARGEST = 1 << 20  # bytes that are read of one file
_MOST = 10_000  # names that are looked at in one folder


class Root:
    """The file system below `path`, and the `home` folder in it (as seen from inside).

    `unreadable` collects the files that are there and that this account may not read.
    """

    def __init__(self, path: str = "/", home: str | None = None) -> None:
        self.path = path
        self.home = home or os.path.expanduser("~")
        self.unreadable: set[str] = set()

    def inside(self, path: str) -> str:
        """Where `path` (`~/` is the home folder) lies on this machine."""
        if path.startswith("~/"):
            path = os.path.join(self.home, path[2:])
        return os.path.join(self.path, path.lstrip("/"))

    def read(self, path: str) -> str:
        """The text of a file, its undecodable bytes as surrogates; empty where there is none to be had."""
        whole = self.inside(path)
        try:
            descriptor = os.open(whole, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except PermissionError:
            self.unreadable.add(path)
            return ""
        except (OSError, ValueError):
            return ""
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return ""
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(_LARGEST).decode("utf-8", "surrogateescape")
        except OSError:  # a FUSE that is not well, say
            return ""
        finally:
            os.close(descriptor)

    def files(self, pattern: str) -> list[str]:
        """The paths that a shell pattern stands for, sorted, as seen from inside."""
        outside = glob.escape(self.path.rstrip("/"))
        expanded = self.inside(pattern)[len(self.path.rstrip("/")) :]
        try:
            found = sorted(glob.iglob(outside + expanded))[:_MOST]
        except (OSError, ValueError):
            return []
        return [path[len(self.path.rstrip("/")) :] for path in found]

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none where it cannot be listed."""
        try:
            return sorted(os.listdir(self.inside(folder)))[:_MOST]
        except PermissionError:
            self.unreadable.add(folder)
            return []
        except (OSError, ValueError):
            return []

    def exists(self, path: str) -> bool:
        """Whether there is something at `path`."""
        try:
            return os.path.exists(self.inside(path))
        except ValueError:  # a NUL in it
            return False

    def real(self, path: str) -> str:
        """`path` without symbolic links, as seen from inside."""
        try:
            whole = os.path.realpath(self.inside(path))
        except (OSError, ValueError):
            return path
        base = os.path.realpath(self.path).rstrip("/")
        return whole[len(base) :] or "/" if whole.startswith(base + "/") or whole == base else whole

    def is_link(self, path: str) -> bool:
        """Whether the last step of `path` is a symbolic link."""
        try:
            return os.path.islink(self.inside(path))
        except ValueError:
            return False

    def stamp(self, path: str) -> tuple[int, int, int]:
        """What changes when the file or folder at `path` does; zeros where it is not there."""
        try:
            found = os.stat(self.inside(path))
        except (OSError, ValueError):
            return 0, 0, 0
        return found.st_mtime_ns, found.st_size, found.st_ino

    @property
    def hostname(self) -> str:
        """This machine's short name."""
        whole = socket.gethostname() if self.path == "/" else self.read("/etc/hostname").strip()
        return whole.partition(".")[0]
