"""Listing 10,000 NBD exports: Farboot against `nbdinfo --list --json` and `qemu-nbd --list`, which ask for every size.

Over a Unix socket, for nbdinfo makes a connection an export and over TCP waits 200 ms in each for a delayed
acknowledgement: there it gets 100 exports. Farboot has all names, and the sizes that can be had within a second.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import probes.sources.nbd
from probes.location import Location
from probes.registry import open_source
from tests.bench.measure import alternately, report
from tests.servers.faults import FaultyProxy
from tests.servers.nbdkit import start_nbdkit, start_nbdkit_on_socket

COUNT = 10_000
FEW = 100
RTT = 0.03  # seconds


def main() -> None:
    """Print the comparisons."""
    with tempfile.TemporaryDirectory() as name:
        for count in (COUNT, FEW):
            (Path(name) / str(count)).mkdir()
            for number in range(count):
                (Path(name) / str(count) / f"image-{number:06}.qcow2").touch()
        path = f"{name}/nbd.sock"
        local = start_nbdkit_on_socket(Path(name) / "local", path, "-r", "file", f"dir={name}/{COUNT}")
        many = start_nbdkit(Path(name) / "many", "-r", "file", f"dir={name}/{COUNT}")
        few = start_nbdkit(Path(name) / "few", "-r", "file", f"dir={name}/{FEW}")
        try:
            _compare(Location("nbd+unix", "", "/", f"socket={path}"), ["-k", path])
            _against(f"{FEW} NBD exports over TCP", _browse(Location("nbd", few.authority, "/"), FEW),
                     _run("nbdinfo", "--list", "--json", "--no-content", f"nbd://{few.authority}"))  # fmt: skip
            with FaultyProxy(many.port) as far:
                far.latency = RTT
                _far(Location("nbd", far.authority, "/"))
        finally:
            for server in (local, many.server, few.server):
                server.stop()


def _compare(location: Location, qemu_nbd: list[str]) -> None:
    usual = probes.sources.nbd.SIZES_WITHIN
    nbdinfo = _run("nbdinfo", "--list", "--json", "--no-content", str(location))
    for theirs in (nbdinfo, _run("qemu-nbd", "--list", *qemu_nbd)):
        for what, limit in (("all sizes", 600.0), ("names alone", -1.0), ("as in the TUI", usual)):
            probes.sources.nbd.SIZES_WITHIN = limit
            _against(f"{COUNT:,} NBD exports, {what}", _browse(location, COUNT), theirs)
        probes.sources.nbd.SIZES_WITHIN = usual
        _against(f"{COUNT:,} NBD exports, farboot ls", _run(sys.executable, "-m", "app", "ls", str(location)), theirs)


def _far(location: Location) -> None:
    def first() -> None:
        with open_source(location) as source:
            next(iter(source.entries(location)))

    ours, theirs = alternately(first, _browse(location, COUNT), runs=2)
    report(f"first row of {COUNT:,} at {RTT * 1000:.0f} ms", ours, theirs, "the whole listing")


def _browse(location: Location, count: int) -> Callable[[], None]:
    def browse() -> None:
        with open_source(location) as source:
            assert sum(1 for _ in source.entries(location)) == count

    return browse


def _run(*argv: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)

    run.__doc__ = " ".join(argv[:3])
    return run


def _against(what: str, ours: Callable[[], None], theirs: Callable[[], None]) -> None:
    one, other = alternately(ours, theirs, runs=1)
    report(what, one, other, theirs.__doc__ or "")


if __name__ == "__main__":
    main()
