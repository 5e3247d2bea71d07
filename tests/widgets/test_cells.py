"""Texts, sizes and times in terminal cells."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from probes.text import clean
from probes.words import counted, human_size, short_time, since
from widgets.cells import fit


@given(st.text(), st.integers(0, 60))
def test_a_fitted_text_fills_its_cells_exactly(text: str, width: int) -> None:
    assert cell_len(fit(clean(text), width)) == width


def test_what_is_cut_keeps_its_end() -> None:
    assert fit("debian-12-generic-cloud-amd64.qcow2", 24).endswith("64.qcow2")
    assert "…" in fit("debian-12-generic-cloud-amd64.qcow2", 24)


def test_a_wide_character_is_not_cut_in_half() -> None:
    assert fit("日本語", 5) == "日本…"
    assert cell_len(fit("日本語" * 10 + ".img", 21)) == 21


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (1 << 30, "1 GiB"),
        (339738624, "324 MiB"), (1023 << 20, "1 GiB"), (1 << 80, "1048576 EiB"), (5_497_558_139, "5.12 GiB"),
    ],
)  # fmt: skip
def test_sizes_are_short(size: int | None, text: str) -> None:
    assert human_size(size) == text


def test_a_rounded_size_says_so() -> None:
    assert human_size(3 << 20, rounded=True) == "~3 MiB"


def test_times_are_as_long_as_there_is_room() -> None:
    moment = datetime(2026, 5, 1, 12, 33)  # noqa: DTZ001
    assert short_time(moment) == "2026-05-01 12:33"
    assert short_time(moment, 10) == "2026-05-01"
    assert short_time(None) == ""


def test_durations_and_counts_read_as_words() -> None:
    assert [since(s) for s in (-1, 59, 61, 3 * 3600 + 300, 90000)] == ["0 s", "59 s", "1 min", "3 h 05", "1 d"]
    assert [counted(n, "entry") for n in (0, 1, 1234)] == ["0 entries", "1 entry", "1,234 entries"]
