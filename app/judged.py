"""What images were judged to be, remembered for as long as they are those very images."""

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime

from probes.entry import Entry
from probes.image import Image
from probes.location import Location
from probes.reader import Pin

MOST = 5000
"""Images that are remembered, some 2 KB each."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What the image that `pin` says is."""

    image: Image
    pin: Pin


@dataclass(frozen=True, slots=True)
class Remembered:
    """`is_certain` where the listing itself proves that it is still that image: by its size and its time."""

    judged: Judged
    is_certain: bool


class JudgedImages:
    """A memory by location, for the screen's thread; those used last are kept."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: OrderedDict[Location, tuple[Judged, datetime | None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def keep(self, entry: Entry, judged: Judged) -> None:
        """Remember what the image that was listed as `entry` is."""
        self._known[entry.location] = judged, entry.modified
        self._known.move_to_end(entry.location)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def of(self, entry: Entry) -> Remembered | None:
        """What is known of the image listed as `entry`; None also where the listing says that it is another now."""
        found = self._known.get(entry.location)
        if found is None:
            return None
        judged, modified = found
        has_size = entry.size is not None and not entry.rounded
        has_time = entry.modified is not None and modified is not None
        if (has_size and entry.size != judged.pin.size) or (has_time and entry.modified != modified):
            del self._known[entry.location]
            return None
        self._known.move_to_end(entry.location)
        return Remembered(judged, has_size and has_time)

    def forget(self) -> None:
        """Another person may see other images in the same places."""
        self._known.clear()
