"""How far away the storage is, learnt from how long reads of it take.

Over a long line a read is made large, for the way costs more than the bytes; next door it is the other way round.
"""

from collections import deque

NEAR = 0.002
"""Seconds: what answers sooner than this is near. A guest's read takes a fraction of it, and 64 KiB more of it."""
_REMEMBERED = 16


class Distance:
    """What the last reads tell. Far, until something is known.

    The quickest of them counts: the others may have waited for the processor, or for each other.
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=_REMEMBERED)
        self.is_near = False

    def note(self, seconds: float) -> None:
        """Note how long a short read took."""
        self._last.append(seconds)
        self.is_near = min(self._last) < NEAR
