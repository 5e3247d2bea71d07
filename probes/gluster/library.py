"""libgfapi, as far as Farboot uses it, by ctypes, and a volume by it.

Its calls block for as long as they like (`glfs_init` on a silent server for over 90 seconds), so whoever uses them
lives in a child process. `glfs_fini` takes 10 seconds, and nobody waits for it: the process ends instead.

`struct stat` differs by processor. Which layout is this one's is not listed by hand but tried out, on the C library's
own answer about a file of which Python knows everything.
"""

import ctypes
import os
import stat
import sys
from collections.abc import Iterator
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_char,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_ssize_t,
    c_ubyte,
    c_uint,
    c_ulong,
    c_ushort,
    c_void_p,
)
from dataclasses import dataclass
from typing import Any

SONAME = "libgfapi.so.0"

_TIMES = [("atime", c_long), ("atime_ns", c_long), ("mtime", c_long), ("mtime_ns", c_long), ("ctime", c_long),
          ("ctime_ns", c_long)]  # fmt: skip
_SPARE = ("spare", c_long * 8)  # room for whatever else it holds


class _Most(Structure):
    """x86-64 and 64-bit POWER."""

    _fields_ = (("dev", c_ulong), ("ino", c_ulong), ("nlink", c_ulong), ("mode", c_uint), ("uid", c_uint),
                ("gid", c_uint), ("pad", c_int), ("rdev", c_ulong), ("size", c_long), ("blksize", c_long),
                ("blocks", c_long), *_TIMES, _SPARE)  # fmt: skip


class _Generic(Structure):
    """The kernel's generic layout: ARM64, RISC-V, LoongArch."""

    _fields_ = (("dev", c_ulong), ("ino", c_ulong), ("mode", c_uint), ("nlink", c_uint), ("uid", c_uint),
                ("gid", c_uint), ("rdev", c_ulong), ("pad", c_ulong), ("size", c_long), ("blksize", c_int),
                ("pad2", c_int), ("blocks", c_long), *_TIMES, _SPARE)  # fmt: skip


class _Mainframe(Structure):
    """IBM Z."""

    _fields_ = (("dev", c_ulong), ("ino", c_ulong), ("nlink", c_ulong), ("mode", c_uint), ("uid", c_uint),
                ("gid", c_uint), ("pad", c_int), ("rdev", c_ulong), ("size", c_long), *_TIMES, ("blksize", c_long),
                ("blocks", c_long), _SPARE)  # fmt: skip


LAYOUTS: tuple[type[Structure], ...] = (_Most, _Generic, _Mainframe)


class _Dirent(Structure):
    """glibc's `struct dirent` of 64-bit machines."""

    _fields_ = (("ino", c_ulong), ("off", c_long), ("reclen", c_ushort), ("type", c_ubyte), ("name", c_char * 1024))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file: `size` in bytes, `modified` in nanoseconds since 1970, `mode` as stat(2) has it."""

    size: int
    mode: int
    modified: int
    inode: int

    @property
    def is_folder(self) -> bool:
        """Whether it can be listed."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it can be read."""
        return stat.S_ISREG(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def stat_layout() -> type[Structure]:
    """Return the `struct stat` of this machine. Raises LookupError where it is none that is known."""
    path = os.fsencode(sys.executable if os.path.exists(sys.executable) else "/")
    known = os.stat(path)
    wanted = (known.st_dev, known.st_ino, known.st_mode, known.st_size, known.st_mtime_ns)
    library: Any = ctypes.CDLL(None)
    for layout in LAYOUTS:
        found: Any = layout()
        try:
            failed = library.stat(path, byref(found))
        except AttributeError:  # glibc before 2.33
            failed = library.__xstat(1, path, byref(found))
        if not failed and wanted == (found.dev, found.ino, found.mode, found.size, _nanoseconds(found)):
            return layout
    raise LookupError("struct stat")


class Library:
    """The shared library. Raises OSError where it is not installed, LookupError on an unknown processor."""

    def __init__(self) -> None:
        self.stat = stat_layout()
        pointer = POINTER(self.stat)
        entry = POINTER(_Dirent)
        library = ctypes.CDLL(SONAME, use_errno=True)
        functions: dict[str, tuple[Any, ...]] = {
            "new": (c_void_p, c_char_p),
            "set_volfile_server": (c_int, c_void_p, c_char_p, c_char_p, c_int),
            "set_logging": (c_int, c_void_p, c_char_p, c_int),
            "init": (c_int, c_void_p),
            "opendir": (c_void_p, c_void_p, c_char_p),
            "closedir": (c_int, c_void_p),
            "readdirplus_r": (c_int, c_void_p, pointer, entry, POINTER(entry)),
            "stat": (c_int, c_void_p, c_char_p, pointer),
            "fstat": (c_int, c_void_p, pointer),
            "lstat": (c_int, c_void_p, c_char_p, pointer),
            "open": (c_void_p, c_void_p, c_char_p, c_int),
            "close": (c_int, c_void_p),
            # The last argument came with libgfapi 6; older ones do not look at it.
            "pread": (c_ssize_t, c_void_p, c_void_p, c_size_t, c_long, c_int, c_void_p),
            "pwrite": (c_ssize_t, c_void_p, c_char_p, c_size_t, c_long, c_int, c_void_p, c_void_p),
            "fsync": (c_int, c_void_p, c_void_p, c_void_p),
        }
        self._functions: dict[str, Any] = {}
        for name, (returns, *takes) in functions.items():
            function = getattr(library, f"glfs_{name}")
            function.restype, function.argtypes = returns, takes
            self._functions[name] = function

    def call(self, name: str, *arguments: Any) -> int:
        """Call `glfs_NAME`. Raises OSError for -1 and for NULL."""
        ctypes.set_errno(0)
        function = self._functions[name]
        result: int | None = function(*arguments)
        if result is None or (result < 0 and function.restype is not c_void_p):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number) if number else "libgfapi does not say why")
        return result


