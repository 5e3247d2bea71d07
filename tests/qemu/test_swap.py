"""The swap: what was judged is what runs, or nothing does.

A server shows its first visitor a harmless image, and all others another one of the same size and ETag; a file is
replaced between the look and the start. On neither route does a guest run, and nothing of the host is read: strace
watches QEMU for it.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.engine import Engine, Prepared
from app.qemu.options import Options
from app.qemu.sessions.session import sessions
from probes.attachment import RouteWish
from probes.errors import Changed
from probes.location import Location
from tests.conftest import Farboot
from tests.formats.images import patch, qemu_img_create
from tests.qemu.conftest import Home
from tests.servers.swapping import SwappingSite

MIB = 1 << 20
ACCEPT = frozenset({"backing-file"})
SMALL = ("--memory", "64M", "--cpus", "1")  # whatever else this machine does meanwhile


class Swap:
    """What is shown at first and what later, by its path on the server; `/image` is booted. `tempts` says that QEMU's
    own driver then tries to open a file of the host, whatever it is told of backing files: all that keeps it out is how
    it is shut in.
    """

    def __init__(self, first: dict[str, bytes], later: dict[str, bytes], *, tempts: bool = False) -> None:
        assert {len(later[path]) for path in later} == {len(first[path]) for path in later}, "no size tells it"
        self.first, self.later, self.tempts = first, later, tempts


@pytest.fixture
def secret(scratch: Callable[[str], Path]) -> Path:
    """A file of the host's that no image may get at."""
    path = scratch("secret of the host")
    path.write_bytes(b"secret".ljust(MIB, b"."))
    path.chmod(0o644)
    return path


@pytest.fixture
def make(scratch: Callable[[str], Path]) -> Callable[..., bytes]:
    """Make a qcow2 and give its bytes."""

    def create(*options: str, size: str = "1M", form: str = "qcow2") -> bytes:
        return qemu_img_create(scratch("made"), size, form, *options).read_bytes()

    return create


def evened(first: bytes, later: bytes, *, tempts: bool = False) -> Swap:
    size = max(len(first), len(later), MIB)
    return Swap({"/image": first.ljust(size, b"\0")}, {"/image": later.ljust(size, b"\0")}, tempts=tempts)


@pytest.fixture(
    params=[
        "qcow2 gets a backing file", "qcow2 gets a data file", "raw becomes a qcow2", "vmdk becomes a descriptor",
        "a tail becomes a footer", "the base becomes a qcow2", "the overlay gets another base",
    ]
)  # fmt: skip
def swap(request: pytest.FixtureRequest, make: Callable[..., bytes], secret: Path) -> Swap:
    over_secret = make("-u", "-b", str(secret), "-F", "raw")
    match request.param:
        case "qcow2 gets a backing file":
            return evened(make(), over_secret)
        case "qcow2 gets a data file":
            decoy = secret.with_name(secret.name.replace("secret", "decoy!"))  # for qemu-img writes into it
            hostile = make("-o", f"data_file={decoy},data_file_raw=on")
            return evened(make(), hostile.replace(str(decoy).encode(), str(secret).encode()), tempts=True)
        case "raw becomes a qcow2":
            return evened(b"a harmless disk", over_secret)
        case "vmdk becomes a descriptor":
            text = '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n\n'
            extent = f'RW 2048 FLAT "{secret}" 0\nddb.adapterType = "ide"\n'
            return evened(make(form="vmdk"), (text + extent).encode(), tempts=True)
        case "a tail becomes a footer":
            disk, footer = b"disk".ljust(2 * MIB, b"\0"), make(form="vpc")[:512]
            return Swap({"/image": disk}, {"/image": disk[:-512] + footer})
        case "the base becomes a qcow2":
            base = b"a harmless disk".ljust(MIB, b"\0")
            later = over_secret.ljust(MIB, b"\0")
            return Swap({"/image": make("-u", "-b", "base", "-F", "raw"), "/base": base}, {"/base": later})
    base = bytes(MIB)
    first, later = make("-u", "-b", "base", "-F", "raw"), make("-u", "-b", "evil", "-F", "raw")
    return Swap({"/image": first, "/base": base, "/evil": base}, {"/image": later})


