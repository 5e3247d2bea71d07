"""Inside a format that maps its blocks: the guest's bytes, for the few of them that tell what the guest would find.

A format says where a guest's byte lies (`BlockMap.locate`); `MappedReader` makes a reader of that, over a backing image
where there is one. Nothing here is for running a guest: that is QEMU's.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from probes.reader import Pin, Reader, ahead


class CannotMap(Exception):
    """The guest's bytes cannot be told from this map: it is damaged, or of a kind that is not followed."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a run of the guest's bytes lies: `length` bytes at offset `at` of the image; or, already unpacked, `data`;
    or, where `backing` says so, at the same offset of the backing image (zeros, if there is none or it ends before). Of
    none of these it is zeros.
    """

    length: int
    at: int | None = None
    data: bytes | None = None
    backing: bool = False


class BlockMap(ABC):
    """The map of one image. It reads tables by small reads of a reader that remembers (`RecordingReader`)."""

    virtual_size: int
    """The guest's size in bytes."""

    @abstractmethod
    def locate(self, offset: int) -> Span:
        """Return what lies at the guest's byte `offset` and for some bytes after it, one at least.

        Raises CannotMap, and whatever reading the tables raises.
        """

    def prepare(self, offsets: Iterable[int]) -> None:
        """Have at hand, in few round trips, what `locate` will read of the tables for these of the guest's bytes.

        Raises whatever reading raises. Whoever does not override it has tables that one read fetches.
        """
        del offsets


def table_entry(reader: Reader, at: int, length: int) -> bytes:
    """Return the `length` bytes of a table at `at`. Raises CannotMap where the image ends before, and what reading
    raises.
    """
    data = reader.pread(at, length)
    if len(data) != length:
        raise CannotMap("a table beyond the end")
    return data


class MappedReader(Reader):
    """The guest's disk in the image that `inner` reads, by its map; `pread` also raises CannotMap. Not for several
    threads. `backing` is the guest's disk of the backing image; it is the caller's to close.
    """

    def __init__(self, inner: Reader, blocks: BlockMap, backing: Reader | None = None) -> None:
        self._inner = inner
        self._blocks = blocks
        self._backing = backing

    @property
    def size(self) -> int:
        return self._blocks.virtual_size

    @property
    def pin(self) -> Pin:
        return self._inner.pin

    def pread(self, offset: int, length: int) -> bytes:
        return b"".join(self._bytes(at, span) for at, span in self._spans(offset, length))

    def ahead(self, spans: Iterable[tuple[int, int]]) -> None:
        """See `probes.reader.ahead`. A place that cannot be mapped says so when it is read."""
        own: list[tuple[int, int]] = []
        below: list[tuple[int, int]] = []
        spans = [(offset, length) for offset, length in spans if 0 <= offset < self.size and length > 0]
        self._blocks.prepare(at for offset, length in spans for at in (offset, min(offset + length, self.size) - 1))
        for offset, length in spans:
            try:
                for at, span in self._spans(offset, length):
                    if span.at is not None:
                        own.append((span.at, span.length))
                    elif span.backing:
                        below.append((at, span.length))
            except CannotMap:
                continue
        if own:
            ahead(self._inner, own)
        if below and self._backing is not None:
            ahead(self._backing, below)

    def close(self) -> None:
        self._inner.close()

    def _spans(self, offset: int, length: int) -> Iterator[tuple[int, Span]]:
        """Yield (guest's offset, span), clipped to what is wanted, neighbours in the image as one."""
        end = min(offset + length, self.size)
        start, held = offset, None
        while offset < end:
            found = self._blocks.locate(offset)
            if found.length <= 0:
                raise CannotMap("a block of no length")
            count = min(found.length, end - offset)
            data = None if found.data is None else found.data[:count].ljust(count, b"\0")
            span = Span(count, found.at, data, found.backing)
            if held is not None and _follows(held, span):
                held = Span(held.length + count, held.at, None, held.backing)
            else:
                if held is not None:
                    yield start, held
                start, held = offset, span
            offset += count
        if held is not None:
            yield start, held

    def _bytes(self, offset: int, span: Span) -> bytes:
        if span.data is not None:
            return span.data
        if span.at is not None:
            if span.at >= self._inner.size:
                raise CannotMap("a block beyond the end of the image")
            # A file that ends within its last block goes on in zeros.
            return self._inner.pread(span.at, span.length).ljust(span.length, b"\0")
        if span.backing and self._backing is not None:
            return self._backing.pread(offset, span.length).ljust(span.length, b"\0")
        return bytes(span.length)


def _follows(one: Span, other: Span) -> bool:
    if one.data is not None or other.data is not None or one.backing != other.backing:
        return False
    if one.at is None or other.at is None:
        return one.at is other.at
    return one.at + one.length == other.at
