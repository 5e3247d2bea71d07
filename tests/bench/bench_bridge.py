"""Reading an image through the bridge, against QEMU's own driver: the node that QEMU would be given.

    python -m tests.bench.bench_bridge [http] [ssh] [nbd] [nfs] [iscsi] [rbd] [sheepdog]      all of them without any

`qemu-img bench` reads, in both cases. Each run starts with empty caches, and the time is that of the reads alone. QEMU
7.2's http driver sometimes loses a wake-up with several requests in flight and then waits for ever: such a run is
counted as "hung" and not timed. Nobody but the bridge speaks Sheepdog: beside it QEMU reads a local file.
"""

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from app.qemu.bridge.serve import Expected
from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.location import Location
from probes.registry import open_source
from tests.bench.measure import report
from tests.qemu.bridge_process import BridgeProcess, judged
from tests.servers.ceph import Ceph
from tests.servers.faults import FaultyProxy
from tests.servers.ganesha import Export, Ganesha
from tests.servers.nbdkit import start_nbdkit
from tests.servers.netns import Netns
from tests.servers.nginx import start_nginx
from tests.servers.sheep import start_sheep
from tests.servers.sshd import Agent, make_home, start_sshd
from tests.servers.tgt import Tgt

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


@dataclass(frozen=True)
class Place:
    """An image on a server: `location` with `{port}` where the port goes, if one can stand in between."""

    location: str
    port: int = 0


