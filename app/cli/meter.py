"""How far a fetch is, on one line of the terminal that is written over and over."""

import sys
import time

from probes.words import how_far, human_size

_PAUSE = 0.2  # seconds between two looks


class Meter:
    """Is told the bytes that came and how many there will be (`probes.source.Progress`); silent where stderr is no
    terminal.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._next = 0.0
        self._is_shown = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, came: int, size: int | None) -> None:
        now = time.monotonic()
        is_last = size is not None and came >= size
        if not self._is_shown or (now < self._next and not is_last):
            return
        self._next = now + _PAUSE
        speed = human_size(int(came / max(now - self._begun, 0.001)))
        line = f"fetching {how_far(came, size)}, {speed}/s"
        print(f"\r{line:60}", end="\n" if is_last else "", file=sys.stderr, flush=True)
