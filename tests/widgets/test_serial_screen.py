"""A guest's serial line: drawn as a terminal draws it, harmless whatever it holds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from widgets.console import Console
from widgets.serial_screen import COLUMNS, LINES, SerialScreen


def fed(*pieces: bytes) -> SerialScreen:
    screen = SerialScreen()
    for piece in pieces:
        screen.feed(piece)
    return screen


def test_text_colours_and_cursor_movements_are_drawn() -> None:
    screen = fed(b"one\r\ntwo\x1b[1A\x1b[31mred\x1b[0m")
    assert screen.text() == "one" + "red" + "\ntwo"
    assert screen.line(0)[3].fg == "red"


def test_what_cannot_be_read_is_blank() -> None:
    assert fed(b"\x1b[2J\x1b[H\r\n  \x1b[7m \x1b[0m").is_blank
    assert not fed(b"\r\n .").is_blank
    assert not fed(b"GRUB" + b"\r\n" * 100).is_blank


def test_lines_that_leave_at_the_top_are_kept() -> None:
    screen = fed(b"".join(b"line %d\r\n" % number for number in range(100)))
    assert screen.text().splitlines()[0] == "line 0"
    assert screen.used == 101


def test_history_has_an_end() -> None:
    screen = fed(*(b"x\r\n" * 1000 for _ in range(10)))
    assert len(screen) <= 2000 + LINES


@pytest.mark.parametrize(
    "control",
    [b"\x1b]0;a title\x07", b"\x1b]52;c;aGk=\x1b\\", b"\x1bPqsixel\x1b\\", b"\x1b_apc\x1b\\", b"\x1b^pm\x1b\\",
     b"\x1bXsos\x1b\\", b"\x1b[?1;2;3;4K", b"\x1b[>c", b"\x1b[=5u", b"\x1b[999999999999999999A", b"\x1b[;;;;;;;;m",
     b"\x1b[38;5m", b"\x1b[38;2;1m", b"\x1b(B", b"\x1b%G", b"\x00\x7f\x9b", b"\x1b[5n", b"\x1b[c"],
)  # fmt: skip
def test_controls_leave_nothing_behind_wherever_they_are_cut(control: bytes) -> None:
    for cut in range(len(control) + 1):
        text = fed(b"a\r\n", control[:cut], control[cut:], b"\r\nb").text()
        assert "title" not in text
        assert "aGk" not in text
        assert text.endswith("b")


def test_an_endless_string_control_costs_no_memory() -> None:
    screen = fed(b"\x1b]0;", *(b"x" * 60000 for _ in range(20)), b"\x07after")
    assert screen.text() == "after"


def test_combining_characters_cannot_pile_up() -> None:
    screen = fed(("e" + "\u0301" * 10000).encode())
    assert len(screen.line(0)[0].data) == 1


def test_of_a_flood_the_end_is_drawn() -> None:
    assert fed(b"x" * 70 + b"\r\n" + b"y\r\n" * 1_000_000 + b"end").text().endswith("end")


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_bytes_at_all_break_it(pieces: list[bytes]) -> None:
    screen = fed(*pieces)
    assert all(line.isprintable() for line in screen.text().split("\n"))
    screen.feed(b"\x18\x1b\\\x1bc\x1b[2J\x1b[Hstill here")
    assert "still here" in screen.text()


@settings(max_examples=200)
@given(st.text(alphabet="\x1b[]?;0123456789ABCDHJKmhlrLMP@X(%#c\r\n\t\x08é日", max_size=200))
def test_no_sequence_breaks_it(text: str) -> None:
    screen = fed(text.encode())
    x, y = screen.cursor
    assert 0 <= x <= 132
    assert 0 <= y < len(screen)
    assert COLUMNS == 80


@pytest.mark.parametrize(
    ("key", "character", "data"),
    [("a", "a", b"a"), ("enter", "\r", b"\r"), ("escape", "\x1b", b"\x1b"), ("ctrl+c", "\x03", b"\x03"),
     ("up", None, b"\x1b[A"), ("f1", None, b"\x1bOP"), ("backspace", "\x7f", b"\x7f"), ("é", "é", "é".encode()),
     ("ctrl+z", "\x1a", b"\x1a"), ("shift+tab", None, b"\x1b[Z"), ("ctrl+f12", None, b"")],
)  # fmt: skip
def test_keys_are_sent_as_a_terminal_sends_them(key: str, character: str | None, data: bytes) -> None:
    assert Console().encode(key, character) == data


def test_cursor_keys_follow_the_mode_that_the_guest_asked_for() -> None:
    console = Console()
    console.serial.feed(b"\x1b[?1h")
    assert console.encode("up", None) == b"\x1bOA"
