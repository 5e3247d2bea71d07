"""What the benchmarks share: several runs, medians, and a table of ratios."""

import statistics
import time
from collections.abc import Callable


def seconds(call: Callable[[], object], runs: int = 5) -> float:
    """Return the median time of `runs` calls, in seconds, after one that does not count."""
    call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def alternately(one: Callable[[], object], other: Callable[[], object], runs: int = 5) -> tuple[float, float]:
    """Return the median times of both, run in turn, so that a machine that slows down slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 1):
        for call, column in zip((one, other), times, strict=True):
            start = time.perf_counter()
            call()
            if number:
                column.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def report(what: str, ours: float, theirs: float, beside: str) -> None:
    """Print one comparison: our time, the other's, and the ratio."""
    print(f"{what:48} {ours * 1000:9.1f} ms   {beside:32} {theirs * 1000:9.1f} ms   ratio {ours / theirs:6.2f}")
