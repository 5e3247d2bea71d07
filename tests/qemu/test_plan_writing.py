"""Plans of boots that write into the image, and of the drives that a guest may see."""

from dataclasses import replace

import pytest

from app.qemu.boot.plan import plan
from app.qemu.boot.writing import write_warning
from app.qemu.options import DiskWish, FirmwareWish, Host, Options
from app.qemu.steps import BootPlan, CheckUnchanged, CheckUnused, CreateOverlay, Layer, OpenFile, StartQemu
from probes.attachment import HostFile, Mode
from probes.evidence import NOT_JUDGED
from probes.image import Backing, Hazard, Image, MediaKind, Verdict
from probes.location import Location
from probes.reader import Pin
from probes.source import Use
from tests.qemu.argv import nodes, value_of, values_of
from tests.qemu.layers import HOST, UEFI, by_bridge, image, of_file, of_rbd, of_web

WRITE = Options(mode=Mode.WRITE)
DRIVERS = ("iscsi", "nfs", "qed", "vmdk", "dmg", "bochs")
ABLE = replace(HOST, facts=replace(HOST.facts, drivers=HOST.facts.drivers | set(DRIVERS)))


def argv_of(planned: BootPlan) -> tuple[str, ...]:
    assert planned.refusals == ()
    assert planned.qemu is not None
    return planned.qemu.argv


def refusals(layer: Layer, options: Options = WRITE, host: Host = ABLE) -> str:
    return "\n".join(plan([layer], options, host).refusals)


def own(judged: Image | None = None, **changed: object) -> Layer:
    layer = of_rbd(judged=judged, writable=True)
    return replace(layer, attachment=replace(layer.attachment, **changed))  # type: ignore[arg-type]  # its fields


def of_lun(judged: Image | None = None, **changed: object) -> Layer:
    node = {"driver": "iscsi", "transport": "tcp", "portal": "h:3260", "target": "iqn.2001-04.org:x", "lun": 1}
    place = Location.parse("iscsi://h/iqn.2001-04.org:x/1")[0]
    return own(judged, **{"location": place, "node": node, "scsi": True, **changed})


# The graph


def test_the_guest_is_given_the_image_itself() -> None:
    planned = plan([own(image("qcow2"))], WRITE, HOST)
    graph = nodes(argv_of(planned))
    assert list(graph) == ["proto0", "format0"]
    for node in graph.values():
        assert node["read-only"] is False
        assert node["discard"] == "unmap"
        assert "auto-read-only" not in node
    assert "virtio-blk-pci,drive=format0,bootindex=0,rerror=stop,werror=stop" in values_of(argv_of(planned), "-device")
    assert not any(isinstance(step, CreateOverlay) for step in planned.steps)
    assert planned.mode == "write"
    assert planned.notes[0] == "the guest writes into the image itself"


def test_of_a_chain_the_top_alone_is_written() -> None:
    top = own(image("qcow2", backing=Backing("base")))
    graph = nodes(argv_of(plan([top, of_rbd("rbd:pool/base", image("qcow2"))], WRITE, HOST)))
    assert {name: node["read-only"] for name, node in graph.items()} == {
        "proto1": True, "format1": True, "proto0": False, "format0": False,
    }  # fmt: skip


def test_a_host_file_is_opened_for_writing_and_a_device_for_us_alone() -> None:
    planned = plan([of_file("/srv/a.img", writable=True)], WRITE, HOST)
    assert OpenFile("/srv/a.img", 3, writable=True) in planned.steps
    device = of_file("/dev/sdb", writable=True, files=(HostFile("filename", "/dev/sdb", exclusive=True),))
    assert OpenFile("/dev/sdb", 3, writable=True, exclusive=True) in plan([device], WRITE, HOST).steps
    assert OpenFile("/dev/sdb", 3, writable=False) in plan([device], Options(), HOST).steps


def test_others_are_looked_for_last_and_librbds_own_watch_is_known() -> None:
    planned = plan([own()], WRITE, HOST)
    assert [type(step) for step in planned.steps[-3:]] == [StartQemu, CheckUnchanged, CheckUnused]
    assert planned.steps[-1] == CheckUnused(Location.parse("rbd:pool/image")[0], ours=1)
    assert plan([of_file(writable=True)], WRITE, HOST).steps[-1] == CheckUnused(Location("file", path="/srv/a.img"), 0)
    assert not any(isinstance(step, CheckUnused) for step in plan([own()], Options(), HOST).steps)


