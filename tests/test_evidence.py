"""What a verdict was drawn from, in few words: told to a helper, and compared with what is there by then."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.evidence import NOT_JUDGED, Evidence
from probes.recording import RecordingReader
from tests.formats.readers import MemoryReader

PIECES = st.lists(st.tuples(st.integers(0, 1 << 60), st.binary(max_size=50)), max_size=9)


@given(PIECES)
def test_it_arrives_as_it_was(pieces: list[tuple[int, bytes]]) -> None:
    evidence = Evidence.by(pieces)
    assert Evidence.parse(str(evidence)) == evidence
    assert evidence


@given(st.text(max_size=80))
def test_nothing_else_is_taken_for_it(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert str(Evidence.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        ":", "0+1", "0+1:abc", f"0+5000000:{'0' * 64}", f"0+1,:{'0' * 64}", f"-1+1:{'0' * 64}", f"0+1:{'A' * 64}",
        ",".join(f"{n}+1" for n in range(70)) + ":" + "0" * 64,
    ],
)  # fmt: skip
def test_what_no_judgement_gives_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="judge"):
        Evidence.parse(text)


def test_it_agrees_with_the_same_bytes_and_with_no_others() -> None:
    data = bytearray(range(256)) * 1024
    recording = RecordingReader(MemoryReader(bytes(data)))
    recording.pread(0, 10)
    recording.pread(200_000, 10)
    recording.seal()
    evidence = Evidence.by(recording.evidence)
    assert evidence.agrees(MemoryReader(bytes(data)))
    assert evidence.agrees(recording)
    data[199_000] ^= 1  # of the same 4 KiB
    assert not evidence.agrees(MemoryReader(bytes(data)))
    data[199_000] ^= 1
    data[100_000] ^= 1  # which nobody looked at
    assert evidence.agrees(MemoryReader(bytes(data)))
    assert not evidence.agrees(MemoryReader(bytes(data[:200_000])))


def test_an_empty_image_was_judged_by_nothing_and_that_is_told_from_not_judged() -> None:
    nothing = Evidence.by(())
    assert nothing
    assert nothing.agrees(MemoryReader(b""))
    assert not NOT_JUDGED
    assert str(NOT_JUDGED) == ""
    assert Evidence.parse("") is NOT_JUDGED
    assert NOT_JUDGED.agrees(MemoryReader(b"anything"))
