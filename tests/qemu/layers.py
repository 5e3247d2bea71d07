"""Layers and hosts for the tests of plans: values as a source, a format and `find_host` would give them."""

import os
from dataclasses import replace

from app.qemu.options import Host, Pflash
from app.qemu.steps import Layer
from probes.attachment import Attachment, HostFile, QemuFacts, Route
from probes.evidence import Evidence
from probes.image import Backing, Firmware, Hazard, Image, Media, MediaKind
from probes.location import Location
from probes.reader import Pin

GIB = 1 << 30
BIOS = frozenset({Firmware.BIOS})
UEFI = frozenset({Firmware.UEFI})

HOST = Host(
    qemu="/usr/bin/qemu-system-x86_64",
    qemu_img="/usr/bin/qemu-img",
    facts=QemuFacts(
        (10, 0, 0), frozenset({"file", "host_device", "http", "https", "rbd", "nbd", "raw", "qcow2", "vpc"})
    ),
    accelerator="kvm",
    memory=16 * GIB,
    cpus=8,
    bwrap="/usr/bin/bwrap",
    setpriv="/usr/bin/setpriv",
    root=True,
    uefi=Pflash("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    reads=("/usr", "/lib", "/etc/hosts"),
    netns=True,
    guest_uid=1_900_000_001,
    kvm_gid=104,
)
USER_HOST = replace(HOST, root=False, setpriv=None, guest_uid=None, kvm_gid=None)


def image(
    driver: str = "raw",
    size: int = GIB,
    kind: MediaKind = MediaKind.DISK,
    firmware: frozenset[Firmware] | None = BIOS,
    hazards: tuple[Hazard, ...] = (),
    backing: Backing | None = None,
) -> Image:
    media = Media(kind=kind, firmware=firmware)
    return Image(driver, size, size, backing=backing, media=media, hazards=hazards)


def of_web(url: str = "http://h:8000/test1.qcow2", judged: Image | None = None, **changed: object) -> Layer:
    """An image on somebody's web server, by QEMU's own driver."""
    location, _ = Location.parse(url)
    node = {"driver": location.scheme, "url": str(location), "readahead": 65536}
    attachment = Attachment(location, Route.DRIVER, Pin(4096, '"etag"', strong=True), node)
    return _layer(attachment, judged or image("qcow2"), changed)


def of_file(path: str = "/srv/a.img", judged: Image | None = None, **changed: object) -> Layer:
    """A file of this host, which may exist."""
    size = os.path.getsize(path) if os.path.exists(path) else 4096
    files = (HostFile("filename", path),)
    location = Location.parse(path)[0]
    attachment = Attachment(location, Route.DRIVER, Pin(size), {"driver": "file"}, files=files, trusted=True)
    return _layer(attachment, judged or image(), changed)


def of_rbd(text: str = "rbd:pool/image", judged: Image | None = None, **changed: object) -> Layer:
    """An image in Ceph."""
    location = Location.parse(text)[0]
    names = [name for name in location.names if not name.startswith("@")]
    node: dict[str, object] = {"driver": "rbd", "pool": names[0], "image": names[-1], "user": "admin"}
    if len(names) == 3:
        node["namespace"] = names[1]
    snapshots = [name[1:] for name in location.names if name.startswith("@")]
    if snapshots:
        node["snapshot"] = snapshots[0]
    return _layer(Attachment(location, Route.DRIVER, Pin(GIB), node, trusted=True), judged or image(), changed)


def _layer(attachment: Attachment, judged: Image, changed: dict[str, object]) -> Layer:
    with_changes = replace(attachment, **changed)  # type: ignore[arg-type]  # the names are Attachment's fields
    return Layer(with_changes, judged, Evidence.by([(0, b"judged")]))


def by_bridge(layer: Layer, why: str = "this QEMU's http driver hangs") -> Layer:
    """The same image by Farboot's bridge."""
    attachment = replace(layer.attachment, route=Route.BRIDGE, node={}, files=(), secrets=(), reads=(), why=why)
    return replace(layer, attachment=attachment)
