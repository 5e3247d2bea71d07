"""The rows of a listing: sorted, filtered, and kept so while more arrive. Pure; no terminal in it.

Made for 100,000 rows: what a row's order and looks need is worked out once, in the thread that fetches it
(`Row.of`); what remains for the screen's thread is to put ready keys in their place.
"""

from collections.abc import Callable, Iterable
from enum import Enum
from operator import attrgetter
from typing import Any

from probes.entry import Entry, Kind
from probes.image import Image
from probes.text import clean
from probes.words import natural
from widgets.sorted_rows import Sorted


class Order(Enum):
    """How a listing is sorted. Containers come first in each."""

    NAME = "by name"
    SIZE = "largest first"
    NEWEST = "newest first"


class Row:
    """An entry, and what showing, finding and sorting it needs. A `leading` one stays with the containers, first.

    `image` is what it was found to be.
    """

    __slots__ = ("entry", "folded", "image", "key", "rank", "shown", "stamp")

    def __init__(self, entry: Entry, leading: bool = False) -> None:
        name = clean(entry.name)
        self.entry = entry
        self.image: Image | None = None
        self.shown = name
        self.folded = name.casefold()
        self.rank = 0 if leading or entry.kind is Kind.CONTAINER else 1
        self.key = f"{self.rank}{natural(self.folded)}\0{name}"
        self.stamp = _stamp(entry)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> list["Row"]:
        """Make the rows of `entries`."""
        return [cls(entry) for entry in entries]


def _stamp(entry: Entry) -> float:
    if entry.modified is None:
        return 0.0
    try:
        return entry.modified.timestamp()
    except (OverflowError, ValueError, OSError):  # the year 1, as some servers have it
        return 0.0


def _by_size(row: Row) -> Any:
    return row.rank, -(row.entry.size or 0), row.key


def _by_newest(row: Row) -> Any:
    return row.rank, -row.stamp, row.key


_KEYS: dict[Order, Callable[[Row], Any]] = {
    Order.NAME: attrgetter("key"),
    Order.SIZE: _by_size,
    Order.NEWEST: _by_newest,
}


class Rows:
    """All rows in order, and those of them that the filter lets through (`visible`)."""

    def __init__(self) -> None:
        self.order = Order.NAME
        self.needle = ""
        self._all = Sorted(_KEYS[self.order])
        self.visible = self._all

    def __len__(self) -> int:
        return len(self._all)

    def add(self, batch: list[Row]) -> None:
        """Merge `batch` in."""
        self._all.add(batch)
        if self.visible is not self._all:
            self.visible.add([row for row in batch if self.needle in row.folded])

    def filter(self, text: str) -> None:
        """Let through only the rows whose shown name contains `text`, whatever its case."""
        needle = text.casefold()
        if needle == self.needle:
            return
        pool = self.visible if needle.startswith(self.needle) and self.needle else self._all
        self.needle = needle
        if not needle:
            self.visible = self._all
            return
        found = [row for row in pool if needle in row.folded]
        self.visible = Sorted(_KEYS[self.order], found, is_sorted=True)

    def sort(self, order: Order) -> None:
        """Put the rows into another order."""
        self.order = order
        is_filtered = self.visible is not self._all
        self._all = Sorted(_KEYS[order], self._all)
        self.visible = Sorted(_KEYS[order], self.visible) if is_filtered else self._all

    def index_of(self, row: Row) -> int | None:
        """The position of `row` among the visible ones."""
        try:
            return self.visible.index(row)
        except ValueError:
            return None

    def match(self, row: Row) -> tuple[int, int]:
        """Where in `row.shown` the filter's text is, as start and end; (0, 0) for nowhere that could be marked."""
        if not self.needle or len(row.folded) != len(row.shown):  # folding made it longer: "ß" is "ss"
            return 0, 0
        start = row.folded.find(self.needle)
        return (start, start + len(self.needle)) if start >= 0 else (0, 0)
