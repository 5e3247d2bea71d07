"""Which Linux it is, by its own os-release(5), where the root filesystem is one whose files are cheap to find (ext)."""

import re
from collections.abc import Sequence
from dataclasses import replace

from probes.image import Family, Guest, Partition
from probes.mapping import CannotMap
from probes.media.ext_files import ExtFiles
from probes.reader import Reader
from probes.recording import OverBudget
from probes.text import clean

_MAX_ROOTS = 2
_EXT = frozenset({"ext2", "ext3", "ext4"})
_PATHS = ("etc/os-release", "usr/lib/os-release")  # the first is mostly a symbolic link to the second


def release_name(reader: Reader, partitions: Sequence[Partition], guest: Guest) -> Guest:
    """Return `guest` with the name that the Linux on one of `partitions` gives itself; as it is where that is not seen.

    Raises what `reader` raises; not where it would cost too much, or cannot be followed.
    """
    if guest != Guest(Family.LINUX, "Linux"):
        return guest
    roots = [part for part in partitions if part.filesystem and part.filesystem.type in _EXT]
    roots.sort(key=lambda part: (not part.type.startswith("Linux root"), -part.size))
    for part in roots[:_MAX_ROOTS]:
        try:
            text = ExtFiles(reader, part.start, min(part.size, reader.size - part.start)).first(*_PATHS)
        except (CannotMap, OverBudget):
            break
        name = _pretty_name(text.decode("utf-8", "replace")) if text else ""
        if name:
            return replace(guest, name=name)
    return guest


def _pretty_name(text: str) -> str:
    """Return PRETTY_NAME, else NAME and VERSION_ID, cleaned; empty if there is neither."""
    values = {
        found[1]: re.sub(r"\\(.)", r"\1", found[2].strip().strip("\"'"))
        for found in re.finditer(r"^([A-Z_]+)=(.*)$", text, re.MULTILINE)
    }
    name = values.get("PRETTY_NAME") or f"{values.get('NAME', '')} {values.get('VERSION_ID', '')}"
    return clean(name.strip(), 60)
