"""Reading through an outage.

The readers here are stubs: the order in which a server fails, and when, cannot be had from a real one.
tests/qemu/test_bridge.py kills and restarts a real server.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

import app.qemu.bridge.patience
from app.qemu.bridge.patience import Patience, PatientReader
from app.qemu.workers import Workers
from probes.errors import Changed, Denied, FarbootError, NotFound, TimedOut, Unreachable
from probes.reader import Pin, Reader

CONTENT = bytes(range(256)) * 16
QUICK = Patience(outage=30, refusal=30, first_pause=0.001, longest_pause=0.01)
IMPATIENT = Patience(outage=0.05, refusal=0.05, first_pause=0.01, longest_pause=0.02)


class Stub(Reader):
    """Reads CONTENT, once it is through the failures it was given."""

    def __init__(self, *failures: Exception | bytes) -> None:
        self.failures = list(failures)
        self.closed = threading.Event()
        self.threads: set[str] = set()

    @property
    def size(self) -> int:
        return len(CONTENT)

    @property
    def pin(self) -> Pin:
        return Pin(self.size)

    def pread(self, offset: int, length: int) -> bytes:
        self.threads.add(threading.current_thread().name)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, bytes):
                return failure
            raise failure
        return CONTENT[offset : offset + length]

    def close(self) -> None:
        self.closed.set()


def away() -> Unreachable:
    return Unreachable("read", "it", "nobody answers")


class Opener:
    """What `reopen` gives, in turn: readers, or failures."""

    def __init__(self, *outcomes: Reader | FarbootError) -> None:
        self.outcomes = list(outcomes)
        self.opened = 0

    def __call__(self) -> Reader:
        self.opened += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, FarbootError):
            raise outcome
        return outcome


def patient(
    reader: Reader, reopen: Callable[[], Reader], patience: Patience = QUICK
) -> tuple[PatientReader, list[str]]:
    told: list[str] = []
    return PatientReader(reader, reopen, Workers(4), told.append, patience), told


async def test_reads_are_made_in_other_threads() -> None:
    stub = Stub()
    reader, told = patient(stub, Opener())
    assert await reader.pread(3, 5) == CONTENT[3:8]
    assert threading.current_thread().name not in stub.threads
    assert told == []


class Beginner(Stub):
    """A stub that begins its reads, and carries them out when it is told to."""

    def __init__(self, *failures: Exception | bytes) -> None:
        super().__init__(*failures)
        self.begun: list[Future[bytes]] = []

    def begin_read(self, offset: int, length: int) -> "Promise":
        future: Future[bytes] = Future()
        self.begun.append(future)
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, Exception):
            future.set_exception(failure)
        else:
            threading.Thread(target=lambda: future.set_result(CONTENT[offset : offset + length])).start()
        return Promise(future)


class Promise:
    """A read that is under way."""

    def __init__(self, future: "Future[bytes]") -> None:
        self.future = future

    def result(self) -> bytes:
        return self.future.result(30)

    def when_done(self, call: Callable[[], object]) -> None:
        self.future.add_done_callback(lambda _: call())


async def test_a_read_that_can_be_begun_takes_none_of_our_threads() -> None:
    stub = Beginner()
    reader, told = patient(stub, Opener())
    reads = [reader.pread(offset, 5) for offset in range(100)]
    assert await asyncio.gather(*reads) == [CONTENT[offset : offset + 5] for offset in range(100)]
    assert (len(stub.begun), stub.threads, told) == (100, set(), [])


async def test_a_read_that_was_begun_and_fails_is_tried_again() -> None:
    reader, _ = patient(Beginner(away()), Opener(Beginner()))
    assert await reader.pread(3, 5) == CONTENT[3:8]


async def test_a_read_that_was_begun_and_takes_long_is_waited_for_by_a_thread_that_can_give_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(Beginner):
        def begin_read(self, offset: int, length: int) -> "Promise":
            class Never(Promise):
                def result(self) -> bytes:
                    raise TimedOut("read", "it", "no answer")

            return Never(Future())

    monkeypatch.setattr(app.qemu.bridge.patience, "_SOON", 0.01)
    reader, _ = patient(Hanging(), Opener(Stub()))
    assert await reader.pread(3, 5) == CONTENT[3:8]


async def test_a_read_waits_through_an_outage_and_then_gives_the_bytes() -> None:
    broken, fresh = Stub(away()), Stub()
    reader, told = patient(broken, Opener(away(), TimedOut("open", "it", "no answer"), away(), fresh))
    assert await reader.pread(3, 5) == CONTENT[3:8]
    assert len(told) == 2
    assert "nobody answers; the guest waits" in told[0]
    assert told[1].startswith("reading goes on after ")


async def test_one_failure_alone_is_not_worth_telling() -> None:
    reader, told = patient(Stub(away()), Opener(Stub()))
    assert await reader.pread(3, 5) == CONTENT[3:8]
    assert told == []


async def test_the_broken_reader_is_closed_once_nobody_reads_through_it() -> None:
    broken = Stub(away())
    reader, _ = patient(broken, Opener(Stub()))
    await reader.pread(0, 1)
    assert await asyncio.to_thread(broken.closed.wait, 30)


async def test_many_reads_that_fail_together_reopen_once() -> None:
    broken = Stub(*(away() for _ in range(16)))
    opener = Opener(away(), Stub())
    reader, _ = patient(broken, opener, Patience(first_pause=0.05, longest_pause=1))
    answers = await asyncio.gather(*(reader.pread(offset, 4) for offset in range(16)))
    assert answers == [CONTENT[offset : offset + 4] for offset in range(16)]
    assert opener.opened == 2


async def test_an_outage_that_lasts_too_long_fails_the_read_and_the_next_one_tries_again() -> None:
    opener = Opener(*(away() for _ in range(100)))
    reader, told = patient(Stub(*(away() for _ in range(2))), opener, IMPATIENT)
    with pytest.raises(Unreachable):
        await reader.pread(0, 1)
    assert told[-1].endswith("given up: the guest sees an error")
    opener.outcomes = [Stub()]
    assert await reader.pread(0, 1) == CONTENT[:1]


@pytest.mark.parametrize("error", [Denied("open", "it", "403"), NotFound("open", "it", "404")], ids=["denied", "gone"])
async def test_a_clear_refusal_is_waited_out_for_a_shorter_time(error: FarbootError) -> None:
    patience = Patience(outage=600, refusal=0.05, first_pause=0.01, longest_pause=0.02)
    reader, _ = patient(Stub(away()), Opener(*(error for _ in range(100))), patience)
    with pytest.raises(type(error)):
        await reader.pread(0, 1)


async def test_a_refusal_for_a_moment_does_not_matter() -> None:
    reader, _ = patient(Stub(away()), Opener(NotFound("open", "it", "404"), Denied("open", "it", "403"), Stub()))
    assert await reader.pread(0, 1) == CONTENT[:1]


async def test_a_changed_image_is_given_up_for_good_and_told_once() -> None:
    changed = Changed("read", "it", "another ETag")
    reader, told = patient(Stub(changed), Opener())
    for _ in range(3):
        with pytest.raises(Changed):
            await reader.pread(0, 1)
    assert told == ["cannot read it: another ETag; every read fails from now on"]


async def test_an_image_that_changed_during_the_outage_is_given_up_too() -> None:
    reader, told = patient(Stub(away()), Opener(Changed("serve", "it", "another size")))
    for _ in range(3):
        with pytest.raises(Changed):
            await reader.pread(0, 1)
    assert len(told) == 1


async def test_fewer_bytes_than_asked_for_are_a_change() -> None:
    reader, _ = patient(Stub(b"sho"), Opener())
    with pytest.raises(Changed, match="3 bytes came instead of 5"):
        await reader.pread(0, 5)


async def test_a_mistake_in_a_source_is_one_failure_among_others_and_its_words_are_kept_back() -> None:
    secret = ValueError("https://u:hunter2@host/")
    reader, told = patient(Stub(secret, secret), Opener(Stub(secret), Stub(secret), Stub(secret), Stub()))
    assert await reader.pread(0, 1) == CONTENT[:1]
    assert "ValueError" in told[0]
    assert "hunter2" not in "".join(told)
