"""What a guest is given where nobody chose: firmware, drive, memory, network card and clock, by what its image is.

A system that finds no driver for its disk stops before it can say so, so the ones that have none for virtio get what
they know. What was chosen is told, and every choice can be made otherwise.

- Windows has no virtio driver of its own (they come on the virtio-win disc), AHCI's since Vista and that of Intel's
  82574L (e1000e) since 8. It wants 4 GiB (Microsoft's requirements of Windows 11), and a clock that shows local time.
- Windows XP and older know IDE, an RTL8139, and no AHCI. Windows 98 fails with more than 512 MiB (Microsoft's
  KB253912), so what starts as DOS gets the least that is given.
- Linux and the BSDs know virtio. A live system keeps what it writes in memory, and installers unpack themselves into
  it: that of Ubuntu Server asks for 3 GiB.
- VMware's ESXi knows AHCI and VMware's own network card, and wants 8 GiB (VMware's requirements of ESXi 8).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from app.qemu.options import DiskWish, Options
from probes.image import Family, Firmware, Image
from probes.media.guest import DOS, FREEDOS, OLD_WINDOWS

STANDARD_MEMORY = 2 << 30
LEAST_MEMORY = 256 << 20
"""Bytes; below them a guest of today does not boot, so the default never goes there."""

_GIB = 1 << 30


@dataclass(frozen=True)
class Defaults:
    """What AUTO and None stand for: `memory` in bytes, `card` a device of QEMU's, `clock` what `-rtc base=` takes.

    `why` begins the sentence that tells what is unusual about them; empty if nothing is.
    """

    disk: DiskWish = DiskWish.VIRTIO
    memory: int = STANDARD_MEMORY
    card: str = "virtio-net-pci"
    clock: str = "utc"
    why: str = ""


_STANDARD = Defaults()
_WINDOWS = Defaults(DiskWish.SATA, 4 * _GIB, "e1000e", "localtime", "Windows has no drivers for virtio")
_OLD_WINDOWS = Defaults(DiskWish.IDE, _GIB, "rtl8139", "localtime", "Windows XP and older know neither virtio nor AHCI")
_DOS = Defaults(DiskWish.IDE, LEAST_MEMORY, "rtl8139", "localtime", "systems that start as DOS know old hardware only")
_ESXI = Defaults(DiskWish.SATA, 8 * _GIB, "vmxnet3", "utc", "ESXi has no drivers for virtio")
_LIVE = replace(_STANDARD, memory=3 * _GIB)
_DRIVES = {DiskWish.SATA: "SATA", DiskWish.IDE: "IDE"}


def defaults_for(image: Image) -> Defaults:
    """Return what the guest of `image` is given unless a person chooses."""
    guest = image.media.guest
    if guest is None:
        return _STANDARD
    if guest.family is Family.WINDOWS:
        return _OLD_WINDOWS if guest.name == OLD_WINDOWS else _WINDOWS
    if guest.name in {DOS, FREEDOS}:
        return _DOS
    if guest.name.startswith("VMware ESXi"):
        return _ESXI
    return _LIVE if guest.live and guest.family is Family.LINUX else _STANDARD


def firmware_for(image: Image) -> Firmware:
    """Return the firmware that starts `image`: UEFI where nothing else does, for BIOS is there at once."""
    return Firmware.UEFI if image.media.firmware == frozenset({Firmware.UEFI}) else Firmware.BIOS


def default_notes(image: Image, options: Options, cd: bool, card: bool) -> Iterator[str]:
    """Say what was chosen for the guest of `image` and why, but for what the person chose. `cd` says that it is in a CD
    drive, `card` that it has a network card.
    """
    defaults = defaults_for(image)
    chosen = []
    if not cd and options.disk is DiskWish.AUTO and defaults.disk in _DRIVES:
        chosen.append(f"the disk is {_DRIVES[defaults.disk]}")
    if card and defaults.card != _STANDARD.card:
        chosen.append(f"the network card is an {defaults.card}")
    if chosen:
        yield f"{defaults.why}: {' and '.join(chosen)}"
    if defaults.clock != _STANDARD.clock:
        yield "the guest's clock shows the local time of this host, as such systems expect it"
