"""Telling what 200 mixed images 30 ms away are: Farboot, 16 at once, against `qemu-img info` one after another and 8 at
once; and what an image costs: requests, bytes, and round trips that wait for one another.

Farboot finds format, size and verdict without being told anything; qemu-img is told the format, for what it finds by
itself it must not be trusted with. Half a round trip passes before any byte arrives, either way, and one more before a
connection is there. One after another is measured with a part of the images, and reckoned up.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socket

from app.engine import Engine
from probes.location import Location
from probes.registry import open_source
from tests.bench.bench_ssh import ROUND_TRIP, FarAway
from tests.bench.measure import report
from tests.servers.ganesha import Export, Ganesha
from tests.servers.netns import Netns
from tests.servers.nginx import start_nginx
from tests.servers.sshd import Agent, make_home, start_sshd

COUNT = 200
AT_ONCE = 16
THEIRS_AT_ONCE = 8
PART = 10
"""Of so many images qemu-img looks at one, one after another."""

_DISK = 64 << 20
_FORMATS: Sequence[tuple[str, str, str]] = (
    ("qcow2", "qcow2", ""),
    ("qcow2", "qcow2", "-c"),
    ("qcow2", "qcow2", "-o cluster_size=4k"),
    ("raw", "raw", ""),
    ("vmdk", "vmdk", ""),
    ("vmdk", "vmdk", "-o subformat=streamOptimized"),
    ("vdi", "vdi", ""),
    ("vhdx", "vhdx", ""),
    ("vhd", "vpc", ""),
    ("vhd", "vpc", "-o subformat=fixed,force_size=on"),
    ("qcow2", "qcow2", "-o compat=0.10"),
    ("hdd", "parallels", ""),
    ("qed", "qed", ""),
    ("qcow", "qcow", ""),
    ("luks", "luks", "--object secret,id=s,data=abc -o key-secret=s,iter-time=10"),
)


@dataclass(frozen=True)
class Sample:
    """One image, and its format as QEMU is told it."""

    name: str
    form: str


def main() -> None:
    """Print the comparisons."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        samples = _make(folder / "images")
        print(f"{COUNT} images: {', '.join(sorted({sample.form for sample in samples}))}")
        _http(folder, samples)
        _ssh(folder, samples)
        _nfs(folder, samples)


def _make(folder: Path) -> list[Sample]:
    """Make one image of each kind out of one disk, and as many names for them as are wanted."""
    folder.mkdir()
    disk = folder.parent / "disk.raw"
    disk.write_bytes(b"")
    os.truncate(disk, _DISK)
    subprocess.run(["sfdisk", "-q", disk], input=b"label: gpt\nsize=8M, type=U\ntype=L\n", check=True)
    with disk.open("r+b") as file:
        file.seek(20 << 20)
        file.write(os.urandom(2 << 20))
    samples: list[Sample] = []
    for number, (ending, form, options) in enumerate(_FORMATS):
        first = folder / f"kind{number:02}.{ending}"
        subprocess.run(["qemu-img", "convert", "-O", form, *options.split(), disk, first], check=True)
        first.chmod(0o644)
    for number in range(COUNT):
        ending, form, _ = _FORMATS[number % len(_FORMATS)]
        os.link(folder / f"kind{number % len(_FORMATS):02}.{ending}", folder / f"image{number:03}.{ending}")
        samples.append(Sample(f"image{number:03}.{ending}", form))
    return samples


class _Far(FarAway):
    """It takes a round trip to connect, too."""

    def serve(self, client: socket) -> None:
        self.stopping.wait(ROUND_TRIP)
        super().serve(client)


def _serve(port: int, host: str, line: Connection) -> None:
    with _Far(port, host) as far:
        line.send(far.port)
        line.recv()


