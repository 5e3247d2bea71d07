"""The recording reader: few round trips, each byte once, never past its budget."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import BadAnswer, Refused, TimedOut, Unreachable
from probes.recording import HEAD, PIECE, OverBudget, RecordingReader
from tests.formats.images import MiB
from tests.formats.readers import FailingReader, MemoryReader

DATA = random.Random(7).randbytes(300_000)


def test_the_head_is_fetched_whole_at_the_first_touch_and_only_once() -> None:
    inner = MemoryReader(DATA)
    reader = RecordingReader(inner)
    assert reader.pread(5, 4) == DATA[5:9]
    assert reader.pread(60_000, 1000) == DATA[60_000:61_000]
    assert reader.pread(0, HEAD) == DATA[:HEAD]
    assert inner.trips == reader.trips == 1
    assert reader.pieces == ((0, DATA[:HEAD]),)


def test_a_read_across_the_heads_end_is_one_round_trip() -> None:
    inner = MemoryReader(DATA)
    assert RecordingReader(inner).pread(HEAD - 10, 20) == DATA[HEAD - 10 : HEAD + 10]
    assert inner.trips == 1


def test_small_reads_are_widened_to_whole_pieces() -> None:
    inner = MemoryReader(DATA)
    reader = RecordingReader(inner)
    reader.pread(100_000, 8)
    reader.pread(100_100, 8)
    assert inner.trips == 1
    assert inner.bytes_read == PIECE


def test_reads_are_exact_up_to_the_end_and_empty_beyond_it() -> None:
    reader = RecordingReader(MemoryReader(DATA))
    assert reader.pread(len(DATA) - 3, 100) == DATA[-3:]
    assert reader.pread(len(DATA), 10) == b""
    assert reader.pread(1 << 70, 10) == b""
    assert reader.pread(-5, 10) == b""
    assert reader.pread(10, 0) == b""


def test_an_empty_image_is_read_without_asking() -> None:
    inner = MemoryReader(b"")
    assert RecordingReader(inner).pread(0, 512) == b""
    assert inner.trips == 0


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_reads_gives_the_right_bytes_and_asks_for_none_twice(seed: int) -> None:
    chance = random.Random(seed)
    inner = MemoryReader(DATA)
    reader = RecordingReader(inner, max_reads=1000)
    for _ in range(60):
        offset, length = chance.randrange(len(DATA)), chance.randrange(1, 30_000)
        assert reader.pread(offset, length) == DATA[offset : offset + length]
    assert inner.bytes_read == reader.bytes_read <= len(DATA)
    assert inner.trips == reader.trips
    assert sum(len(piece) for _, piece in reader.pieces) == inner.bytes_read
    assert all(DATA[start : start + len(piece)] == piece for start, piece in reader.pieces)
    ends = [start + len(piece) for start, piece in reader.pieces]
    assert all(end < start for end, (start, _) in zip(ends, reader.pieces[1:], strict=False))


def test_what_was_read_stays_though_the_storage_changes() -> None:
    class Fickle(MemoryReader):
        def pread(self, offset: int, length: int) -> bytes:
            return bytes([self.trips]) * len(super().pread(offset, length))

    reader = RecordingReader(Fickle(DATA))
    first = reader.pread(100_000, 100)
    assert reader.pread(96_000, 20_000)[4000:4100] == first
    assert reader.pread(0, 500) == reader.pread(0, 500)


def test_too_many_reads_are_refused_before_they_are_made() -> None:
    inner = MemoryReader(bytes(10 << 20))
    reader = RecordingReader(inner, max_reads=3)
    for index in range(3):
        reader.pread((index * 2 + 50) * PIECE, 1)
    with pytest.raises(OverBudget) as caught:
        reader.pread(1 << 20, 1)
    assert isinstance(caught.value, Refused)
    assert inner.trips == 3


def test_too_many_bytes_are_refused_before_they_are_read() -> None:
    inner = MemoryReader(bytes(10 << 20))
    reader = RecordingReader(inner)
    with pytest.raises(OverBudget):
        reader.pread(1 << 20, 8 << 20)
    assert inner.trips == 0


def test_a_reader_that_gives_too_little_is_an_error() -> None:
    class Short(MemoryReader):
        def pread(self, offset: int, length: int) -> bytes:
            return super().pread(offset, length)[:-1]

    with pytest.raises(BadAnswer, match="65535 bytes came instead of 65536"):
        RecordingReader(Short(DATA)).pread(0, 1)


def test_a_failed_read_is_told_and_can_be_tried_again() -> None:
    inner = FailingReader(DATA, fails_at=0)
    reader = RecordingReader(inner)
    with pytest.raises(Unreachable):
        reader.pread(0, 1)
    inner.fails_at = 100
    assert reader.pread(0, 1) == DATA[:1]


def test_reads_ahead_are_one_trip_together_and_merged_where_they_are_near() -> None:
    inner = MemoryReader(bytes(range(256)) * 4096)  # 1 MiB
    reader = RecordingReader(inner)
    reader.ahead([(300_000, 100), (304_200, 10), (700_000, 5000), (2_000_000, 10)])
    assert (reader.trips, reader.reads) == (1, 2)
    for offset in (300_000, 304_200, 700_100):
        assert reader.pread(offset, 10) == (bytes(range(256)) * 4096)[offset : offset + 10]
    assert inner.trips == 2


def test_reads_ahead_leave_out_what_passes_the_budget() -> None:
    inner = MemoryReader(bytes(MiB))
    reader = RecordingReader(inner, max_reads=2, max_bytes=128 << 10)
    reader.ahead([(at << 16, 10) for at in range(1, 9)])
    assert reader.reads == 2
    reader.ahead([(600_000, 10)])
    assert inner.trips == 2


def test_a_judgement_that_takes_too_long_is_given_up() -> None:
    reader = RecordingReader(MemoryReader(bytes(MiB)), max_seconds=-1.0)
    with pytest.raises(TimedOut):
        reader.pread(0, 10)


def test_evidence_is_what_was_asked_for_until_the_verdict_and_not_what_came_along() -> None:
    data = bytes(range(256)) * 4096
    reader = RecordingReader(MemoryReader(data))
    assert not reader.evidence
    reader.pread(10, 10)
    reader.ahead([(500_000, 8192), (700_000, 10)])
    reader.pread(700_005, 1)
    reader.pread(66_000, 10)
    reader.seal()
    reader.pread(900_000, 10)
    reader.seal()
    assert [(offset, len(piece)) for offset, piece in reader.evidence] == [(0, 69_632), (696_320, 4096)]
    assert all(piece == data[offset : offset + len(piece)] for offset, piece in reader.evidence)


def test_what_could_not_be_read_is_no_evidence() -> None:
    reader = RecordingReader(MemoryReader(bytes(1 << 20)), max_reads=1)
    reader.pread(0, 1)
    with pytest.raises(OverBudget):
        reader.pread(500_000, 1)
    reader.seal()
    assert [(offset, len(piece)) for offset, piece in reader.evidence] == [(0, 65_536)]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=30))
def test_evidence_is_in_order_and_touches_nowhere(reads: list[tuple[int, int]]) -> None:
    data = DATA[: 70 << 12]
    reader = RecordingReader(MemoryReader(data))
    asked = [((start << 12) + 5, min((start << 12) + 5 + (length << 11), len(data))) for start, length in reads]
    for start, end in asked:
        reader.pread(start, end - start)
    reader.seal()
    held = [(offset, offset + len(piece)) for offset, piece in reader.evidence]
    assert all(one[1] < other[0] for one, other in pairwise(held))
    assert all(any(low <= start and end <= high for low, high in held) for start, end in asked)
    assert all(piece == data[offset : offset + len(piece)] for offset, piece in reader.evidence)
