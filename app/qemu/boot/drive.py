"""The short form: the `-drive` value that a person would type for the same image.

It always names the format, and shuts out a backing file where the format could name one, so it is as careful about the
image as the whole command. It is withheld where it would be less: and where it could not be exact.
"""

from collections.abc import Mapping, Sequence

from app.qemu.boot.drives import wished_disk
from app.qemu.boot.graph import TAKE_BACKING, options
from app.qemu.boot.urls import URLS
from app.qemu.boot.writing import is_cd
from app.qemu.options import DiskWish, Options
from app.qemu.steps import Layer
from probes.attachment import Attachment, Mode, Route
from probes.image import Verdict
from probes.text import is_clean

# What a node may hold besides its address without the short form losing something.
_TUNING = frozenset({
    "driver", "readahead", "timeout", "auto-read-only", "cache", "discard", "locking", "aio",
    "readahead-size", "page-cache-size", "tcp-syn-count", "debug", "reconnect-delay", "open-timeout", "logfile",
})  # fmt: skip
_BESIDE = frozenset({"initiator-name"})
"""Options that a URL has no room for, and `-drive` has (`file.initiator-name=`)."""
_INTERFACES = {DiskWish.VIRTIO: "virtio", DiskWish.SATA: "ide", DiskWish.IDE: "ide"}


def short_drive(chain: Sequence[Layer], wished: Options) -> tuple[str, str]:
    """Return the value of `-drive`, and why it is withheld: one of the two is empty."""
    layer = chain[0]
    attachment, image = layer.attachment, layer.image
    if image.verdict is not Verdict.OK:
        return "", f"the image is not judged ok: {_first_hazard(layer)}"
    if len(chain) > 1 or image.backing is not None:
        return "", "the image has a backing image, which the short form would let the image itself choose"
    if image.needs_passphrase:
        return "", "it is encrypted, and its passphrase takes an -object beside the -drive"
    if attachment.route is not Route.DRIVER:
        return "", f"Farboot reads it for QEMU: {attachment.why}" if attachment.why else "Farboot reads it for QEMU"
    if not all(slot.found for slot in attachment.secrets):
        return "", "it needs a credential, and the short form would show it to everybody on this host"
    file, why = _file(attachment)
    if why:
        return "", why
    if not is_clean(file + "".join(str(attachment.node.get(name, "")) for name in _BESIDE)):
        return "", "its name has characters that cannot be typed"
    beside = {f"file.{name}": str(attachment.node[name]) for name in sorted(_BESIDE & set(attachment.node))}
    values = [options(file=file, **beside), f"format={image.format}"]
    if image.format in TAKE_BACKING:
        values.append("backing=")
    if is_cd(layer) and wished.disk in {DiskWish.AUTO, DiskWish.SATA, DiskWish.IDE}:
        return ",".join([*values, "media=cdrom", "readonly=on"]), ""
    disk = wished_disk(layer, wished)
    if disk not in _INTERFACES:
        return "", f"a drive of the kind {disk.value} takes a -device beside the -drive"
    kept = [] if wished.mode is Mode.WRITE else ["snapshot=on"]
    return ",".join([*values, *kept, f"if={_INTERFACES[disk]}"]), ""


def _first_hazard(layer: Layer) -> str:
    return next(hazard.text for hazard in layer.image.hazards if hazard.verdict is not Verdict.OK)


def _file(attachment: Attachment) -> tuple[str, str]:
    node = attachment.node
    driver = str(node.get("driver", ""))
    if attachment.tls is not None:
        return "", "it speaks TLS, for which QEMU takes an -object beside the -drive"
    if driver in {"http", "https", "ftp", "ftps"}:
        return str(node["url"]), _left_over(node, {"url", "sslverify"} if node.get("sslverify", True) else {"url"})
    if driver in {"file", "host_device"} and attachment.files:
        return attachment.files[0].path, _left_over(node, {"filename"})
    if driver == "rbd":  # printed with `//` where it has what cannot be typed, which QEMU takes for another name
        return _rbd(attachment), "" if is_clean(attachment.location.path) else "its name cannot be typed"
    url, taken = URLS[driver](node) if driver in URLS else ("", set())
    if not url:
        return "", f"Farboot knows no exact short form for {driver}"
    return url, _left_over(node, taken)


def _left_over(node: Mapping[str, object], taken: set[str]) -> str:
    rest = sorted(set(node) - taken - _TUNING - _BESIDE)
    return f"the short form has no room for {', '.join(rest)}" if rest else ""


def _rbd(attachment: Attachment) -> str:
    """The location as it was typed (QEMU's block/rbd.c), with the user: the library reads ceph.conf and keyring by it,
    which is where the node's monitors and key come from.
    """
    text, user = str(attachment.location), attachment.node.get("user")
    if user is None or any(option.startswith("id=") for option in attachment.location.query.split(":")):
        return text
    return f"{text}:id=" + "".join(f"\\{letter}" if letter in "\\:@/=" else letter for letter in str(user))
