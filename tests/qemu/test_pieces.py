"""An image in pieces: exact, few requests, bounded memory."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.qemu.bridge import pieces
from app.qemu.bridge.distance import NEAR, Distance
from app.qemu.bridge.pieces import PIECE, Pieces
from probes.errors import Unreachable

CONTENT = random.Random(2).randbytes(40 * PIECE + 123)


class Storage:
    """Where pieces come from: it remembers what was asked for. A stub, for a real one would hide the requests."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content
        self.asked: list[tuple[int, int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.fails = False

    async def fetch(self, offset: int, length: int) -> bytes:
        assert 0 <= offset < offset + length <= len(self.content)
        self.asked.append((offset, length))
        await self.open.wait()
        await asyncio.sleep(0)
        if self.fails:
            raise Unreachable("read", "it", "nobody answers")
        return self.content[offset : offset + length]

    @property
    def bytes_asked(self) -> int:
        return sum(length for _, length in self.asked)


async def read(image: Pieces, offset: int, length: int) -> bytes:
    """Read, whether at once or later."""
    answer = image.read(offset, length)
    return answer if isinstance(answer, bytes) else await answer


def at_hand(image: Pieces, offset: int, length: int) -> bytes | None:
    """The bytes, if they are there at once."""
    answer = image.read(offset, length)
    if isinstance(answer, bytes):
        return answer
    asyncio.ensure_future(answer).cancel()
    return None


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


_reads = st.tuples(st.integers(0, len(CONTENT) - 1), st.integers(1, 5 * PIECE) | st.integers(1, 5000))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(_reads, min_size=1, max_size=6), max_size=12), st.integers(3, 12))
def test_whatever_is_read_in_whatever_order_is_exact(batches: list[list[tuple[int, int]]], room: int) -> None:
    async def scenario() -> None:
        image = Pieces(Storage().fetch, len(CONTENT))
        for batch in batches:
            clipped = [(offset, min(length, len(CONTENT) - offset)) for offset, length in batch]
            answers = await asyncio.gather(*(read(image, offset, length) for offset, length in clipped))
            for (offset, length), data in zip(clipped, answers, strict=True):
                expected = CONTENT[offset : offset + length]
                assert data == expected
                assert at_hand(image, offset, length) in (expected, None)
            await settle()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "CACHE", room * PIECE)
        asyncio.run(scenario())


async def test_small_reads_of_one_piece_cost_one_request() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT))
    await asyncio.gather(*(read(image, offset, 512) for offset in range(1024, PIECE, 8192)))
    assert storage.asked == [(0, PIECE)]
    assert at_hand(image, 100, 1000) == CONTENT[100:1100]


async def test_what_is_on_its_way_is_not_asked_for_again() -> None:
    storage = Storage()
    storage.open.clear()
    image = Pieces(storage.fetch, len(CONTENT))
    first = asyncio.create_task(read(image, 0, 3 * PIECE))
    await settle()
    second = asyncio.create_task(read(image, PIECE + 5, 4 * PIECE))
    await settle()
    assert storage.asked[:2] == [(0, 3 * PIECE), (3 * PIECE, 3 * PIECE)]
    asked = [offset for offset, _ in storage.asked]
    assert len(asked) == len(set(asked))
    storage.open.set()
    assert await first == CONTENT[: 3 * PIECE]
    assert await second == CONTENT[PIECE + 5 : 5 * PIECE + 5]


async def test_neighbours_are_asked_for_together_and_a_long_read_in_several_requests_at_once() -> None:
    storage = Storage()
    storage.open.clear()
    image = Pieces(storage.fetch, len(CONTENT))
    reading = asyncio.create_task(read(image, 0, len(CONTENT)))
    await settle()
    assert storage.asked == [(0, 1 << 20), (1 << 20, 1 << 20), (2 << 20, len(CONTENT) - (2 << 20))]
    storage.open.set()
    assert await reading == CONTENT


async def test_a_random_reader_costs_a_piece_a_read() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT))
    order = list(range(0, 40, 2))
    random.Random(3).shuffle(order)
    for index in order:
        await read(image, index * PIECE + 4096, 4096)
    await settle()
    assert storage.bytes_asked == len(order) * PIECE


def nearby() -> Distance:
    """The distance to storage in the next room."""
    distance = Distance()
    distance.note(NEAR / 10)
    return distance


async def test_near_storage_is_asked_for_no_more_than_a_random_reader_wants() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT), nearby())
    order = list(range(0, 40, 2))
    random.Random(3).shuffle(order)
    for index in order:
        assert await read(image, index * PIECE + 4096, 512) == CONTENT[index * PIECE + 4096 :][:512]
    assert storage.asked == [(index * PIECE + 4096, 512) for index in order]