def _all_reads(thorough: bool) -> list[Reads]:
    share = 1 if thorough else 8  # with a round trip to each, fewer will do
    return [
        reads
        for depth in (1, 16)
        for reads in (
            Reads(f"straight 4k, depth {depth}", 20_000 // share**2, 4096, 4096, depth),
            Reads(f"scattered 4k, depth {depth}", 2_000 // share, 4096, SCATTER, depth),
            Reads(f"straight 2M, depth {depth}", 128 // share, 2 << 20, 2 << 20, depth),
        )
    ]


class _FarAway(FaultyProxy):
    """A proxy that adds latency and nothing else: small packets are not held back."""

    def adopt(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().adopt(connection)


# The servers, each with the image


@contextlib.contextmanager
def _http(image: Path, folder: Path) -> Iterator[Place]:
    web = start_nginx(folder / "nginx", image.parent)
    with web.server:
        yield Place("http://127.0.0.1:{port}/" + image.name, web.port)


@contextlib.contextmanager
def _ssh(image: Path, folder: Path) -> Iterator[Place]:
    sshd, home = start_sshd(folder / "sshd"), make_home(folder / "home")
    (folder / "agent").mkdir()
    key = home.key()
    sshd.authorize(key)
    (home.ssh / "config").write_text("StrictHostKeyChecking yes\n")
    with sshd.server, Agent(folder / "agent") as agent:
        agent.add(key)
        environment = {"HOME": str(home.path), "SSH_AUTH_SOCK": str(agent.socket)}
        with mock.patch.dict(os.environ, environment):
            # Under whatever port: the proxy's is not known yet.
            home.trust(*(line.replace(f"[127.0.0.1]:{sshd.port}", "*", 1) for line in [sshd.known()]))
            yield Place(sshd.url(image).replace(f":{sshd.port}/", ":{port}/"), sshd.port)


@contextlib.contextmanager
def _nbd(image: Path, folder: Path) -> Iterator[Place]:
    server = start_nbdkit(folder / "nbdkit", "file", f"dir={image.parent}")
    with server.server:
        yield Place("nbd://127.0.0.1:{port}/" + image.name, server.port)


@contextlib.contextmanager
def _nfs(image: Path, folder: Path) -> Iterator[Place]:
    with Netns() as network, Ganesha(network, (Export("bench"),)) as ganesha:
        os.link(image, ganesha.folder("bench") / image.name)
        yield Place(f"{ganesha.location('bench')}{image.name}")


@contextlib.contextmanager
def _iscsi(image: Path, folder: Path) -> Iterator[Place]:
    with Tgt() as tgt:
        target = tgt.target("bench")
        target.lun(1, image)
        yield Place("iscsi://127.0.0.1:{port}/" + f"{target.name}/1", tgt.port)


@contextlib.contextmanager
def _rbd(image: Path, folder: Path) -> Iterator[Place]:
    with Ceph() as ceph:
        ceph.image("rbd", "image", image.read_bytes())
        yield Place(f"rbd:rbd/image:conf={ceph.conf}")


@contextlib.contextmanager
def _sheepdog(image: Path, folder: Path) -> Iterator[Place]:
    sheep = start_sheep(folder / "sheep")
    sheep.store.create("image", image.read_bytes())
    with sheep.server:
        yield Place("sheepdog://127.0.0.1:{port}/image", sheep.port)


SERVERS: Mapping[str, Callable[[Path, Path], contextlib.AbstractContextManager[Place]]] = {
    "http": _http, "ssh": _ssh, "nbd": _nbd, "nfs": _nfs, "iscsi": _iscsi, "rbd": _rbd, "sheepdog": _sheepdog,
}  # fmt: skip


def main(wanted: list[str]) -> None:
    """Print the comparisons."""
    print(subprocess.check_output(["qemu-img", "--version"], text=True).partition("\n")[0])
    for name in wanted or SERVERS:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            image = Path(folder, "root", "image.raw")
            image.parent.mkdir()
            image.write_bytes(os.urandom(SIZE))
            with SERVERS[name](image, Path(folder)) as place, _FarAway(place.port) as proxy:
                proxy.latency = 0.010
                _compare_all(name, place.location.format(port=place.port), True, image, Path(folder))
                if place.port:
                    far = place.location.format(port=proxy.port)
                    _compare_all(f"{name}, 10 ms round trip", far, False, image, Path(folder))


def _compare_all(title: str, location: str, thorough: bool, image: Path, folder: Path) -> None:
    direct, beside = _direct(location), "QEMU's own"
    if direct is None:
        direct, beside = str(image), "a local file"
    expected = judged(location)
    for reads in _all_reads(thorough):
        _compare(f"{title}, {reads.name}", location, expected, direct, beside, reads, folder)


def _direct(location: str) -> str | None:
    """What `qemu-img` takes to read it by QEMU's own driver, if it has one."""
    place, _ = Location.parse(location)
    said = subprocess.run(["qemu-img", "--help"], check=True, capture_output=True, text=True).stdout
    facts = QemuFacts((7, 2), frozenset(said.partition("Supported formats:")[2].split()), RouteWish.DIRECT)
    with open_source(place) as source:
        if place.scheme == "sheepdog":
            return None
        attached = source.attach(place, facts, Mode.SNAPSHOT)
    assert attached.route is Route.DRIVER
    node = dict(attached.node)
    if attached.secrets:  # cephx: the bench's own cluster has a keyring
        node = {key: value for key, value in node.items() if key not in {"conf", "server", "auth-client-required"}}
        node["conf"] = place.query.removeprefix("conf=")
    return "json:" + json.dumps({"driver": "raw", "file": node})


def _compare(
    title: str, location: str, expected: Expected, direct: str, beside: str, reads: Reads, folder: Path
) -> None:
    ours: list[float | None] = []
    theirs: list[float | None] = []
    for _ in range(RUNS):
        with BridgeProcess(folder / "bridge", location, expected) as bridge:
            ours.append(_seconds(bridge.uri, reads))
        theirs.append(_seconds(direct, reads))
    hung = [side.count(None) for side in (ours, theirs)]
    medians = [statistics.median([each for each in side if each is not None] or [LIMIT]) for side in (ours, theirs)]
    report(title, medians[0], medians[1], beside + (f" ({hung[1]} of {RUNS} hung)" if hung[1] else ""))
    assert not hung[0], "the bridge hung"


def _seconds(uri: str, reads: Reads) -> float | None:
    """The time that the reads took, or None if they never ended."""
    argv = ["qemu-img", "bench", "-c", str(reads.count), "-d", str(reads.depth), "-s", str(reads.size)]
    argv += [] if uri.startswith("json:") else ["-f", "raw"]
    try:
        done = subprocess.run(
            [*argv, "-S", str(reads.step), uri], check=False, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return None
    found = re.search(r"Run completed in ([\d.]+) seconds", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


if __name__ == "__main__":
    main(sys.argv[1:])
