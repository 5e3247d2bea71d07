"""A guest's serial console: watched, and typed into once it is taken hold of.

While it holds the keyboard everything goes to the guest, Esc, Tab and Ctrl-C too; Ctrl-] alone lets go, as with
telnet and virsh.
"""

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from widgets.serial_screen import COLUMNS, SerialScreen

RELEASE = "ctrl+right_square_bracket"

_CURSOR_KEYS = {"up": "A", "down": "B", "right": "C", "left": "D", "home": "H", "end": "F"}
_KEYS = {
    "enter": "\r", "tab": "\t", "shift+tab": "\x1b[Z", "backspace": "\x7f", "escape": "\x1b", "delete": "\x1b[3~",
    "insert": "\x1b[2~", "pageup": "\x1b[5~", "pagedown": "\x1b[6~", "f1": "\x1bOP", "f2": "\x1bOQ", "f3": "\x1bOR",
    "f4": "\x1bOS", "f5": "\x1b[15~", "f6": "\x1b[17~", "f7": "\x1b[18~", "f8": "\x1b[19~", "f9": "\x1b[20~",
    "f10": "\x1b[21~", "f11": "\x1b[23~", "f12": "\x1b[24~", "ctrl+@": "\x00", "ctrl+backslash": "\x1c",
    "ctrl+circumflex_accent": "\x1e", "ctrl+underscore": "\x1f", "ctrl+space": "\x00",
}  # fmt: skip
_COLOURS = {"brown": "yellow", "brightbrown": "bright_yellow", "bfightmagenta": "bright_magenta"}
_NAMED = frozenset({"black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"})


