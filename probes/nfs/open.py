"""An open image on an NFS server, for reading or for writing too."""

import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from probes.errors import BadAnswer, Cancelled, Changed
from probes.location import Location
from probes.nfs.export import Export
from probes.nfs.library import Attributes, Context, File
from probes.reader import Pin, Writer

_BELIEVED = 3.0
"""Seconds for which a file's attributes are believed: what the kernel's own client takes by default (acregmin)."""


def pin_of(found: Attributes) -> Pin:
    """Size, time of the last change and file number: weak, for that time may be coarse, and can be set."""
    return Pin(found.size, f"{found.modified}.{found.modified_ns:09}:{found.inode}")


class OpenFile(Writer):
    """A file, opened over each of its export's connections when one is first used for it.

    What was read is of the pinned file, as far as its attributes tell at most 3 seconds before or later. A connection
    that broke fails the read that used it; the next one makes a new one, and looks whether the file is still the same.

    What was written is flushed by the connection by which it was written. Where that has broken, even while nobody used
    it, `flush` fails for good: the server may have been restarted, and have lost it (RFC 1813, 4.8).
    """

    def __init__(
        self,
        export: Export,
        inner: str,
        location: Location,
        deadline: float,
        write: bool = False,
        leads: Callable[[Location], bool] | None = None,
    ) -> None:
        self._export = export
        self._leads = leads
        self._inner = inner
        self._location = location
        self._deadline = deadline
        self._write = write
        self._written = False
        self._looked = 0.0
        self._files: dict[Context, File] = {}
        self._unflushed: set[Context] = set()
        self._lock = threading.Lock()
        self._closed = False
        with self._export.use("open", location, deadline) as context:
            file = context.open(self._inner, write)
            self._files[context] = file
            self._attributes = file.attributes()
            self._looked = time.monotonic()
        self._pin = pin_of(self._attributes)

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file."""
        return stat.S_ISREG(self._attributes.mode)

    def lies_below(self, folder: Location) -> bool:
        return self._leads is None or self._leads(folder)

    def pread(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        tried = "read"
        self._insist_it_is_open(tried)
        if length <= 0:
            return b""
        with self._export.use(tried, self._location, self._deadline, rather=self._files) as context:
            file = self._file(context, tried)
            data = file.pread(offset, length)
            self._look(file, tried)
        if len(data) != length:
            what = f"{len(data)} bytes came instead of {length} at offset {offset}"
            raise BadAnswer(tried, self._location, what)
        return data

    def pwrite(self, offset: int, data: bytes) -> None:
        tried = "write"
        self._insist_it_is_open(tried)
        if offset < 0 or offset + len(data) > self.size:
            raise BadAnswer(tried, self._location, f"{len(data)} bytes at offset {offset} are not inside the image")
        with self._export.use(tried, self._location, self._deadline, rather=self._files) as context:
            file = self._file(context, tried)
            self._written = True
            self._unflushed.add(context)
            file.pwrite(offset, data)

    def flush(self) -> None:
        tried = "flush"
        self._insist_it_is_open(tried)
        for context in tuple(self._unflushed):
            with self._export.use(tried, self._location, self._deadline, only=context):
                self._file(context, tried).fsync()
                self._unflushed.discard(context)  # nobody else writes by it meanwhile

    def close(self) -> None:
        with self._lock:
            self._closed = True
            files, self._files = self._files, {}
        self._export.forget(files)

    def _insist_it_is_open(self, tried: str) -> None:
        if self._closed:
            raise Cancelled(tried, self._location, "it was closed")

    def _file(self, context: Context, tried: str) -> File:
        """The file over this connection, which is for this thread alone meanwhile."""
        file = self._files.get(context)
        if file is None:
            file = context.open(self._inner, self._write)
            self._insist_it_is_the_same(file.attributes(), tried)
            with self._lock:
                if not self._closed:
                    self._files[context] = file
        return file

    def _look(self, file: File, tried: str) -> None:
        now = time.monotonic()
        if self._written or now - self._looked < _BELIEVED:
            return
        self._insist_it_is_the_same(file.attributes(), tried)
        self._looked = now

    def _insist_it_is_the_same(self, found: Attributes, tried: str) -> None:
        old, new = self._attributes, found
        if self._written:  # its times are ours now
            old, new = replace(old, modified=0, modified_ns=0), replace(new, modified=0, modified_ns=0)
        if replace(old, mode=0) != replace(new, mode=0):
            raise Changed(tried, self._location, "it was changed on the server meanwhile", "open it again")
