"""What this host can do and what is missing, for a person: QEMU, its drivers, accelerator, firmware, confinement,
client libraries, folders; each present, or the package that would bring it.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from app.qemu.host.accelerator import find_accelerator
from app.qemu.host.binary import ask_binary, find_qemu, find_qemu_img
from app.qemu.host.find import BWRAP_REMEDY, find_host
from app.qemu.host.firmware import REMEDY as UEFI_REMEDY
from app.qemu.host.firmware import find_uefi
from app.qemu.host.resources import free_memory, usable_cpus
from app.qemu.options import Host
from app.qemu.sessions.folders import Folder, runtime_root, state_root
from probes.errors import FarbootError
from probes.known.find import find as find_places
from probes.known.guests import Owners
from probes.known.root import Root
from probes.registry import SYSTEMS, System
from probes.text import clean

# QEMU's block drivers for storage, and the package that brings each where QEMU has it as a module.
_EXTRA = "apt install qemu-block-extra"
DRIVERS: tuple[tuple[str, str], ...] = (
    ("file", ""),
    ("host_device", ""),
    ("http", f"{_EXTRA} or dnf install qemu-block-curl"),
    ("https", f"{_EXTRA} or dnf install qemu-block-curl"),
    ("ftp", f"{_EXTRA} or dnf install qemu-block-curl"),
    ("ftps", f"{_EXTRA} or dnf install qemu-block-curl"),
    ("rbd", f"{_EXTRA} or dnf install qemu-block-rbd"),
    ("nfs", f"{_EXTRA} or dnf install qemu-block-nfs"),
    ("iscsi", f"{_EXTRA} or dnf install qemu-block-iscsi"),
    ("ssh", f"{_EXTRA} or dnf install qemu-block-ssh"),
    ("gluster", f"{_EXTRA} or dnf install qemu-block-gluster"),
    ("nbd", ""),
)
NO_DRIVERS = ("tftp", "sheepdog")
"""QEMU has these no more, in no package."""


@dataclass(frozen=True)
class Check:
    """One thing looked for: `detail` says what was found, or what is lost; `remedy` what would bring it."""

    name: str
    present: bool
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All that was looked for, by subject. `ready` is whether a guest could be started here."""

    qemu: tuple[Check, ...]
    drivers: tuple[Check, ...]
    machine: tuple[Check, ...]
    confinement: tuple[Check, ...]
    storage: tuple[Check, ...]
    known: tuple[Check, ...]
    folders: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        return all(check.present for check in (*self.qemu, *self.folders))

    def as_json(self) -> dict[str, object]:
        """The report as an object for `--json`: a list of objects `name, present, detail, remedy` for each subject."""
        return {"ready": self.ready} | {
            subject: [asdict(check) for check in checks] for subject, checks in _subjects(self)
        }


def examine(why_no_keyring: str = "", root: Root | None = None) -> Report:
    """Look at everything. Never fails: what cannot be found out is not present, and says why.

    `why_no_keyring` is why nothing can be saved in the system's keyring, empty where it can; `root` is where this
    machine's own files are looked for.
    """
    host: Host | None = None
    with suppress(FarbootError):  # which of QEMU's parts it is, is told beside it
        host = find_host()
    return Report(
        qemu=tuple(_qemu()),
        drivers=tuple(_drivers(host)),
        machine=tuple(_machine(host)),
        confinement=tuple(_confinement(host)),
        storage=tuple(check for system in SYSTEMS for check in _clients(system)),
        known=(*_known(root or Root()), Check("keyring", not why_no_keyring, why_no_keyring or _KEYRING)),
        folders=(_folder("runtime", runtime_root), _folder("guests", state_root)),
    )


_TITLES = {
    "qemu": "QEMU",
    "drivers": "QEMU's storage drivers",
    "machine": "What guests run on",
    "confinement": "What QEMU is shut in with",
    "storage": "What Farboot can browse",
    "known": "What this machine knows already",
    "folders": "Folders",
}
_KEYRING = "credentials can be saved in it, by wish"


