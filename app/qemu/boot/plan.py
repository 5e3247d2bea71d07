"""The plan of a boot: a pure function of what is booted, what was asked for, and what this host can do.

A plan is values only. The supervisor carries it out, `app.qemu.boot.script` prints it, the TUI shows it.
"""

import json
from collections.abc import Iterator, Sequence

from app.qemu.boot.confine import confinement
from app.qemu.boot.defaults import LEAST_MEMORY, default_notes, defaults_for, firmware_for
from app.qemu.boot.drive import short_drive
from app.qemu.boot.drives import drive_for, drive_notes, drive_refusals
from app.qemu.boot.graph import AGENT, DESCRIPTORS, TAKE_BACKING, build_graph
from app.qemu.boot.machine import Machine, qemu_argv
from app.qemu.boot.writing import is_cd, snapshot_notes, snapshot_refusals, write_notes, write_refusals
from app.qemu.host.firmware import REMEDY as UEFI_REMEDY
from app.qemu.options import FirmwareWish, Host, Network, Options
from app.qemu.steps import BootPlan, CopyFile, Layer, StartQemu, Step
from probes.attachment import Mode, Node, Route
from probes.image import Firmware, Verdict
from probes.text import clean

DEFAULT_CPUS = 2

_MIB = 1 << 20
_MOST_CPUS = 255


def plan(chain: Sequence[Layer], options: Options, host: Host) -> BootPlan:
    """Return how to boot `chain` (the image first, then its backing images, if any), or why it cannot be booted."""
    boot = chain[0]
    location, route, mode = boot.attachment.location, boot.attachment.route.value, options.mode.value
    machine = _machine(boot, options, host)
    of_image = tuple(_image_refusals(chain, options))
    refusals = tuple(dict.fromkeys((*of_image, *_refusals(chain, machine, options, host))))
    if refusals:
        withheld = "it cannot be booted"
        return BootPlan(
            location, route, refusals=refusals, drive_withheld=withheld, mode=mode, image_refused=bool(of_image)
        )
    graph = build_graph(chain, host, options.mode, machine.drive.generic)
    network = graph.network or machine.network is Network.USER
    firmware: tuple[Step, ...] = (CopyFile(machine.uefi.vars, "vars.fd"),) if machine.uefi else ()
    start = StartQemu(
        argv=qemu_argv(machine, graph, host),
        confinement=confinement(host, network, graph.reads, AGENT if graph.agent else ""),
        uid=host.guest_uid if host.setpriv else None,
    )
    drive, withheld = short_drive(chain, options)
    return BootPlan(
        location,
        route,
        steps=(*firmware, *graph.steps, start, *graph.checks),
        notes=tuple(dict.fromkeys(clean(note) for note in _notes(chain, machine, options, host))),
        drive=drive,
        drive_withheld=clean(withheld),
        format=boot.image.format,
        mode=mode,
        memory=machine.memory,
        cpus=machine.cpus,
        network=machine.network.value,
        backing=tuple(layer.attachment.location for layer in chain[1:]),
    )


