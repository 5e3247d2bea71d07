"""The drive that the guest sees: from a node of the block graph to a board and `-device` arguments, or why not.

    auto            disk: what its guest knows (app.qemu.boot.defaults)     CD: ide-cd, and a LUN that is a CD: scsi-cd
    virtio          virtio-blk
    scsi            virtio-scsi + scsi-hd or scsi-cd
    lsi             the same on an LSI 53C895A, which old guests know
    scsi-generic    virtio-scsi + scsi-generic: the guest's SCSI commands go to the LUN as they are
    lsi-generic     the same on an LSI 53C895A: refused, for no firmware of QEMU's boots from it
    sata            ide-hd or ide-cd on q35's AHCI
    ide             ide-hd or ide-cd on the PIIX of a pc

A guest finds its disk under the name that its drivers give it: /dev/vda, /dev/sda.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from app.qemu.boot.defaults import defaults_for
from app.qemu.boot.writing import is_cd
from app.qemu.options import DiskWish, Options
from app.qemu.steps import Layer
from probes.attachment import Mode, Route

_CONTROLLERS = {
    DiskWish.SCSI: "virtio-scsi-pci",
    DiskWish.SCSI_GENERIC: "virtio-scsi-pci",
    DiskWish.LSI: "lsi53c895a",
}
_GENERIC = frozenset({DiskWish.SCSI_GENERIC, DiskWish.LSI_GENERIC})

_SECTOR = 512

# What fails (the server is away) stops the guest instead of breaking it.
_WAITS = ",rerror=stop,werror=stop"
_READS_WAIT = ",rerror=stop"


@dataclass(frozen=True)
class Drive:
    """Which board the guest has and how the drive is plugged: `devices` are values of `-device`, with `{node}` where
    the node's name goes. `generic` says that the guest speaks to the protocol node itself: there is no format node.
    """

    board: str
    devices: tuple[str, ...]
    generic: bool = False


def drive_for(boot: Layer, options: Options) -> Drive:
    """Return the drive of the image that is booted; `drive_refusals` has found nothing against it."""
    cd = is_cd(boot)
    wish = wished_disk(boot, options)
    blocks = _blocks(boot)
    if wish is DiskWish.VIRTIO:
        return Drive("q35", (f"virtio-blk-pci,drive={{node}},bootindex=0{_WAITS}{blocks}",))
    if controller := _CONTROLLERS.get(wish):
        generic = wish in _GENERIC
        kind = "scsi-generic" if generic else "scsi-cd" if cd else "scsi-hd"
        waits = "" if generic else _READS_WAIT if cd else _WAITS  # what passes through has no such thing
        plugged = f"{kind},bus=scsi0.0,drive={{node}},bootindex=0{waits}{'' if generic or cd else blocks}"
        return Drive("q35", (f"{controller},id=scsi0", plugged), generic)
    # An ide-cd that has waited for the server makes QEMU abort as it goes on (ide_restart_bh's assertion, QEMU 7.2).
    kind, waits = ("ide-cd", "") if cd else ("ide-hd", _WAITS)
    board = "pc" if wish is DiskWish.IDE else "q35"
    return Drive(board, (f"{kind},bus=ide.0,drive={{node}},bootindex=0{waits}",))


def _blocks(boot: Layer) -> str:
    """What gives the guest sectors of the size that its partition table counts in: of no use to IDE and AHCI."""
    sector = boot.image.media.sector
    if sector == _SECTOR or boot.image.virtual_size % sector:
        return ""
    return f",logical_block_size={sector},physical_block_size={sector}"


def wished_disk(boot: Layer, options: Options) -> DiskWish:
    """Return the kind of drive that the person chose, or what suits the image; never AUTO."""
    if options.disk is not DiskWish.AUTO:
        return options.disk
    if is_cd(boot):
        return DiskWish.SCSI if boot.attachment.cd else DiskWish.SATA
    return defaults_for(boot.image).disk


def drive_refusals(boot: Layer, options: Options) -> Iterator[str]:
    """Say why the image cannot be plugged in as it is wished."""
    wish = options.disk
    if wish is DiskWish.VIRTIO and is_cd(boot):
        yield "it is a CD, and there are no CD drives of virtio (--disk scsi or sata)"
    if wish not in _GENERIC:
        return
    if wish is DiskWish.LSI_GENERIC:
        # SeaBIOS's driver for the LSI gives up on commands that end later, as all do that are passed on (a phase
        # mismatch; seen with QEMU 7.2 and 10.0), and OVMF has no driver for it.
        yield "no firmware of QEMU's boots from an LSI controller that passes commands on (--disk scsi-generic does)"
    elif not boot.attachment.scsi or boot.attachment.route is not Route.DRIVER:
        yield f"{wish.value} passes SCSI commands on, and only a LUN that QEMU's own driver reaches understands them"
    elif boot.image.format != "raw":
        yield f"with {wish.value} the guest would see the {boot.image.format} itself, not the disk in it"
    elif options.mode is not Mode.WRITE and not boot.attachment.cd:  # an ISO's bytes make no CD drive of a disk
        yield f"with {wish.value} what the guest writes goes to the LUN: that is for boots that write (--write)"


def drive_notes(drive: Drive, uefi: bool) -> Iterator[str]:
    """Say what a person should know of the drive."""
    if uefi and any(device.startswith("lsi") for device in drive.devices):
        yield "UEFI firmware seldom has a driver for LSI controllers: it may find nothing to boot (--firmware bios)"
