"""What a person may choose about a boot, and what this host can do: the other two inputs of a plan."""

from dataclasses import dataclass
from enum import StrEnum

from probes.attachment import Mode, QemuFacts, RouteWish


class FirmwareWish(StrEnum):
    """Which firmware a person asks for; AUTO takes what the image wants."""

    AUTO = "auto"
    BIOS = "bios"
    UEFI = "uefi"


class Network(StrEnum):
    """The guest's network.

    RESTRICTED is slirp with `restrict=on`: a card, DHCP, nothing reachable. USER is slirp: outgoing connections,
    and the host's loopback as 10.0.2.2. NONE is no card.
    """

    RESTRICTED = "restricted"
    USER = "user"
    NONE = "none"


class DiskWish(StrEnum):
    """The drive that the guest sees.

    AUTO is what the guest knows: virtio-blk, or SATA or IDE for those that do not; a CD drive for CDs. SCSI is
    virtio-scsi with scsi-hd or scsi-cd, LSI the same on an LSI 53C895A, SATA and IDE what old guests know. SCSI_GENERIC
    passes the guest's SCSI commands to a LUN as they are: for writing boots only.
    """

    AUTO = "auto"
    VIRTIO = "virtio"
    SCSI = "scsi"
    SCSI_GENERIC = "scsi-generic"
    LSI = "lsi"
    LSI_GENERIC = "lsi-generic"
    SATA = "sata"
    IDE = "ide"


@dataclass(frozen=True)
class Options:
    """A person's choices for one boot; None leaves the choice to the plan. `memory` in bytes.

    `accept` holds the codes of the hazards that the person said yes to: those that ask, never those that refuse.
    """

    mode: Mode = Mode.SNAPSHOT
    memory: int | None = None
    cpus: int | None = None
    firmware: FirmwareWish = FirmwareWish.AUTO
    network: Network | None = None
    route: RouteWish = RouteWish.AUTO
    accept: frozenset[str] = frozenset()
    disk: DiskWish = DiskWish.AUTO


@dataclass(frozen=True)
class Pflash:
    """A UEFI firmware: the code (read-only) and the template of its variable store, as host paths. `format` is
    QEMU's driver for both ("raw", "qcow2").
    """

    code: str
    vars: str
    format: str = "raw"


@dataclass(frozen=True)
class Host:
    """What this host can do: found out once (`app.qemu.host.find`), then plain facts.

    `qemu` and `qemu_img` are absolute paths. `accelerator` is "kvm" only after a guest ran under it, else "tcg", and
    `accelerator_why` says in a sentence why not kvm. `memory` (bytes) and `cpus` are what is free to use.

    `bwrap` and `setpriv` are absolute paths, or None where they are missing or do not work here; `netns` says that
    bwrap can give a guest a network namespace of its own, `sandbox` that this QEMU has its seccomp sandbox. `root` is
    whether we run as root; `guest_uid` is then the unprivileged account of the next guest, drawn anew each time, and
    `kvm_gid` the group that may open /dev/kvm. `missing` are sentences about what confinement lacks here.

    `command` is the argv prefix that starts this Farboot. `reads` are the host folders and files that a confined QEMU
    must see (libraries, modules, firmware, name resolution, certificates).
    """

    qemu: str
    qemu_img: str
    facts: QemuFacts
    accelerator: str = "tcg"
    memory: int = 4 << 30
    cpus: int = 1
    bwrap: str | None = None
    setpriv: str | None = None
    root: bool = False
    uefi: Pflash | None = None
    command: tuple[str, ...] = ("farboot",)
    reads: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    accelerator_why: str = ""
    netns: bool = False
    sandbox: bool = True
    guest_uid: int | None = None
    kvm_gid: int | None = None
