"""FTP: listing 10,000 and 100,000 entries against lftp and curl; reading over the bridge against QEMU's own driver."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from probes.location import Location
from probes.registry import open_source
from tests.bench.measure import alternately, report
from tests.qemu.bridge_process import BridgeProcess, judged
from tests.servers.ftp_proxy import FtpProxy
from tests.servers.pyftpd import Pyftpd
from tests.servers.vsftpd import start_vsftpd

SIZE = 128 << 20
SCATTER = (37 << 20) + 4096
"""Bytes between two scattered reads."""
LIMIT = 120.0
"""Seconds after which a run counts as hung."""
RUNS = 3


def main() -> None:
    """Print the comparisons."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        root = Path(name) / "root"
        for folder in (Path(name), root):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        for count in (10_000, 100_000):
            (root / str(count)).mkdir()
            for number in range(count):
                (root / str(count) / f"image-{number:06}.qcow2").touch()
        (root / "image.raw").write_bytes(os.urandom(SIZE))
        vsftpd = start_vsftpd(Path(name) / "vsftpd", root)
        with vsftpd.server, Pyftpd(root) as pyftpd, FtpProxy(vsftpd.port, 0.010) as far:
            for count in (10_000, 100_000):
                _list(f"{count:,} entries by LIST (vsftpd)", vsftpd.authority, count)
                _list(f"{count:,} entries by MLSD (pyftpdlib)", pyftpd.authority, count)
            print(subprocess.check_output(["qemu-img", "--version"], text=True).partition("\n")[0])
            for title, port in (("", vsftpd.port), ("10 ms, ", far.port)):
                url = f"ftp://127.0.0.1:{port}/image.raw"
                for what, count, size, step, depth in (
                    ("straight 4k", 400, 4096, 4096, 1),
                    ("straight 1M", 64, 1 << 20, 1 << 20, 1),
                    ("scattered 4k", 100, 4096, SCATTER, 1),
                    ("scattered 4k, depth 16", 200, 4096, SCATTER, 16),
                ):
                    _read(f"{title}{what}", url, Path(name), count, size, step, depth)


def _list(what: str, authority: str, count: int) -> None:
    url = f"ftp://{authority}/{count}/"
    location = Location.parse(url)[0]

    def ours() -> None:
        with open_source(location) as source:
            assert sum(1 for _ in source.entries(location)) == count

    tools = {
        "lftp (cls -1)": ["lftp", "-c", f"open ftp://{authority}; cls -1 /{count}/"],
        "curl (fetches, parses nothing)": ["curl", "-s", "-o", "/dev/null", url],
    }
    for beside, argv in tools.items():
        one, other = alternately(ours, partial(_run, argv), runs=2)
        report(what, one, other, beside)
    ls = [sys.executable, "-m", "app", "ls", url]
    one, other = alternately(lambda: _run(ls), lambda: _run(tools["lftp (cls -1)"]), runs=1)
    report(f"farboot ls, {what}", one, other, "lftp (cls -1)")


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def _read(what: str, url: str, folder: Path, count: int, size: int, step: int, depth: int) -> None:
    expected = judged(url)
    ours: list[float] = []
    theirs: list[float] = []
    argv = ["qemu-img", "bench", "-f", "raw", "-c", str(count), "-d", str(depth), "-s", str(size), "-S", str(step)]
    for _ in range(RUNS):
        with BridgeProcess(folder / "bridge", url, expected) as bridge:
            ours.append(_seconds([*argv, bridge.uri]))
        theirs.append(_seconds([*argv, url]))
    hung = f" ({theirs.count(LIMIT)} of {RUNS} hung)" if LIMIT in theirs else ""
    report(f"bridge, {what}", statistics.median(ours), statistics.median(theirs), f"QEMU's ftp{hung}")


def _seconds(argv: list[str]) -> float:
    try:
        said = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=LIMIT).stdout
    except subprocess.TimeoutExpired:
        return LIMIT
    found = re.search(r"Run completed in ([\d.]+) seconds", said)
    assert found, said
    return float(found[1])


if __name__ == "__main__":
    main()