class Volume:
    """A volume, connected. Raises OSError. Everything may be called by several threads at once."""

    def __init__(self, library: Library, host: str, port: int, name: str) -> None:
        self._library = library
        self._volume = library.call("new", os.fsencode(name))
        library.call("set_volfile_server", self._volume, b"tcp", os.fsencode(host), port)
        library.call("set_logging", self._volume, b"/dev/null", 0)
        library.call("init", self._volume)

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Facts]]:
        """Yield the names in a folder, links as links, in the volume's order."""
        folder = self._library.call("opendir", self._volume, path)
        found, entry, result = self._library.stat(), _Dirent(), POINTER(_Dirent)()
        try:
            while True:
                self._library.call("readdirplus_r", folder, byref(found), byref(entry), byref(result))
                if not result:
                    return
                if entry.name not in {b".", b".."}:
                    yield entry.name, _facts(found)
        finally:
            self._library.call("closedir", folder)

    def stat(self, path: bytes) -> Facts:
        """Return what is known of the file at `path`, links followed."""
        found = self._library.stat()
        self._library.call("stat", self._volume, path, byref(found))
        return _facts(found)

    def is_link(self, path: bytes) -> bool:
        """Whether a link lies at `path`. (glfs_readlink does not say where it leads: the buffer stays as it was.)"""
        found = self._library.stat()
        self._library.call("lstat", self._volume, path, byref(found))
        return _facts(found).is_link

    def open(self, path: bytes, write: bool = False) -> "File":
        """Open a file."""
        flags = os.O_RDWR if write else os.O_RDONLY
        return File(self._library, self._library.call("open", self._volume, path, flags))


class File:
    """An open file of a volume."""

    def __init__(self, library: Library, descriptor: int) -> None:
        self._library = library
        self._descriptor = descriptor

    def stat(self) -> Facts:
        """Return what is known of it now."""
        found = self._library.stat()
        self._library.call("fstat", self._descriptor, byref(found))
        return _facts(found)

    def read(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes at `offset`, none at the end."""
        buffer = ctypes.create_string_buffer(length)
        count = self._library.call("pread", self._descriptor, buffer, length, offset, 0, None)
        return buffer.raw[:count]

    def write(self, offset: int, data: bytes) -> int:
        """Write at `offset`; return how many bytes were taken."""
        return self._library.call("pwrite", self._descriptor, data, len(data), offset, 0, None, None)

    def sync(self) -> None:
        """Have everything written lie on the bricks' disks."""
        self._library.call("fsync", self._descriptor, None, None)

    def close(self) -> None:
        """Let go of it. Only once, and when nobody reads."""
        self._library.call("close", self._descriptor)


def _facts(found: Any) -> Facts:
    return Facts(found.size, found.mode, _nanoseconds(found), found.ino)


def _nanoseconds(found: Any) -> int:
    return int(found.mtime) * 1_000_000_000 + int(found.mtime_ns)
