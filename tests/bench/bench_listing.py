"""Listing 10,000 and 100,000 entries of a web server: Farboot against curl, which only fetches the page."""

import subprocess
import sys
import tempfile
from pathlib import Path

from probes.location import Location
from probes.registry import open_source
from tests.bench.measure import alternately, report
from tests.servers.nginx import start_nginx


def main() -> None:
    """Print the comparisons."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        for count in (10_000, 100_000):
            (root / str(count)).mkdir(parents=True)
            for number in range(count):
                (root / str(count) / f"image-{number:06}.qcow2").touch()
        server = start_nginx(Path(name) / "nginx", root)
        try:
            for count in (10_000, 100_000):
                _compare(f"{server.url}{count}/", count)
        finally:
            server.server.stop()


def _compare(url: str, count: int) -> None:
    location, _ = Location.parse(url)
    curl = ["curl", "--silent", "--output", "/dev/null", url]

    def browse() -> None:
        with open_source(location) as source:
            assert sum(1 for _ in source.entries(location)) == count

    ours, theirs = alternately(browse, lambda: subprocess.run(curl, check=True), runs=3)
    report(f"list {count:,} entries over http, in the TUI", ours, theirs, "curl (fetches, parses nothing)")
    ls = [sys.executable, "-m", "app", "ls", url]
    ours, theirs = alternately(
        lambda: subprocess.run(ls, check=True, stdout=subprocess.DEVNULL), lambda: subprocess.run(curl, check=True), 3
    )
    report(f"farboot ls, {count:,} entries, whole process", ours, theirs, "curl (fetches, parses nothing)")


if __name__ == "__main__":
    main()
