"""What an image is, and the contract of a format.

A format is named as QEMU names its driver. Judging an image takes a few kilobytes of it: `probes.identify` runs all
formats over one reader and decides.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import ClassVar, Protocol, runtime_checkable

from probes.reader import Reader


class Verdict(IntEnum):
    """Whether an image may be handed to QEMU; the worst of its hazards decides."""

    OK = 0
    ASK = 1
    REFUSE = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Hazard:
    """Something about an image that a person should know before it runs.

    `code` is stable ("qcow2-data-file"), `text` a sentence a person understands, `verdict` what follows: OK only
    tells, ASK needs a yes, REFUSE is final.
    """

    code: str
    text: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Backing:
    """A parent that the image names. `name` is the raw text in the image, `format` the driver it claims, if any."""

    name: str
    format: str | None = None


class Firmware(StrEnum):
    """What starts a guest."""

    BIOS = "bios"
    UEFI = "uefi"


class MediaKind(StrEnum):
    """What a machine would hold in its hands: it decides the device."""

    DISK = "disk"
    CD = "cd"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Filesystem:
    """What lies in a partition or on a whole disk: `type` by blkid's name ("ext4", "vfat", "LVM2_member")."""

    type: str
    label: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: `number` as Linux counts, `start` and `size` in bytes, `type` in few words ("Linux",
    "EFI System"), `name` the GPT name.
    """

    number: int
    start: int
    size: int
    type: str
    name: str = ""
    bootable: bool = False
    filesystem: Filesystem | None = None


class Family(StrEnum):
    """Which kind of system a guest is: it decides what hardware it will know."""

    LINUX = "linux"
    WINDOWS = "windows"
    BSD = "bsd"
    MACOS = "macos"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Guest:
    """A guess of what system would start: by labels, partition types and files where they are cheap to see.

    `name` is for a person, cleaned ("Debian 12", "Windows", "FreeBSD"); `live` says that it is an installer or a system
    that runs from its medium.
    """

    family: Family
    name: str
    live: bool = False


@dataclass(frozen=True, slots=True)
class Media:
    """What the guest would see: as far as it was looked at.

    `firmware` holds what the medium can boot with; empty means that nothing bootable was found, None that nobody
    looked. `table` is "mbr", "gpt", "apm", "bsd" or None. `guest` is a guess, None where nothing points anywhere.
    `sector` is the size in bytes of the sectors that the partition table counts in: only on such a disk it makes sense.
    """

    kind: MediaKind = MediaKind.UNKNOWN
    table: str | None = None
    partitions: tuple[Partition, ...] = ()
    filesystem: Filesystem | None = None
    firmware: frozenset[Firmware] | None = None
    guest: Guest | None = None
    sector: int = 512

    @property
    def summary(self) -> str:
        """One line, for a person: "GPT, 2 partitions: vfat, ext4 · UEFI"."""
        parts = []
        if self.guest:
            parts.append(self.guest.name + (" (live)" if self.guest.live else ""))
        if self.kind is MediaKind.CD:
            parts.append("CD")
        if self.table:
            held = ", ".join(p.filesystem.type if p.filesystem else p.type for p in self.partitions)
            count = f"{len(self.partitions)} partition{'s' if len(self.partitions) != 1 else ''}"
            parts.append(f"{self.table.upper()}, {count}" + (f": {held}" if held else ""))
        if self.filesystem:
            label = f' "{self.filesystem.label}"' if self.filesystem.label else ""
            parts.append(self.filesystem.type + label)
        if self.firmware:
            names = {Firmware.BIOS: "BIOS", Firmware.UEFI: "UEFI"}
            parts.append("boots by " + " or ".join(names[f] for f in sorted(self.firmware)))
        elif self.firmware is not None:
            parts.append("nothing bootable found")
        return " · ".join(parts)


@dataclass(frozen=True, slots=True)
class Image:
    """What an image is. Sizes in bytes; `features` are short words for a person ("version 3", "compressed").

    `needs_passphrase` says that QEMU's format driver wants one. `backing` is what the image names, whether or not that
    may be followed: the hazards say. `newer_size` is the virtual size that QEMU 10 reads, where it is another one than
    those before it read.
    """

    format: str
    virtual_size: int
    file_size: int
    backing: Backing | None = None
    media: Media = field(default_factory=Media)
    features: tuple[str, ...] = ()
    hazards: tuple[Hazard, ...] = ()
    needs_passphrase: bool = False
    newer_size: int | None = None

    def size_in(self, qemu: tuple[int, ...]) -> int:
        """Return the size of the guest's disk in bytes, as that version of QEMU reads it."""
        return self.newer_size if self.newer_size is not None and qemu >= (10,) else self.virtual_size

    @property
    def verdict(self) -> Verdict:
        """The worst of the hazards' verdicts."""
        return max((hazard.verdict for hazard in self.hazards), default=Verdict.OK)


class Format(ABC):
    """One image format. Its properties are those of the header; the specification is linked at the file's head.

    It recognises, describes and judges by the image's own metadata. What the guest would find in it is looked at by
    `probes.identify`, through `MapsGuest`.
    """

    name: ClassVar[str]

    @abstractmethod
    def probe(self, reader: Reader) -> Image | None:
        """Return what the image is, or None if it is not of this format.

        Anything that the header may say is judged, none of it believed: no size, offset or count in it may cost
        more than a bounded read. Garbage gives None or hazards, never an exception; a failed read propagates.
        """


@runtime_checkable
class MapsGuest(Protocol):
    """A format whose guest's disk can be read for the few blocks that tell what is on it."""

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """Return a reader of the guest's disk in the image that `reader` reads; its verdict is not REFUSE.

        `backing` is the guest's disk of its backing image. Raises `probes.mapping.CannotMap`, as `pread` of what is
        returned does, where it cannot be followed (encrypted, compressed in another way, damaged); and whatever reading
        raises. Every read of `reader` may be small: it remembers.
        """
        ...
