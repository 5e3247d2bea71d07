"""An engine and guests that stand still.

For pictures of screens, which must not change with this machine's clock, disks and QEMU; and for what no real server
does on command: hang until told otherwise, answer in a given order, hold 100,000 images.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from app.engine import Inspection, Prepared
from app.judged import Judged
from app.keychain import Keychain
from app.qemu.options import Host, Options
from app.qemu.sessions.session import SessionInfo, SessionState
from app.qemu.steps import BootPlan
from probes.attachment import Attachment, Mode, QemuFacts
from probes.credentials import NO_CREDENTIALS
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import FarbootError, NotFound
from probes.evidence import NOT_JUDGED
from probes.image import Filesystem, Firmware, Hazard, Image, Media, MediaKind, Partition, Verdict
from probes.location import Location
from probes.reader import Pin, Reader
from probes.source import Progress, Source

HOME = Location.parse("http://images.example.org/cloud/")[0]
_DAY = datetime(2026, 5, 1, 12, 33)  # noqa: DTZ001 servers' times often have no zone
_GIB = 1 << 30


def entry(name: str, size: int | None = None, note: str = "", where: Location = HOME) -> Entry:
    """An entry of a fake listing; a name that ends in `/` is a container."""
    if name.endswith("/"):
        return Entry(where.child(name[:-1], container=True), name[:-1], Kind.CONTAINER, modified=_DAY, note=note)
    return Entry(where.child(name), name, kind_by_name(name), size, _DAY, note)


ENTRIES = (
    entry("archive/"),
    entry("daily/"),
    entry("alpine-3.21-x86_64.iso", 66 << 20),
    entry("debian-12-generic-amd64.qcow2", 339738624),
    entry("debian-12-generic-amd64.raw", 2 * _GIB, "in use by client.4123"),
    entry("fedora-cloud-base-42.qcow2", 560 << 20),
    entry("windows-server-2025-evaluation-with-a-very-long-name-indeed-x64.vhdx", 11 * _GIB),
    entry("SHA512SUMS", 1337),
    entry("with-data-file.qcow2", 196 << 10),
)

_MEDIA = Media(
    MediaKind.DISK,
    "gpt",
    (
        Partition(1, 1 << 20, 1 << 29, "EFI System", filesystem=Filesystem("vfat")),
        Partition(2, 1 << 29, 1 << 30, "Linux", filesystem=Filesystem("ext4", "root")),
    ),
    firmware=frozenset({Firmware.BIOS, Firmware.UEFI}),
)
_DEBIAN = Image("qcow2", 3 * _GIB, 339738624, media=_MEDIA, features=("version 3", "compressed"))
_HAZARD = Hazard(
    "qcow2-data-file", "Its data lies in another file, /etc/shadow: QEMU would open that on this host.", Verdict.REFUSE
)
_HOSTILE = Image("qcow2", 8 * _GIB, 196 << 10, features=("version 3",), hazards=(_HAZARD,))


class FakeSource(Source):
    """Lists what it was given."""

    schemes = ("http",)
    title = "Fake"

    def __init__(self, listing: Callable[[Location], Iterator[Entry]]) -> None:
        super().__init__(NO_CREDENTIALS)
        self._listing = listing
        self.closed = threading.Event()

    def entries(self, location: Location) -> Iterator[Entry]:
        return self._listing(location)

    def stat(self, location: Location) -> Entry:
        raise NotFound("look at", location, "it is not there")

    def open(self, location: Location) -> Reader:
        raise NotFound("open", location, "it is not there")

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        raise NotFound("attach", location, "it is not there")

    def close(self) -> None:
        self.closed.set()


class FakeEngine:
    """Everything is known already. `entries` gives a place's listing, `image` what an image is."""

    def __init__(self, entries: Sequence[Entry] | Callable[[Location], Iterator[Entry]] = ENTRIES) -> None:
        self.keychain = Keychain()
        self._entries = entries if callable(entries) else lambda _location: iter(entries)
        self.sources: list[FakeSource] = []

    @property
    def host(self) -> Host:
        return Host("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-img", QemuFacts((10, 0, 3), frozenset()))

    def open_source(self, location: Location) -> Source:
        self.sources.append(FakeSource(self._entries))
        return self.sources[-1]

    def image(self, location: Location) -> Image:
        return _HOSTILE if "data-file" in location.name else _DEBIAN

    def inspect(self, location: Location, source: Source | None = None, fetch: Progress | None = None) -> Inspection:
        image = self.image(location)
        return Inspection(location, image, Pin(image.file_size, "fake"), NOT_JUDGED)

    def glance(self, location: Location, source: Source, known: Judged | None = None) -> Judged:
        image = self.image(location)
        return Judged(image, Pin(image.file_size, "fake"))

    def prepare(
        self,
        location: Location,
        options: Options,
        inspection: Inspection | None = None,
        fetch: Progress | None = None,
    ) -> Prepared:
        inspection = inspection or self.inspect(location)
        refusals = tuple(hazard.text for hazard in inspection.image.hazards)
        drive = "" if refusals else f"file={location},format={inspection.image.format},backing=,snapshot=on,if=virtio"
        plan = BootPlan(location, "driver", refusals=refusals, drive=drive, drive_withheld="it is refused")
        return Prepared(plan, {}, NO_CREDENTIALS, inspection)

    def script(self, prepared: Prepared) -> str:
        return f"#!/bin/sh\n# Boots {prepared.plan.location}\nset -eu\n\nexec qemu-system-x86_64 \\\n  -m 2048\n"

    def boot(self, prepared: Prepared) -> SessionInfo:
        return guest("debian-a1b", "debian-12-generic-amd64.qcow2")


def guest(identity: str, name: str, state: SessionState = SessionState.RUNNING, error: str = "") -> SessionInfo:
    """A guest that has run for two hours and a bit."""
    return SessionInfo(
        identity, f"{HOME}{name}", name, state, 4711, time.time() - 7350, error, "qcow2", "driver", "snapshot",
        2 * _GIB, 2, "restricted", "/var/lib/farboot/x", "/var/lib/farboot/x/vnc.sock", "/run/farboot/x/serial.log",
    )  # fmt: skip


class FakeGuests:
    """Guests that say `greeting` on their serial line, and write down what is typed."""

    def __init__(self, guests: Sequence[SessionInfo] = (), greeting: bytes = b"") -> None:
        self.guests = list(guests)
        self.greeting = greeting
        self.stopped: list[tuple[str, bool]] = []
        self.lines: list[socket.socket] = []
        self.picture: Callable[[], bytes] = self._no_picture

    def sessions(self) -> Sequence[SessionInfo]:
        return tuple(self.guests)

    def stop(self, identity: str, /, force: bool = False) -> None:
        self.stopped.append((identity, force))

    def screen(self, identity: str, /) -> bytes:
        return self.picture()

    def console(self, identity: str, /) -> socket.socket:
        ours, theirs = socket.socketpair()
        self.lines.append(ours)
        ours.sendall(self.greeting)
        return theirs

    def _no_picture(self) -> bytes:
        raise FarbootError("see", "the guest's screen", "it has none")
