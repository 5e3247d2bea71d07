"""A guest's screen, read back from QEMU's picture of it."""

import io

import pytest
from PIL import Image

from app import picture
from app.picture import draw
from probes.errors import Unsupported
from widgets.picture import Grid

_WIDTH, _HEIGHT = 720, 400


def picture_of(*lines: str, fore: tuple[int, int, int] = (170, 170, 170), width: int = _WIDTH) -> bytes:
    """The picture that QEMU gives of a VGA text screen with these lines, drawn with the VGA BIOS's own font."""
    glyphs = {character: glyph for glyph, character in picture._font()}
    image = Image.new("RGB", (width, _HEIGHT))
    cell = width // 80
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            bits = glyphs[character]
            for at in range(128):
                if bits >> (127 - at) & 1:
                    image.putpixel((column * cell + at % 8, row * 16 + at // 8), fore)
    return _png(image)


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _text(grid: Grid) -> list[str]:
    return ["".join(run[0] for run in line).rstrip() for line in grid]


@pytest.mark.parametrize("width", [720, 640])
def test_a_text_mode_is_read_back_as_its_text(width: int) -> None:
    lines = ("GNU GRUB  version 2.06", "", "│ *Debian GNU/Linux ▒▄ │", "0123456789 !\"#$%&'()*+,-./")
    assert _text(draw(picture_of(*lines, width=width), 80, 24))[:4] == list(lines)


def test_colours_survive() -> None:
    grid = draw(picture_of("red", fore=(170, 0, 0)), 80, 24)
    assert grid[0][0] == ("red", "#aa0000", "#000000")


def test_a_glyph_that_is_nearly_one_is_taken_for_it() -> None:
    image = Image.open(io.BytesIO(picture_of("cursor")))
    for x in range(8):
        image.putpixel((x, 14), (170, 170, 170))  # a cursor's line
    assert _text(draw(_png(image), 80, 24))[0] == "cursor"


def test_a_graphical_screen_becomes_half_blocks_that_fit() -> None:
    image = Image.linear_gradient("L").convert("RGB").resize((1280, 800))
    grid = draw(_png(image), 80, 22)
    assert len(grid) == 22
    assert all(sum(len(run[0]) for run in line) <= 80 for line in grid)
    assert set("".join(_text(grid))) == {"▀"}


def test_a_graphical_screen_of_a_text_modes_size_is_not_taken_for_text() -> None:
    noise = Image.effect_noise((720, 400), 90).convert("RGB")
    assert "▀" in _text(draw(_png(noise), 80, 24))[0]


def test_what_is_no_picture_is_an_error_of_ours() -> None:
    with pytest.raises(Unsupported, match="cannot be read"):
        draw(b"\x89PNG\r\n\x1a\n" + b"x" * 100, 80, 24)
