"""Listing 10,000 files of a GlusterFS volume with their sizes. There is no native `ls` over libgfapi (a FUSE mount is
another thing), so it is compared with the bare library in this process, which makes nothing of what it reads.
"""

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

from probes.gluster.library import Library
from probes.location import Location
from probes.registry import open_source
from tests.bench.measure import alternately, report
from tests.servers.gluster import PORT, Gluster

COUNT = 10_000


def main() -> None:
    """Print the comparisons."""
    with Gluster() as gluster, tempfile.TemporaryDirectory() as name:
        for number in range(COUNT):
            (Path(name) / f"image-{number:06}.qcow2").touch()
        volume = gluster.volume("bench")
        gluster.fill(volume, Path(name))
        _compare(gluster.host, volume)


def _compare(host: str, volume: str) -> None:
    location = Location("gluster", host, f"/{volume}/")
    bare = _Bare(host, volume)

    def from_nothing() -> None:
        with open_source(location) as source:
            assert sum(1 for entry in source.entries(location) if entry.size == 0) == COUNT

    def first_row() -> None:
        with open_source(location) as source:
            next(iter(source.entries(location)))

    with open_source(location) as connected:

        def again() -> None:
            assert sum(1 for entry in connected.entries(location) if entry.size == 0) == COUNT

        for what, call in (
            ("from nothing", from_nothing),
            ("once connected", again),
            ("first row, from nothing", first_row),
        ):
            for beside, theirs_is in (("libgfapi, readdir", bare.readdir), ("libgfapi, readdirplus", bare.readdirplus)):
                ours, theirs = alternately(call, theirs_is, runs=3)
                report(f"{COUNT:,} gluster files {what}", ours, theirs, beside)
    ls = [sys.executable, "-m", "app", "ls", str(location)]
    ours, theirs = alternately(
        lambda: subprocess.run(ls, check=True, stdout=subprocess.DEVNULL), bare.readdirplus, runs=3
    )
    report(f"{COUNT:,} gluster files, farboot ls", ours, theirs, "libgfapi, readdirplus")


class _Bare:
    """libgfapi by itself, connected beforehand."""

    def __init__(self, host: str, volume: str) -> None:
        self._library = ctypes.CDLL("libgfapi.so.0", use_errno=True)
        for name in ("new", "opendir", "readdir"):
            getattr(self._library, f"glfs_{name}").restype = ctypes.c_void_p
        self._volume = ctypes.c_void_p(self._library.glfs_new(volume.encode()))
        self._library.glfs_set_volfile_server(self._volume, b"tcp", host.encode(), PORT)
        self._library.glfs_set_logging(self._volume, b"/dev/null", 0)
        assert self._library.glfs_init(self._volume) == 0
        self._stat = Library().stat()

    def readdir(self) -> None:
        """Names alone."""
        folder = ctypes.c_void_p(self._library.glfs_opendir(self._volume, b"/"))
        count = 0
        while self._library.glfs_readdir(folder):
            count += 1
        self._library.glfs_closedir(folder)
        assert count >= COUNT

    def readdirplus(self) -> None:
        """Names and stats."""
        folder = ctypes.c_void_p(self._library.glfs_opendir(self._volume, b"/"))
        entry, result, count = ctypes.create_string_buffer(2048), ctypes.c_void_p(), 0
        while True:
            failed = self._library.glfs_readdirplus_r(folder, ctypes.byref(self._stat), entry, ctypes.byref(result))
            assert failed == 0
            if not result:
                break
            count += 1
        self._library.glfs_closedir(folder)
        assert count >= COUNT


if __name__ == "__main__":
    main()