class Console(ScrollView, can_focus=True):
    """Shows a `SerialScreen`; says with `Typed` what is meant for the guest."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "hold", "Type", key_display="enter"),
        Binding("up,k", "scroll_up", "Up", show=False),
        Binding("down,j", "scroll_down", "Down", show=False),
        Binding("pageup", "page_up", "Page up", show=False),
        Binding("pagedown,space", "page_down", "Page down", show=False),
        Binding("home", "scroll_home", "First", show=False),
        Binding("end", "scroll_end", "Last", show=False),
        Binding(RELEASE, "release", "Let go of the keyboard", key_display="ctrl+]"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"console--cursor", "console--faint"}
    DEFAULT_CSS = """
    Console { height: 1fr; overflow-x: hidden; overflow-y: auto; scrollbar-gutter: stable; }
    """

    holding = reactive(False, bindings=True)
    """Whether what is typed goes to the guest."""

    class Typed(Message):
        """Bytes for the guest."""

        def __init__(self, data: bytes) -> None:
            super().__init__()
            self.data = data

    class Held(Message):
        """The console took hold of the keyboard, or let go of it."""

        def __init__(self, holding: bool) -> None:
            super().__init__()
            self.holding = holding

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self.serial = SerialScreen()
        self.placeholder = ""
        self.closed = False

    def close(self, why: str) -> None:
        """The line has ended; `why` is told if it never said a word."""
        self.closed = True
        self.holding = False
        self.placeholder = why
        self.refresh()

    def feed(self, data: bytes) -> None:
        """Show what the guest sent; the view follows its end unless it was scrolled away from it."""
        following = self.scroll_offset.y >= self.max_scroll_y - 1
        self.serial.feed(data)
        self.virtual_size = Size(COLUMNS, self.serial.used)
        if following:
            self._follow()
        self.refresh()

    def _follow(self) -> None:
        """Show the last line that is used, and as much above it as fits."""
        self.scroll_to(y=self.max_scroll_y, animate=False, force=True, immediate=True)

    def on_resize(self) -> None:
        """Keep the cursor in sight."""
        self.virtual_size = Size(COLUMNS, self.serial.used)
        self.call_after_refresh(self._follow)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The key that lets go shows only while there is something to let go of."""
        if action == "release":
            return self.holding
        return not self.holding and not (action == "hold" and self.closed)

    def action_hold(self) -> None:
        """Let what is typed go to the guest."""
        self.holding = True

    def action_release(self) -> None:
        """Let keys be commands again."""
        self.holding = False

    def watch_holding(self, holding: bool) -> None:
        """Say so, and look so."""
        self.set_class(holding, "-holding")
        self.post_message(self.Held(holding))
        if holding:
            self._follow()
        self.refresh()

    def on_blur(self) -> None:
        """What does not have the focus does not hold the keyboard."""
        self.holding = False

    async def _on_key(self, event: events.Key) -> None:
        if not self.holding:
            if event.key == "enter" and not self.closed:  # at once: what is typed on behind it is the guest's already
                event.stop()
                self.holding = True
            return
        event.stop()
        event.prevent_default()
        if event.key == RELEASE:
            self.holding = False
            return
        data = self.encode(event.key, event.character)
        if data:
            self.post_message(self.Typed(data))

    def on_paste(self, event: events.Paste) -> None:
        """Paste into the guest, if it is typed into."""
        if self.holding:
            event.stop()
            self.post_message(self.Typed(event.text.replace("\r\n", "\r").replace("\n", "\r").encode()))

    def encode(self, key: str, character: str | None) -> bytes:
        """Return the bytes that a serial terminal sends for a key; none for a key that it does not have."""
        if key in _CURSOR_KEYS:
            return f"\x1b{'O' if self.serial.keypad_sends_ss3 else '['}{_CURSOR_KEYS[key]}".encode()
        if key in _KEYS:
            return _KEYS[key].encode()
        if key.startswith("ctrl+") and len(key) == 6 and key[5].isalpha():
            return bytes([ord(key[5].upper()) - 64])
        return character.encode() if character else b""

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.rich_style
        index = y + round(self.scroll_offset.y)
        if self.serial.is_blank and 1 <= y <= len(words := self.placeholder.splitlines()):
            faint = self.get_component_rich_style("console--faint")
            return Strip([Segment(f"  {words[y - 1]}", faint)]).adjust_cell_length(width, base)
        if index >= len(self.serial):
            return Strip.blank(width, base)
        return self._line(index, base).adjust_cell_length(width, base)

    def _line(self, index: int, base: Style) -> Strip:
        line = self.serial.line(index)
        cursor_x, cursor_y = self.serial.cursor
        at = cursor_x if cursor_y == index and not self.serial.cursor_hidden and self.has_focus else -1
        segments: list[Segment] = []
        run, run_look = "", None
        for x in range(COLUMNS):
            character = line.get(x)
            data = character.data if character else " "
            look = (character[1:] if character else None, x == at)
            if look != run_look:
                if run:
                    segments.append(Segment(run, self._style(run_look, base)))
                run, run_look = "", look
            run += data
        if run:
            segments.append(Segment(run, self._style(run_look, base)))
        return Strip(segments)

    def _style(self, look: object, base: Style) -> Style:
        attributes, is_cursor = look if isinstance(look, tuple) else (None, False)
        style = base
        if attributes is not None:
            fg, bg, bold, italics, underscore, strikethrough, reverse, _blink = attributes
            style = base + Style(
                color=_colour(fg), bgcolor=_colour(bg), bold=bold or None, italic=italics or None,
                underline=underscore or None, strike=strikethrough or None, reverse=reverse or None,
            )  # fmt: skip
        return style + self.get_component_rich_style("console--cursor", partial=True) if is_cursor else style


def _colour(name: str) -> str | None:
    """What Rich calls the colour that pyte calls `name`; None for the default."""
    name = _COLOURS.get(name, name)
    if name in _NAMED or name.startswith("bright_"):
        return name
    if name.startswith("bright") and name[6:] in _NAMED:
        return f"bright_{name[6:]}"
    return f"#{name}" if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name) else None
