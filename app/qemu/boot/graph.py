"""The block graph of a boot: from a chain of layers to `-blockdev` nodes, and the steps they need first.

    proto0     how QEMU gets at the image: its own driver, or the bridge's socket       read-only
    format0    the format, named outright: QEMU never probes                            read-only
    proto1, format1 …    the backing image, and its backing image in turn, pinned by node name
    overlay    a throwaway qcow2 that takes what the guest writes; a CD has none

In a boot that writes there is no overlay, and of a chain proto0 and format0 alone are writable.

An encrypted image's passphrase is a secret object that its format node names. An ssh agent serves all that log in with
one key.

A format that could name a backing file of its own gets `"backing": null` where the chain ends, so that nothing in
the image's header makes QEMU open anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.qemu.boot.writing import is_cd
from app.qemu.options import Host
from app.qemu.steps import (
    UNLOCKS,
    CheckUnchanged,
    CheckUnused,
    CopyFile,
    CreateOverlay,
    FetchImage,
    Layer,
    LaySecret,
    OpenFile,
    StartAgent,
    StartBridge,
    Step,
)
from probes.attachment import Attachment, Mode, Node, Route, SecretSlot, Tls
from probes.evidence import NOT_JUDGED
from probes.reader import Pin

TAKE_BACKING = frozenset({"qcow2", "qcow", "qed", "vmdk"})
"""Drivers that have the option `backing`; the others reject it."""

OVERLAY = "overlay"

# A POSIX shell can open no others: `exec 10<file` is a command named 10 to dash.
DESCRIPTORS = range(3, 10)

AGENT = "agent.sock"
"""The socket of QEMU's own ssh agent, in the guest's folder."""

_SECTOR = 512
_LOCAL_DRIVERS = frozenset({"file", "host_device"})

# librbd watches the header of an image that it opens for writing, and that is what others see of it.
_OWN_USERS = {"rbd": 1}

# Formats that QEMU leaves untouched when it opens them for writing, before the guest writes.
_QUIET = frozenset({"raw", "luks"})


@dataclass(frozen=True)
class Graph:
    """The nodes in the order in which they must be made, and what they need.

    `steps` come before QEMU starts and `checks` after it opened the images. `objects` are values of `-object`,
    `descriptors` those that QEMU inherits. `network` says that QEMU itself speaks to a server. `reads` are host paths
    that it must see. `top` is the node that the guest's device is given. `agent` says that QEMU has an ssh agent of its
    own at `AGENT`.
    """

    nodes: tuple[Node, ...]
    top: str
    steps: tuple[Step, ...] = ()
    checks: tuple[Step, ...] = ()
    objects: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    network: bool = False
    reads: tuple[str, ...] = ()
    agent: bool = False


def build_graph(chain: Sequence[Layer], host: Host, mode: Mode = Mode.SNAPSHOT, generic: bool = False) -> Graph:
    """Return the graph for `chain`, whose first layer is what is booted; the plan has found nothing against it.

    With `generic` the guest speaks to the protocol node of a raw image, and there is no node above it.
    """
    writes = mode is Mode.WRITE
    protocols = [_Protocol(layer, number, host, writes and number == 0) for number, layer in enumerate(chain)]
    _number_descriptors(protocols)
    _share_agents(protocols)
    nodes: list[Node] = []
    for protocol in reversed(protocols):
        nodes += [protocol.node] if generic else [protocol.node, protocol.format_node(len(chain))]
    steps = [step for protocol in protocols for step in protocol.steps]
    top = "proto0" if generic else "format0"
    if not (writes or is_cd(chain[0])):
        top = OVERLAY
        nodes += _overlay_nodes()
        steps.insert(0, _create_overlay(host.qemu_img, sectors(chain[0].image.size_in(host.facts.version))))
    before: list[Step] = [protocol.check("") for protocol in protocols if protocol.is_disturbed]
    if before:  # as QEMU opens it, it writes into it already
        before.append(CheckUnused(chain[0].attachment.location, 0))
    after: list[Step] = [protocol.check("proto" if generic else "format") for protocol in protocols]
    if writes:
        attachment = chain[0].attachment
        ours = _OWN_USERS.get(str(attachment.node.get("driver")), 0)
        after.append(CheckUnused(attachment.location, ours))
    return Graph(
        nodes=tuple(nodes),
        top=top,
        steps=(*steps, *before),
        checks=tuple(after),
        objects=tuple(value for protocol in protocols for value in protocol.objects),
        descriptors=tuple(fd for protocol in protocols for fd in protocol.descriptors),
        network=any(speaks_to_a_server(layer.attachment) for layer in chain),
        reads=tuple(path for protocol in protocols for path in protocol.reads),
        agent=any(layer.attachment.agent_key for layer in chain),
    )


def options(**values: str) -> str:
    """Return a value for QEMU's option parser, commas in it doubled."""
    return ",".join(f"{name}={value.replace(',', ',,')}" for name, value in values.items())


