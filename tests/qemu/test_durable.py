"""Writing through an outage.

The writers here are stubs over one "disk" that can crash: when exactly a server fails, and what it forgets, cannot be
had from a real one. tests/qemu/test_bridge_writing.py kills and restarts a server.
"""

import asyncio
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.qemu.bridge import durable
from app.qemu.bridge.durable import PatientWriter
from app.qemu.bridge.image import WritableImage
from app.qemu.bridge.judged import JudgedBytes
from app.qemu.bridge.patience import Patience
from app.qemu.workers import Workers
from probes.errors import Cancelled, Changed, Denied, FarbootError, Unreachable
from probes.reader import Pin, Writer

SIZE = 300_000
QUICK = Patience(outage=30, refusal=30, first_pause=0.001, longest_pause=0.005)
IMPATIENT = Patience(outage=0.05, refusal=0.05, first_pause=0.01, longest_pause=0.02)


class Disk:
    """What is stored, and what is only in the server's memory: a crash forgets that."""

    def __init__(self, content: bytes = bytes(SIZE)) -> None:
        self.stored = bytearray(content)
        self.memory = bytearray(content)
        self.lock = threading.Lock()
        self.chance = random.Random(0)
        self.crash_in = 1 << 30  # calls
        self.refuses_opens = 0
        self.opened = 0
        self.writers: list[StubWriter] = []
        self.flushes = 0

    def open(self) -> "StubWriter":
        with self.lock:
            self.opened += 1
            if self.refuses_opens:
                self.refuses_opens -= 1
                raise away()
            assert all(writer.closed for writer in self.writers), "the one before is still open: it holds the lock"
            writer = StubWriter(self)
            self.writers.append(writer)
            return writer

    def crash(self) -> None:
        """Forget, at random, half of what was not flushed; break who is connected."""
        for start in range(0, len(self.memory), 512):
            if self.chance.random() < 0.5:
                self.memory[start : start + 512] = self.stored[start : start + 512]
        for writer in self.writers:
            writer.broken = True


class StubWriter(Writer):
    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.broken = self.closed = False

    @property
    def size(self) -> int:
        return len(self.disk.memory)

    @property
    def pin(self) -> Pin:
        return Pin(self.size)

    def pread(self, offset: int, length: int) -> bytes:
        with self.disk.lock:
            self._may_crash()
            return bytes(self.disk.memory[offset : offset + length])

    def pwrite(self, offset: int, data: bytes) -> None:
        with self.disk.lock:
            if self.disk.crash_in == 0:  # in the middle of it
                self.disk.memory[offset : offset + len(data) // 2] = data[: len(data) // 2]
            self._may_crash()
            self.disk.memory[offset : offset + len(data)] = data

    def flush(self) -> None:
        with self.disk.lock:
            self._may_crash()
            self.disk.flushes += 1
            self.disk.stored[:] = self.disk.memory

    def close(self) -> None:
        self.closed = True

    def _may_crash(self) -> None:
        if self.closed:
            raise Cancelled("use", "it", "it was closed")
        if self.broken:
            raise away()
        self.disk.crash_in -= 1
        if self.disk.crash_in < 0:
            self.disk.crash_in = 1 << 30
            self.disk.crash()
            raise away()


def away() -> Unreachable:
    return Unreachable("use", "it", "nobody answers")


def patient(disk: Disk, patience: Patience = QUICK) -> tuple[PatientWriter, list[str]]:
    told: list[str] = []
    return PatientWriter(disk.open(), disk.open, Workers(8), told.append, patience), told


def served(disk: Disk, judged: JudgedBytes | None = None) -> WritableImage:
    return WritableImage(disk.open(), disk.open, judged or JudgedBytes([]), lambda _: None, QUICK)


async def read(image: WritableImage, offset: int, length: int) -> bytes:
    answer = image.read(offset, length)
    return answer if isinstance(answer, bytes) else await answer


async def test_what_was_written_before_a_crash_is_written_again_in_its_order() -> None:
    disk = Disk()
    writer, _ = patient(disk)
    for number in range(40):
        await writer.pwrite(number * 100, bytes([number + 1]) * 5000)
    expected = bytes(disk.memory)
    disk.crash()
    assert bytes(disk.memory) != expected
    await writer.flush()
    assert bytes(disk.stored) == expected


async def test_what_was_flushed_is_not_written_again() -> None:
    disk = Disk()
    writer, _ = patient(disk)
    await writer.pwrite(0, b"mine")
    await writer.flush()
    await writer.flush()
    assert disk.flushes == 1, "there was nothing to flush the second time"
    disk.stored[:4] = disk.memory[:4] = b"else"
    disk.crash()
    assert await writer.pread(0, 4) == b"else"


async def test_nothing_is_read_before_all_is_written_again() -> None:
    disk = Disk()
    writer, _ = patient(disk)
    await writer.pwrite(0, b"x" * 100_000)
    disk.refuses_opens = 3
    disk.crash()
    parts = await asyncio.gather(*(writer.pread(offset, 512) for offset in range(0, 100_000, 5000)))
    assert set(parts) == {b"x" * 512}
    assert disk.opened == 5, "one for all, after three that failed"


async def test_what_cannot_be_written_again_is_tried_anew() -> None:
    disk = Disk()
    writer, told = patient(disk)
    for number in range(20):
        await writer.pwrite(number * 1000, bytes([number + 1]) * 1000)
    expected = bytes(disk.memory)
    disk.crash()
    disk.crash_in = 7  # while it is being written again
    await writer.flush()
    assert bytes(disk.stored) == expected
    assert any("the guest waits" in line for line in told)


async def test_no_more_is_remembered_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "REMEMBERED", 10_000)
    disk = Disk()
    writer, _ = patient(disk)
    for number in range(50):
        await writer.pwrite(number * 1000, bytes([number + 1]) * 1000)
    assert 4 <= disk.flushes <= 6
    expected = bytes(disk.memory)
    disk.crash()
    await writer.flush()
    assert bytes(disk.stored) == expected


