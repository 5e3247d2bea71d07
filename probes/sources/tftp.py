"""TFTP servers (RFC 1350, 2347–2349, 7440; locations as RFC 3617).

Nothing can be listed, and nothing read but from its beginning. So a path is typed; or a text on the server that names
what lies there is listed: `tftp://h/pxelinux.cfg/default/`, with a `/` at its end, is what that configuration names
(`probes.tftp.index`). Sizes are asked for (tsize) without reading anything.

What an image's first bytes tell is read by as much of a transfer as it takes; all else takes the whole image, which is
fetched once and kept (`probes.fetched.cache`). A copy counts as good while the server tells the same size and begins
with the same block: TFTP has no more to tell. A fetch that was broken off begins anew, for TFTP knows no other place to
begin.
"""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar
from urllib.parse import unquote

from probes.attachment import Attachment, Mode, QemuFacts, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import (
    BadLocation,
    Changed,
    NotAContainer,
    NotAnImage,
    Refused,
    Unsupported,
)
from probes.fetched.cache import Cache, Copy, fetched_attachment
from probes.fetched.reader import CopyReader
from probes.location import Location
from probes.network.call import Call
from probes.reader import Pin, Reader
from probes.source import DEADLINE, Progress, Source
from probes.tftp.index import LARGEST, is_text, names_in
from probes.tftp.places import entry_of, folder_of
from probes.tftp.reader import TftpReader, not_fetched
from probes.tftp.transfer import PORT, Transfer
from probes.words import human_size

_NO_LISTING = (
    "type the path of an image; that of a boot menu or a list of names, with a / at its end, lists what it names"
)


