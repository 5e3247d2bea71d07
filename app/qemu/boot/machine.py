"""QEMU's argv: the machine around the block graph.

Nodes are JSON; all else is QEMU's `name=value,…` form, for that is what people read and know. Every value in it comes
from here or from an enumeration, except the guest's name, in which commas are doubled as QEMU's manual says: no name
makes an option.
"""

import json
from dataclasses import dataclass

from app.qemu.boot.drives import Drive
from app.qemu.boot.graph import Graph, options
from app.qemu.host.accelerator import cpu_model
from app.qemu.host.binary import SANDBOX
from app.qemu.options import Host, Network, Pflash
from probes.attachment import Node
from probes.text import clean, is_clean

_NAME_LENGTH = 60


@dataclass(frozen=True)
class Machine:
    """What a guest gets, decided: `memory` in bytes, `uefi` None for BIOS, `clock` as `-rtc base=` takes it."""

    name: str
    memory: int
    cpus: int
    network: Network
    drive: Drive
    uefi: Pflash | None = None
    card: str = "virtio-net-pci"
    clock: str = "utc"


def qemu_argv(machine: Machine, graph: Graph, host: Host) -> tuple[str, ...]:
    """Return QEMU's complete argv, its own path first."""
    argv = [host.qemu, "-name", options(guest=clean(machine.name, _NAME_LENGTH)), "-no-user-config", "-nodefaults"]
    if host.sandbox:
        argv += SANDBOX
    argv += ["-machine", _board(machine), "-accel", host.accelerator, "-cpu", cpu_model(host.accelerator)]
    argv += ["-smp", str(machine.cpus), "-m", f"{machine.memory >> 20}M"]
    argv += ["-rtc", f"base={machine.clock}", "-boot", "strict=on"]
    for value in graph.objects:
        argv += ["-object", value]
    for descriptor in graph.descriptors:
        argv += ["-add-fd", f"fd={descriptor},set={descriptor}"]
    for node in (*_firmware_nodes(machine.uefi), *graph.nodes):
        argv += ["-blockdev", node_text(node)]
    for device in (*machine.drive.devices, "VGA", "qemu-xhci", "usb-tablet"):
        argv += ["-device", device.replace("{node}", graph.top)]
    argv += ["-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0"]
    argv += _network(machine)
    # The serial line is QEMU's own input and output: a terminal under a script, pipes under the supervisor.
    argv += ["-chardev", "stdio,id=serial0", "-serial", "chardev:serial0"]
    argv += ["-qmp", "unix:qmp.sock,server=on,wait=off", "-vnc", "unix:vnc.sock"]
    return tuple(argv)


def node_text(node: Node) -> str:
    """Return the JSON of a node, its letters readable unless a terminal could act on them."""
    ordered = {key: node[key] for key in ("driver", "node-name") if key in node}
    text = json.dumps(ordered | dict(node), ensure_ascii=False)
    return text if is_clean(text) else json.dumps(ordered | dict(node))


def _board(machine: Machine) -> str:
    board = machine.drive.board
    return f"{board},pflash0=uefi-code,pflash1=uefi-vars" if machine.uefi else board


def _firmware_nodes(uefi: Pflash | None) -> tuple[Node, ...]:
    if uefi is None:
        return ()
    # Every node is named: the supervisor takes a nameless one for something that QEMU opened by itself.
    return (
        {"driver": "file", "node-name": "uefi-code-file", "read-only": True, "filename": uefi.code},
        {"driver": uefi.format, "node-name": "uefi-code", "read-only": True, "file": "uefi-code-file"},
        {"driver": "file", "node-name": "uefi-vars-file", "filename": "vars.fd"},
        {"driver": uefi.format, "node-name": "uefi-vars", "file": "uefi-vars-file"},
    )


def _network(machine: Machine) -> list[str]:
    if machine.network is Network.NONE:
        return []
    # restrict=on is about IPv4 in some versions of slirp.
    backend = "user,id=net0,restrict=on,ipv6=off" if machine.network is Network.RESTRICTED else "user,id=net0"
    return ["-netdev", backend, "-device", f"{machine.card},netdev=net0,romfile="]
