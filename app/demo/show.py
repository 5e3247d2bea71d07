"""The demonstration: real bootable images from Debian's packages, on a web server of Farboot's own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from app.command import self_command
from app.demo.guest import build
from probes.errors import FarbootError
from probes.location import Location

_PACKAGED = {
    "grub-rescue-cdrom.iso": "/usr/lib/grub-rescue/grub-rescue-cdrom.iso",
    "ipxe.iso": "/usr/lib/ipxe/ipxe.iso",
    "memtest86+x64.iso": "/usr/lib/memtest86+/memtest86+x64.iso",
}


def cache_folder() -> Path:
    """Where the demonstration's images are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "farboot" / "demonstration"


def prepare(folder: Path) -> Path:
    """Gather the images in `folder`: the tiny guest, built on the first run, and those that packages ship.

    What cannot be had is left out; raises FarbootError only when that leaves nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failure: FarbootError | None = None
    images: dict[str, Path] = {name: Path(target) for name, target in _PACKAGED.items()}
    try:
        guest = build(folder.parent / "guest")
        images |= {path.name: path for path in (guest.iso, guest.raw, guest.qcow2)}
    except FarbootError as error:
        failure = error
    for name, target in images.items():
        link = folder / name
        if target.exists() and not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(target)
    if failure and not any(folder.glob("*.iso")):
        raise failure
    return folder


@contextlib.contextmanager
def demonstration(folder: Path | None = None) -> Iterator[Location]:
    """Serve the demonstration's images and give their place.

    The server is a process of its own: it outlives the caller for as long as a guest runs from it.
    """
    folder = prepare(folder or cache_folder())
    server = subprocess.Popen(
        [*self_command(), "demo-server", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    with server.stdin, server.stdout:
        url = server.stdout.readline().strip()
        if not url:
            raise FarbootError("start", "the demonstration's web server", "it ended at once")
        yield Location.parse(url)[0]
