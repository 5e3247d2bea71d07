"""Writing through an outage: nothing that was written is lost, though the server be killed between a write and a flush.

What has been written and not flushed yet is remembered. When the image must be opened again, that is written again
first, in its order, before anything else goes on: so a server that came back without what it had only in memory is as
it was. Beyond `REMEMBERED` bytes it is flushed before more is written.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.qemu.bridge.patience import PATIENCE, Patience, PatientReader, Way
from app.qemu.workers import Workers
from probes.reader import Writer

REMEMBERED = 64 << 20
"""Bytes."""
_AT_ONCE = 8
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class _Written:
    offset: int
    data: bytes

    def overlaps(self, other: "_Written") -> bool:
        return self.offset < other.offset + len(other.data) and other.offset < self.offset + len(self.data)


class PatientWriter(PatientReader):
    """Reads and writes through `writer`, and through what `reopen` gives when that fails.

    Whoever calls keeps the order of writes that overlap: one is awaited before the next begins.
    """

    def __init__(
        self,
        writer: Writer,
        reopen: Callable[[], Writer],
        workers: Workers,
        tell: Callable[[str], None],
        patience: Patience = PATIENCE,
    ) -> None:
        super().__init__(writer, reopen, workers, tell, patience)
        self._unflushed: deque[_Written] = deque()
        self._unflushed_bytes = 0
        self._dropped = 0  # how many have ever left `_unflushed`

    async def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of it, however long it takes within the patience. Raises as `pread` does."""
        if self._unflushed_bytes + len(data) > REMEMBERED:
            await self.flush()
        written = _Written(offset, data)

        async def attempt(way: Way) -> None:
            await self._write(way, written)

        await self.persist(attempt)

    async def zero(self, offset: int, length: int) -> None:
        """Write zeros."""
        for start in range(0, length, len(_ZEROS)):
            data = _ZEROS if length - start >= len(_ZEROS) else bytes(length - start)
            await self.pwrite(offset + start, data)

    async def flush(self) -> None:
        """Be done once all that has been written will survive a crash of the storage. Raises as `pread` does."""
        end = self._dropped + len(self._unflushed)
        if not self._unflushed:
            return
        await self.persist(self._flush)
        while self._unflushed and self._dropped < end:
            self._unflushed_bytes -= len(self._unflushed.popleft().data)
            self._dropped += 1

    async def renewed(self, failed: Way) -> Way:
        """Open the image anew, once nothing goes through the failed way, and write again what is not flushed."""
        failed.is_closing = True
        await self.call(failed.reader.close)
        while failed.users:
            failed.left.clear()
            await failed.left.wait()
        way = await super().renewed(failed)
        try:
            await self._write_again(way)
        except BaseException:
            self._workers.start(way.reader.close)
            raise
        return way

    async def _write(self, way: Way, written: _Written) -> None:
        await self.use(way, _writer(way).pwrite, written.offset, written.data)
        # Nothing is awaited in between: whoever waits for the way to be left finds it remembered.
        self._unflushed.append(written)
        self._unflushed_bytes += len(written.data)

    async def _flush(self, way: Way) -> None:
        await self.use(way, _writer(way).flush)

    async def _write_again(self, way: Way) -> None:
        """Write what is not flushed, several at once, but those that overlap one after the other."""
        together: list[_Written] = []
        for written in self._unflushed:
            if len(together) == _AT_ONCE or any(written.overlaps(other) for other in together):
                await self._write_together(way, together)
                together = []
            together.append(written)
        await self._write_together(way, together)

    async def _write_together(self, way: Way, together: list[_Written]) -> None:
        calls: list[Any] = [self.call(_writer(way).pwrite, each.offset, each.data) for each in together]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


def _writer(way: Way) -> Writer:
    assert isinstance(way.reader, Writer)
    return way.reader
