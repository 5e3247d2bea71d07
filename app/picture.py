"""A guest's screen in a terminal's cells: as the text it is, where it is text, else in half blocks.

QEMU gives the screen as a picture. A VGA text mode draws its characters with the font of the VGA BIOS, whose file lies
beside QEMU: so each cell of the picture is looked up in that font, and what the guest wrote is read back.
"""

import io
import os
from functools import cache

from probes.errors import Unsupported
from widgets.picture import Grid, Run

_FONT_HOMES = (
    "/usr/share/seabios/vgabios-stdvga.bin",
    "/usr/share/seavgabios/vgabios-stdvga.bin",
    "/usr/share/qemu/vgabios-stdvga.bin",
    "/usr/share/kvm/vgabios-stdvga.bin",
    "/usr/share/pve-edk2-firmware/vgabios-stdvga.bin",
)
_SMILEY = bytes.fromhex("00007e81a58181bd9981817e00000000")
"""The glyph 1 of the 8×16 font: it finds the font in the file."""

_LOW = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
_CHARACTERS = _LOW + bytes(range(32, 256)).decode("cp437").replace("\x7f", "⌂").replace("\xa0", " ")
_CELL_HEIGHT = 16
_NEAR = 18
"""Of a glyph's 128 pixels, how many may differ: a cursor, another font of the same kind."""


def draw(png: bytes, columns: int, lines: int) -> Grid:
    """Return the picture in at most `columns` by `lines` cells; text modes in their own size.

    Raises Unsupported without Pillow, and for what is no picture.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise Unsupported("draw", "the guest's screen", "Pillow is not installed", "pip install pillow") from None
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise Unsupported("draw", "the guest's screen", f"QEMU's picture cannot be read: {error}") from None
    text = _as_text(image.tobytes(), *image.size)
    if text is not None:
        return text
    ratio = min(columns / image.width, lines * 2 / image.height, 1)
    width, height = max(1, int(image.width * ratio)), max(2, int(image.height * ratio) // 2 * 2)
    small = image.resize((width, height), Image.Resampling.BOX).tobytes()
    return _as_blocks(small, width, height)


def _as_blocks(pixels: bytes, width: int, height: int) -> Grid:
    row = width * 3
    grid = []
    for top in range(0, height, 2):
        runs: list[Run] = []
        for x in range(width):
            at = top * row + x * 3
            upper, lower = pixels[at : at + 3].hex(), pixels[at + row : at + row + 3].hex()
            _extend(runs, "▀", f"#{upper}", f"#{lower}")
        grid.append(tuple(runs))
    return tuple(grid)


def _as_text(pixels: bytes, width: int, height: int) -> Grid | None:
    """Read a text mode's picture back; None if it is none. Cells are 8 or 9 pixels wide and 16 high."""
    cell = {720: 9, 640: 8}.get(width)
    if cell is None or height % _CELL_HEIGHT or height > 800 or not _font():
        return None
    known: dict[bytes, tuple[str, str, str] | None] = {}
    grid, strange, filled = [], 0, 0
    row = width * 3
    for top in range(0, height, _CELL_HEIGHT):
        runs: list[Run] = []
        for left in range(0, width, cell):
            at = top * row + left * 3
            key = b"".join(pixels[at + y * row : at + y * row + 24] for y in range(_CELL_HEIGHT))
            if key not in known:
                known[key] = _read_cell(key)
            found = known[key]
            strange += found is None
            filled += found is None or found[0] != " "
            _extend(runs, *(found or ("?", "#aaaaaa", "#000000")))
        grid.append(tuple(runs))
    return tuple(grid) if strange <= filled // 10 else None


def _extend(runs: list[Run], character: str, fore: str, back: str) -> None:
    if runs and runs[-1][1:] == (fore, back):
        runs[-1] = (runs[-1][0] + character, fore, back)
    else:
        runs.append((character, fore, back))


def _read_cell(pixels: bytes) -> tuple[str, str, str] | None:
    """The character of a cell and its two colours."""
    points = [pixels[at : at + 3] for at in range(0, len(pixels), 3)]
    colours = list(dict.fromkeys(points))
    if len(colours) == 1:
        return " ", "#aaaaaa", f"#{colours[0].hex()}"
    if len(colours) != 2:
        return None
    first, second = colours
    bits = int("".join("1" if point == second else "0" for point in points), 2)
    normal, inverse = _nearest(bits), _nearest(bits ^ ((1 << 128) - 1))
    near, character, fore, back = min(
        (normal[0], normal[1], second, first), (inverse[0], inverse[1], first, second), key=lambda found: found[0]
    )
    return (character, f"#{fore.hex()}", f"#{back.hex()}") if near <= _NEAR else None


@cache
def _nearest(bits: int) -> tuple[int, str]:
    """How many pixels differ from the glyph that is nearest, and its character."""
    return min(((bits ^ glyph).bit_count(), character) for glyph, character in _font())


@cache
def _font() -> tuple[tuple[int, str], ...]:
    for path in _FONT_HOMES:
        if not os.path.exists(path):
            continue
        with open(path, "rb") as file:
            rom = file.read(1 << 20)
        start = rom.find(_SMILEY) - 16
        font = rom[start : start + 4096] if start >= 0 else b""
        if len(font) == 4096:
            glyphs = (int.from_bytes(font[i * 16 : i * 16 + 16], "big") for i in range(256))
            return tuple(zip(glyphs, _CHARACTERS, strict=True))
    return ()