def test_an_image_that_qemu_touches_as_it_opens_it_is_compared_and_others_looked_for_before() -> None:
    layer = own(image("qcow2"), pin=Pin(4096, "v", strong=True))
    before, unused, start, after = plan([layer], WRITE, HOST).steps[:4]
    assert unused == CheckUnused(layer.attachment.location, ours=0)
    assert before == CheckUnchanged(layer.attachment.location, layer.attachment.pin, layer.evidence, "", 1 << 30)
    assert isinstance(start, StartQemu)
    assert after == CheckUnchanged(layer.attachment.location, Pin(4096), NOT_JUDGED, "format0", 1 << 30)
    raw = own(image("raw"), pin=Pin(4096, "v"))
    assert [step.node for step in plan([raw], WRITE, HOST).steps if isinstance(step, CheckUnchanged)] == ["format0"]


# Refusals


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (of_web(), "an image of a web server cannot be written (a snapshot boot works)"),
        (of_rbd("rbd:pool/image@snap"), "a snapshot cannot be written"),
        (by_bridge(of_rbd()), "Farboot's bridge only reads images in Ceph (a snapshot boot works)"),
        (of_file(), "it is read-only, or this account may not write it"),
        (of_lun(writable=False), "its server does not let it be written"),
        (own(image(kind=MediaKind.CD)), "a CD cannot be written (boot it without writing)"),
        (own(image("dmg")), "QEMU only reads the format dmg"),
        (own(image("bochs")), "QEMU only reads the format bochs"),
        (own(replace(image("vmdk"), features=("streamOptimized",))), "stream-optimized"),
        (own(replace(image("vmdk"), features=("sparse", "version 3"))), "VMDKs of version 3"),
        (by_bridge(own(image("qcow2"))), "over Farboot's bridge nothing can grow"),
        (own(image("qcow2", hazards=(Hazard("corrupt", "It is corrupt.", Verdict.OK),))), "marked as corrupt"),
    ],
)
def test_what_cannot_be_written_says_why(layer: Layer, words: str) -> None:
    assert words in refusals(layer)


@pytest.mark.parametrize("layer", [by_bridge(own()), own(image("qed")), of_lun(), of_lun(image("qcow2"))])
def test_what_can_be_written_is(layer: Layer) -> None:
    assert refusals(layer) == ""


def test_who_uses_it_is_named() -> None:
    used = replace(own(), use=Use(("client.4123 at 192.0.2.7", "\x1b[2Jevil"), certain=True))
    assert refusals(used) == "it is in use: client.4123 at 192.0.2.7; \\x1b[2Jevil (a snapshot boot works)"
    assert not plan([used], Options(), HOST).refusals
    ours = replace(own(), guests=("tiny-x4k", "tiny-abc"))
    assert refusals(ours) == "another guest of this host uses it: tiny-x4k, tiny-abc (farboot ps)"


def test_a_snapshot_of_what_a_guest_writes_is_told_of_and_where_locks_forbid_it_refused() -> None:
    (note, *_) = plan([replace(own(), guests=("tiny-x4k",))], Options(), HOST).notes
    assert note == "the guest tiny-x4k of this host writes into it meanwhile: what this one reads may be torn"
    assert "keeps all others out" in refusals(replace(of_file(), guests=("tiny-x4k",)), Options())


def test_a_format_that_grows_where_nothing_can_is_told_of() -> None:
    assert any("a qcow2 grows" in note for note in plan([of_lun(image("qcow2"))], WRITE, ABLE).notes)
    assert not any("grows" in note for note in plan([own(image("qcow2"))], WRITE, ABLE).notes)


# The question


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (Use((), certain=True), "Nobody else uses it."),
        (Use((), certain=False), "Whether others use it cannot be known."),
        (None, "Whether others use it cannot be known."),
        (Use(("mounted at /srv",), certain=False), "In use by mounted at /srv."),
    ],
)
def test_the_question_says_how_sure_it_is(use: Use | None, words: str) -> None:
    asked = write_warning(replace(own(image("qcow2", 10 << 30)), use=use))
    assert asked == f"Write into rbd:pool/image (qcow2, 10 GiB)? {words}"


# Drives