async def test_what_is_read_a_second_time_is_fetched_and_kept_from_near_storage_too() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT), nearby())
    for offset in (4096, 8192, 4096, 12288, 60000):
        assert await read(image, offset, 512) == CONTENT[offset : offset + 512]
        await settle()
    assert storage.asked == [(4096, 512), (0, PIECE)]


async def test_a_straight_reader_of_near_storage_finds_everything_fetched_too() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT), nearby())
    for offset in range(0, 30 * PIECE, 4096):
        await read(image, offset, 4096)
        await settle()
    assert len(storage.asked) < 40


async def test_what_was_written_is_read_from_near_storage_too() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT), nearby())
    await read(image, 4096, 512)
    storage.content = CONTENT[:4096] + b"new!" + CONTENT[4100:]
    image.written(4096, b"new!")
    assert (await read(image, 4096, 512))[:4] == b"new!"


@pytest.mark.parametrize(
    ("seconds", "is_near"),
    [([], False), ([NEAR / 2], True), ([NEAR * 2] * 5, False), ([NEAR * 5] * 9 + [NEAR / 2], True)],
)
def test_storage_is_near_if_the_quickest_of_the_last_reads_was_quick(seconds: list[float], is_near: bool) -> None:
    distance = Distance()
    for each in seconds:
        distance.note(each)
    assert distance.is_near == is_near


def test_storage_that_goes_far_away_is_far_soon() -> None:
    distance = nearby()
    for _ in range(20):
        distance.note(NEAR * 5)
    assert not distance.is_near


async def test_a_straight_reader_finds_everything_fetched_before_it_asks() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT))
    misses = 0
    for offset in range(0, len(CONTENT), 4096):
        length = min(4096, len(CONTENT) - offset)
        answer = image.read(offset, length)
        misses += not isinstance(answer, bytes)
        data = answer if isinstance(answer, bytes) else await answer
        assert data == CONTENT[offset : offset + length]
        await settle()
    assert misses == 1
    assert storage.bytes_asked == len(CONTENT), "nothing was fetched twice"
    assert len(storage.asked) < 12


async def test_reads_in_flight_together_count_as_straight_in_whatever_order_they_come() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT))
    for batch in range(0, 40 * PIECE, 16 * 4096):
        await asyncio.gather(*(read(image, batch + index * 4096, 4096) for index in reversed(range(16))))
        await settle()
    assert len(storage.asked) < 12
    assert storage.bytes_asked == len(CONTENT)


async def test_looking_ahead_stops_at_a_few_requests_however_many_readers_go_straight() -> None:
    storage = Storage(bytes(32 << 20))
    image = Pieces(storage.fetch, 32 << 20)
    starts = [index * 3 << 20 for index in range(10)]
    for start in starts:
        await read(image, start, 4096)
    storage.open.clear()
    asked = len(storage.asked)
    for start in starts:
        assert at_hand(image, start + 4096, 4096) is not None
    await settle()
    assert len(storage.asked) - asked == pieces.AHEAD_RUNS
    storage.open.set()
    await settle()


async def test_reading_the_same_again_and_again_is_not_going_anywhere() -> None:
    storage = Storage()
    image = Pieces(storage.fetch, len(CONTENT))
    for _ in range(50):
        await read(image, 8192, 4096)
    await settle()
    assert storage.asked == [(0, PIECE)]


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "CACHE", 4 * PIECE)
    image = Pieces(Storage().fetch, len(CONTENT))
    assert await read(image, 0, len(CONTENT)) == CONTENT, "even what does not fit into the cache"
    await settle()
    kept = [index for index in range(40) if at_hand(image, index * PIECE, 1) is not None]
    assert len(kept) <= 4


async def test_a_failure_reaches_everyone_who_waits_and_is_not_remembered() -> None:
    storage = Storage()
    storage.fails = True
    image = Pieces(storage.fetch, len(CONTENT))
    outcomes = await asyncio.gather(read(image, 0, 10), read(image, 3, 5), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unreachable, Unreachable]
    assert len(storage.asked) == 1
    storage.fails = False
    assert await read(image, 0, 10) == CONTENT[:10]


async def test_a_reader_that_gives_up_takes_nothing_from_another() -> None:
    storage = Storage()
    storage.open.clear()
    image = Pieces(storage.fetch, len(CONTENT))
    leaving, staying = asyncio.create_task(read(image, 0, 10)), asyncio.create_task(read(image, 3, 5))
    await settle()
    leaving.cancel()
    await settle()
    storage.open.set()
    assert await staying == CONTENT[3:8]
    assert len(storage.asked) == 1


async def test_an_image_smaller_than_a_piece_is_read_whole() -> None:
    storage = Storage(b"tiny")
    image = Pieces(storage.fetch, 4)
    assert await read(image, 1, 2) == b"in"
    assert storage.asked == [(0, 4)]