@pytest.mark.parametrize("route", ["direct", "bridge"])
def test_a_server_that_swaps_the_image_after_the_first_look_gets_nothing_run_and_nothing_read(
    farboot: Farboot, swap: Swap, secret: Path, route: str, scratch: Callable[[str], Path]
) -> None:
    log = scratch("trace")
    strace = [shutil.which("strace") or "strace", "-f", "-qq", "-e", "trace=open,openat,openat2,execve", "-o", str(log)]
    with SwappingSite(swap.first, swap.later) as site:
        boot = ("boot", f"{site.url}image", "--route", route, *SMALL, "--accept", "backing-file", "--json")
        done = traced(farboot, strace, *boot)
    assert done["error"] == "changed", done
    assert re.search("not those that were judged|was written since|it is .* now", str(done["why"])), done
    assert json.loads(farboot("ps", "--json").stdout) == []
    seen = log.read_text(errors="replace")
    tried = [line for line in seen.splitlines() if secret.name in line]
    assert bool(tried) == (swap.tempts and route == "direct"), "strace sees what QEMU is told to open"
    assert [line for line in tried if " = -1 " not in line] == []


def traced(farboot: Farboot, strace: list[str], *arguments: str) -> dict[str, object]:
    """Run Farboot and all that it starts under strace, and return the object that it prints."""
    argv = [*strace, farboot.python, "-m", "app", *arguments]
    home = farboot.environment["HOME"]
    done = subprocess.run(argv, env=farboot.environment, cwd=home, capture_output=True, text=True, check=False)
    told: dict[str, object] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("swap", ["the base becomes a qcow2"], indirect=True)
@pytest.mark.parametrize("route", ["direct", "bridge"])
def test_the_same_server_is_booted_from_while_it_is_honest(farboot: Farboot, swap: Swap, route: str) -> None:
    with SwappingSite(swap.first, swap.later, honest=True) as site:
        place = f"{site.url}image"
        done = farboot("boot", place, "--route", route, *SMALL, "--accept", "backing-file", "--json")
        assert done.returncode == 0, done.stderr
        farboot("stop", "--force", json.loads(done.stdout)["id"])


# Files of this host


@pytest.fixture
def prepared(home: Home, scratch: Callable[[str], Path]) -> Callable[[Path], Prepared]:
    """Prepare the boot of a file, as it is now."""

    def prepare(path: Path) -> Prepared:
        location = Location("file", path=str(path))
        return Engine().prepare(location, Options(accept=ACCEPT, route=RouteWish.AUTO, memory=64 << 20, cpus=1))

    return prepare


def replace_by(path: Path, content: bytes) -> None:
    """Put another file in its place, as large and as old."""
    found = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_size == found.st_size


def test_a_file_that_is_replaced_after_the_look_is_not_run(
    prepared: Callable[[Path], Prepared], scratch: Callable[[str], Path], make: Callable[..., bytes], secret: Path
) -> None:
    image = scratch("image.qcow2")
    image.write_bytes(make())
    hostile = make("-u", "-b", str(secret), "-F", "raw")
    image.write_bytes(image.read_bytes().ljust(len(hostile), b"\0"))
    boot = prepared(image)
    replace_by(image, hostile.ljust(image.stat().st_size, b"\0"))
    with pytest.raises(Changed):
        Engine().boot(boot)
    assert sessions() == []


def test_a_base_that_is_replaced_by_a_link_out_of_its_folder_is_not_run(
    prepared: Callable[[Path], Prepared], scratch: Callable[[str], Path], secret: Path
) -> None:
    base, top = scratch("base.raw"), scratch("top.qcow2")
    base.write_bytes(bytes(MIB))
    qemu_img_create(top, "1M", "qcow2", "-u", "-b", "base.raw", "-F", "raw")
    boot = prepared(top)
    base.unlink()
    base.symlink_to(secret)
    with pytest.raises(Changed):
        Engine().boot(boot)
    assert sessions() == []


def test_a_change_that_no_time_stamp_tells_is_seen_by_the_bytes(
    prepared: Callable[[Path], Prepared], scratch: Callable[[str], Path]
) -> None:
    """In the last sector, which the head of an image does not hold."""
    from dataclasses import replace

    from app.qemu.steps import CheckUnchanged

    image = scratch("image.raw")
    image.write_bytes(b"disk".ljust(4 * MIB, b"\0"))
    boot = prepared(image)
    patch(image, 4 * MIB - 512, b"conectix")
    forgetful = tuple(
        replace(step, pin=replace(step.pin, validator="")) if isinstance(step, CheckUnchanged) else step
        for step in boot.plan.steps
    )
    with pytest.raises(Changed, match="not those that were judged"):
        Engine().boot(replace(boot, plan=replace(boot.plan, steps=forgetful)))
    assert sessions() == []
