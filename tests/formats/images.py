"""Images made by the real tools, and changed byte by byte."""

import functools
import json
import os
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

from probes.identify import identify
from probes.image import Image
from tests.formats.readers import FileReader

MiB = 1 << 20

# qcow2 header fields, as (offset, struct format)
BACKING_OFFSET, BACKING_LENGTH, CLUSTER_BITS, VIRTUAL_SIZE = (8, ">Q"), (16, ">I"), (20, ">I"), (24, ">Q")
ENCRYPTION, L1_ENTRIES, L1_OFFSET, REFCOUNT_OFFSET = (32, ">I"), (36, ">I"), (40, ">Q"), (48, ">Q")
REFCOUNT_CLUSTERS, SNAPSHOTS, SNAPSHOTS_OFFSET, INCOMPATIBLE = (56, ">I"), (60, ">I"), (64, ">Q"), (72, ">Q")
REFCOUNT_ORDER, HEADER_LENGTH, COMPRESSION = (96, ">I"), (100, ">I"), (104, ">B")


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Run a tool and return what it printed; its complaint is the failure's text."""
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    done = subprocess.run(
        [str(word) for word in command], input=stdin, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
    return done.stdout


def qemu_img_create(path: Path, size: str | int = "64M", driver: str = "qcow2", *options: str) -> Path:
    run("qemu-img", "create", "-q", "-f", driver, *options, path, str(size))
    return path


def qemu_img_info(path: Path, *options: str) -> dict[str, Any]:
    """What QEMU says of an image that is known to be harmless."""
    told: dict[str, Any] = json.loads(run("qemu-img", "info", "--output=json", *options, path))
    return told


@functools.cache
def qemu_version() -> tuple[int, ...]:
    """The version of this machine's QEMU: some of them read a thing in another way."""
    found = re.search(r"version (\d+)\.(\d+)", run("qemu-img", "--version"))
    assert found
    return tuple(map(int, found.groups()))


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def set_field(path: Path, field: tuple[int, str], value: int) -> Path:
    return patch(path, field[0], struct.pack(field[1], value))


def copy_into(path: Path, offset: int, part: Path) -> Path:
    """Put the file `part` into the image `path`, at `offset`. What is zeros in both takes no room."""
    with path.open("r+b") as image, part.open("rb") as file:
        for at in range(offset, offset + part.stat().st_size, MiB):
            piece = file.read(MiB)
            image.seek(at)
            if image.read(len(piece)) != piece:
                image.seek(at)
                image.write(piece)
    return path


def judge(path: Path) -> Image:
    with FileReader(path) as reader:
        return identify(reader)


def codes(image: Image) -> set[str]:
    return {hazard.code for hazard in image.hazards}
