"""Colours and glyphs: a dark theme for terminals with many colours, the terminal's own sixteen for the rest."""

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter
from textual.theme import Theme

_MANY = Theme(
    name="farboot",
    primary="#6cb2f0",
    secondary="#8fa4bd",
    accent="#6cb2f0",
    warning="#e2b45c",
    error="#f2777f",
    success="#7fc78f",
    foreground="#d5dbe3",
    background="#12161c",
    surface="#181d25",
    panel="#1f2630",
    dark=True,
    variables={
        "faint": "#7f8b99",
        "faint-style": "none",
        "line": "#2b3440",
        "bar": "#1f2630",
        "bar-text": "#d5dbe3",
        "cursor-back": "#23486b",
        "cursor-text": "#f2f6fa",
        "resting-back": "#232c37",
        "resting-text": "#d5dbe3",
        "resting-style": "none",
        "container": "#7cbcf5",
        "match-style": "bold underline",
        "match": "#f0c674",
        "good": "#7fc78f",
        "ask": "#e2b45c",
        "bad": "#f2777f",
        "code": "#a9d0b8",
        "dialog-back": "#1c232d",
        "scrollbar": "#35404d",
        "scrollbar-hover": "#46535f",
        "scrollbar-active": "#46535f",
        "scrollbar-background": "#12161c",
        "scrollbar-background-hover": "#12161c",
        "scrollbar-background-active": "#12161c",
        "input-selection-background": "#23486b",
    },
)

# Eight colours, bold and dim: a bare console has no bright ones. Foreground and background stay the terminal's own,
# which is right on light ones too.
_FEW = Theme(
    name="farboot-ansi",
    ansi=True,
    primary="ansi_blue",
    secondary="ansi_cyan",
    accent="ansi_cyan",
    warning="ansi_yellow",
    error="ansi_red",
    success="ansi_green",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    variables={
        "ansi-background": "ansi_black",
        "ansi-foreground": "ansi_white",
        "border-blurred": "ansi_blue",
        "block-cursor-foreground": "ansi_black",
        "block-cursor-background": "ansi_cyan",
        "screen-selection-background": "ansi_cyan",
        "screen-selection-foreground": "ansi_black",
        "faint": "ansi_default",
        "faint-style": "dim",
        "line": "ansi_blue",
        "bar": "ansi_blue",
        "bar-text": "ansi_white",
        "cursor-back": "ansi_cyan",
        "cursor-text": "ansi_black",
        "resting-back": "ansi_default",
        "resting-text": "ansi_default",
        "resting-style": "bold",
        "container": "ansi_cyan",
        "match-style": "bold underline",
        "match": "ansi_default",
        "good": "ansi_green",
        "ask": "ansi_yellow",
        "bad": "ansi_red",
        "code": "ansi_green",
        "dialog-back": "ansi_default",
        "scrollbar": "ansi_blue",
        "scrollbar-hover": "ansi_blue",
        "scrollbar-active": "ansi_blue",
        "scrollbar-background": "ansi_default",
        "scrollbar-background-hover": "ansi_default",
        "scrollbar-background-active": "ansi_default",
        "input-cursor-background": "ansi_white",
        "input-cursor-foreground": "ansi_black",
        "input-selection-background": "ansi_cyan",
        "input-selection-foreground": "ansi_black",
    },
)

THEMES = (_MANY, _FEW)


def theme_for(color_system: str | None) -> str:
    """The name of the theme for a terminal that has `color_system` (Rich's name for it)."""
    return _MANY.name if color_system in {"256", "truecolor"} else _FEW.name


_PLAIN = str.maketrans(
    {
        "…": "~", "›": ">", "•": "·", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"', "×": "x",
        "▁": " ", "▂": " ", "▃": " ", "▅": "█", "▆": "█", "▇": "█", "▊": "█", "▎": "▌", "▔": "▀",
        "╭": "┌", "╮": "┐", "╰": "└", "╯": "┘", "┃": "│", "━": "─",
    }
)  # fmt: skip


class PlainGlyphs(LineFilter):
    """Replaces what the font of a bare console lacks by what it has, one cell for one cell."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.text.isascii()
            else Segment(segment.text.translate(_PLAIN), segment.style, segment.control)
            for segment in segments
        ]
