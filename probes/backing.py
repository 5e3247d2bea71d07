"""The name that an image gives its backing image: may it be followed at all?

QEMU would open whatever stands there: a file of the host, a block graph in JSON, another server. Farboot follows only
the plain name of a file beside the image, on the same server, and asks before it does.
"""

import re

from probes.image import Backing, Hazard, Verdict
from probes.reader import Reader
from probes.text import clean, is_clean

MAX_NAME = 1023
"""Bytes of a name at most, as to QEMU."""

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,100}")  # what may stand in a command as it is


def read_name(reader: Reader, offset: int, length: int) -> str:
    """Return the name of `length` bytes at `offset` of an image, a C string to QEMU; what in it is
    no text as surrogates. Raises what `reader` raises.
    """
    raw = reader.pread(offset, min(length, MAX_NAME))
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def judge_name(backing: Backing) -> Hazard:
    """Return what follows from the name alone: ASK for one beside the image, else REFUSE."""
    shown = clean(backing.name, 200)
    outside = _outside(backing.name)
    if outside:
        text = f"It needs a backing image, {shown}, {outside}: that is never followed.{_remedy(backing)}"
        return Hazard("backing-outside", text, Verdict.REFUSE)
    text = f"It needs a backing image, {shown}, beside it: that is opened as well."
    return Hazard("backing-file", text, Verdict.ASK)


def _remedy(backing: Backing) -> str:
    """What a person can do who made the image: snapshots of libvirt's, for one, name their parent by a whole path."""
    name = backing.name.rpartition("/")[2]
    if not backing.name.startswith("/") or not _PLAIN.fullmatch(name) or "." not in name:  # /etc/shadow is no image
        return ""
    told = f"-F {backing.format} " if _PLAIN.fullmatch(backing.format or "") else ""
    return f" If it lies beside the image: qemu-img rebase -u {told}-b {name} IMAGE."


def _outside(name: str) -> str:
    """Say why `name` is none of a file beside the image; empty if it is one."""
    before, colon, _ = name.partition(":")
    if colon and "/" not in before:  # QEMU's path_has_protocol (block.c)
        return "which names a protocol or a place of its own"
    if name.startswith(("/", "\\")):
        return "by a path of its own"
    if ".." in name.replace("\\", "/").split("/"):
        return "which leads out of its folder"
    if any(part.startswith(".") and part != "." for part in name.split("/")):
        return "which is a hidden file"  # ~/.ssh/id_ed25519 lies beside what was downloaded to ~
    if not is_clean(name) or "\\" in name or len(name) > MAX_NAME:
        return "whose name is not one that anybody types"
    return ""