def _machine(boot: Layer, options: Options, host: Host) -> Machine:
    suited = defaults_for(boot.image)
    default = min(suited.memory, host.memory // 2)
    own = boot.attachment.trusted
    return Machine(
        name=boot.attachment.location.title,
        memory=(default if options.memory is None else options.memory) // _MIB * _MIB,
        cpus=min(DEFAULT_CPUS, host.cpus) if options.cpus is None else options.cpus,
        network=options.network or (Network.USER if own else Network.RESTRICTED),
        drive=drive_for(boot, options),
        uefi=host.uefi if _wants_uefi(boot, options) else None,
        card=suited.card,
        clock=suited.clock,
    )


def _wants_uefi(boot: Layer, options: Options) -> bool:
    if options.firmware is FirmwareWish.AUTO:
        return firmware_for(boot.image) is Firmware.UEFI
    return options.firmware is FirmwareWish.UEFI


def _image_refusals(chain: Sequence[Layer], options: Options) -> Iterator[str]:
    """What the image itself is refused for: on another host, at another time, it would be the same."""
    for layer in chain:
        for hazard in layer.image.hazards:
            if hazard.verdict is Verdict.REFUSE:
                yield clean(hazard.text)
            elif hazard.verdict is Verdict.ASK and hazard.code not in options.accept:
                yield clean(f"{hazard.text} (this needs a yes: --accept {hazard.code})")
        # What is refused already need not be told what follows from it.
        if layer.image.virtual_size <= 0 and layer.image.verdict is not Verdict.REFUSE:
            yield "the image is empty"
    yield from _chain_refusals(chain)


def _refusals(chain: Sequence[Layer], machine: Machine, options: Options, host: Host) -> Iterator[str]:
    """What this host, this QEMU, this moment or the person's choices stand against."""
    against = write_refusals if options.mode is Mode.WRITE else snapshot_refusals
    yield from map(clean, against(chain[0]))
    for layer in chain[1:]:
        yield from map(clean, snapshot_refusals(layer))
    yield from map(clean, drive_refusals(chain[0], options))
    for layer in chain:
        yield from map(clean, _layer_refusals(layer, host))
    if _wants_uefi(chain[0], options) and host.uefi is None:
        yield f"it boots by UEFI, and no UEFI firmware is installed ({UEFI_REMEDY})"
    if options.memory is None and machine.memory < LEAST_MEMORY:
        free = host.memory // _MIB
        yield f"only {free} MiB of memory are free, and a guest wants {LEAST_MEMORY // _MIB} of them as its half"
    elif machine.memory < _MIB:
        yield "a guest wants at least 1 MiB of memory"
    if not 1 <= machine.cpus <= _MOST_CPUS:
        yield f"a guest has 1 to {_MOST_CPUS} processors, not {machine.cpus}"


def _layer_refusals(layer: Layer, host: Host) -> Iterator[str]:
    attachment, image = layer.attachment, layer.image
    if image.format not in host.facts.drivers and image.verdict is not Verdict.REFUSE:
        yield f"this QEMU cannot read the format {image.format}"
    driver = attachment.node.get("driver")
    if attachment.route is Route.DRIVER and driver not in host.facts.drivers:
        yield f"this QEMU has no driver {driver} (apt install qemu-block-extra)"
    if attachment.route is Route.BRIDGE and "nbd" not in host.facts.drivers:
        yield "this QEMU has no driver nbd, by which it speaks to Farboot's bridge"
    if not _is_utf8(attachment.node):
        yield "its name is not valid UTF-8, and QEMU takes no other (--route bridge)"


def _is_utf8(node: Node) -> bool:
    try:
        json.dumps(dict(node), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _chain_refusals(chain: Sequence[Layer]) -> Iterator[str]:
    for layer, backing in zip(chain, (*chain[1:], None), strict=True):
        named, refused = layer.image.backing, layer.image.verdict is Verdict.REFUSE
        if backing is not None and layer.image.format not in TAKE_BACKING:
            yield f"an image of the format {layer.image.format} has no backing image"
        if backing is None and named is not None and not refused:
            yield clean(f"it needs its backing image {named.name}, which is not part of this boot")
    if sum(len(layer.attachment.files) for layer in chain) > len(DESCRIPTORS):
        yield f"its chain has more than {len(DESCRIPTORS)} files"


def _notes(chain: Sequence[Layer], machine: Machine, options: Options, host: Host) -> Iterator[str]:
    boot = chain[0]
    yield from write_notes(boot) if options.mode is Mode.WRITE else snapshot_notes(boot)
    for layer in chain:
        attachment = layer.attachment
        if layer is not boot:
            yield from snapshot_notes(layer)
        if attachment.route is Route.BRIDGE:
            yield (
                f"Farboot's bridge reads it for QEMU: {attachment.why}"
                if attachment.why
                else ("Farboot's bridge reads it for QEMU")
            )
        elif attachment.why:
            yield attachment.why
        yield from attachment.notes
        yield from (hazard.text for hazard in layer.image.hazards)
    if options.firmware is FirmwareWish.AUTO and not boot.image.media.firmware:
        found = "it is not known what the image boots by" if boot.image.media.firmware is None else (
            "nothing bootable was found in the image"
        )  # fmt: skip
        yield f"{found}: it is started by BIOS (--firmware uefi for the other)"
    yield from default_notes(boot.image, options, is_cd(boot), machine.network is not Network.NONE)
    yield from drive_notes(machine.drive, machine.uefi is not None)
    if machine.network is Network.RESTRICTED and options.network is None:
        yield "the guest reaches no network, for its image is not from your own storage (--network user gives it one)"
    if options.memory is not None and machine.memory > host.memory:
        yield f"it is to have more memory than the {host.memory // _MIB} MiB that are free: the kernel may end it"
    if machine.cpus > host.cpus:
        yield f"it is to have more processors than the {host.cpus} that Farboot may use: it will be slow"
    if host.accelerator != "kvm":
        yield "KVM is not used, so the guest is slow" + (f": {host.accelerator_why}" if host.accelerator_why else "")
    yield from host.missing
