"""TFTP: fetching an image, against curl and atftp's like, near and at 10 ms round trip, with and without windows."""

import os
import subprocess
import tempfile
from pathlib import Path

from probes.credentials import NO_CREDENTIALS
from probes.location import Location
from probes.sources.tftp import TftpSource
from tests.bench.measure import alternately, report
from tests.servers.tftpd import Tftpd, start_atftpd, start_tftpd_hpa
from tests.servers.udp_faults import UdpProxy

SIZE = 64 << 20
FAR_SIZE = 1 << 20


def main() -> None:
    """Print the comparisons."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        (home / "root").mkdir()
        (home / "root" / "image.raw").write_bytes(os.urandom(SIZE))
        (home / "root" / "small.raw").write_bytes(os.urandom(FAR_SIZE))
        os.environ["FARBOOT_CACHE_DIR"] = str(home / "cache")
        for title, server in (
            ("atftpd (windows)", start_atftpd(home / "atftpd", home / "root")),
            ("tftpd-hpa (one block a round trip)", start_tftpd_hpa(home / "hpa", home / "root")),
        ):
            with server.server:
                _compare(title, server, home)


def _compare(title: str, server: Tftpd, home: Path) -> None:
    _fetch(f"{title}, 64 MiB", f"tftp://{server.authority}/image.raw", home)
    with UdpProxy(server.port) as far:
        _fetch(f"{title}, 1 MiB, proxy", f"tftp://{far.authority}/small.raw", home)
        far.latency = 0.010
        _fetch(f"{title}, 1 MiB, 10 ms", f"tftp://{far.authority}/small.raw", home)


def _fetch(what: str, url: str, home: Path) -> None:
    location = Location.parse(url)[0]

    def ours() -> None:
        with TftpSource(NO_CREDENTIALS) as source:
            source.forget(location)
            source.fetch(location, lambda came, size: None)

    curl = ["curl", "-s", "--tftp-blksize", "1428", "-o", str(home / "curl"), url]
    one, other = alternately(ours, lambda: subprocess.run(curl, check=True), runs=2)
    report(what, one, other, "curl (blksize 1428)")


if __name__ == "__main__":
    main()
