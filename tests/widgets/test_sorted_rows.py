"""A sorted list that grows in small steps."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widgets import sorted_rows
from widgets.sorted_rows import Sorted


class Item:
    """Something with a key that others may have as well."""

    def __init__(self, key: int) -> None:
        self.key = key


def key_of(item: Item) -> int:
    return item.key


_batches = st.lists(st.lists(st.integers(0, 30).map(Item), max_size=20), max_size=12)


@settings(max_examples=200, deadline=None)
@given(_batches, st.integers(1, 6))
def test_whatever_comes_in_whatever_batches_is_in_order(batches: list[list[Item]], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_rows, "CHUNK", chunk)
        rows = Sorted(key_of)
        for batch in batches:
            rows.add(batch)
        everything = [item for batch in batches for item in batch]
        assert [item.key for item in rows] == sorted(item.key for item in everything)
        assert set(map(id, rows)) == set(map(id, everything))
        assert [rows[index] for index in range(len(rows))] == list(rows)
        assert [rows.index(item) for item in rows] == list(range(len(everything)))
        assert rows[2:9] == list(rows)[2:9]


def test_those_with_equal_keys_stay_as_they_came() -> None:
    items = [Item(1) for _ in range(10)]
    rows = Sorted(key_of, items[:6])
    rows.add(items[6:7])
    rows.add(items[7:])
    assert list(rows) == items


def test_what_is_not_among_them_has_no_position() -> None:
    rows = Sorted(key_of, [Item(1), Item(3)])
    for key in (0, 1, 2, 9):
        with pytest.raises(ValueError, match="not among"):
            rows.index(Item(key))
    with pytest.raises(ValueError, match="not among"):
        Sorted(key_of).index(Item(1))


def test_counting_from_the_end_and_beyond_it() -> None:
    items = [Item(number) for number in range(5)]
    rows = Sorted(key_of, items)
    assert rows[-1] is items[-1]
    assert rows[3:99] == items[3:]
    for index in (5, -6):
        with pytest.raises(IndexError):
            rows[index]
