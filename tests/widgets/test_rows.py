"""Rows: sorted as people count, filtered, kept in place."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.entry import Entry, Kind
from probes.location import Location
from widgets.rows import Order, Row, Rows

HOME = Location.parse("/srv/")[0]


def row(name: str, kind: Kind = Kind.IMAGE, size: int | None = None, modified: datetime | None = None) -> Row:
    return Row(Entry(HOME.child(name), name, kind, size, modified))


def shown(rows: Rows) -> list[str]:
    return [each.shown for each in rows.visible]


def test_numbers_in_names_count() -> None:
    rows = Rows()
    rows.add([row(name) for name in ("disk10", "disk2", "Disk1", "disk", "disk02")])
    assert shown(rows) == ["disk", "Disk1", "disk02", "disk2", "disk10"]


def test_containers_come_first_whatever_the_order() -> None:
    rows = Rows()
    rows.add([row("a", size=9), row("z", Kind.CONTAINER), row("b", Kind.OTHER, size=3)])
    for order in Order:
        rows.sort(order)
        assert shown(rows)[0] == "z"


def test_a_row_that_leads_stays_first_whatever_the_order() -> None:
    rows = Rows()
    image = Entry(HOME.child("z"), "z", Kind.IMAGE, 1)
    rows.add([row("a", size=9), Row(image, leading=True), row("b", size=3)])
    for order in Order:
        rows.sort(order)
        assert shown(rows)[0] == "z"


def test_orders_by_size_and_time_put_the_largest_and_newest_first() -> None:
    rows = Rows()
    rows.add([row("a", size=1, modified=datetime(2020, 1, 1)), row("b", size=5), row("c")])  # noqa: DTZ001
    rows.sort(Order.SIZE)
    assert shown(rows) == ["b", "a", "c"]
    rows.sort(Order.NEWEST)
    assert shown(rows) == ["a", "b", "c"]


@pytest.mark.parametrize("when", [datetime.min, datetime.max, datetime(1, 1, 1)])  # noqa: DTZ001, DTZ901
def test_odd_times_do_no_harm(when: datetime) -> None:
    rows = Rows()
    rows.add([row("a", modified=when), row("b")])
    rows.sort(Order.NEWEST)
    assert len(rows.visible) == 2


def test_the_filter_finds_parts_whatever_their_case_and_marks_them() -> None:
    rows = Rows()
    rows.add([row("Debian-12.qcow2"), row("alpine.iso")])
    rows.filter("BIAN")
    assert shown(rows) == ["Debian-12.qcow2"]
    assert rows.match(rows.visible[0]) == (2, 6)
    rows.filter("")
    assert len(rows.visible) == 2


def test_a_name_that_folding_makes_longer_is_found_and_not_marked() -> None:
    rows = Rows()
    rows.add([row("Straße.img")])
    rows.filter("strasse")
    assert shown(rows) == ["Straße.img"]
    assert rows.match(rows.visible[0]) == (0, 0)


def test_what_arrives_while_a_filter_holds_is_filtered_too() -> None:
    rows = Rows()
    rows.add([row("a1")])
    rows.filter("a")
    rows.add([row("b1"), row("a0")])
    assert shown(rows) == ["a0", "a1"]
    assert len(rows) == 3


def test_a_shorter_filter_finds_more_again() -> None:
    rows = Rows()
    rows.add([row("ab"), row("ac")])
    rows.filter("ab")
    rows.filter("a")
    assert shown(rows) == ["ab", "ac"]


def test_hostile_names_are_found_by_what_is_shown() -> None:
    rows = Rows()
    rows.add([row("a\x1b[31m.img")])
    rows.filter(r"\x1b")
    assert shown(rows) == [r"a\x1b[31m.img"]


@given(st.lists(st.text(max_size=8), max_size=40), st.integers(1, 7), st.text(max_size=2))
def test_batches_give_the_same_as_all_at_once(names: list[str], size: int, needle: str) -> None:
    at_once, piecemeal = Rows(), Rows()
    at_once.add([row(name) for name in names])
    at_once.filter(needle)
    piecemeal.filter(needle)
    for start in range(0, len(names), size):
        piecemeal.add([row(name) for name in names[start : start + size]])
    assert shown(at_once) == shown(piecemeal)


@given(st.lists(st.text(max_size=4), min_size=1, max_size=30))
def test_every_row_is_found_where_it_is(names: list[str]) -> None:
    rows = Rows()
    rows.add([row(name) for name in names])
    for order in Order:
        rows.sort(order)
        assert [rows.index_of(each) for each in rows.visible] == list(range(len(names)))
