"""OVF: the description of a virtual appliance, an XML text; of it, how large each disk is that a file holds.

DMTF DSP0243 (OVF 2), sections 7 and 9.1. It is searched, not parsed: no entity is expanded, and a text that is cut
short still gives what stands in it.
"""

import html
import re

MAX_TEXT = 256 << 10
"""Bytes of the text that are looked at."""

_MAX_DISKS = 64
_ELEMENT = re.compile(r"<(?:[\w.-]{1,40}:)?(File|Disk)\s([^<>]{1,2000})>")
_ATTRIBUTE = re.compile(
    r"""(?:[\w.-]{1,40}:)?(href|id|fileRef|capacity|capacityAllocationUnits)\s?=\s?["']([^"'<>]{0,500})["']"""
)
_UNITS = re.compile(r"byte(?: ?\* ?(2|10)\^([0-9]{1,2}))?", re.IGNORECASE)
_OLD_UNITS = {"Bytes": 1, "KiloBytes": 1 << 10, "MegaBytes": 1 << 20, "GigaBytes": 1 << 30}


def read_disks(data: bytes) -> dict[str, int]:
    """Return the files that hold disks, by name, with the disk's size in bytes (0 where it does not say)."""
    files: dict[str, str] = {}
    disks: dict[str, int] = {}
    for element in _ELEMENT.finditer(data[:MAX_TEXT].decode("utf-8", "replace")):
        known = {key: html.unescape(value) for key, value in _ATTRIBUTE.findall(element[2])}
        if len(files) + len(disks) >= 2 * _MAX_DISKS:
            break
        if element[1] == "File" and known.get("id") and known.get("href"):
            files[known["id"]] = known["href"]
        elif element[1] == "Disk" and known.get("fileRef"):
            disks[known["fileRef"]] = _capacity(known)
    return {files[reference]: size for reference, size in disks.items() if reference in files}


def _capacity(known: dict[str, str]) -> int:
    number = known.get("capacity", "")
    if not (number.isascii() and number.isdigit() and len(number) < 20):  # it may be a reference to a property
        return 0
    units = known.get("capacityAllocationUnits", "byte")
    match = _UNITS.fullmatch(units.strip())
    if match:
        return int(number) * (int(match[1]) ** int(match[2]) if match[1] else 1)
    return int(number) * _OLD_UNITS.get(units, 0)
