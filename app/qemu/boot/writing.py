"""Booting for writing: what the guest writes goes into the image itself, for good.

Refused where it cannot be done, where it would be lost, and where anybody else has the image; and never begun without
a yes to `write_warning`, which says what will be written into and how sure it is that nobody else uses it.
"""

from collections.abc import Iterator

from app.qemu.steps import Layer
from probes.attachment import Route
from probes.image import MediaKind
from probes.text import clean
from probes.words import human_size

_WRITTEN = frozenset({"raw", "luks", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels"})
"""Formats that QEMU's drivers write; it only reads the others (bochs, cloop, dmg)."""

_FIXED = frozenset({"raw", "luks"})
"""Formats in which nothing is allocated when a guest writes: they need no room but their own."""

_FOR_READERS = {
    "http": "a web server", "https": "a web server", "ftp": "an FTP server", "ftps": "an FTP server",
    "tftp": "a TFTP server",
}  # fmt: skip

_GROWS = frozenset({"file", "rbd", "nfs", "ssh", "gluster"})
"""Protocol drivers by which QEMU can make what lies there larger."""


def is_cd(layer: Layer) -> bool:
    """Whether the guest gets it in a CD drive."""
    return layer.image.media.kind is MediaKind.CD or layer.attachment.cd


def write_refusals(layer: Layer) -> Iterator[str]:
    """Say why the image of `layer` must not be booted for writing."""
    attachment, image = layer.attachment, layer.image
    if is_cd(layer):
        yield "a CD cannot be written (boot it without writing)"
    elif not attachment.writable:
        yield f"{_why_not(layer)} (a snapshot boot works)"
    if image.format not in _WRITTEN:
        yield f"QEMU only reads the format {image.format} (a snapshot boot works)"
    elif image.format == "vmdk" and any("stream" in feature.lower() for feature in image.features):
        yield "QEMU only reads stream-optimized VMDKs (a snapshot boot works)"
    elif image.format == "vmdk" and "version 3" in image.features:
        yield "QEMU only reads VMDKs of version 3 (a snapshot boot works)"
    elif attachment.route is Route.BRIDGE and image.format not in _FIXED:
        yield (
            f"a {image.format} grows when it is written, and over Farboot's bridge nothing can grow"
            " (a raw image can be written; a snapshot boot works)"
        )
    if any(hazard.code == "corrupt" for hazard in image.hazards):
        yield "it is marked as corrupt, and writing could destroy what is left (qemu-img check -r all repairs it)"
    yield from _others(layer)


def write_notes(layer: Layer) -> Iterator[str]:
    """Say what a person should know of a boot that writes."""
    yield "the guest writes into the image itself"
    attachment, image = layer.attachment, layer.image
    driver = str(attachment.node.get("driver", ""))
    if attachment.route is Route.DRIVER and image.format not in _FIXED and driver not in _GROWS:
        yield (
            f"a {image.format} grows when it is written, and there it has {human_size(image.file_size)} at most:"
            " when they are full the guest waits"
        )
    if image.backing is not None:
        yield f"its backing image {clean(image.backing.name)} is only read"


def write_warning(layer: Layer) -> str:
    """Return the question that must be answered with a yes before a guest writes into the image: one line."""
    image, use = layer.image, layer.use
    where = clean(str(layer.attachment.location))
    if use is None or not (use.certain or use.users):
        known = "whether others use it cannot be known"
    elif use.users:
        known = "in use by " + ", ".join(map(clean, use.users))
    else:
        known = "nobody else uses it"
    return f"Write into {where} ({image.format}, {human_size(image.virtual_size)})? {known[0].upper()}{known[1:]}."


def snapshot_refusals(layer: Layer) -> Iterator[str]:
    """Say why the image of `layer` cannot be booted for reading either: QEMU's locks on local files keep others out."""
    if layer.guests and layer.attachment.files:
        yield f"the guest {', '.join(layer.guests)} of this host writes into it, and keeps all others out (farboot ps)"


def snapshot_notes(layer: Layer) -> Iterator[str]:
    """Say what a person should know of a snapshot boot of an image that another guest here writes into."""
    if layer.guests:
        others = ", ".join(layer.guests)
        yield f"the guest {others} of this host writes into it meanwhile: what this one reads may be torn"


def _others(layer: Layer) -> Iterator[str]:
    if layer.guests:
        yield f"another guest of this host uses it: {', '.join(layer.guests)} (farboot ps)"
    if layer.use is not None and layer.use.users:
        yield f"it is in use: {'; '.join(map(clean, layer.use.users))} (a snapshot boot works)"


def _why_not(layer: Layer) -> str:
    location = layer.attachment.location
    if location.is_snapshot:
        return "a snapshot cannot be written"
    if location.scheme == "rbd" and layer.attachment.route is Route.BRIDGE:
        return "Farboot's bridge only reads images in Ceph"
    if location.scheme in {"file", "host_device"}:
        return "it is read-only, or this account may not write it"
    if location.scheme in _FOR_READERS:
        return f"an image of {_FOR_READERS[location.scheme]} cannot be written"
    return "its server does not let it be written"
