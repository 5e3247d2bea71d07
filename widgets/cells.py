"""Fitting texts into terminal cells."""

from rich.cells import cell_len, set_cell_size


def fit(text: str, width: int) -> str:
    """Return `text` in exactly `width` cells: padded, or with `…` for the part of its middle that does not fit.

    The end stays, for that is where names differ (`-amd64.qcow2`). Wide characters are never cut in half.
    """
    if width <= 0:
        return ""
    length = cell_len(text)
    if length <= width:
        return text + " " * (width - length)
    if width < 8:
        return set_cell_size(text, width - 1) + "…"
    tail = min(width // 3, 16)
    end = text[-tail:]
    while cell_len(end) > tail:
        end = end[1:]
    return set_cell_size(text, width - 1 - cell_len(end)) + "…" + end


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` cells, `…` being the last where it was longer."""
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
