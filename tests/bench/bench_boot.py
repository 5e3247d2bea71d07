"""From key press to running guest, and to its marker: Farboot against the same QEMU typed by hand.

By hand means: QEMU alone, with the short `-drive` that a person would type, without confinement, checks or a
supervisor. Both run under whatever accelerator works here.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.demo.guest import MARKER, build
from app.demo.show import cache_folder
from app.engine import Engine
from app.qemu.options import Options
from app.qemu.sessions.session import stop, wait_for_text
from probes.location import Location
from tests.bench.measure import report
from tests.servers.nginx import start_nginx

RUNS = 5
BOOTS = 3


def main() -> None:
    """Print the comparisons."""
    guest = build(cache_folder().parent / "guest")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        os.environ["FARBOOT_RUNTIME_DIR"] = str(folder / "run")
        os.environ["FARBOOT_STATE_DIR"] = str(folder / "state")
        root = folder / "root"
        root.mkdir()
        (root / "guest.img").write_bytes(guest.raw.read_bytes())
        server = start_nginx(folder / "nginx", root)
        try:
            for what, place in (("file", str(guest.raw)), ("http", f"{server.url}guest.img")):
                _compare(what, place, folder)
        finally:
            server.server.stop()


def _compare(what: str, place: str, folder: Path) -> None:
    location, _ = Location.parse(place)
    engine = Engine()
    assert engine.host
    drive = engine.prepare(location, Options()).plan.drive or f"file={place},format=raw,snapshot=on,if=virtio"
    ours = [_farboot(engine, location, wait=False) for _ in range(RUNS)]
    theirs = [_by_hand(engine.host.qemu, drive, folder, wait=False) for _ in range(RUNS)]
    report(f"{what}: key press to running guest", _median(ours), _median(theirs), "QEMU by hand, to running")
    ours = [_farboot(engine, location, wait=True) for _ in range(BOOTS)]
    theirs = [_by_hand(engine.host.qemu, drive, folder, wait=True) for _ in range(BOOTS)]
    report(f"{what}: key press to the guest's marker", _median(ours), _median(theirs), "QEMU by hand, to the marker")


def _median(times: list[float]) -> float:
    return statistics.median(times)


def _farboot(engine: Engine, location: Location, wait: bool) -> float:
    start = time.perf_counter()
    session = engine.boot(engine.prepare(location, Options()))
    if wait:
        assert wait_for_text(session.id, MARKER, 120)
    taken = time.perf_counter() - start
    stop(session.id, force=True)
    return taken


def _by_hand(qemu: str, drive: str, folder: Path, wait: bool) -> float:
    path = str(folder / "qmp.sock")
    argv = [
        qemu, "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "2048M", "-drive", drive, "-display", "none",
        "-serial", "stdio", "-qmp", f"unix:{path},server=on,wait=off",
    ]  # fmt: skip
    start = time.perf_counter()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if wait:
            assert process.stdout is not None
            said = b""
            while MARKER.encode() not in said:
                said += os.read(process.stdout.fileno(), 65536)
        else:
            with _qmp(path) as ask:
                while ask("query-status")["status"] != "running":
                    pass
        return time.perf_counter() - start
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _qmp(path: str) -> Iterator[Callable[[str], dict[str, str]]]:
    pause, end = threading.Event(), time.monotonic() + 30
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        while line.connect_ex(path):
            assert time.monotonic() < end, "QEMU did not open its QMP socket"
            pause.wait(0.002)
        with line.makefile("rw") as file:
            file.readline()

            def ask(command: str) -> dict[str, str]:
                file.write(json.dumps({"execute": command}) + "\n")
                file.flush()
                while "return" not in (answer := json.loads(file.readline())):
                    pass
                result: dict[str, str] = answer["return"]
                return result

            ask("qmp_capabilities")
            yield ask


if __name__ == "__main__":
    main()
