"""The image as NBD's clients see it: judged bytes, a cache, and patience, put together; and the same for writing."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine

from app.qemu.bridge.durable import PatientWriter
from app.qemu.bridge.judged import JudgedBytes
from app.qemu.bridge.patience import PATIENCE, Patience, PatientReader
from app.qemu.bridge.pieces import Pieces
from app.qemu.workers import Workers, look_at
from probes.errors import Changed
from probes.reader import Reader, Writer

CALLS_AT_ONCE = 16


class BridgedImage:
    """What is served: `app.qemu.bridge.nbd.Export`.

    `reader` is taken over, `reopen` as `PatientReader` takes it.
    """

    def __init__(
        self,
        reader: Reader,
        reopen: Callable[[], Reader],
        judged: JudgedBytes,
        tell: Callable[[str], None],
        patience: Patience = PATIENCE,
    ) -> None:
        self._set_up(PatientReader(reader, reopen, Workers(CALLS_AT_ONCE), tell, patience), judged, reader.size)

    def _set_up(self, patient: PatientReader, judged: JudgedBytes, size: int) -> None:
        self._size = size
        self._judged = judged
        self._patient = patient
        self._pieces = Pieces(self._fetch, size, patient.distance)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes | Awaitable[bytes]:
        """Return exactly these bytes, at once if they were judged or are in the cache.

        Raises Changed, and then always, or, when awaited, what reading failed of in the end.
        """
        self._check()
        data = self._judged.at_hand(offset, length)
        return self._pieces.read(offset, length) if data is None else data

    def close(self) -> None:
        """Let go of the reader."""
        self._patient.close()

    def _check(self) -> None:
        if self._patient.changed is not None:
            raise self._patient.changed.with_traceback(None)

    async def _fetch(self, offset: int, length: int) -> bytes:
        data = await self._patient.pread(offset, length)
        if not self._judged.agree(offset, data):
            changed = Changed("read", "the image", f"the bytes at {offset} are not those that were judged")
            self._patient.give_up(changed)
            raise changed
        return data


class WritableImage(BridgedImage):
    """What is served for writing: `app.qemu.bridge.nbd.WritableExport`.

    Writes that overlap are carried out one after the other, in the order in which they were asked for; and once one is
    begun it is carried out, even if whoever asked for it leaves.
    """

    def __init__(
        self,
        writer: Writer,
        reopen: Callable[[], Writer],
        judged: JudgedBytes,
        tell: Callable[[str], None],
        patience: Patience = PATIENCE,
    ) -> None:
        self._durable = PatientWriter(writer, reopen, Workers(CALLS_AT_ONCE), tell, patience)
        self._set_up(self._durable, judged, writer.size)
        self._writing: dict[asyncio.Task[None], range] = {}

    def write(self, offset: int, data: bytes) -> Awaitable[None]:
        """Write all of it, which lies inside. Raises as `read` does."""

        async def carry_out() -> None:
            await self._durable.pwrite(offset, data)
            self._pieces.written(offset, data)

        return self._in_order(offset, len(data), carry_out)

    def zero(self, offset: int, length: int) -> Awaitable[None]:
        """Write zeros."""

        async def carry_out() -> None:
            await self._durable.zero(offset, length)
            self._pieces.forget(offset, length)

        return self._in_order(offset, length, carry_out)

    async def flush(self) -> None:
        """Be done once all that has been written stays, whatever happens to the storage's servers."""
        self._check()
        await self._durable.flush()

    def _in_order(
        self, offset: int, length: int, carry_out: Callable[[], Coroutine[None, None, None]]
    ) -> Awaitable[None]:
        self._check()
        span = range(offset, offset + length)
        earlier = [task for task, other in self._writing.items() if other.start < span.stop and span.start < other.stop]
        self._judged.forget(offset, length)

        async def in_turn() -> None:
            if earlier:
                await asyncio.wait(earlier)
            try:
                await carry_out()
            except BaseException:
                self._pieces.forget(offset, length)  # perhaps some of it has been written
                raise

        task = asyncio.get_running_loop().create_task(in_turn())
        self._writing[task] = span
        task.add_done_callback(self._writing.pop)
        task.add_done_callback(look_at)
        return asyncio.shield(task)
