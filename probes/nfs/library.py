"""libnfs, through libnfs-python: one context, that is one connection to one mounted folder.

libnfs-python makes the contexts, handles and structures. What waits for the server is called by ctypes out of the very
same library, for its wrappers keep the GIL meanwhile, refuse names that are not UTF-8 (a folder with one such name
could not even be listed), and leave out `nfs_set_timeout`, without which libnfs waits for ever. Its convenience layer
(`libnfs.NFS`) ignores a failed mount and then hangs.

A context is for one thread at a time. Errors are `OSError` with the errno that libnfs gives.
"""

import contextlib
import ctypes
import errno
import importlib.util
import os
import socket
import stat
import struct
import sys
import types
import uuid
from dataclasses import dataclass
from functools import cache
from typing import Any

TYPES = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFBLK, 4: stat.S_IFCHR, 5: stat.S_IFLNK, 6: stat.S_IFSOCK,
          7: stat.S_IFIFO}  # fmt: skip
_LONGEST_LINK = 4096
_PIECE = 1 << 20  # bytes of one call, which libnfs sends as several where the server wants them smaller
_SMALLEST = 1 << 10
_POINTER = ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[object, ...]] = {
    "nfs_set_timeout": (_POINTER, ctypes.c_int),
    "nfs_get_fd": (_POINTER,),
    "nfs4_set_client_name": (_POINTER, ctypes.c_char_p),
    "nfs_mount": (_POINTER, ctypes.c_char_p, ctypes.c_char_p),
    "nfs_opendir": (_POINTER, ctypes.c_char_p, _POINTER),
    "nfs_lstat64": (_POINTER, ctypes.c_char_p, _POINTER),
    "nfs_readlink": (_POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int),
    "nfs_open": (_POINTER, ctypes.c_char_p, ctypes.c_int, _POINTER),
    "nfs_fstat64": (_POINTER, _POINTER, _POINTER),
    "nfs_pread": (_POINTER, _POINTER, ctypes.c_uint64, ctypes.c_uint64, _POINTER),
    "nfs_pwrite": (_POINTER, _POINTER, ctypes.c_uint64, ctypes.c_uint64, _POINTER),
    "nfs_fsync": (_POINTER, _POINTER),
    "nfs_close": (_POINTER, _POINTER),
}


