"""A guest's serial line as a screen of text, whatever the guest sends: pyte, with what it lacks made safe.

Nothing of what a guest writes reaches the person's terminal as it is: pyte turns it into cells. Around it, string
controls that pyte would print or collect without bound (OSC, DCS, APC, PM, SOS) are dropped, zero-width characters
too, and a sequence that pyte does not take costs no more than itself.
"""

import re
import unicodedata
from collections import deque

import pyte
from pyte.screens import Char, Margins

COLUMNS, LINES = 80, 24
"""What a serial line's programs take for granted: a guest cannot ask for the size."""

_HISTORY = 2000
_STRING_START = re.compile(rb"\x1b[\]PX^_]")
_STRING_END = re.compile(rb"\x07|\x1b\\|\x18|\x1a")
_BEFORE_ESCAPE = re.compile(rb"(?=\x1b)")
_DROPPED = {"Cf", "Mn", "Me", "Cs", "Co", "Cn"}
_BIGGEST_STEP = 64 * 1024

Line = dict[int, Char]


class _Screen(pyte.Screen):
    """pyte's screen, which also keeps the lines that leave at its top."""

    def __init__(self) -> None:
        self.history: deque[Line] = deque(maxlen=_HISTORY)
        super().__init__(COLUMNS, LINES)

    def index(self) -> None:
        margins = self.margins or Margins(0, self.lines - 1)
        if self.cursor.y == margins.bottom and margins.top == 0:
            self.history.append(dict(self.buffer[0]))
        super().index()

    def draw(self, data: str) -> None:
        if not data.isascii():
            data = unicodedata.normalize("NFC", data)
            data = "".join(character for character in data if unicodedata.category(character) not in _DROPPED)
        super().draw(data)

    def set_title(self, param: str) -> None:
        """A guest does not name our window."""

    set_icon_name = set_title


class SerialScreen:
    """Takes the bytes of a serial line, gives lines of styled characters."""

    def __init__(self) -> None:
        self._screen = _Screen()
        self._stream = pyte.ByteStream(self._screen)
        self._in_string = False
        self._held = b""
        self.received = 0

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and line of the cursor, history counted."""
        return self._screen.cursor.x, len(self._screen.history) + self._screen.cursor.y

    @property
    def cursor_hidden(self) -> bool:
        """Whether the guest asked for no cursor."""
        return bool(self._screen.cursor.hidden)

    @property
    def keypad_sends_ss3(self) -> bool:
        """Whether the guest asked for application cursor keys (DECCKM)."""
        return (1 << 5) in self._screen.mode

    def __len__(self) -> int:
        """How many lines there are, history and screen."""
        return len(self._screen.history) + LINES

    @property
    def is_blank(self) -> bool:
        """Whether nothing can be read on it: a firmware that only clears the screen has said nothing."""
        if self._screen.history:
            return False
        return all(character.data == " " for line in self._screen.buffer.values() for character in line.values())

    @property
    def used(self) -> int:
        """How many lines there are but for the empty ones below the cursor."""
        last = self._screen.cursor.y
        for y, line in self._screen.buffer.items():
            if y > last and any(character.data != " " for character in line.values()):
                last = y
        return len(self._screen.history) + last + 1

    def line(self, index: int) -> Line:
        """The characters of a line by column; blanks may be missing."""
        history = self._screen.history
        return history[index] if index < len(history) else self._screen.buffer[index - len(history)]

    def text(self) -> str:
        """All lines as plain text, without trailing blanks."""
        lines = []
        for index in range(len(self)):
            line = self.line(index)
            lines.append("".join(line[x].data if x in line else " " for x in range(COLUMNS)).rstrip())
        return "\n".join(lines).rstrip("\n")

    def feed(self, data: bytes) -> None:
        """Take what the guest sent. Of a flood only the last 64 KiB are drawn: the log has all of it."""
        self.received += len(data)
        if len(data) > _BIGGEST_STEP:
            data = data[-_BIGGEST_STEP:]
            data = data[data.find(b"\n") + 1 :]
        for piece in _BEFORE_ESCAPE.split(self._without_strings(data)):
            try:
                self._stream.feed(piece)
            except (TypeError, ValueError, IndexError, KeyError, AttributeError):
                # pyte raises for sequences with parameters that it did not foresee, and starts over: so do we
                continue

    def _without_strings(self, data: bytes) -> bytes:
        """Drop OSC, DCS, APC, PM and SOS strings, also such as are cut in two by the end of `data`."""
        data, self._held = self._held + data, b""
        kept = []
        while data:
            if self._in_string:
                end = _STRING_END.search(data)
                if end is None:
                    self._held = data[-1:] if data.endswith(b"\x1b") else b""
                    break
                self._in_string = False
                data = data[end.end() :]
            start = _STRING_START.search(data)
            if start is None:
                if data.endswith(b"\x1b"):
                    data, self._held = data[:-1], b"\x1b"
                kept.append(data)
                break
            kept.append(data[: start.start()])
            data, self._in_string = data[start.end() :], True
        return b"".join(kept)
