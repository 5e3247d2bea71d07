"""The block devices of this host, as `lsblk` (util-linux 2.37 or later) tells them."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

from probes.entry import Entry, Kind
from probes.errors import BadAnswer, Crashed, MissingClient, TimedOut
from probes.host.files import sysfs_value
from probes.location import Location
from probes.text import clean

_COLUMNS = "NAME,TYPE,SIZE,RO,RM,MODEL,TRAN,FSTYPE,LABEL,MOUNTPOINTS,PKNAME,KNAME"
_SYSTEM = frozenset(["/", "/boot", "/boot/efi", "/usr", "/var", "[SWAP]"])
_TYPES = {"rom": "CD drive", "part": "partition", "lvm": "LVM volume", "crypt": "decrypted", "mpath": "multipath"}

Row = dict[str, Any]
"""One device of `lsblk --json`, with its "children"."""


def list_devices(location: Location, deadline: float) -> list[Entry]:
    """Return the block devices, partitions after their disk. Raises MissingClient without lsblk, TimedOut."""
    command = ["lsblk", "--json", "--bytes", "--paths", "--output", _COLUMNS]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline, check=False)
    except FileNotFoundError:
        why = "the program lsblk is not installed"
        raise MissingClient("list", location, why, "apt install util-linux or dnf install util-linux") from None
    except subprocess.TimeoutExpired:
        why = f"lsblk gave no answer within {deadline:.0f} s"
        raise TimedOut("list", location, why, "a disk may be failing: the kernel's log (dmesg) says more") from None
    if done.returncode and not done.stdout.strip():
        raise Crashed("list", location, f"lsblk failed: {done.stderr.decode('utf-8', 'replace')}")
    try:
        rows = json.loads(done.stdout.decode("utf-8", "surrogateescape") or "{}").get("blockdevices", [])
        return list(entries_of(rows))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise BadAnswer("list", location, f"lsblk answered nonsense: {error}") from None


def entries_of(rows: list[Row]) -> Iterator[Entry]:
    """The entries of a tree of lsblk's. A device below several others (a RAID's) comes once, after the first."""
    seen: set[str] = set()
    pending = list(reversed(rows))
    while pending:
        row = pending.pop()
        if row["name"] in seen:
            continue
        seen.add(row["name"])
        yield _entry(row)
        pending.extend(reversed(row.get("children", [])))


def _entry(row: Row) -> Entry:
    size = int(row["size"] or 0)
    kind = Kind.IMAGE if size else Kind.OTHER
    path = str(row["name"])
    return Entry(Location("host_device", path=path), path, kind, size, note=" · ".join(_notes(row, size)))


def _notes(row: Row, size: int) -> Iterator[str]:
    kind = str(row["type"] or "")
    if kind != "disk":
        yield _TYPES.get(kind, clean(kind))
    if not size:
        yield "no medium" if row.get("rm") or kind == "rom" else "empty"
    if backing := _backing(row):
        yield f"of {clean(backing)}"
    for column in ("model", "tran"):
        if row.get(column):
            yield clean(str(row[column]).strip())
    if row.get("fstype"):
        yield clean(str(row["fstype"]) + (f" “{row['label']}”" if row.get("label") else ""))
    mounts = _mounts(row)
    yield from ("swap in use" if mount == "[SWAP]" else f"mounted at {clean(mount)}" for mount in mounts)
    below = list(_below(row))
    if _SYSTEM & {mount for device in [row, *below] for mount in _mounts(device)}:
        yield "holds the running system"
    users = [device for device in row.get("children", []) if device["type"] != "part"]
    if users:
        yield "used by " + ", ".join(clean(os.path.basename(str(device["name"]))) for device in users)
    if row.get("ro"):
        yield "read-only"
    if row.get("rm"):
        yield "removable"


def _backing(row: Row) -> str:
    """The file behind a loop device."""
    if row["type"] != "loop":
        return ""
    return sysfs_value(
        f"/sys/class/block/{os.path.basename(str(row.get('kname') or row['name']))}", "loop/backing_file"
    )


def _mounts(row: Row) -> list[str]:
    return [str(mount) for mount in row.get("mountpoints") or [] if mount]


def _below(row: Row) -> Iterator[Row]:
    for child in row.get("children", []):
        yield child
        yield from _below(child)
