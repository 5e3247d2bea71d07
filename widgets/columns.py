"""The columns of a listing: which of them a width has room for, and what those of images say. Pure; no terminal."""

from dataclasses import dataclass
from functools import cache

from probes.image import Image, MediaKind, Verdict
from probes.text import clean
from probes.words import human_size
from widgets.cells import cut

_FORMAT, _WHOLE_FORMAT, _SIZE, _DAY, _TIME = 8, 11, 10, 12, 18

_MARKS = {Verdict.OK: " ", Verdict.ASK: "?", Verdict.REFUSE: "!"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Cells that the columns behind the name take, each with the space before it; 0 for one that is left out."""

    form: int = 0
    disk: int = 0
    size: int = 0
    time: int = 0

    @property
    def total(self) -> int:
        return self.form + self.disk + self.size + self.time


@cache
def columns_in(width: int) -> Columns:
    """Return the columns of a listing that is `width` cells wide: names come first, then what an image is."""
    return Columns(
        form=_WHOLE_FORMAT if width >= 80 else _FORMAT if width >= 44 else 0,
        disk=_SIZE if width >= 80 else 0,
        size=_SIZE if width >= 34 else 0,
        time=_TIME if width >= 100 else _DAY if width >= 60 else 0,
    )


def form_cell(image: Image | None, width: int) -> str:
    """Return the format in `width` cells, marked if the image is refused or asks first. Discs are called iso."""
    if image is None:
        return " " * width
    name = "iso" if image.media.kind is MediaKind.CD and image.format == "raw" else clean(image.format)
    return f" {_MARKS[image.verdict]}{cut(name, width - 2)}".ljust(width)


def disk_cell(image: Image | None, file_size: str, width: int) -> str:
    """Return the size of the guest's disk in `width` cells; blank where there is none to tell, or where it is said by
    `file_size` already.
    """
    size = human_size(image.virtual_size if image and image.virtual_size else None)
    return (size if size != file_size else "").rjust(width)
