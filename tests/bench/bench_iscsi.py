"""Listing 200 LUNs with kind, vendor and size: Farboot against `iscsi-ls -s`, which tells no vendor; and reading."""

import subprocess
import sys
import tempfile

from probes.attachment import Mode, QemuFacts
from probes.location import Location
from probes.registry import open_source
from probes.sources.iscsi import IscsiSource
from tests.bench.measure import alternately, report
from tests.servers.faults import FaultyProxy
from tests.servers.tgt import Tgt

COUNT = 200
SIZE = 64 << 20
NAME = "iqn.2026-01.org.example:many"


def main() -> None:
    """Print the comparisons."""
    with Tgt() as tgt:
        target = tgt.target(NAME)
        path = target.lun(1, SIZE)
        for number in range(2, COUNT + 1):
            target.adm("--op", "new", "--mode", "logicalunit", "--lun", str(number), "--backing-store", str(path))
        _listing(tgt.port, "")
        with FaultyProxy(tgt.port) as proxy:
            proxy.latency = 0.01
            _listing(proxy.port, ", 10 ms away", runs=2)
        _reading(tgt.port)


def _listing(port: int, away: str, runs: int = 5) -> None:
    portal = Location("iscsi", f"127.0.0.1:{port}", "/")
    location = portal.child(NAME, container=True)

    def iscsi_ls() -> None:
        shown = subprocess.run(["iscsi-ls", "-s", str(portal)], check=True, capture_output=True, text=True).stdout
        assert shown.count("DIRECT_ACCESS") >= COUNT

    def from_nothing() -> None:
        with open_source(location) as source:
            assert sum(1 for entry in source.entries(location) if entry.size == SIZE) == COUNT

    def in_this_process() -> None:
        with IscsiSource() as source:
            assert sum(1 for entry in source.entries(location) if entry.size == SIZE) == COUNT

    with open_source(location) as connected:

        def again() -> None:
            assert sum(1 for entry in connected.entries(location) if entry.size == SIZE) == COUNT

        for what, call in (
            ("from nothing", from_nothing),
            ("without the helper process", in_this_process),
            ("once connected", again),
        ):
            if away and call is not from_nothing and call is not again:
                continue
            ours, theirs = alternately(call, iscsi_ls, runs)
            report(f"{COUNT} LUNs {what}{away}", ours, theirs, "iscsi-ls -s")
    if not away:
        ls = [sys.executable, "-m", "app", "ls", str(location)]
        ours, theirs = alternately(lambda: subprocess.run(ls, check=True, stdout=subprocess.DEVNULL), iscsi_ls, runs)
        report(f"{COUNT} LUNs, farboot ls", ours, theirs, "iscsi-ls -s")


def _reading(port: int) -> None:
    location = Location("iscsi", f"127.0.0.1:{port}", f"/{NAME}/1")
    with open_source(location) as source, tempfile.NamedTemporaryFile() as copy:
        portal = source.attach(location, QemuFacts((7, 2), frozenset({"iscsi"})), Mode.SNAPSHOT).node["portal"]
        options = f"driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},file.target={NAME},file.lun=1"

        def ours() -> None:
            with source.open(location) as reader:
                for offset in range(0, SIZE, 1 << 20):
                    assert len(reader.pread(offset, 1 << 20)) == 1 << 20

        def theirs() -> None:
            convert = ["qemu-img", "dd", "--image-opts", "-O", "raw", "bs=1M", f"if={options}", f"of={copy.name}"]
            subprocess.run(convert, check=True, capture_output=True)

        report(f"{SIZE >> 20} MiB read by a helper process", *alternately(ours, theirs, 3), "qemu-img dd")


if __name__ == "__main__":
    main()