async def test_an_outage_that_lasts_too_long_is_an_error_and_nothing_is_forgotten() -> None:
    disk = Disk()
    writer, _ = patient(disk, IMPATIENT)
    await writer.pwrite(0, b"before")
    disk.refuses_opens = 1 << 30
    disk.crash()
    with pytest.raises(Unreachable):
        await writer.pwrite(100, b"lost, and known to be")
    with pytest.raises(Unreachable):
        await writer.flush()
    disk.refuses_opens = 0
    await writer.flush()
    assert bytes(disk.stored[:6]) == b"before"


async def test_a_clear_refusal_is_no_outage() -> None:
    disk = Disk()
    patience = Patience(outage=600, refusal=0.05, first_pause=0.01, longest_pause=0.02)
    told: list[str] = []

    def reopen() -> Writer:
        raise Denied("open", "it", "somebody else has locked it")

    writer = PatientWriter(disk.open(), reopen, Workers(4), told.append, patience)
    disk.crash()
    with pytest.raises(Denied):
        await writer.pwrite(0, b"x")


async def test_a_change_ends_writing_for_good() -> None:
    disk = Disk()

    def reopen() -> Writer:
        raise Changed("open", "it", "another size")

    image = WritableImage(disk.open(), reopen, JudgedBytes([]), lambda _: None, QUICK)
    disk.crash()
    with pytest.raises(Changed):
        await image.write(0, b"x")
    for call in (lambda: image.write(0, b"x"), lambda: image.zero(0, 512), lambda: image.read(0, 1)):
        with pytest.raises(Changed):
            call()
    with pytest.raises(Changed):
        await image.flush()


# The image as clients see it

_offsets = st.integers(0, SIZE - 1)
_lengths = st.one_of(st.integers(1, 600), st.integers(1, 200_000))
_steps = st.tuples(st.sampled_from(["write", "write", "zero", "read", "flush", "crash", "later"]), _offsets, _lengths)


@settings(max_examples=80, deadline=None)
@given(st.lists(_steps, max_size=40), st.integers(0, 1000))
def test_whatever_is_done_and_whatever_crashes_every_read_gives_what_was_written_last(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """Steps are begun together where they do not overlap; what the model says is what the reads give."""

    async def scenario() -> None:
        chance = random.Random(seed)
        content = chance.randbytes(SIZE)
        disk = Disk(content)
        disk.chance = random.Random(seed)
        judged = JudgedBytes([(0, content[:65_536]), (100_000, content[100_000:150_000])])
        image, model = served(disk, judged), bytearray(content)
        for action, offset, most in steps:
            length = min(most, SIZE - offset)
            match action:
                case "write":
                    data = chance.randbytes(length)
                    await image.write(offset, data)
                    model[offset : offset + length] = data
                case "zero":
                    await image.zero(offset, length)
                    model[offset : offset + length] = bytes(length)
                case "read":
                    assert await read(image, offset, length) == model[offset : offset + length]
                case "flush":
                    await image.flush()
                case "crash":
                    disk.crash()
                case "later":
                    disk.crash_in = length % 5
        disk.crash_in = 1 << 30
        assert await read(image, 0, SIZE) == model
        await image.flush()
        assert disk.stored == model

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(12))
async def test_sixteen_at_once_lose_nothing_though_it_crashes_again_and_again(seed: int) -> None:
    """Each has a part of the image of its own; the parts' borders lie within the cache's pieces."""
    chance = random.Random(seed)
    disk, model = Disk(), bytearray(SIZE)
    disk.chance = random.Random(seed)
    image, share = served(disk), SIZE // 16

    async def work(low: int) -> None:
        for _ in range(15):
            start = chance.randrange(low, low + share)
            length = chance.randrange(1, low + share - start + 1)
            match chance.randrange(8):
                case 0 | 1 | 2:
                    data = chance.randbytes(length)
                    await image.write(start, data)
                    model[start : start + length] = data
                case 3:
                    await image.zero(start, length)
                    model[start : start + length] = bytes(length)
                case 4:
                    await image.flush()
                case 5:
                    disk.crash_in = chance.randrange(10)
                case _:
                    assert await read(image, start, length) == model[start : start + length]

    await asyncio.gather(*(work(index * share) for index in range(16)))
    disk.crash_in = 1 << 30
    assert await read(image, 0, SIZE) == model
    await image.flush()
    assert disk.stored == model


