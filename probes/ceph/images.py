"""What an RBD pool holds, read as librbd reads it: by the calls of Ceph's `rbd` object class (src/cls/rbd/cls_rbd.cc).

They are made here, and not by python3-rbd, for three reasons: it fails on the first name that is not UTF-8; it lists a
whole pool or nothing, where these come in pages; and for each size it opens the image, which takes 60 times as long.
"""

import contextlib
import errno
import struct
from collections.abc import Iterator
from typing import Any

import rados

from probes.errors import BadAnswer

_HEAD = (1 << 64) - 2  # CEPH_NOSNAP: the image itself, no snapshot of it
_PAGE = 1024  # names asked for at once, as librbd does
_ANSWER = 1 << 20  # bytes that a page may take
_AT_ONCE = 128  # sizes asked for at once
_NOT_THERE = {errno.ENOENT, errno.EOPNOTSUPP}


IMAGES = ("rbd_directory", "dir_list", 2)
NAMESPACES = ("rbd_namespace", "namespace_list", 1)


def children(io: Any, directory: str, method: str, fields: int) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield what a directory of a pool lists (`*IMAGES`, `*NAMESPACES`), sorted by name, in pages of (name, id).

    Namespaces have no id: theirs is empty. A directory that is not there, or a pool that cannot hold one (erasure
    coded), lists nothing. Raises what librados raises.
    """
    after, size = b"", 64  # the first rows soon, the rest in few round trips
    while True:
        try:
            answer = io.execute(directory, "rbd", method, _string(after) + struct.pack("<Q", size), _ANSWER)[1]
        except rados.Error as error:
            if error.errno in _NOT_THERE:
                return
            raise
        texts = strings(answer)
        if len(texts) % fields:
            raise BadAnswer("list", "a pool", "its directory is damaged")
        rows = [(texts[index], texts[index + 1] if fields == 2 else b"") for index in range(0, len(texts), fields)]
        if rows:
            yield rows
        if len(rows) < size:
            return
        after, size = rows[-1][0], _PAGE


def has_image(io: Any, name: bytes) -> bool:
    """Whether there is an image of this name, of either format. Raises what librados raises."""
    try:
        return bool(io.execute("rbd_directory", "rbd", "dir_get_id", _string(name), 4096)[1])
    except rados.Error as error:
        if error.errno not in _NOT_THERE:
            raise
    return name in old_images(io)


def strings(answer: bytes) -> list[bytes]:
    """Return the strings of an encoded list or map of strings. Raises BadAnswer when it is not one."""
    found, offset = [], 4
    while offset < len(answer):
        length = int.from_bytes(answer[offset : offset + 4], "little")
        offset += 4 + length
        if offset > len(answer):
            raise BadAnswer("list", "a pool", "its directory is damaged")
        found.append(answer[offset - length : offset])
    return found


def sizes(io: Any, identities: list[bytes]) -> list[int | None]:
    """Return the sizes in bytes of images by their ids, all asked for at once; None for one that has gone.

    Raises what librados raises for any other failure.
    """
    found: list[int | None] = []
    for start in range(0, len(identities), _AT_ONCE):
        found += _sizes(io, identities[start : start + _AT_ONCE])
    return found


def _sizes(io: Any, identities: list[bytes]) -> list[int | None]:
    answers: dict[int, bytes] = {}

    def keep(index: int) -> Any:
        return lambda _, data: answers.__setitem__(index, data)

    head, asked = struct.pack("<Q", _HEAD), []
    for index, identity in enumerate(identities):
        name = f"rbd_header.{identity.decode('ascii', 'replace')}"
        asked.append(io.aio_execute(name, "rbd", "get_size", head, 64, keep(index)))
    for one in asked:
        one.wait_for_complete_and_cb()
    found: list[int | None] = []
    for index, one in enumerate(asked):
        status, data = one.get_return_value(), answers.get(index) or b""
        if status < 0 and status != -errno.ENOENT:
            raise rados.OSError("reading the size of an image", errno=-status)
        found.append(struct.unpack("<xQ", data)[0] if len(data) == 9 else None)
    return found


def old_images(io: Any) -> dict[bytes, int]:
    """Return the names and sizes of images of the old format 1: `rbd_directory` holds a map of their names as its
    data, and each header (`name.rbd`) its size at byte 80 (struct rbd_obj_header_ondisk).
    """
    try:
        data = io.read("rbd_directory", _ANSWER)
    except rados.Error as error:
        if error.errno in _NOT_THERE:
            return {}
        raise
    if not data:
        return {}
    header = int.from_bytes(data[:4], "little")
    found = {}
    for name in strings(data[4 + header :])[::2]:
        with contextlib.suppress(rados.ObjectNotFound, UnicodeDecodeError, struct.error):
            found[name] = struct.unpack("<Q", io.read(f"{name.decode()}.rbd", 8, 80))[0]
    return found


def _string(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text
