"""A guest that takes two seconds: GRUB, which reads 4 MB of the image, checks their SHA-256, and says the marker.

For tests that boot to see that the image gets to the guest whole; the tiny guest, a Linux, is for those that need more.
"""

import hashlib
import random
import tempfile
from pathlib import Path

import pytest

from app.demo.guest import MARKER, GuestImages, make_disk, make_iso

# What a disk's GRUB has built in understands no conditions: those stand in a file of their own.
_CONFIG = """\
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
search --no-floppy --file --set=root /farboot/data
configfile /farboot/quick.cfg
"""
_QUICK = f"""\
if hashsum --hash sha256 --check /farboot/sums ; then echo {MARKER} ; else echo DAMAGED ; fi
while true ; do sleep 1 ; done
"""
_MODULES = ("hashsum", "gcry_sha256", "echo", "sleep", "test", "true")
_SIZE = 4_000_000  # bytes


@pytest.fixture(scope="session")
def quick_guest(tmp_path_factory: pytest.TempPathFactory) -> GuestImages:
    """The quick guest's ISO and raw disk; there is no qcow2."""
    images = GuestImages(tmp_path_factory.mktemp("quick-guest"))
    with tempfile.TemporaryDirectory(dir=images.folder) as name:
        work = Path(name)
        tree = work / "tree" / "farboot"
        tree.mkdir(parents=True)
        data = random.Random(4711).randbytes(_SIZE)
        (tree / "data").write_bytes(data)
        (tree / "quick.cfg").write_text(_QUICK)
        (tree / "sums").write_text(f"{hashlib.sha256(data).hexdigest()}  /farboot/data\n")
        make_iso(work, _CONFIG, _MODULES).replace(images.iso)
        make_disk(work, _CONFIG, _MODULES).replace(images.raw)
    return images