@pytest.mark.parametrize(
    ("layer", "wish", "board", "devices"),
    [
        (own(), DiskWish.AUTO, "q35", ["virtio-blk-pci,drive=format0,bootindex=0,rerror=stop,werror=stop"]),
        (own(), DiskWish.SCSI, "q35",
         ["virtio-scsi-pci,id=scsi0", "scsi-hd,bus=scsi0.0,drive=format0,bootindex=0,rerror=stop,werror=stop"]),
        (own(), DiskWish.LSI, "q35",
         ["lsi53c895a,id=scsi0", "scsi-hd,bus=scsi0.0,drive=format0,bootindex=0,rerror=stop,werror=stop"]),
        (own(), DiskWish.SATA, "q35", ["ide-hd,bus=ide.0,drive=format0,bootindex=0,rerror=stop,werror=stop"]),
        (own(), DiskWish.IDE, "pc", ["ide-hd,bus=ide.0,drive=format0,bootindex=0,rerror=stop,werror=stop"]),
        (of_lun(), DiskWish.SCSI_GENERIC, "q35",
         ["virtio-scsi-pci,id=scsi0", "scsi-generic,bus=scsi0.0,drive=proto0,bootindex=0"]),
    ],
)  # fmt: skip
def test_the_drive_is_what_was_wished(layer: Layer, wish: DiskWish, board: str, devices: list[str]) -> None:
    words = argv_of(plan([layer], Options(mode=Mode.WRITE, disk=wish), ABLE))
    assert value_of(words, "-machine") == board
    assert values_of(words, "-device")[: len(devices)] == devices


@pytest.mark.parametrize(
    ("layer", "wish", "device"),
    [
        (of_rbd(judged=image(kind=MediaKind.CD)), DiskWish.AUTO, "ide-cd,bus=ide.0,drive=format0,bootindex=0"),
        (of_rbd(judged=image(kind=MediaKind.CD)), DiskWish.IDE, "ide-cd,bus=ide.0,drive=format0,bootindex=0"),
        (
            of_rbd(judged=image(kind=MediaKind.CD)),
            DiskWish.LSI,
            "scsi-cd,bus=scsi0.0,drive=format0,bootindex=0,rerror=stop",
        ),
        (
            of_lun(cd=True, writable=False),
            DiskWish.AUTO,
            "scsi-cd,bus=scsi0.0,drive=format0,bootindex=0,rerror=stop",
        ),
    ],
)
def test_a_cd_goes_into_a_drive_for_cds(layer: Layer, wish: DiskWish, device: str) -> None:
    words = argv_of(plan([layer], Options(disk=wish), ABLE))
    assert device in values_of(words, "-device")
    assert "overlay" not in nodes(words)


def test_a_guest_that_speaks_to_the_lun_itself_has_no_format_node() -> None:
    planned = plan([of_lun()], Options(mode=Mode.WRITE, disk=DiskWish.SCSI_GENERIC), ABLE)
    assert list(nodes(argv_of(planned))) == ["proto0"]
    assert [step.node for step in planned.steps if isinstance(step, CheckUnchanged)] == ["proto0"]


@pytest.mark.parametrize(
    ("layer", "options", "words"),
    [
        (own(), Options(mode=Mode.WRITE, disk=DiskWish.SCSI_GENERIC), "only a LUN"),
        (by_bridge(of_lun()), Options(mode=Mode.WRITE, disk=DiskWish.SCSI_GENERIC), "only a LUN"),
        (of_lun(), Options(mode=Mode.WRITE, disk=DiskWish.LSI_GENERIC), "no firmware of QEMU's boots"),
        (of_lun(), Options(disk=DiskWish.SCSI_GENERIC), "that is for boots that write"),
        (of_lun(image(kind=MediaKind.CD)), Options(disk=DiskWish.SCSI_GENERIC), "that is for boots that write"),
        (of_lun(image("qcow2")), Options(mode=Mode.WRITE, disk=DiskWish.SCSI_GENERIC), "the qcow2 itself"),
        (of_rbd(judged=image(kind=MediaKind.CD)), Options(disk=DiskWish.VIRTIO), "no CD drives of virtio"),
    ],
)
def test_a_drive_that_cannot_be_says_why(layer: Layer, options: Options, words: str) -> None:
    assert words in refusals(layer, options)


def test_uefi_and_lsi_seldom_go_together() -> None:
    lsi = Options(disk=DiskWish.LSI)
    assert any("LSI" in note for note in plan([own()], replace(lsi, firmware=FirmwareWish.UEFI), HOST).notes)
    assert not any("LSI" in note for note in plan([own()], lsi, HOST).notes)
    assert any("LSI" in note for note in plan([own(image(firmware=UEFI))], lsi, HOST).notes)
