"""Who uses a file or a block device of this host: mounts, swap, devices built upon it, locks, open descriptors.

The kernel tells this name space's mounts only, and another account's open files to root only: so an empty answer
never means nobody for sure.
"""

import errno
import fcntl
import glob
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator

from probes.host.files import sysfs, sysfs_value, whole_disk
from probes.source import Use
from probes.text import clean

_QEMU_LOCKS = (100, 300)  # QEMU's block/file-posix.c: permissions in use from 100, those not shared from 200
_EXPORTED = (
    "/sys/kernel/config/target/core/*/*/udev_path",  # LIO
    "/sys/kernel/config/nvmet/subsystems/*/namespaces/*/device_path",
)
"""What the kernel itself serves to others, without a process that has it open."""
_FLOCK = struct.Struct("hhqqi4x")


def use_of(path: str, family: bool = False) -> Use:
    """Return who else uses the file or device at `path`. Raises OSError when it cannot be looked at.

    This process is nobody else; with `family` neither are those that it has started: so a supervisor asks who has what
    its own QEMU has open.
    """
    found = os.stat(path)
    is_device = stat.S_ISBLK(found.st_mode)
    holders = _holders_of_device(found.st_rdev) if is_device else _holders(path)
    others = {pid for pid in holders if not _is_ours(pid, family)}
    if is_device:
        users = [*_of_device(found.st_rdev), *_of_backing(found.st_rdev, family)]
    else:  # nobody tells whose a lock is
        users = list(_of_file(path, found, ask_for_locks=not family or others == holders))
    return Use(tuple(dict.fromkeys([*users, *_named(others)])), certain=False)


def _is_ours(pid: int, family: bool) -> bool:
    return pid == os.getpid() or (family and _descends(pid))


def _named(holders: set[int]) -> list[str]:
    return sorted(f"open in {clean(sysfs_value(f'/proc/{pid}', 'comm'))} (process {pid})" for pid in holders)


def _of_backing(device: int, family: bool) -> Iterator[str]:
    """Who else uses the file behind a loop device, or behind the one that a partition lies on."""
    disk = whole_disk(sysfs(device))
    path = sysfs_value(disk, "loop/backing_file")
    try:
        found = os.stat(path) if path else None
    except OSError:  # it was deleted, or lies in another name space
        return
    if found is not None and not stat.S_ISBLK(found.st_mode):
        others = {pid for pid in _holders(path) if not _is_ours(pid, family)}
        for user in (*_of_file(path, found, ask_for_locks=True, besides=os.path.basename(disk)), *_named(others)):
            yield f"{clean(path)}, which is behind it: {user}"


def _of_device(device: int) -> Iterator[str]:
    """What the kernel knows of a device, its partitions, and what is built upon them; of a partition, also who uses its
    whole disk as one.
    """
    folders = list(_concerned(device))
    numbers = {sysfs_value(folder, "dev") for folder in folders}
    paths = {f"/dev/{os.path.basename(folder)}" for folder in folders}
    for number, source, mount in _mounted():
        if number in numbers or source in paths:
            yield f"mounted at {clean(mount)}"
    for swap in _swaps():
        if _number(swap) in numbers:
            yield f"swap on {clean(swap)}"
    yield from _exported(lambda served: _number(served) in numbers)
    own = {sysfs(device), whole_disk(sysfs(device))}
    for folder in folders:
        name = sysfs_value(folder, "dm/name") or os.path.basename(folder)
        if folder not in own and not os.path.exists(os.path.join(folder, "partition")):
            yield f"part of {clean(name)}"


def _of_file(path: str, found: os.stat_result, ask_for_locks: bool, besides: str = "") -> Iterator[str]:
    whole = os.path.realpath(path)
    if ask_for_locks and _locked_by_qemu(path):
        yield "a QEMU that holds its locks"
    if any(_same(swap, found) for swap in _swaps()):
        yield "the kernel, as swap"
    yield from _exported(lambda served: _same(served, found))
    for name in _entries("/sys/block"):
        backing = sysfs_value(f"/sys/block/{name}", "loop/backing_file") if name.startswith("loop") else ""
        if backing and name != besides and (backing == whole or _same(backing, found)):  # a file may have several names
            yield f"loop device /dev/{name}"
            yield from _of_device(os.stat(f"/dev/{name}").st_rdev)


def _exported(is_it: Callable[[str], bool]) -> Iterator[str]:
    for path in sorted(path for pattern in _EXPORTED for path in glob.iglob(pattern)):
        served = sysfs_value(*os.path.split(path))
        if served and is_it(served):
            yield "the kernel, which serves it to others (targetcli, nvmetcli)"


def _concerned(device: int) -> Iterator[str]:
    """The sysfs folders of everything that shares bytes with a device."""
    own = sysfs(device)
    disk = whole_disk(own)
    yield from _family(own)
    if disk != own:
        yield disk
        for name in _entries(f"{disk}/holders"):
            yield from _family(os.path.realpath(f"{disk}/holders/{name}"))


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
        found = os.stat(path)
    except OSError:
        return ""
    device = found.st_rdev if stat.S_ISBLK(found.st_mode) else 0
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
    """The processes that have a file open, as far as this account may see, by whichever of its names."""
    whole, found = os.path.realpath(path), os.stat(path)

    def is_it(pid: str, number: str) -> bool:
        link = _link(f"/proc/{pid}/fd/{number}")
        if link == whole:
            return True
        # Only what has the same number is looked at: to look at a file of a dead server waits for ever.
        return link.startswith("/") and _inode(pid, number) == found.st_ino and _same(f"/proc/{pid}/fd/{number}", found)

    return _processes(is_it)


def _holders_of_device(device: int) -> set[int]:
    """The processes that have a device open, or one that shares bytes with it: its partitions, its whole disk."""
    numbers = {sysfs_value(folder, "dev") for folder in _concerned(device)}

    def is_it(pid: str, number: str) -> bool:
        return _link(f"/proc/{pid}/fd/{number}").startswith("/dev/") and _number(f"/proc/{pid}/fd/{number}") in numbers

    return _processes(is_it)


def _processes(is_it: Callable[[str, str], bool]) -> set[int]:
    """The processes with a descriptor that is it. Links are read, nothing is opened."""
    return {
        int(pid)
        for pid in _entries("/proc")
        if pid.isdigit() and any(is_it(pid, number) for number in _entries(f"/proc/{pid}/fd"))
    }


def _inode(pid: str, number: str) -> int:
    """The inode's number of an open file, as the kernel tells it (since 5.14) without looking at the file; else 0."""
    match = re.search(r"(?m)^ino:\s*(\d+)$", sysfs_value(f"/proc/{pid}/fdinfo", number))
    return int(match[1]) if match else 0


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
