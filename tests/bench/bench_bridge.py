"""Reading an image of a web server: through the bridge, against QEMU's own http driver as a person would type it.

`qemu-img bench` reads, in both cases. Each run starts with empty caches, and the time is that of the reads alone. QEMU
7.2's http driver sometimes loses a wake-up with several requests in flight and then waits for ever: such a run is
counted as "hung" and not timed.
"""

import os
import re
import socket
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.qemu.bridge.serve import Expected
from tests.bench.measure import report
from tests.qemu.bridge_process import BridgeProcess, judged
from tests.servers.faults import FaultyProxy
from tests.servers.nginx import start_nginx

SIZE = 256 << 20
RUNS = 3
LIMIT = 60.0
"""Seconds after which a run counts as hung; the longest sound one takes a few."""
SCATTER = (37 << 20) + 4096
"""Bytes between two scattered reads: they wrap around the image and never meet a place twice."""


@dataclass(frozen=True)
class Reads:
    """`count` reads of `size` bytes each, `step` bytes apart, `depth` of them in flight."""

    name: str
    count: int
    size: int
    step: int
    depth: int


def _all_reads(thorough: bool) -> list[Reads]:
    share = 1 if thorough else 8  # with a round trip to each, fewer will do
    return [
        reads
        for depth in (1, 16)
        for reads in (
            Reads(f"straight 4k, depth {depth}", 20_000 // share, 4096, 4096, depth),
            Reads(f"scattered 4k, depth {depth}", 2_000 // share, 4096, SCATTER, depth),
            Reads(f"straight 2M, depth {depth}", 128 // share, 2 << 20, 2 << 20, depth),
        )
    ]


class _FarAway(FaultyProxy):
    """A proxy that adds latency and nothing else: small packets are not held back."""

    def adopt(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().adopt(connection)


def main() -> None:
    """Print the comparisons."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        root = Path(name) / "root"
        root.mkdir()
        (root / "image.raw").write_bytes(os.urandom(SIZE))
        web = start_nginx(Path(name) / "nginx", root)
        with web.server, _FarAway(web.port) as proxy:
            proxy.latency = 0.010
            print(subprocess.check_output(["qemu-img", "--version"], text=True).partition("\n")[0])
            expected = judged(f"{web.url}image.raw")
            for title, port, thorough in (("", web.port, True), ("10 ms round trip, ", proxy.port, False)):
                for reads in _all_reads(thorough):
                    _compare(f"{title}{reads.name}", f"http://127.0.0.1:{port}/image.raw", expected, reads, Path(name))


def _compare(title: str, url: str, expected: Expected, reads: Reads, folder: Path) -> None:
    ours: list[float | None] = []
    theirs: list[float | None] = []
    for _ in range(RUNS):
        with BridgeProcess(folder / "bridge", url, expected) as bridge:
            ours.append(_seconds(bridge.uri, reads))
        theirs.append(_seconds(url, reads))
    hung = [side.count(None) for side in (ours, theirs)]
    medians = [statistics.median([each for each in side if each is not None] or [LIMIT]) for side in (ours, theirs)]
    report(title, medians[0], medians[1], "QEMU's http" + (f" ({hung[1]} of {RUNS} hung)" if hung[1] else ""))
    assert not hung[0], "the bridge hung"


def _seconds(uri: str, reads: Reads) -> float | None:
    """The time that the reads took, or None if they never ended."""
    argv = ["qemu-img", "bench", "-f", "raw", "-c", str(reads.count), "-d", str(reads.depth), "-s", str(reads.size)]
    try:
        said = subprocess.run(
            [*argv, "-S", str(reads.step), uri], check=True, capture_output=True, text=True, timeout=LIMIT
        ).stdout
    except subprocess.TimeoutExpired:
        return None
    found = re.search(r"Run completed in ([\d.]+) seconds", said)
    assert found, said
    return float(found[1])


if __name__ == "__main__":
    main()