def lines(report: Report) -> list[str]:
    """Return the report as lines of text, the remedies beneath what is missing."""
    told: list[str] = []
    for subject, checks in _subjects(report):
        told.append(_TITLES[subject])
        plain = [check.name for check in checks if check.present and not check.detail]
        if plain:
            told.append(f"  ok  {' '.join(plain)}")
        told_apart = [check for check in checks if check.name not in plain]
        width = max((len(check.name) for check in told_apart), default=0)
        for check in told_apart:
            mark = "ok" if check.present else "--"
            told.append(f"  {mark}  {check.name:{width}}  {clean(check.detail)}".rstrip())
            if check.remedy and not check.present:
                told.append(f"      {'':{width}}  to mend it: {clean(check.remedy)}")
        told.append("")
    told.append("Guests can be started." if report.ready else "No guest can be started before QEMU is complete.")
    return told


def _subjects(report: Report) -> Iterator[tuple[str, tuple[Check, ...]]]:
    for subject in _TITLES:
        yield subject, getattr(report, subject)


def _qemu() -> Iterator[Check]:
    try:
        path = find_qemu()
        version = ".".join(map(str, ask_binary(path).version))
        yield Check("QEMU", True, f"{version} at {path}")
    except FarbootError as error:
        yield Check("QEMU", False, error.why, error.hint)
    try:
        yield Check("qemu-img", True, find_qemu_img())
    except FarbootError as error:
        yield Check("qemu-img", False, error.why, error.hint)


def _drivers(host: Host | None) -> Iterator[Check]:
    known = host.facts.drivers if host else frozenset()
    for name, package in DRIVERS:
        present = name in known
        yield Check(name, present, "" if present else "this QEMU does not have it", "" if present else package)
    for name in NO_DRIVERS:
        yield Check(name, False, "no QEMU of today has it")


def _machine(host: Host | None) -> Iterator[Check]:
    memory, cpus = free_memory() >> 20, usable_cpus()
    if host is None:
        yield Check("KVM", False, "it cannot be tried without QEMU")
    else:
        found = find_accelerator(host.qemu, host.setpriv)
        works = found.name == "kvm"
        detail = "it has run a guest" if works else f"{found.why}; guests are emulated, and slow"
        yield Check("KVM", works, detail, found.remedy)
    uefi = find_uefi()
    detail = uefi.code if uefi else "not installed: guests start by BIOS only"
    yield Check("UEFI firmware", uefi is not None, detail, "" if uefi else UEFI_REMEDY)
    yield Check("resources", True, f"{memory} MiB of memory and {cpus} processor{'s' if cpus != 1 else ''} to use")


def _confinement(host: Host | None) -> Iterator[Check]:
    if host is None:
        yield Check("bubblewrap", False, "it cannot be tried without QEMU", BWRAP_REMEDY)
        return
    about = next((text for text in host.missing if text.startswith("bubblewrap")), "")
    remedy = (
        BWRAP_REMEDY
        if "not installed" in about
        else "let it make namespaces: see the kernel's or the container's rules"
    )
    yield Check("bubblewrap", host.bwrap is not None, about or "works", "" if host.bwrap else remedy)
    if host.root:
        own = host.setpriv is not None and host.guest_uid is not None
        about = next((text for text in host.missing if "as root" in text), "each guest has its own")
        yield Check("unprivileged account", own, about)
    detail = "works" if host.sandbox else "this QEMU was built without it"
    yield Check("QEMU's sandbox", host.sandbox, detail)


def _clients(system: System) -> Iterator[Check]:
    lacking = [client for client in system.clients if not client.present]
    schemes = ", ".join(system.schemes)
    if not lacking:
        yield Check(system.title, True, schemes)
    for client in lacking:
        kind = "library" if client.sonames else "Python package"
        detail = f"{schemes}: the {kind} {client.module} is missing"
        yield Check(system.title, False, detail, client.remedy)


def _known(root: Root) -> Iterator[Check]:
    """What the machine's own files tell; a file that may not be read could have told of more places, or whose disk an
    image is.
    """
    places = find_places(root)
    Owners.read(root)
    yield Check("places", True, f"{len(places)} found in this machine's own files")
    for path in sorted(root.unreadable):
        yield Check(path, False, "this account may not read it: what it names is not known", "run farboot as root")


def _folder(name: str, find: Callable[[], Folder]) -> Check:
    try:
        folder = find()
    except FarbootError as error:
        return replace(Check(name, False, f"{error.on}: {error.why}"), remedy=error.hint)
    folder.close()
    return Check(name, True, folder.path)
