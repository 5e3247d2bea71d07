"""Listing 1,000 rbd images with their sizes: Farboot against `rbd ls -l`, which opens each image."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from probes.location import Location
from probes.registry import open_source
from tests.bench.measure import alternately, report
from tests.servers.ceph import Ceph

COUNT = 1_000


def main() -> None:
    """Print the comparisons."""
    with Ceph() as ceph:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: ceph.image("rbd", f"image-{number:06}", 1 << 30), range(COUNT)))
        _compare(ceph)


def _compare(ceph: Ceph) -> None:
    location = Location("rbd", path="rbd", query=f"conf={ceph.conf}")

    def rbd_ls() -> None:
        assert ceph.cli("rbd", "ls", "-l", "rbd").count("\n") >= COUNT

    def from_nothing() -> None:
        with open_source(location) as source:
            assert sum(1 for entry in source.entries(location) if entry.size == 1 << 30) == COUNT

    def first_row() -> None:
        with open_source(location) as source:
            next(iter(source.entries(location)))

    with open_source(location) as connected:

        def again() -> None:
            assert sum(1 for entry in connected.entries(location) if entry.size == 1 << 30) == COUNT

        for what, call in (
            ("from nothing", from_nothing),
            ("once connected", again),
            ("first row, from nothing", first_row),
        ):
            ours, theirs = alternately(call, rbd_ls, runs=2)
            report(f"{COUNT:,} rbd images {what}", ours, theirs, "rbd ls -l")
    ls = [sys.executable, "-m", "app", "ls", str(location)]
    ours, theirs = alternately(lambda: subprocess.run(ls, check=True, stdout=subprocess.DEVNULL), rbd_ls, runs=2)
    report(f"{COUNT:,} rbd images, farboot ls", ours, theirs, "rbd ls -l")


if __name__ == "__main__":
    main()
