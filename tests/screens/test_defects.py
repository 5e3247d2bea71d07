"""A defect in Farboot ends it in one line, in a terminal that is as it was: never in a traceback.

Defects are made, for none is known: a program of the test's own breaks a part of the application, then runs it as
`farboot` does, in a terminal of its own.
"""

import sys
from pathlib import Path

import pytest

from tests.screens.terminal import LEAVES_THE_SCREEN, Terminal, plain

BREAKS = {
    "a key's action": "Browse.action_sort = lambda self, step: 1 / 0",
    "what a message leads to": "Browse.moved = Browse.on_resize = lambda self, event: 1 / 0",
    "what a timer leads to": "Browse.on_mount = lambda self: self.set_timer(0.2, lambda: 1 / 0)",
    "a room that is furnished": "Browse.compose_room = lambda self: 1 / 0",
    "the drawing of a line": "Listing.draw_row = PlacesView.draw_row = lambda *_: 1 / 0",
    "a style sheet": "app.tui.FarbootApp.CSS = 'Screen { colour'",
    "a thread": "Browse.action_sort = lambda self, step: threading.Thread(target=lambda: 1 / 0).start()",
}

PROGRAM = """
import sys, threading
import app.main, app.tui
from app.screens.browse import Browse
from widgets.listing import Listing
from widgets.places import PlacesView
{defect}
sys.exit(app.main.main([{folder!r}]))
"""


def run(folder: Path, defect: str, **more: str) -> Terminal:
    """Start a Farboot with a defect in a terminal."""
    program = PROGRAM.format(defect=defect, folder=str(folder))
    return Terminal([sys.executable, "-c", program], more)


@pytest.mark.parametrize("defect", BREAKS.values(), ids=BREAKS)
def test_it_ends_in_one_line_and_leaves_the_terminal_as_it_was(images: Path, defect: str) -> None:
    farboot = run(images, defect)
    before = farboot.before
    if "action_sort" in defect:
        farboot.until(b"archive")
        farboot.type(b">")
    status = farboot.end()
    last_words = plain(farboot.said.rpartition(LEAVES_THE_SCREEN)[2])
    assert status == 1
    assert "Traceback" not in plain(farboot.said)
    assert len(last_words) == 1, last_words
    assert "this is a bug in Farboot" in last_words[0]
    assert "FARBOOT_TRACEBACK=1" in last_words[0]
    assert farboot.after == before


def test_who_asks_for_it_sees_where_it_was(images: Path) -> None:
    farboot = run(images, BREAKS["a key's action"], FARBOOT_TRACEBACK="1")
    farboot.until(b"archive")
    farboot.type(b">")
    assert farboot.end() == 1
    last_words = "\n".join(plain(farboot.said.rpartition(LEAVES_THE_SCREEN)[2]))
    assert "Traceback (most recent call last)" in last_words
    assert "ZeroDivisionError" in last_words
