"""The block graph of a boot: from a chain of layers to `-blockdev` nodes, and the steps they need first.

    proto0     how QEMU gets at the image: its own driver, or the bridge's socket       read-only
    format0    the format, named outright: QEMU never probes                            read-only
    proto1, format1 …    the backing image, and its backing image in turn, pinned by node name
    overlay    a throwaway qcow2 that takes what the guest writes; a CD has none

A format that could name a backing file of its own gets `"backing": null` where the chain ends, so that nothing in
the image's header makes QEMU open anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.qemu.options import Host
from app.qemu.steps import CheckUnchanged, CopyFile, CreateOverlay, Layer, LaySecret, OpenFile, StartBridge, Step
from probes.attachment import Attachment, Node, Route
from probes.image import MediaKind

TAKE_BACKING = frozenset({"qcow2", "qcow", "qed", "vmdk"})
"""Drivers that have the option `backing`; the others reject it."""

OVERLAY = "overlay"

# A POSIX shell can open no others: `exec 10<file` is a command named 10 to dash.
DESCRIPTORS = range(3, 10)

_SECTOR = 512
_LOCAL_DRIVERS = frozenset({"file", "host_device"})


@dataclass(frozen=True)
class Graph:
    """The nodes in the order in which they must be made, and what they need.

    `steps` come before QEMU starts and `checks` after it opened the images. `objects` are values of `-object`,
    `descriptors` those that QEMU inherits. `network` says that QEMU itself speaks to a server. `reads` are host paths
    that it must see. `top` is the node that the guest's device is given, `is_cd` that this device is a CD drive.
    """

    nodes: tuple[Node, ...]
    top: str
    is_cd: bool
    steps: tuple[Step, ...] = ()
    checks: tuple[CheckUnchanged, ...] = ()
    objects: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    network: bool = False
    reads: tuple[str, ...] = ()


def build_graph(chain: Sequence[Layer], host: Host) -> Graph:
    """Return the graph for `chain`, whose first layer is what is booted; the plan has found nothing against it."""
    protocols = [_Protocol(layer, number, host) for number, layer in enumerate(chain)]
    _number_descriptors(protocols)
    nodes = [node for protocol in reversed(protocols) for node in (protocol.node, protocol.format_node(len(chain)))]
    boot = chain[0].image
    is_cd = boot.media.kind is MediaKind.CD
    steps = [step for protocol in protocols for step in protocol.steps]
    if not is_cd:
        nodes += _overlay_nodes()
        steps.insert(0, _create_overlay(host.qemu_img, sectors(boot.virtual_size)))
    return Graph(
        nodes=tuple(nodes),
        top="format0" if is_cd else OVERLAY,
        is_cd=is_cd,
        steps=tuple(steps),
        checks=tuple(protocol.check for protocol in protocols),
        objects=tuple(value for protocol in protocols for value in protocol.objects),
        descriptors=tuple(fd for protocol in protocols for fd in protocol.descriptors),
        network=any(speaks_to_a_server(layer.attachment) for layer in chain),
        reads=tuple(path for protocol in protocols for path in protocol.reads),
    )


def sectors(size: int) -> int:
    """Return `size` rounded up to whole sectors of 512 bytes, as QEMU sees it."""
    return -(-size // _SECTOR) * _SECTOR


def speaks_to_a_server(attachment: Attachment) -> bool:
    """Whether QEMU itself connects somewhere for it, other than to a Unix socket."""
    server = attachment.node.get("server")
    local = attachment.node.get("driver") in _LOCAL_DRIVERS or (
        isinstance(server, dict) and server.get("type") == "unix"
    )
    return attachment.route is Route.DRIVER and not local


class _Protocol:
    """One layer's protocol node, and all that comes with it."""

    def __init__(self, layer: Layer, number: int, host: Host) -> None:
        self.layer = layer
        self.number = number
        self.steps: list[Step] = []
        self.objects: list[str] = []
        self.descriptors: list[int] = []
        self.reads: list[str] = []
        self.node: dict[str, object] = {"node-name": f"proto{number}"}
        if layer.attachment.route is Route.BRIDGE:
            self._over_bridge(host)
        else:
            self.node |= dict(layer.attachment.node)
            self._lay_secrets(host)
            self._bring_files()
        self.node["read-only"] = True

    def format_node(self, layers: int) -> Node:
        driver = self.layer.image.format
        node: dict[str, object] = {
            "node-name": f"format{self.number}",
            "driver": driver,
            "file": f"proto{self.number}",
            "read-only": True,
        }
        if self.number + 1 < layers:
            node["backing"] = f"format{self.number + 1}"
        elif driver in TAKE_BACKING:
            node["backing"] = None
        return node

    @property
    def check(self) -> CheckUnchanged:
        layer = self.layer
        size = sectors(layer.image.virtual_size)
        return CheckUnchanged(layer.attachment.location, layer.attachment.pin, layer.head, f"format{self.number}", size)

    def open_files(self, free: list[int]) -> None:
        for file in self.layer.attachment.files:
            fd = free.pop(0)
            self.descriptors.append(fd)
            self.steps.append(OpenFile(file.path, fd, writable=False))
            self.node[file.option] = f"/dev/fdset/{fd}"

    def _over_bridge(self, host: Host) -> None:
        location, pin = self.layer.attachment.location, self.layer.attachment.pin
        socket = f"bridge{self.number or ''}.sock"
        # With `=`, for a validator is a server's word and could begin with a dash.
        argv = (
            *host.command,
            "bridge",
            f"--socket={socket}",
            f"--size={pin.size}",
            f"--validator={pin.validator}",
            f"--head={self.layer.head}",
            f"--format={self.layer.image.format}",
            "--",
            str(location),
        )
        self.steps.append(StartBridge(socket, location, argv))
        self.node |= {"driver": "nbd", "server": {"type": "unix", "path": socket}, "export": ""}
        if host.facts.version >= (7,):
            self.node["open-timeout"] = 10

    def _lay_secrets(self, host: Host) -> None:
        location = self.layer.attachment.location
        for index, slot in enumerate(self.layer.attachment.secrets):
            name = f"secret{self.number}" + (f"-{index}" if index else "")
            argv = (*host.command, "secret", "--", str(location), slot.asked)
            self.steps.append(LaySecret(name, location, slot.asked, slot.label, argv))
            encoded = "" if slot.format == "raw" else f",format={slot.format}"
            self.objects.append(f"secret,id={name},file={name}{encoded}")
            self.node[slot.option] = name

    def _bring_files(self) -> None:
        """Copy the files that the node names into the guest's folder, for its account may not read them in their
        place (/etc/pve/ceph.conf); let QEMU see the others.
        """
        named = {value: option for option, value in self.node.items() if isinstance(value, str)}
        for index, path in enumerate(self.layer.attachment.reads):
            if path in named:
                copy = f"config{self.number}" + (f"-{index}" if index else "")
                self.steps.append(CopyFile(path, copy))
                self.node[named[path]] = copy
            else:
                self.reads.append(path)


def _number_descriptors(protocols: Sequence[_Protocol]) -> None:
    free = list(DESCRIPTORS)
    for protocol in protocols:
        protocol.open_files(free)


def _create_overlay(qemu_img: str, size: int) -> CreateOverlay:
    path = "overlay.qcow2"
    return CreateOverlay(path, size, (qemu_img, "create", "-q", "-f", "qcow2", path, str(size)))


def _overlay_nodes() -> list[Node]:
    # It is thrown away: nothing need ever reach the disk, and what the guest trims is given back.
    cache = {"direct": False, "no-flush": True}
    file = {"node-name": "overlay-file", "driver": "file", "filename": "overlay.qcow2", "discard": "unmap"}
    overlay = {
        "node-name": OVERLAY,
        "driver": "qcow2",
        "file": "overlay-file",
        "backing": "format0",
        "discard": "unmap",
        "detect-zeroes": "unmap",
    }
    return [{**file, "cache": cache}, {**overlay, "cache": cache}]
