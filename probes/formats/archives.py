"""Archives: files of which some may be disk images. None can be read where it lies; what is in it is named.

A name in an archive is its maker's: it is shown cleaned, cut and in quotes, and stands in a command only where it is
nothing but plain letters. ZIP and tar (with OVA) are in files of their own; the others are told by their marks:
https://py7zr.readthedocs.io/en/latest/archive_format.html, https://www.rarlab.com/technote.htm, cpio(5), ar(5), and
rpm's lead.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from probes.image import Format, Hazard, Image, Verdict
from probes.reader import Reader
from probes.recording import HEAD
from probes.text import clean
from probes.words import counted, human_size

MAX_NAMED = 8
"""Disk images that are named; of more, the number."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+=.-]*(/[A-Za-z0-9_][A-Za-z0-9_+=.-]*)*")
_DISK_NAME = re.compile(
    r"\.(img|iso|raw|dd|qcow|qcow2|qed|vmdk|vdi|vhd|vhdx|hdd|dmg|vma|ova)(\.(gz|xz|zst|bz2|lz4))?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Member:
    """A disk image in an archive, by its name: `size` in bytes, unpacked from it; `note` what else is known."""

    name: str
    size: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in an archive: its disk images, and the number of other files; `whole` unless nobody looked further.

    `title` completes "This is …" where it is known better than by the format.
    """

    disks: tuple[Member, ...] = ()
    others: int = 0
    whole: bool = True
    title: str = ""


class Archive(Format):
    """An archive that begins with one of `marks`; `title` completes "This is …", `command` unpacks one called NAME."""

    title: ClassVar[str]
    command: ClassVar[str]
    marks: ClassVar[tuple[bytes, ...]] = ()
    takes_names: ClassVar[bool] = False
    """Whether `command` unpacks one file alone if its name follows."""

    def probe(self, reader: Reader) -> Image | None:
        if not self.begins(reader.pread(0, HEAD)):
            return None
        held = self.contents(reader)
        named = tuple(_named(disk) for disk in held.disks[:MAX_NAMED]) if held else ()
        text = f"This is {held.title if held and held.title else self.title}{_holding(held, named)}"
        text += f" Unpack it first: {self._command(held)}."
        return Image(self.name, 0, reader.size, features=named, hazards=(Hazard("archive", text, Verdict.REFUSE),))

    def begins(self, head: bytes) -> bool:
        """Whether `head`, the first 64 KiB of a file, is the start of one of this kind."""
        return head.startswith(self.marks)

    def contents(self, reader: Reader) -> Contents | None:
        """Return what the archive holds, None where that cannot be told cheaply. Raises what `reader` raises."""
        return None

    def _command(self, held: Contents | None) -> str:
        if self.takes_names and held and held.disks and _is_plain(held.disks[0].name):
            return f"{self.command} {held.disks[0].name}"
        return self.command


def is_disk_name(name: str) -> bool:
    """Whether a file's name is that of a disk image."""
    return _DISK_NAME.search(name) is not None


class SevenZip(Archive):
    """7z: its names stand in a header at its end, which is packed itself."""

    name = "7z"
    title = "a 7z archive"
    command = "7z x NAME"
    marks = (b"7z\xbc\xaf\x27\x1c",)


class Rar(Archive):
    """RAR, of versions 4 and 5."""

    name = "rar"
    title = "a RAR archive"
    command = "unrar x NAME"
    marks = (b"Rar!\x1a\7",)


class Cpio(Archive):
    """cpio: what a Linux kernel unpacks at its start is one, too."""

    name = "cpio"
    title = "a cpio archive (an initramfs is one)"
    command = "cpio -id <NAME"
    marks = (b"070701", b"070702", b"070707")


class Ar(Archive):
    """ar: the linker's libraries, and Debian's packages."""

    name = "ar"
    title = "an ar archive (a Debian package is one)"
    command = "ar x NAME"
    marks = (b"!<arch>\n",)


class Rpm(Archive):
    """An RPM package."""

    name = "rpm"
    title = "an RPM package"
    command = "rpm2cpio NAME | cpio -id"
    marks = (b"\xed\xab\xee\xdb",)


def _named(disk: Member) -> str:
    note = f", {disk.note}" if disk.note else ""
    return f'"{clean(disk.name, 60)}" ({human_size(disk.size)}{note})'


def _holding(held: Contents | None, named: tuple[str, ...]) -> str:
    if held is None:
        return ": a disk image may be inside, but cannot be read where it lies."
    if not held.disks:
        if not held.whole:
            return f": none of its first {counted(held.others, 'file')} is a disk image by its name."
        return f" of {counted(held.others, 'file')}, none of them a disk image by its name."
    rest = []
    if len(held.disks) > MAX_NAMED:
        rest.append(f"{len(held.disks) - MAX_NAMED} more")
    if held.others:
        rest.append(counted(held.others, "other file"))
    if not held.whole:
        rest.append("what lies behind them")
    return f" holding {', '.join(named)}" + (f", and {' and '.join(rest)}." if rest else ".")


def _is_plain(name: str) -> bool:
    return len(name) <= 100 and _PLAIN_NAME.fullmatch(name) is not None