@contextmanager
def _far(port: int, host: str = "127.0.0.1") -> Iterator[int]:
    """A port that is far away, in a process of its own: what it takes to delay bytes is not to be measured."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(port, host, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join(5)


def _http(folder: Path, samples: list[Sample]) -> None:
    log = folder / "log"
    served = start_nginx(
        folder / "nginx",
        folder / "images",
        server=f"access_log {log} sizes; keepalive_requests 10000;",
        http="log_format sizes '$body_bytes_sent';",
    )
    with served.server, _far(served.port) as port:
        url = f"http://127.0.0.1:{port}/"
        _compare("http, 30 ms away", url, samples, lambda sample: f"{url}{sample.name}")
        log.write_text("")
        _farboot(url, samples)
        sizes = [int(line) for line in log.read_text().split()]
        print(f"{'  an image':48} {len(sizes) / COUNT:9.2f} requests, {sum(sizes) / COUNT / 1024:.1f} KiB")


def _ssh(folder: Path, samples: list[Sample]) -> None:
    home = make_home(folder / "home")
    os.environ["HOME"] = str(home.path)
    sshd = start_sshd(folder / "sshd")
    with sshd.server, Agent(folder) as agent, _far(sshd.port) as port:
        sshd.authorize(key := home.key())
        agent.add(key)
        os.environ["SSH_AUTH_SOCK"] = str(agent.socket)
        home.trust(sshd.known(), sshd.known(port=port))
        url = sshd.url(f"{folder}/images/").replace(f":{sshd.port}/", f":{port}/")
        _compare("ssh, 30 ms away", url, samples, lambda sample: f"{url}{sample.name}?host_key_check=no")


def _nfs(folder: Path, samples: list[Sample]) -> None:
    with Netns() as netns, Ganesha(netns, (Export("images"),)) as server:
        root = server.folder("images")
        for sample in samples[: len(_FORMATS)]:
            subprocess.run(["cp", "--sparse=always", folder / "images" / sample.name, root], check=True)
        for number, sample in enumerate(samples[len(_FORMATS) :]):
            os.link(root / samples[number % len(_FORMATS)].name, root / sample.name)
        url = str(server.location("images"))
        _compare("nfs, near by", url, samples, lambda sample: f"{url}{sample.name}")
        with ExitStack() as stack:
            ports = [stack.enter_context(_far(server.port(program), server.address)) for program in (100003, 100005)]
            far = f"nfs://127.0.0.1{root}/"
            query = f"?nfsport={ports[0]}&mountport={ports[1]}"
            ours = _time(lambda: _farboot(far, samples, query))
            print(f"{'nfs, 30 ms away, 16 at once':48} {ours * 1000:9.1f} ms   (QEMU's driver takes no ports)")
            print(f"{'  an image':48} {_trips(far, samples, query):9.2f} round trips, one after the other")


def _compare(what: str, url: str, samples: list[Sample], named: Callable[[Sample], str]) -> None:
    ours = statistics.median(_time(lambda: _farboot(url, samples)) for _ in range(3))
    some = samples[::PART]
    one_by_one = _time(lambda: [_info(named(sample), sample) for sample in some]) * len(samples) / len(some)
    with ThreadPoolExecutor(THEIRS_AT_ONCE) as pool:
        at_once = _time(lambda: _all(pool.map(_info, map(named, samples), samples)))
    report(f"{what}, 16 at once, from nothing", ours, one_by_one, "qemu-img info, one by one")
    report(f"{what}, 16 at once, from nothing", ours, at_once, "qemu-img info, 8 at once")
    print(f"{'  times as fast':48} {one_by_one / ours:9.1f} and {at_once / ours:.1f}")
    if "away" in what:
        print(f"{'  an image':48} {_trips(url, samples):9.2f} round trips, one after the other", flush=True)


def _farboot(url: str, samples: list[Sample], query: str = "") -> None:
    """Judge all of them as the listing does, with connections that are made for it."""
    engine = Engine()
    with open_source(Location.parse(url + query)[0]) as source, ThreadPoolExecutor(AT_ONCE) as pool:

        def glance(sample: Sample) -> None:
            judged = engine.glance(Location.parse(f"{url}{sample.name}{query}")[0], source)
            assert judged.image.format == sample.form, f"{sample}: {judged.image}"
            assert judged.image.virtual_size, f"{sample}: {judged.image}"

        glance(samples[0])
        _all(pool.map(glance, samples[1:]))


def _trips(url: str, samples: list[Sample], query: str = "") -> float:
    """How many round trips an image takes once connected: by the time it takes alone, as many as there are kinds."""
    engine, kinds = Engine(), len(_FORMATS)
    with open_source(Location.parse(url + query)[0]) as source:
        places = [Location.parse(f"{url}{sample.name}{query}")[0] for sample in samples[: 2 * kinds]]
        for place in places[:kinds]:
            engine.glance(place, source)
        taken = _time(lambda: [engine.glance(place, source) for place in places[kinds:]])
    return taken / kinds / ROUND_TRIP


def _info(url: str, sample: Sample) -> bytes:
    return subprocess.run(["qemu-img", "info", "-f", sample.form, url], check=True, stdout=subprocess.PIPE).stdout


def _all(done: Iterable[object]) -> None:
    for _ in done:
        pass


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
