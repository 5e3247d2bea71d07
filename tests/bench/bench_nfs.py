"""Listing 10,000 and 100,000 entries of an NFS server: Farboot against nfs-ls (libnfs-utils), also at 30 ms RTT."""

import subprocess
import sys

from probes.location import Location
from probes.registry import open_source
from tests.bench.measure import alternately, report
from tests.servers.faults import FaultyProxy
from tests.servers.ganesha import Export, Ganesha
from tests.servers.netns import Netns

FAR = 10_000
"""Entries that are listed over the long line."""

RTT = 0.030  # seconds


def main() -> None:
    """Print the comparisons."""
    with Netns() as netns, Ganesha(netns, (Export("images"),)) as server:
        for count in (FAR, 100_000):
            folder = server.folder("images") / str(count)
            folder.mkdir()
            for number in range(count):
                (folder / f"image-{number:06}.qcow2").touch()
            _compare(f"{server.location('images')}{count}/", count)
        with (
            FaultyProxy(server.port(100003), server.address) as nfs,
            FaultyProxy(server.port(100005), server.address) as mount,
        ):
            nfs.latency = mount.latency = RTT
            place = f"nfs://127.0.0.1{server.folder('images')}/{FAR}/?nfsport={nfs.port}&mountport={mount.port}"
            _compare(place, FAR, " at 30 ms round trip")


def _compare(place: str, count: int, how: str = "") -> None:
    location, _ = Location.parse(place)
    native = ["nfs-ls", place.replace("/?", "?").removesuffix("/")]

    def nfs_ls() -> None:
        done = subprocess.run(native, check=True, capture_output=True)
        assert done.stdout.count(b".qcow2") == count

    def from_nothing() -> None:
        with open_source(location) as source:
            assert sum(1 for _ in source.entries(location)) == count

    def first_row() -> None:
        with open_source(location) as source:
            next(iter(source.entries(location)))

    with open_source(location) as connected:

        def again() -> None:
            assert sum(1 for _ in connected.entries(location)) == count

        for what, call in (
            ("from nothing", from_nothing),
            ("once connected", again),
            ("first row, from nothing", first_row),
        ):
            ours, theirs = alternately(call, nfs_ls, runs=2)
            report(f"{count:,} on NFS{how}, {what}", ours, theirs, "nfs-ls")
    ls = [sys.executable, "-m", "app", "ls", place]
    ours, theirs = alternately(lambda: subprocess.run(ls, check=True, stdout=subprocess.DEVNULL), nfs_ls, runs=2)
    report(f"{count:,} on NFS{how}, farboot ls", ours, theirs, "nfs-ls")


if __name__ == "__main__":
    main()
