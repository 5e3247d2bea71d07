"""CRC-32C (Castagnoli, RFC 3720 appendix B.4), by which a VHDX seals its headers.

A VHDX seals 64 KiB of which all but a hundred bytes are zeros: those are neither needed nor walked through.
"""

_REFLECTED = 0x82F63B78
_ONES = 0xFFFFFFFF


def crc32c(data: bytes, length: int = 0) -> int:
    """Return the CRC-32C of `data`, or of `data` followed by zeros up to `length` bytes."""
    kept = data.rstrip(b"\0")
    state = _ONES
    for byte in kept:
        state = state >> 8 ^ _TABLE[(state ^ byte) & 0xFF]
    return _after_zeros(state, max(length, len(data)) - len(kept)) ^ _ONES


def _byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_REFLECTED if value & 1 else 0)
    return value


_TABLE = tuple(_byte(value) for value in range(256))

_Step = tuple[int, ...]
"""What a run of zeros does to a state: linear, so what becomes of each of its 32 bits says all."""


def _apply(step: _Step, state: int) -> int:
    result = 0
    while state:
        low = state & -state
        result ^= step[low.bit_length() - 1]
        state ^= low
    return result


def _doublings() -> tuple[_Step, ...]:
    """Return the steps of 1, 2, 4… zeros, up to 64 KiB."""
    steps = [tuple((1 << bit) >> 8 ^ _TABLE[(1 << bit) & 0xFF] for bit in range(32))]
    for _ in range(16):
        steps.append(tuple(_apply(steps[-1], column) for column in steps[-1]))
    return tuple(steps)


_STEPS = _doublings()


def _after_zeros(state: int, count: int) -> int:
    for power, step in enumerate(_STEPS):
        if count >> power & 1:
            state = _apply(step, state)
    return state
