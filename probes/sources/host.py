"""This host's own files and block devices.

Folders are read with scandir(3), a batch at a time; devices are listed by lsblk (`probes.host.devices`). QEMU gets
either as an open descriptor and never a path: its `file` driver takes regular files only, its `host_device` driver
devices only (QEMU, docs/system/images and block/file-posix.c), and both take `/dev/fdset/N`.
"""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

from probes.attachment import Attachment, HostFile, Mode, QemuFacts, Route
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import NotAContainer, NotAnImage
from probes.host.devices import list_devices
from probes.host.files import family_error, in_batches, kind_of, open_file, sysfs, sysfs_value, within
from probes.host.use import use_of
from probes.location import Location
from probes.reader import Reader
from probes.source import Source, Use
from probes.text import clean

_NAMELESS_IMAGE = 1 << 20  # bytes from which a file without an ending may well be a disk


class _HostSource(Source):
    """What files and devices share."""

    def open(self, location: Location) -> Reader:
        return open_file(location, location.path, self.deadline)

    def in_use(self, location: Location) -> Use:
        """Return who uses the file or device: never certain, for other name spaces and accounts are not seen."""
        return within(self.deadline, "see who uses", location, lambda: use_of(location.path))

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        path = location.path
        with self.open(location) as reader:
            found = within(self.deadline, "look at", location, lambda: os.stat(path))
            is_device = stat.S_ISBLK(found.st_mode)
            return Attachment(
                location,
                Route.DRIVER,
                reader.pin,
                {"driver": "host_device" if is_device else "file", "filename": path},
                files=(HostFile("filename", path, writable=mode is Mode.WRITE, exclusive=is_device),),
                writable=within(self.deadline, "look at", location, lambda: _is_writable(path, found)),
                trusted=True,
            )


class FileSource(_HostSource):
    """Files and folders."""

    schemes = ("file",)
    title = "Files"

    def entries(self, location: Location) -> Iterator[Entry]:
        yield from in_batches(self.deadline, "list", location, _rows(location))

    def stat(self, location: Location) -> Entry:
        found = within(self.deadline, "look at", location, lambda: os.stat(location.path))
        return _entry(location, location.name if location.names else "/", found, named=True)


class DeviceSource(_HostSource):
    """Block devices: disks, partitions, volumes, CD drives."""

    schemes = ("host_device",)
    title = "Block devices"

    def entries(self, location: Location) -> Iterator[Entry]:
        if location.path.strip("/"):
            self.stat(location)
            raise NotAContainer("list", location, "it is a device", "host_device: lists all of them")
        yield from list_devices(location, self.deadline)

    def stat(self, location: Location) -> Entry:
        if not location.path.strip("/"):
            return Entry(location, "host_device:", Kind.CONTAINER)
        found = within(self.deadline, "look at", location, lambda: os.stat(location.path))
        self._insist(location, found)
        entry = _entry(location, location.path, found, named=True)
        return Entry(location, location.path, entry.kind, entry.size, note=entry.note)

    def open(self, location: Location) -> Reader:
        if not location.path.strip("/"):
            raise NotAnImage(
                "open", location, "it is the list of all devices", "name one, such as host_device:/dev/sdb"
            )
        found = within(self.deadline, "open", location, lambda: os.stat(location.path))
        self._insist(location, found)
        return super().open(location)

    @staticmethod
    def _insist(location: Location, found: os.stat_result) -> None:
        if not stat.S_ISBLK(found.st_mode):
            place = Location("file", path=location.path)
            raise NotAnImage("open", location, f"it is a {kind_of(found.st_mode)}, not a block device", f"try {place}")


def _rows(location: Location) -> Iterator[Entry]:
    """The entries of a folder. Raises what the kernel raises, but for a file that is no folder."""
    try:
        folder = os.scandir(location.path)
    except NotADirectoryError as error:
        if os.path.exists(location.path):
            hint = "its folder can be listed"
            raise NotAContainer("list", location, "it is not a folder", hint) from None
        raise family_error(error, "list", location) from None
    with folder:
        for item in folder:
            yield _row(location, item)


def _row(folder: Location, item: "os.DirEntry[str]") -> Entry:
    place = folder.child(item.name)
    target = ""
    try:
        if item.is_symlink():
            target = f"→ {clean(os.readlink(item.path))}"
        found = item.stat()
    except OSError as error:
        missing = "leads nowhere" if target else (error.strerror or "cannot be looked at").lower()
        return Entry(place, item.name, Kind.OTHER, note=f"{target} ({missing})" if target else missing)
    return _entry(place, item.name, found, target)


def _entry(place: Location, name: str, found: os.stat_result, target: str = "", named: bool = False) -> Entry:
    """The entry of a file that was looked at. `named` says that a person asked for this one: it counts as an image
    whatever it is called.
    """
    modified = _time(found.st_mtime)
    if stat.S_ISDIR(found.st_mode):
        return Entry(_as_folder(place), name, Kind.CONTAINER, None, modified, target)
    if stat.S_ISREG(found.st_mode):
        kind = Kind.IMAGE if named or _may_be_image(name, found.st_size) else Kind.OTHER
        return Entry(place, name, kind, found.st_size, modified, target)
    if stat.S_ISBLK(found.st_mode):
        folder = sysfs(found.st_rdev)
        size = int(sysfs_value(folder, "size") or 0) * 512
        kind = Kind.IMAGE if size else Kind.OTHER
        note = target or ("block device" if size else "block device, empty")
        return Entry(Location("host_device", path=place.path), name, kind, size, note=note)
    return Entry(place, name, Kind.OTHER, note=target or kind_of(found.st_mode))


def _as_folder(place: Location) -> Location:
    return place if place.path.endswith("/") else Location("file", path=place.path + "/")


def _may_be_image(name: str, size: int) -> bool:
    """By its name, or, where the name has no ending to tell (`vm-100-disk-0`, `base.1`), by being large."""
    if kind_by_name(name) is Kind.IMAGE:
        return True
    ending = name.rpartition(".")[2] if "." in name[1:] else ""
    return size >= _NAMELESS_IMAGE and (not ending or ending.isdigit())


def _time(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):  # a time stamp outside what calendars hold
        return None


def _is_writable(path: str, found: os.stat_result) -> bool:
    if stat.S_ISBLK(found.st_mode) and sysfs_value(sysfs(found.st_rdev), "ro") == "1":
        return False
    return os.access(path, os.W_OK, effective_ids=True)