async def test_a_read_on_its_way_puts_nothing_old_into_the_cache() -> None:
    disk = Disk()
    gate = threading.Event()

    class Slow(StubWriter):
        def pread(self, offset: int, length: int) -> bytes:
            data = super().pread(offset, length)
            gate.wait(30)
            return data

    disk.writers.append(Slow(disk))
    image = WritableImage(disk.writers[0], disk.open, JudgedBytes([]), lambda _: None, QUICK)
    old = image.read(1000, 100)
    assert not isinstance(old, bytes)
    waiting = asyncio.ensure_future(old)
    await asyncio.sleep(0.01)
    await image.write(1000, b"new" * 20)
    again = image.read(1000, 60)
    assert not isinstance(again, bytes), "it is asked for anew, though it is on its way"
    newer = asyncio.ensure_future(again)
    gate.set()
    assert await waiting == bytes(100), "what it was when it was asked for"
    assert await newer == b"new" * 20
    assert await read(image, 1000, 60) == b"new" * 20


async def test_writes_that_overlap_are_carried_out_in_their_order_and_others_side_by_side() -> None:
    disk = Disk()
    begun: list[int] = []
    gate = threading.Event()

    class Slow(StubWriter):
        def pwrite(self, offset: int, data: bytes) -> None:
            begun.append(data[0])
            if data[0] == 1:
                gate.wait(30)
            super().pwrite(offset, data)

    disk.writers.append(Slow(disk))
    image = WritableImage(disk.writers[0], disk.open, JudgedBytes([]), lambda _: None, QUICK)
    first, second = image.write(100, bytes([1]) * 100), image.write(150, bytes([2]) * 100)
    await image.write(250, bytes([3]) * 100)
    assert sorted(begun) == [1, 3]
    gate.set()
    await asyncio.gather(first, second)
    assert begun[-1] == 2
    assert disk.memory[100:350] == bytes([1]) * 50 + bytes([2]) * 100 + bytes([3]) * 100


async def test_a_failed_write_leaves_nothing_in_the_cache_that_may_be_wrong() -> None:
    disk = Disk()
    image = WritableImage(disk.open(), disk.open, JudgedBytes([]), lambda _: None, IMPATIENT)
    assert await read(image, 0, 1000) == bytes(1000)
    disk.refuses_opens = 1 << 30
    disk.crash_in = 0
    with pytest.raises(FarbootError):
        await image.write(0, b"x" * 1000)
    disk.refuses_opens = 0
    assert await read(image, 0, 1000) == bytes(disk.memory[:1000])


_pieces = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), max_size=5)


@given(_pieces, st.lists(st.tuples(st.integers(0, 260), st.integers(1, 60)), max_size=5))
def test_judged_bytes_know_everything_but_what_they_forgot(
    pieces: list[tuple[int, int]], forgotten: list[tuple[int, int]]
) -> None:
    content = bytes(range(256)) + bytes(100)
    known: set[int] = set()
    for start, length in pieces:
        known |= set(range(start, start + length))
    judged = JudgedBytes(_runs(known, content))
    for start, length in forgotten:
        judged.forget(start, length)
        known -= set(range(start, start + length))
    for index in range(300):
        assert judged.at_hand(index, 1) == (content[index : index + 1] if index in known else None)
        assert judged.agree(index, bytes([content[index] ^ 1])) == (index not in known)


def _runs(known: set[int], content: bytes) -> list[tuple[int, bytes]]:
    starts = sorted(index for index in known if index - 1 not in known)
    runs: list[tuple[int, bytes]] = []
    for start in starts:
        end = next(index for index in range(start, 1000) if index not in known)
        runs.append((start, content[start:end]))
    return runs
