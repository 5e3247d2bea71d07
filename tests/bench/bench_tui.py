"""The screen: from exec to the first frame against a bare Textual app, and the worst pause while 100,000 rows arrive.

The rows come from a source in memory, as fast as one thread can make them: no server could press the screen harder.
Beside it the same rows go into Textual's own DataTable, the widget that one would otherwise take.
"""

import asyncio
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable

from textual.app import App, ComposeResult
from textual.widgets import DataTable

from app.tui import FarbootApp, calm_collector
from tests.bench.measure import alternately, report
from tests.screens.fakes import HOME, FakeEngine, FakeGuests, entry

COUNT = 100_000

_BARE = "from textual.app import App\napp = App()\napp.call_later(app.call_after_refresh, app.exit)\napp.run()"
_OURS = (
    "from app.engine import Engine\nfrom app.tui import FarbootApp\nfrom probes.location import Location\n"
    "app = FarbootApp(Engine(), Location.parse('/usr/bin/')[0])\n"
    "app.call_later(app.call_after_refresh, app.exit)\napp.run()"
)


def main() -> None:
    """Print the figures."""
    calm_collector()
    ours, bare = alternately(lambda: _in_terminal(_OURS), lambda: _in_terminal(_BARE))
    report("exec to first frame and exit", ours, bare, "a bare Textual app")
    listing, table = asyncio.run(_arrivals_in_farboot()), asyncio.run(_arrivals_in_a_data_table())
    report(f"{COUNT:,} rows arrive: worst pause of the loop", listing[0], table[0], "DataTable, batches of 1,000")
    report(f"{COUNT:,} rows arrive: until all are shown", listing[1], table[1], "DataTable, batches of 1,000")
    print(f"{'filter them by one typed letter':48} {asyncio.run(_filter()) * 1000:9.1f} ms")


def _in_terminal(code: str) -> None:
    """Run Python in a terminal of its own, whose output is read as fast as it comes."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "PYTHONPATH": "."}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, close_fds=True
    )
    os.close(theirs)
    reader = threading.Thread(target=_drain, args=(ours,), daemon=True)
    reader.start()
    assert process.wait() == 0
    reader.join(1)
    os.close(ours)


def _drain(descriptor: int) -> None:
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:
        return


class _Pauses:
    """Measures the longest time for which the event loop did not come round."""

    worst = 0.0

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0)
            self.worst = max(self.worst, time.perf_counter() - before)


async def _watched(work: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    pauses = _Pauses()
    watcher = asyncio.create_task(pauses.watch())
    began = time.perf_counter()
    await work()
    watcher.cancel()
    return pauses.worst, time.perf_counter() - began


def _rows() -> FakeEngine:
    return FakeEngine([entry(f"vm-{number % 977}-disk-{number}.qcow2", number) for number in range(COUNT)])


async def _arrivals_in_farboot() -> tuple[float, float]:
    engine = _rows()
    app = FarbootApp(engine, None, FakeGuests())
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(0.5)
        browse = app.screen_stack[0]

        async def arrive() -> None:
            browse.open(HOME)  # type: ignore[attr-defined] # it is a Browse
            while not (browse.folder and browse.folder.done):  # type: ignore[attr-defined] # as above
                await pilot.pause(0.001)

        return await _watched(arrive)


async def _arrivals_in_a_data_table() -> tuple[float, float]:
    class Table(App[None]):
        def compose(self) -> ComposeResult:
            yield DataTable()

    app = Table()
    async with app.run_test(size=(120, 36)) as pilot:
        table = app.query_one(DataTable)
        table.add_columns("name", "size", "modified")
        await pilot.pause(0.5)

        async def arrive() -> None:
            for start in range(0, COUNT, 1000):
                table.add_rows([(f"vm-{n % 977}-disk-{n}.qcow2", str(n), "2026") for n in range(start, start + 1000)])
                await asyncio.sleep(0.001)

        return await _watched(arrive)


async def _filter() -> float:
    app = FarbootApp(_rows(), HOME, FakeGuests())
    async with app.run_test(size=(120, 36)) as pilot:
        browse = app.screen_stack[0]
        while not (browse.folder and browse.folder.done):  # type: ignore[attr-defined] # it is a Browse
            await pilot.pause(0.05)
        began = time.perf_counter()
        browse.listing.filter("9")  # type: ignore[attr-defined] # as above
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
