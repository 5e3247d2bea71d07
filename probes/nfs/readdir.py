"""Reading a folder by NFSv3's READDIRPLUS (RFC 1813, section 3.3.17), a page at a time.

libnfs reads the whole folder before it gives its first name, 8 KB in a round trip: a hundred thousand entries then take
a minute over a line of 30 ms, in which nothing shows that it goes on. Here the first page shows at once, a page is as
large as the server makes it, and the deadline is each page's own.
"""

import errno
import struct
from collections.abc import Iterator

from probes.nfs.library import TYPES, Attributes, text
from probes.nfs.rpc import Connection, Deadline, RpcError, Words, opaque
from probes.nfs.services import NFS3

_LOOKUP, _READDIRPLUS = 3, 17
PAGE = 1 << 20  # bytes; servers make it less where they like
FIRST_PAGE = 32 << 10
_HANDLE = 64  # bytes at most
LONGEST_NAME = 4096
_LINK = 5


_COOKIE = struct.Struct(">Q")
_HEAD = struct.Struct(">QI")  # file number, length of the name
# type, mode, links, uid, gid, size, used, device, file system, file number, and three times
_ATTRIBUTES = struct.Struct(">5I2Q2I2Q6I")
# NFSv3's numbers are errno's, but for these (and those from 10001 on).
_ERRNO = {63: errno.ENAMETOOLONG, 66: errno.ENOTEMPTY, 69: errno.EDQUOT, 70: errno.ESTALE, 71: errno.EREMOTE}
_CANNOT = frozenset({10004, 10005})  # NOTSUPP, TOOSMALL


class CannotList(Exception):
    """The server has no such procedure, or there are links on the way: libnfs knows what to do then."""


def read_folder(
    connection: Connection, root: bytes, path: str, seconds: float
) -> Iterator[tuple[str, Attributes | None]]:
    """Yield the names in the folder at `path` below the handle `root`, without "." and "..".

    `seconds` is the deadline of each call. Raises CannotList, OSError (also for the server's refusals) and RpcError.
    """
    handle = _lookup(connection, root, path, seconds)
    cookie, verifier, page, finished = 0, bytes(8), FIRST_PAGE, False
    while not finished:
        arguments = opaque(handle) + _COOKIE.pack(cookie) + verifier + struct.pack(">2I", page, page)
        words = connection.call(NFS3, _READDIRPLUS, arguments, Deadline(seconds))
        status = words.number()
        _attributes(words)
        _check(status)
        verifier, page, last = words.take(8), PAGE, cookie
        for name, at, found in _rows(words):
            cookie = at
            if name not in {b".", b".."}:
                yield text(name), found
        finished = bool(words.number())
        if cookie == last and not finished:
            raise RpcError("a folder without an end")


def _rows(words: Words) -> Iterator[tuple[bytes, int, Attributes | None]]:
    """The rows of a page: name, cookie, attributes. There may be thousands, hence few words are taken one by one."""
    while words.number():
        _, length = words.unpack(_HEAD)
        if length > LONGEST_NAME:
            raise RpcError(f"a name of {length} bytes")
        name = words.take(length)
        words.take(-length % 4)
        (cookie,) = words.unpack(_COOKIE)
        found = _attributes(words)
        if words.number():
            words.opaque(_HANDLE)
        yield name, cookie, found


def _lookup(connection: Connection, handle: bytes, path: str, seconds: float) -> bytes:
    for name in (part for part in path.split("/") if part):
        arguments = opaque(handle) + opaque(name.encode("utf-8", "surrogateescape"))
        words = connection.call(NFS3, _LOOKUP, arguments, Deadline(seconds))
        _check(words.number())
        handle = words.opaque(_HANDLE)
        found = _attributes(words)
        if found is None or found.mode & 0o170000 == TYPES[_LINK]:
            raise CannotList
    return handle


def _attributes(words: Words) -> Attributes | None:
    """A file's attributes, where the server tells them."""
    if not words.number():
        return None
    kind, mode, _, _, _, size, _, _, _, _, inode, _, _, seconds, nanoseconds, _, _ = words.unpack(_ATTRIBUTES)
    return Attributes(TYPES.get(kind, 0) | mode & 0o7777, size, seconds, nanoseconds, inode)


def status_error(status: int, called: str) -> OSError:
    """A server's refusal as an error of the system."""
    return OSError(_ERRNO.get(status, status if status < 10000 else errno.EPROTO), f"{called}_{status}")


def _check(status: int) -> None:
    if status in _CANNOT:
        raise CannotList
    if status:
        raise status_error(status, "NFS3ERR")
