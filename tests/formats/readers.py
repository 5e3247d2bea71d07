"""Readers for the tests: bytes in memory, a file, one that counts, one that fails."""

import os

from probes.errors import Unreachable
from probes.reader import Pin, Reader


class MemoryReader(Reader):
    """Reads `data`, and counts its reads and their bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.trips = 0
        self.bytes_read = 0

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def pin(self) -> Pin:
        return Pin(len(self._data))

    def pread(self, offset: int, length: int) -> bytes:
        self.trips += 1
        piece = self._data[offset : offset + length]
        self.bytes_read += len(piece)
        return piece

    def close(self) -> None:
        pass


class FileReader(Reader):
    """Reads a file of this host, and counts."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.trips = 0
        self.bytes_read = 0

    @property
    def size(self) -> int:
        return os.stat(self._fd).st_size

    @property
    def pin(self) -> Pin:
        return Pin(self.size)

    def pread(self, offset: int, length: int) -> bytes:
        self.trips += 1
        piece = os.pread(self._fd, length, offset)
        self.bytes_read += len(piece)
        return piece

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FailingReader(MemoryReader):
    """Fails from its read number `fails_at` on (counted from 0)."""

    def __init__(self, data: bytes, fails_at: int) -> None:
        super().__init__(data)
        self.fails_at = fails_at

    def pread(self, offset: int, length: int) -> bytes:
        if self.trips >= self.fails_at:
            raise Unreachable("read", "the image", "the line is cut")
        return super().pread(offset, length)
