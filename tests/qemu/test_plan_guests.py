"""What a guest is given where nobody chose: by what its image is."""

from dataclasses import replace

import pytest

from app.qemu.boot.defaults import defaults_for, firmware_for
from app.qemu.boot.plan import plan
from app.qemu.options import DiskWish, Network, Options
from app.qemu.steps import BootPlan, Layer
from probes.attachment import Mode
from probes.image import Family, Firmware, Guest, Media, MediaKind
from probes.media.guest import DOS, FREEDOS, OLD_WINDOWS
from tests.qemu.argv import value_of, values_of
from tests.qemu.layers import BIOS, GIB, HOST, UEFI, image, of_file, of_web

WINDOWS = Guest(Family.WINDOWS, "Windows")
XP = Guest(Family.WINDOWS, OLD_WINDOWS)
NOTHING = Options()


def of(guest: Guest | None, kind: MediaKind = MediaKind.DISK, firmware: frozenset[Firmware] = BIOS) -> Layer:
    return of_file(judged=replace(image(), media=Media(kind, firmware=firmware, guest=guest)))


def planned(layer: Layer, options: Options = NOTHING) -> BootPlan:
    made = plan([layer], options, HOST)
    assert not made.refusals
    return made


def argv(layer: Layer, options: Options = NOTHING) -> tuple[str, ...]:
    start = planned(layer, options).qemu
    assert start is not None
    return start.argv


def devices(layer: Layer, options: Options = NOTHING) -> list[str]:
    return [value.partition(",")[0] for value in values_of(argv(layer, options), "-device")]


def disk(layer: Layer, options: Options = NOTHING) -> str:
    """The board and the device of the guest's disk."""
    board = value_of(argv(layer, options), "-machine").partition(",")[0]
    return f"{board} {devices(layer, options)[0]}"


@pytest.mark.parametrize(
    ("guest", "hardware", "card", "memory", "clock"),
    [
        (None, "q35 virtio-blk-pci", "virtio-net-pci", "2048M", "base=utc"),
        (Guest(Family.LINUX, "Debian 12"), "q35 virtio-blk-pci", "virtio-net-pci", "2048M", "base=utc"),
        (Guest(Family.LINUX, "Debian 12", live=True), "q35 virtio-blk-pci", "virtio-net-pci", "3072M", "base=utc"),
        (Guest(Family.BSD, "FreeBSD"), "q35 virtio-blk-pci", "virtio-net-pci", "2048M", "base=utc"),
        (Guest(Family.MACOS, "macOS"), "q35 virtio-blk-pci", "virtio-net-pci", "2048M", "base=utc"),
        (WINDOWS, "q35 ide-hd", "e1000e", "4096M", "base=localtime"),
        (Guest(Family.WINDOWS, "Windows 7"), "q35 ide-hd", "e1000e", "4096M", "base=localtime"),
        (XP, "pc ide-hd", "rtl8139", "1024M", "base=localtime"),
        (Guest(Family.OTHER, DOS), "pc ide-hd", "rtl8139", "256M", "base=localtime"),
        (Guest(Family.OTHER, FREEDOS), "pc ide-hd", "rtl8139", "256M", "base=localtime"),
        (Guest(Family.OTHER, "VMware ESXi 8.0"), "q35 ide-hd", "vmxnet3", "8192M", "base=utc"),
        (Guest(Family.OTHER, "Memtest86+", live=True), "q35 virtio-blk-pci", "virtio-net-pci", "2048M", "base=utc"),
    ],
)
def test_a_guest_gets_what_it_knows(guest: Guest | None, hardware: str, card: str, memory: str, clock: str) -> None:
    layer = of(guest)
    assert disk(layer) == hardware
    assert card in devices(layer)
    assert value_of(argv(layer), "-m") == memory
    assert value_of(argv(layer), "-rtc") == clock


def test_what_was_chosen_is_told_and_why() -> None:
    notes = "\n".join(planned(of(WINDOWS)).notes)
    assert "Windows has no drivers for virtio: the disk is SATA and the network card is an e1000e" in notes
    assert "local time" in notes
    assert not any("virtio" in note or "clock" in note for note in planned(of(Guest(Family.LINUX, "Linux"))).notes)


def test_what_the_person_chose_wins_and_is_not_told_of() -> None:
    chosen = Options(disk=DiskWish.VIRTIO, memory=GIB, network=Network.NONE)
    assert disk(of(WINDOWS), chosen) == "q35 virtio-blk-pci"
    assert value_of(argv(of(WINDOWS), chosen), "-m") == "1024M"
    assert "e1000e" not in devices(of(WINDOWS), chosen)
    assert not any("drivers for virtio" in note for note in planned(of(WINDOWS), chosen).notes)
    assert any(
        "the network card is an e1000e" in note for note in planned(of(WINDOWS), Options(disk=DiskWish.IDE)).notes
    )


@pytest.mark.parametrize("mode", [Mode.SNAPSHOT, Mode.WRITE])
def test_it_is_so_whether_it_writes_or_not(mode: Mode) -> None:
    layer = of(WINDOWS)
    layer = replace(layer, attachment=replace(layer.attachment, writable=True))
    assert disk(layer, Options(mode=mode)) == "q35 ide-hd"


def test_an_installer_on_a_cd_gets_its_cd_drive_and_the_rest_of_what_it_knows() -> None:
    layer = of(Guest(Family.WINDOWS, "Windows", live=True), MediaKind.CD)
    assert disk(layer) == "q35 ide-cd"
    assert "e1000e" in devices(layer)
    assert value_of(argv(layer), "-m") == "4096M"
    assert not any("disk is SATA" in note for note in planned(layer).notes)


@pytest.mark.parametrize(("free", "given"), [(16 * GIB, "4096M"), (6 * GIB, "3072M"), (GIB, "512M")])
def test_memory_is_never_more_than_half_of_what_is_free(free: int, given: str) -> None:
    start = plan([of(WINDOWS)], NOTHING, replace(HOST, memory=free)).qemu
    assert start is not None
    assert value_of(start.argv, "-m") == given


@pytest.mark.parametrize(
    ("guest", "interface"), [(WINDOWS, "ide"), (XP, "ide"), (Guest(Family.LINUX, "Linux"), "virtio"), (None, "virtio")]
)
def test_the_short_form_plugs_it_the_same_way(guest: Guest | None, interface: str) -> None:
    layer = of_web(judged=replace(image(), media=Media(MediaKind.DISK, firmware=BIOS, guest=guest)))
    assert planned(layer).drive.endswith(f"if={interface}")


@pytest.mark.parametrize(
    ("boots_by", "firmware"),
    [(UEFI, Firmware.UEFI), (BIOS, Firmware.BIOS), (BIOS | UEFI, Firmware.BIOS), (frozenset(), Firmware.BIOS)],
)
def test_uefi_starts_what_nothing_else_does(boots_by: frozenset[Firmware], firmware: Firmware) -> None:
    assert firmware_for(image(firmware=boots_by)) is firmware


def test_an_image_nobody_looked_into_gets_what_all_get() -> None:
    assert defaults_for(image(firmware=None)) == defaults_for(image())