# `struct nfsdirent` as far as the time of the last change: next, name, inode, type, mode, size, and two times.
_ROW = struct.Struct("@PPQIIQllll")


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is known of a file: `mode` with its type, `size` in bytes, times in seconds and nanoseconds."""

    mode: int
    size: int
    modified: int
    modified_ns: int = 0
    inode: int = 0


@cache
def _libnfs() -> tuple[Any, Any]:
    """libnfs-python, and the library that it was built for. Raises ImportError."""
    # Its SWIG loader wants a module that Python 3.12 removed, and takes ImportError for "import _libnfs then".
    imp = types.ModuleType("imp")
    imp.find_module = _not_found  # type: ignore[attr-defined]  # a module is made of what it is given
    spec = importlib.util.find_spec("libnfs")
    folder = os.path.dirname(spec.origin or "") if spec else ""
    before = sys.modules.get("imp")
    sys.modules["imp"] = imp
    sys.path.append(folder)
    try:
        import libnfs
    finally:
        del sys.modules["imp"]
        if before is not None:
            sys.modules["imp"] = before
        sys.path.remove(folder)
    low = sys.modules["libnfs.libnfs"]
    library = ctypes.CDLL(low._libnfs.__file__)  # a symbol is looked for in the libraries that it needs, too
    for name, arguments in _FUNCTIONS.items():
        getattr(library, name).argtypes = arguments
    library.nfs_readdir.argtypes = (_POINTER, _POINTER)
    library.nfs_readdir.restype = _POINTER
    return libnfs, library


def _not_found(name: str, _path: object = None) -> object:
    raise ImportError(name)


class Context:
    """A mounted folder over a connection of its own."""

    def __init__(self, options: str, timeout: float, version: int) -> None:
        """`options` are the query of a libnfs URL; `timeout` in seconds bounds every RPC."""
        self._module, self._library = _libnfs()
        self._made: Any = self._module.nfs_init_context()
        self._pointer = int(self._made)
        self.write_piece = _PIECE
        url = self._module.nfs_parse_url_dir(self._made, f"nfs://server/?{options}")
        if url is None:
            raise OSError(errno.EINVAL, self._words())
        self._module.nfs_destroy_url(url)
        if version == 4:  # libnfs's own name is the same for all of a second, and a server drops who has the same name
            self._library.nfs4_set_client_name(self._pointer, f"farboot {uuid.uuid4()}".encode())
        self._library.nfs_set_timeout(self._pointer, max(1, int(timeout * 1000)))

    def mount(self, host: str, path: str) -> None:
        """Mount the folder at `path` of `host`."""
        name = host.encode("ascii" if host.isascii() else "idna")
        self._checked(self._library.nfs_mount(self._pointer, name, raw(path)))

    @property
    def is_connected(self) -> bool:
        """Whether the server has kept the connection, as far as this host has been told."""
        descriptor = self._library.nfs_get_fd(self._pointer)
        if descriptor < 0:
            return False
        try:
            with socket.socket(fileno=os.dup(descriptor)) as connection:
                return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def listing(self, path: str) -> list[tuple[str, Attributes]]:
        """The names in a folder, without "." and "..", and their attributes: libnfs reads the whole folder first."""
        handle = self._module.new_NFSDirHandle()
        self._checked(self._library.nfs_opendir(self._pointer, raw(path), int(handle)))
        folder = self._module.NFSDirHandle_value(handle)
        self._module.delete_NFSDirHandle(handle)
        pointer, rows = int(folder), []
        try:
            while row := self._library.nfs_readdir(self._pointer, pointer):
                _, at, inode, kind, mode, size, _, _, modified, _ = _ROW.unpack(ctypes.string_at(row, _ROW.size))
                name = ctypes.string_at(at)
                if name not in {b".", b".."}:
                    mode = TYPES.get(kind, 0) | stat.S_IMODE(mode)
                    rows.append((text(name), Attributes(mode, size, modified, 0, inode)))
        finally:
            self._module.nfs_closedir(self._made, folder)
        return rows

    def lstat(self, path: str) -> Attributes:
        """The attributes of what lies at `path`, a link itself."""
        found = self._module.nfs_stat_64()
        self._checked(self._library.nfs_lstat64(self._pointer, raw(path), int(found.this)))
        return _attributes(found)

    def readlink(self, path: str, length: int) -> str:
        """Where a link leads; `length` is its size (libnfs 4 does not end what it reads by NFSv4)."""
        buffer = ctypes.create_string_buffer(_LONGEST_LINK + 1)
        self._checked(self._library.nfs_readlink(self._pointer, raw(path), buffer, _LONGEST_LINK))
        return text(buffer.value[: max(0, length)])

    def open(self, path: str, write: bool = False) -> "File":
        """Open a file. NFSv4's open must not fail: libnfs repeats a failed one for ever (look first)."""
        handle = self._module.new_NFSFileHandle()
        flags = os.O_RDWR if write else os.O_RDONLY
        self._checked(self._library.nfs_open(self._pointer, raw(path), flags, int(handle)))
        made = self._module.NFSFileHandle_value(handle)
        self._module.delete_NFSFileHandle(handle)
        return File(self, int(made))

    def wake(self) -> None:
        """End a call that waits in another thread."""
        descriptor = self._library.nfs_get_fd(self._pointer)
        if descriptor >= 0:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                connection.shutdown(socket.SHUT_RDWR)

    def destroy(self, is_sound: bool = True) -> None:
        """Let go of it; nothing may use it any more.

        After a call that failed on our side of the connection only the connection is closed: libnfs still holds that
        call, whose stack is gone, and would write into it. The memory is lost.
        """
        made, self._made = self._made, None
        if made is None:
            return
        if is_sound:
            self._module.nfs_destroy_context(made)
            return
        descriptor = self._library.nfs_get_fd(self._pointer)
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _checked(self, result: int) -> int:
        if result < 0:
            raise OSError(-result, self._words())
        return result

    def _words(self) -> str:
        try:
            return self._module.nfs_get_error(self._made) or ""
        except UnicodeDecodeError:  # it quotes a name
            return ""

    # For `File`

    def attributes_of(self, handle: int) -> Attributes:
        """What `File.attributes` gives."""
        found = self._module.nfs_stat_64()
        self._checked(self._library.nfs_fstat64(self._pointer, handle, int(found.this)))
        return _attributes(found)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """What `File.pread` gives."""
        buffer = ctypes.create_string_buffer(length)
        count = self._checked(self._library.nfs_pread(self._pointer, handle, offset, length, buffer))
        return ctypes.string_at(buffer, count)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write the front of `data`; return how many bytes that was."""
        while True:
            piece = data[: self.write_piece]
            try:
                return self._checked(self._library.nfs_pwrite(self._pointer, handle, offset, len(piece), piece))
            except OSError as error:
                # libnfs 4 has room for some 3 KB in a write of NFSv4's; nothing was sent then.
                if "encode" not in str(error.strerror) or self.write_piece <= _SMALLEST:
                    raise
                self.write_piece //= 2

    def flush(self, handle: int) -> None:
        """What `File.fsync` does."""
        self._checked(self._library.nfs_fsync(self._pointer, handle))

    def shut(self, handle: int) -> None:
        """What `File.close` does."""
        self._library.nfs_close(self._pointer, handle)


class File:
    """An open file of a context."""

    def __init__(self, context: Context, handle: int) -> None:
        self._context = context
        self._handle = handle

    def attributes(self) -> Attributes:
        """Its attributes now."""
        return self._context.attributes_of(self._handle)

    def pread(self, offset: int, length: int) -> bytes:
        """The bytes there, fewer only where the file ends."""
        parts: list[bytes] = []
        while length > 0:
            part = self._context.read(self._handle, offset, min(length, _PIECE))
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
            if not part:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            count = self._context.write(self._handle, offset, bytes(view[:_PIECE]))
            if not count:
                raise OSError(errno.EIO, "the server takes no more bytes")
            offset, view = offset + count, view[count:]

    def fsync(self) -> None:
        """Return once what was written is on stable storage."""
        self._context.flush(self._handle)

    def close(self) -> None:
        """Let go of it, before its context goes."""
        self._context.shut(self._handle)


def _attributes(found: Any) -> Attributes:
    return Attributes(
        int(found.nfs_mode), int(found.nfs_size), int(found.nfs_mtime), int(found.nfs_mtime_nsec), int(found.nfs_ino)
    )


def raw(name: str) -> bytes:
    """A name as the server has it."""
    return name.encode("utf-8", "surrogateescape")


def text(name: bytes) -> str:
    """A server's name as Farboot has it."""
    return name.decode("utf-8", "surrogateescape")
