"""Who uses a file or a block device of this host: mounts, swap, devices built upon it, locks, open descriptors.

The kernel tells this name space's mounts only, and another account's open files to root only: so an empty answer
never means nobody for sure.
"""

import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator

from probes.host.files import sysfs, sysfs_value
from probes.source import Use
from probes.text import clean

_QEMU_LOCKS = (100, 300)  # QEMU's block/file-posix.c: permissions in use from 100, those not shared from 200
_FLOCK = struct.Struct("hhqqi4x")


def use_of(path: str, family: bool = False) -> Use:
    """Return who else uses the file or device at `path`. Raises OSError when it cannot be looked at.

    This process is nobody else; with `family` neither are those that it has started: so a supervisor asks who has what
    its own QEMU has open.
    """
    found = os.stat(path)
    holders = _holders(path)
    own = {pid for pid in holders if pid == os.getpid() or (family and _descends(pid))}
    if stat.S_ISBLK(found.st_mode):
        users = list(_of_device(found.st_rdev))
    else:
        users = list(_of_file(path, found, ask_for_locks=not (family and own)))  # nobody tells whose a lock is
    others = [f"open in {clean(sysfs_value(f'/proc/{pid}', 'comm'))} (process {pid})" for pid in holders - own]
    return Use(tuple(dict.fromkeys([*users, *sorted(others)])), certain=False)


def _of_device(device: int) -> Iterator[str]:
    """What the kernel knows of a device, its partitions, and what is built upon them."""
    folders = list(_family(sysfs(device)))
    numbers = {sysfs_value(folder, "dev") for folder in folders}
    paths = {f"/dev/{os.path.basename(folder)}" for folder in folders}
    for number, source, mount in _mounted():
        if number in numbers or source in paths:
            yield f"mounted at {clean(mount)}"
    for swap in _swaps():
        if _number(swap) in numbers:
            yield f"swap on {clean(swap)}"
    own = sysfs(device)
    for folder in folders:
        name = sysfs_value(folder, "dm/name") or os.path.basename(folder)
        if folder != own and not os.path.exists(os.path.join(folder, "partition")):
            yield f"part of {clean(name)}"


def _of_file(path: str, found: os.stat_result, ask_for_locks: bool) -> Iterator[str]:
    whole = os.path.realpath(path)
    if ask_for_locks and _locked_by_qemu(path):
        yield "a QEMU that holds its locks"
    if any(_same(swap, found) for swap in _swaps()):
        yield "the kernel, as swap"
    for name in _entries("/sys/block"):
        if name.startswith("loop") and sysfs_value(f"/sys/block/{name}", "loop/backing_file") == whole:
            yield f"loop device /dev/{name}"
            yield from _of_device(os.stat(f"/dev/{name}").st_rdev)


def _family(folder: str) -> Iterator[str]:
    """The sysfs folders of a device, of its partitions and of whatever holds one of them, once each."""
    seen, pending = set(), [folder]
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        yield here
        parts = [os.path.join(here, name) for name in _entries(here)]
        pending += [part for part in parts if os.path.exists(os.path.join(part, "partition"))]
        pending += [os.path.realpath(os.path.join(here, "holders", name)) for name in _entries(f"{here}/holders")]


def _mounted() -> Iterator[tuple[str, str, str]]:
    """The number, source and mount point of every mount here (proc(5), mountinfo)."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            parts = before.split(" ")
            yield parts[2], _unescaped(after.split(" ")[1]), _unescaped(parts[4])


def _swaps() -> list[str]:
    try:
        with open("/proc/swaps", encoding="utf-8", errors="surrogateescape") as file:
            return [_unescaped(line.split()[0]) for line in file.readlines()[1:]]
    except OSError:  # a kernel without swap
        return []


def _unescaped(text: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text.encode("utf-8", "surrogateescape"))
    return os.fsdecode(raw)


def _number(path: str) -> str:
    try:
        device = os.stat(path).st_rdev
    except OSError:
        return ""
    return f"{os.major(device)}:{os.minor(device)}"


def _same(path: str, found: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), found)
    except OSError:
        return False


def _locked_by_qemu(path: str) -> bool:
    """Whether a lock of QEMU's would stand in the way. It asks only, and takes none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        first, end = _QEMU_LOCKS
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, first, end - first, 0)
        kind = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
        return bool(kind != fcntl.F_UNLCK)
    except OSError as error:
        if error.errno in {errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP}:  # a file system without locks
            return False
        raise
    finally:
        os.close(descriptor)


def _holders(path: str) -> set[int]:
    """The processes that have it open, as far as this account may see. Links are read, nothing is opened."""
    whole = os.path.realpath(path)
    found = set()
    for pid in _entries("/proc"):
        folder = f"/proc/{pid}/fd"
        if pid.isdigit() and any(_link(f"{folder}/{number}") == whole for number in _entries(folder)):
            found.add(int(pid))
    return found


def _descends(pid: int) -> bool:
    """Whether it descends from this process."""
    own = os.getpid()
    while pid > 1 and pid != own:
        told = sysfs_value(f"/proc/{pid}", "stat").rpartition(")")[2].split()
        pid = int(told[1]) if len(told) > 1 else 0
    return pid == own


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
