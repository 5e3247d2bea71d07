"""The short form: the `-drive` value that a person would type for the same image.

It always names the format, and shuts out a backing file where the format could name one, so it is as careful about the
image as the whole command. It is withheld where it would be less: and where it could not be exact.
"""

from collections.abc import Mapping, Sequence

from app.qemu.boot.graph import TAKE_BACKING
from app.qemu.steps import Layer
from probes.attachment import Attachment, Route
from probes.image import MediaKind, Verdict
from probes.text import is_clean

# What a node may hold besides its address without the short form losing something.
_TUNING = frozenset({"driver", "readahead", "timeout", "auto-read-only", "cache", "discard", "locking", "aio"})


def short_drive(chain: Sequence[Layer]) -> tuple[str, str]:
    """Return the value of `-drive`, and why it is withheld: one of the two is empty."""
    layer = chain[0]
    attachment, image = layer.attachment, layer.image
    if image.verdict is not Verdict.OK:
        return "", f"the image is not judged ok: {_first_hazard(layer)}"
    if len(chain) > 1 or image.backing is not None:
        return "", "the image has a backing image, which the short form would let the image itself choose"
    if attachment.route is not Route.DRIVER:
        return "", f"Farboot reads it for QEMU: {attachment.why}" if attachment.why else "Farboot reads it for QEMU"
    if not all(slot.found for slot in attachment.secrets):
        return "", "it needs a credential, and the short form would show it to everybody on this host"
    file, why = _file(attachment)
    if why:
        return "", why
    if not is_clean(file):
        return "", "its name has characters that cannot be typed"
    values = ["file=" + file.replace(",", ",,"), f"format={image.format}"]
    if image.format in TAKE_BACKING:
        values.append("backing=")
    if image.media.kind is MediaKind.CD:
        return ",".join([*values, "media=cdrom", "readonly=on"]), ""
    return ",".join([*values, "snapshot=on", "if=virtio"]), ""


def _first_hazard(layer: Layer) -> str:
    return next(hazard.text for hazard in layer.image.hazards if hazard.verdict is not Verdict.OK)


def _file(attachment: Attachment) -> tuple[str, str]:
    node = attachment.node
    driver = str(node.get("driver", ""))
    if driver in {"http", "https", "ftp", "ftps"}:
        return str(node["url"]), _left_over(node, {"url", "sslverify"} if node.get("sslverify", True) else {"url"})
    if driver in {"file", "host_device"} and attachment.files:
        return attachment.files[0].path, _left_over(node, {"filename"})
    if driver == "rbd":
        return _rbd(attachment), ""
    return "", f"Farboot knows no exact short form for {driver}"


def _left_over(node: Mapping[str, object], taken: set[str]) -> str:
    rest = sorted(set(node) - taken - _TUNING)
    return f"the short form has no room for {', '.join(rest)}" if rest else ""


def _rbd(attachment: Attachment) -> str:
    """The location as it was typed (QEMU's block/rbd.c), with the user: the library reads ceph.conf and keyring by it,
    which is where the node's monitors and key come from.
    """
    text, user = str(attachment.location), attachment.node.get("user")
    if user is None or any(option.startswith("id=") for option in attachment.location.query.split(":")):
        return text
    return f"{text}:id=" + "".join(f"\\{letter}" if letter in "\\:@/=" else letter for letter in str(user))