def passphrase_of(number: int) -> str:
    """The name of the secret object, and of the file, with the passphrase of the image `number` of the chain."""
    return f"passphrase{number}"


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

    def __init__(self, layer: Layer, number: int, host: Host, writable: bool) -> None:
        self.layer = layer
        self.number = number
        self.size = layer.image.size_in(host.facts.version)
        self.writable = writable
        self.steps: list[Step] = []
        self.objects: list[str] = []
        self.descriptors: list[int] = []
        self.reads: list[str] = []
        self.node: dict[str, object] = {"node-name": f"proto{number}"}
        if layer.attachment.route is Route.BRIDGE:
            self._over_bridge(host)
        else:
            self.node |= dict(layer.attachment.node)
            self._fetch(host)
            self._lay_secrets(host)
            self._bring_files()
            self._bring_tls(host)
            self._start_agent(host)
        self._lay_passphrase(host)
        self.node.pop("auto-read-only", None)  # it is one or the other
        self.node["read-only"] = not writable
        if writable:
            self.node["discard"] = "unmap"

    def format_node(self, layers: int) -> Node:
        driver = self.layer.image.format
        node: dict[str, object] = {
            "node-name": f"format{self.number}",
            "driver": driver,
            "file": f"proto{self.number}",
            "read-only": not self.writable,
        }
        if self.writable:
            node["discard"] = "unmap"
        if self.number + 1 < layers:
            node["backing"] = f"format{self.number + 1}"
        elif driver in TAKE_BACKING:
            node["backing"] = None
        if self.layer.image.needs_passphrase:
            key: dict[str, object] = {"key-secret": passphrase_of(self.number)}
            node |= key if driver == "luks" else {"encrypt": {"format": "luks", **key}}
        return node

    @property
    def is_disturbed(self) -> bool:
        """Whether QEMU itself may write to the image when it opens it."""
        return self.writable and self.layer.image.format not in _QUIET

    def check(self, level: str) -> CheckUnchanged:
        """The check once QEMU has opened it, by the size of its node of that `level`; before that, without one."""
        attachment, evidence = self.layer.attachment, self.layer.evidence
        pin, node = attachment.pin, f"{level}{self.number}" if level else ""
        if level and self.is_disturbed:
            pin, evidence = Pin(pin.size), NOT_JUDGED
        return CheckUnchanged(attachment.location, pin, evidence, node, sectors(self.size))

    def open_files(self, free: list[int]) -> None:
        for file in self.layer.attachment.files:
            fd = free.pop(0)
            self.descriptors.append(fd)
            self.steps.append(OpenFile(file.path, fd, self.writable, exclusive=self.writable and file.exclusive))
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
            f"--evidence={self.layer.evidence}",
            f"--format={self.layer.image.format}",
            *(("--write",) if self.writable else ()),
            "--",
            str(location),
        )
        self.steps.append(StartBridge(socket, location, argv))
        self.node |= {"driver": "nbd", "server": {"type": "unix", "path": socket}, "export": ""}
        if host.facts.version >= (7,):
            self.node["open-timeout"] = 10

    def _fetch(self, host: Host) -> None:
        if self.layer.attachment.route is Route.FETCH:
            location = self.layer.attachment.location
            self.steps.append(FetchImage(location, (*host.command, "fetch", "--", str(location))))

    def _lay_secrets(self, host: Host) -> None:
        location = self.layer.attachment.location
        for index, slot in enumerate(self.layer.attachment.secrets):
            name = f"secret{self.number}" + (f"-{index}" if index else "")
            argv = (*host.command, "secret", "--", str(location), slot.asked)
            self.steps.append(LaySecret(name, location, slot.asked, slot.label, argv))
            encoded = "" if slot.format == "raw" else f",format={slot.format}"
            self.objects.append(f"secret,id={name},file={name}{encoded}")
            self.node[slot.option] = name

    def _lay_passphrase(self, host: Host) -> None:
        if self.layer.image.needs_passphrase:
            location, name, field = self.layer.attachment.location, passphrase_of(self.number), UNLOCKS
            argv = (*host.command, "secret", "--", str(location), field)
            self.steps.append(LaySecret(name, location, field, f"passphrase of the image {location.title}", argv))
            self.objects.append(f"secret,id={name},file={name}")

    def _bring_tls(self, host: Host) -> None:
        """Give QEMU the certificates, or the key, in a folder as its TLS objects want it (qemu(1), tls-creds-x509)."""
        tls = self.layer.attachment.tls
        if tls is None:
            return
        folder = f"tls{self.number}"
        for name, path in tls.files:
            self.steps.append(CopyFile(path, f"{folder}/{name}", secret=name.endswith("key.pem")))
        if tls.psk is not None:
            self.steps.append(self._psk(tls, tls.psk, f"{folder}/keys.psk", host))
            values = options(id=folder, endpoint="client", dir=folder, username=tls.username)
            self.objects.append(f"tls-creds-psk,{values}")
        else:
            self.objects.append(f"tls-creds-x509,id={folder},endpoint=client,dir={folder},verify-peer=on")
        self.node[tls.option] = folder
        if tls.hostname and host.facts.version >= (7,):
            self.node["tls-hostname"] = tls.hostname

    def _psk(self, tls: Tls, slot: SecretSlot, path: str, host: Host) -> LaySecret:
        location = self.layer.attachment.location
        argv = (*host.command, "secret", "--", str(location), slot.asked)
        return LaySecret(path, location, slot.asked, slot.label, argv, before=f"{tls.username}:")

    def _start_agent(self, host: Host) -> None:
        attachment = self.layer.attachment
        if not attachment.agent_key:
            return
        location, key = attachment.location, attachment.agent_key
        argv = (*host.command, "agent", f"--socket={AGENT}", f"--key={key}", "--", str(location))
        self.steps.append(StartAgent(AGENT, location, key, argv))

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


def _share_agents(protocols: Sequence[_Protocol]) -> None:
    """Start the agent once: all images of a chain lie on one server, where one key logs in."""
    agents = [(protocol, step) for protocol in protocols for step in protocol.steps if isinstance(step, StartAgent)]
    for protocol, agent in agents[1:]:
        protocol.steps.remove(agent)


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