class TftpSource(Source):
    """One TFTP server."""

    schemes: ClassVar[tuple[str, ...]] = ("tftp",)
    title: ClassVar[str] = "TFTP"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self._calls: set[Call] = set()
        self._closed = False
        self._lock = threading.Lock()

    def entries(self, location: Location) -> Iterator[Entry]:
        if not location.names:
            raise Unsupported("list", location, "TFTP has no listings", _NO_LISTING)
        if not location.path.endswith("/"):
            self.stat(location)
            hint = "if it is a text with names in it, add a / at its end"
            raise NotAContainer("list", location, "it is a file", hint)
        with self.call("list", location) as call:
            text = self._index(call, location)
            base = folder_of(location, text)
            for named in names_in(text):
                entry = entry_of(base, named)
                if entry is not None:
                    with call.resting():
                        yield entry

    def stat(self, location: Location) -> Entry:
        if not location.names:
            return Entry(location, location.name, Kind.CONTAINER)
        with self.call("look at", location) as call, self._begun(call, location) as transfer:
            size = transfer.size
        if location.path.endswith("/"):
            return Entry(location, location.name, Kind.CONTAINER)
        is_index = size is not None and size <= LARGEST and kind_by_name(location.name) is Kind.OTHER
        note = "a / at its end lists what it names, if it is a boot menu or a list" if is_index else ""
        return Entry(location, location.name, Kind.OTHER if is_index else Kind.IMAGE, size, note=note)

    def open(self, location: Location) -> Reader:
        if not location.names or location.path.endswith("/"):
            if location.names:
                self.stat(location)
            raise NotAnImage("open", location, "it is a list of names, not an image", "name an image: no / at its end")
        with self.call("open", location) as call:
            copy, size = self._good_copy(call, location)
            if copy is not None:
                return CopyReader(location, copy, _pin(copy))
            if size is None:
                raise not_fetched("open", location, None)
            reader = TftpReader(self.call, self._read_prefix, location, size)
            reader.begin(call)
            return reader

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        if mode is Mode.WRITE:
            why = "an image on a TFTP server cannot be written in place"
            raise Refused("attach", location, why, "without --write its guest writes into a throwaway overlay")
        if qemu.route is not RouteWish.AUTO:
            why = "QEMU has no tftp driver" if qemu.route is RouteWish.DIRECT else "TFTP cannot be read in the middle"
            hint = "leave the route to auto: it is fetched whole, and boots from there"
            raise Unsupported("attach", location, why, hint)
        with self.call("attach", location) as call:
            copy, size = self._good_copy(call, location)
        if copy is None:
            raise not_fetched("attach", location, size)
        return fetched_attachment(location, copy, _pin(copy), "it was fetched whole: TFTP cannot be read in the middle")

    def fetched(self, location: Location) -> bool:
        """Whether a copy lies here, and the server still tells its size and begins with its first bytes."""
        with self.call("look at", location) as call:
            return self._good_copy(call, location)[0] is not None

    def fetch(self, location: Location, progress: Progress) -> Pin:
        """Fetch the image whole, unless it is `fetched`."""
        if not location.names or location.path.endswith("/"):
            raise NotAnImage("fetch", location, "it is a list of names, not an image")
        cache = Cache()
        with self.call("fetch", location) as call:
            _, size = self._good_copy(call, location)
            with cache.fetching(location, progress, size):
                copy, _ = self._good_copy(call, location)  # another process may have been at it
                if copy is None:
                    with self._begun(call, location) as transfer:
                        copy = cache.keep(location, transfer.blocks(), transfer.size, "", progress)
            return _pin(copy)

    def forget(self, location: Location) -> None:
        """Delete the copy that was fetched, if any."""
        Cache().forget(location)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.abort()

    @contextlib.contextmanager
    def call(self, tried: str, on: Location) -> Iterator[Call]:
        """Begin a call."""
        call = Call(tried, on, self.deadline)
        with self._lock:
            self._calls.add(call)
            if self._closed:
                call.abort()
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def _read_prefix(self, call: Call, location: Location, size: int, length: int) -> bytes:
        """The first `length` bytes of an image that has `size`, and what else came with the last block."""
        with self._begun(call, location) as transfer:
            if transfer.size not in {None, size}:
                why = f"it has {transfer.size} bytes now, and had {size} when it was opened"
                raise Changed(call.tried, call.on, why, "open it again")
            data = bytearray()
            for block in transfer.blocks():
                data += block
                if len(data) >= length:
                    break
            return bytes(data)

    @contextlib.contextmanager
    def _begun(self, call: Call, location: Location) -> Iterator[Transfer]:
        with Transfer(call, location.host, location.port or PORT, _name(location)) as transfer:
            transfer.begin()
            yield transfer

    def _good_copy(self, call: Call, location: Location) -> tuple[Copy | None, int | None]:
        """The copy, if it is still as the server has it; and the size that the server tells."""
        copy = Cache().find(location)
        with self._begun(call, location) as transfer:
            if copy is None or transfer.size not in {None, copy.size}:
                return None, transfer.size
            first = next(transfer.blocks(), b"")
            with contextlib.suppress(OSError), open(copy.path, "rb") as file:
                if file.read(len(first)) == first:
                    return copy, transfer.size
            return None, transfer.size

    def _index(self, call: Call, location: Location) -> str:
        named = replace(location, path=location.path.rstrip("/"))
        data = bytearray()
        with self._begun(call, named) as transfer:
            for block in transfer.blocks():
                data += block
                if len(data) > LARGEST:
                    why = f"it is larger than the {human_size(LARGEST)} that a list of names may have"
                    raise NotAContainer("list", location, why, "if it is an image, leave the / at its end out")
        if not is_text(bytes(data)):
            why = "it is not a text with names in it"
            raise NotAContainer("list", location, why, "if it is an image, leave the / at its end out")
        return data.decode("utf-8", "surrogateescape")


def _pin(copy: Copy) -> Pin:
    return Pin(copy.size, copy.sha256, strong=True)


def _name(location: Location) -> bytes:
    """The file's name as it is asked for: as curl and iPXE do, without the first `/` (RFC 3617)."""
    path = re.sub(r"(?i);mode=(octet|netascii)$", "", location.path.rstrip("/"))[1:]
    path += f"?{location.query}" if location.query else ""
    name = unquote(path, errors="surrogateescape").encode("utf-8", "surrogateescape")
    if b"\0" in name or len(name) > 450:  # a request is one datagram of 512 bytes, its options included
        raise BadLocation("ask for", location, "no TFTP request can hold that name")
    return name
