"""The columns of a listing: what there is room for, and what the images' own say."""

import pytest
from rich.cells import cell_len

from probes.image import Hazard, Image, Media, MediaKind, Verdict
from widgets.columns import columns_in, disk_cell, form_cell


def image(form: str, verdict: Verdict = Verdict.OK, kind: MediaKind = MediaKind.UNKNOWN, size: int = 1 << 30) -> Image:
    return Image(form, size, 1 << 20, media=Media(kind), hazards=(Hazard("x", "It is so.", verdict),))


@pytest.mark.parametrize("width", range(20, 200))
def test_the_name_always_keeps_the_most_room(width: int) -> None:
    room = width - columns_in(width).total
    assert room >= width * 2 // 5
    assert room >= min(width, 20)


def test_a_console_has_format_size_and_day_and_a_desk_the_disks_size_too() -> None:
    console, desk = columns_in(79), columns_in(110)
    assert (console.form > 0, console.size > 0, console.disk) == (True, True, 0)
    assert console.time == 12
    assert min(desk.form, desk.size, desk.disk) > 0
    assert "parallels" in form_cell(image("parallels"), desk.form)
    assert desk.time == 18


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (image("qcow2"), "  qcow2 "),
        (image("qcow2", Verdict.ASK), " ?qcow2 "),
        (image("vmdk", Verdict.REFUSE), " !vmdk  "),
        (image("raw", kind=MediaKind.CD), "  iso   "),
        (image("raw", kind=MediaKind.DISK), "  raw   "),
        (image("android-sparse", Verdict.REFUSE), " !andro…"),
        (image("a\x1b[31mb"), None),
        (None, "        "),
    ],
)
def test_a_format_has_its_mark_and_always_the_same_width(shown: Image | None, text: str | None) -> None:
    cell = form_cell(shown, 8)
    assert cell_len(cell) == 8
    assert cell.isprintable()
    assert text is None or cell == text


@pytest.mark.parametrize(
    ("shown", "file_size", "text"),
    [
        (image("qcow2", size=10 << 30), "1 MiB", "    10 GiB"),
        (image("raw", size=1 << 20), "1 MiB", "          "),
        (image("gzip", size=0), "1 MiB", "          "),
        (None, "1 MiB", "          "),
    ],
)
def test_the_disks_size_is_shown_where_the_files_is_another(shown: Image | None, file_size: str, text: str) -> None:
    assert disk_cell(shown, file_size, 10) == text
