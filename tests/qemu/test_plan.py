"""What a plan decides: values in, values out, nothing started."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.qemu.boot.plan import plan
from app.qemu.options import FirmwareWish, Host, Network, Options
from app.qemu.steps import (
    BootPlan,
    CheckUnchanged,
    CopyFile,
    CreateOverlay,
    Layer,
    LaySecret,
    OpenFile,
    StartBridge,
    StartQemu,
)
from probes.attachment import Mode, SecretSlot
from probes.credentials import Secret
from probes.image import Backing, Firmware, Hazard, MediaKind, Verdict
from probes.location import Location, rbd_path
from probes.text import is_clean
from tests.qemu.argv import keyed, nodes, option_names, value_of, values_of
from tests.qemu.layers import BIOS, GIB, HOST, UEFI, USER_HOST, by_bridge, image, of_file, of_rbd, of_web

NOTHING = Options()


def argv_of(planned: BootPlan) -> tuple[str, ...]:
    assert not planned.refusals
    assert planned.qemu is not None
    return planned.qemu.argv


def argv(layer: Layer, options: Options = NOTHING, host: Host = HOST) -> tuple[str, ...]:
    return argv_of(plan([layer], options, host))


def steps_of(layer: Layer, kind: type, host: Host = HOST) -> list[object]:
    return [step for step in plan([layer], NOTHING, host).steps if isinstance(step, kind)]


def refusals(*chain: Layer, options: Options = NOTHING, host: Host = HOST) -> str:
    planned = plan(chain, options, host)
    assert not planned.steps or not planned.refusals
    assert not planned.refusals or not planned.drive
    return "\n".join(planned.refusals)


# The graph


def test_a_disk_lies_read_only_under_a_throwaway_overlay() -> None:
    graph = nodes(argv(of_web()))
    assert list(graph) == ["proto0", "format0", "overlay-file", "overlay"]
    assert graph["proto0"] == {
        "driver": "http",
        "node-name": "proto0",
        "url": "http://h:8000/test1.qcow2",
        "readahead": 65536,
        "read-only": True,
    }
    assert graph["format0"] == {
        "driver": "qcow2",
        "node-name": "format0",
        "file": "proto0",
        "read-only": True,
        "backing": None,
    }
    assert graph["overlay"]["backing"] == "format0"
    assert "read-only" not in graph["overlay"]
    assert "virtio-blk-pci,drive=overlay,bootindex=0,rerror=stop,werror=stop" in values_of(argv(of_web()), "-device")


@pytest.mark.parametrize("driver", ["raw", "vpc"])
def test_a_format_without_backing_images_is_not_told_of_one(driver: str) -> None:
    assert "backing" not in nodes(argv(of_web(judged=image(driver))))["format0"]


def test_the_overlay_is_as_large_as_the_disk_in_whole_sectors() -> None:
    (overlay,) = steps_of(of_web(judged=image("raw", size=1_000_001)), CreateOverlay)
    assert overlay == CreateOverlay(
        "overlay.qcow2",
        1_000_448,
        ("/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", "overlay.qcow2", "1000448"),
    )


def test_a_cd_goes_into_a_cd_drive_without_an_overlay() -> None:
    planned = plan([of_web(judged=image(kind=MediaKind.CD))], NOTHING, HOST)
    assert list(nodes(argv_of(planned))) == ["proto0", "format0"]
    assert "ide-cd,bus=ide.0,drive=format0,bootindex=0" in values_of(argv_of(planned), "-device")
    assert not any(isinstance(step, CreateOverlay) for step in planned.steps)


def test_a_chain_is_pinned_node_by_node() -> None:
    top = of_web("http://h/top.qcow2", image("qcow2", backing=Backing("base.raw", "raw")))
    graph = nodes(argv_of(plan([top, of_web("http://h/base.raw", image("raw"))], NOTHING, HOST)))
    assert list(graph) == ["proto1", "format1", "proto0", "format0", "overlay-file", "overlay"]
    assert graph["format0"]["backing"] == "format1"
    assert graph["proto1"]["url"] == "http://h/base.raw"


def test_a_host_file_comes_in_as_a_descriptor_and_by_no_name() -> None:
    planned = plan([of_file("/home/me/a,b.img")], NOTHING, HOST)
    assert OpenFile("/home/me/a,b.img", 3, writable=False) in planned.steps
    assert value_of(argv_of(planned), "-add-fd") == "fd=3,set=3"
    assert nodes(argv_of(planned))["proto0"]["filename"] == "/dev/fdset/3"
    assert "/home/me" not in " ".join(argv_of(planned))


def test_descriptors_are_those_that_every_shell_can_open() -> None:
    chain = [of_file(f"/srv/{n}", image("qcow2", backing=Backing("x") if n < 6 else None)) for n in range(7)]
    planned = plan(chain, NOTHING, HOST)
    assert sorted(step.fd for step in planned.steps if isinstance(step, OpenFile)) == [3, 4, 5, 6, 7, 8, 9]
    assert "more than 7 files" in refusals(of_file("/srv/0", image("qcow2", backing=Backing("x"))), *chain)


def test_each_image_is_looked_at_again_once_qemu_has_it() -> None:
    layer = of_web(judged=image("qcow2", size=1000))
    (check,) = steps_of(layer, CheckUnchanged)
    assert check == CheckUnchanged(layer.attachment.location, layer.attachment.pin, layer.evidence, "format0", 1024)
    assert isinstance(plan([layer], NOTHING, HOST).steps[-1], CheckUnchanged)


def test_the_bridge_serves_what_was_judged_and_qemu_speaks_nbd_to_it() -> None:
    layer = by_bridge(of_web("http://h/-x.qcow2"))
    planned = plan([layer], NOTHING, replace(HOST, command=("/usr/bin/farboot",)))
    (bridge,) = [step for step in planned.steps if isinstance(step, StartBridge)]
    assert bridge.argv == (
        "/usr/bin/farboot", "bridge", "--socket=bridge.sock", "--size=4096", '--validator="etag"',
        f"--evidence={layer.evidence}", "--format=qcow2", "--", "http://h/-x.qcow2",
    )  # fmt: skip
    node = nodes(argv_of(planned))["proto0"]
    assert node["driver"] == "nbd"
    assert node["server"] == {"type": "unix", "path": "bridge.sock"}
    assert planned.route == "bridge"
    assert any("this QEMU's http driver hangs" in note for note in planned.notes)


def test_helpers_and_files_are_ready_before_qemu_starts() -> None:
    kinds = [type(step) for step in plan([by_bridge(of_web())], Options(firmware=FirmwareWish.UEFI), HOST).steps]
    assert kinds == [CopyFile, CreateOverlay, StartBridge, StartQemu, CheckUnchanged]


# Secrets


def with_password(label: str = "password of alice at h") -> Layer:
    return of_web(secrets=(SecretSlot("password-secret", Secret("hunter2"), label, "password"),))


def test_a_secret_is_a_file_that_qemu_reads_and_never_a_word() -> None:
    planned = plan([with_password()], NOTHING, HOST)
    (secret,) = [step for step in planned.steps if isinstance(step, LaySecret)]
    assert (secret.path, secret.field, secret.label) == ("secret0", "password", "password of alice at h")
    assert secret.argv == ("farboot", "secret", "--", "http://h:8000/test1.qcow2", "password")
    assert "secret,id=secret0,file=secret0" in values_of(argv_of(planned), "-object")
    assert nodes(argv_of(planned))["proto0"]["password-secret"] == "secret0"
    assert "hunter2" not in repr(planned)


def test_a_cephx_key_is_read_as_the_base64_that_it_is() -> None:
    layer = of_rbd(secrets=(SecretSlot("key-secret", Secret("QUJD"), "key of client.admin", "key", "base64"),))
    assert "secret,id=secret0,file=secret0,format=base64" in values_of(argv(layer), "-object")


def test_several_secrets_have_names_of_their_own() -> None:
    slots = tuple(SecretSlot(f"{name}-secret", Secret("x"), name, name) for name in ("password", "cookie"))
    node = nodes(argv(of_web(secrets=slots)))["proto0"]
    assert node["password-secret"] != node["cookie-secret"]


def test_a_configuration_that_the_node_names_is_copied_for_qemus_account() -> None:
    node = {"driver": "rbd", "pool": "p", "image": "i", "conf": "/etc/pve/ceph.conf"}
    planned = plan([of_rbd(node=node, reads=("/etc/pve/ceph.conf", "/etc/ceph/extra"))], NOTHING, HOST)
    assert CopyFile("/etc/pve/ceph.conf", "config0") in planned.steps
    assert nodes(argv_of(planned))["proto0"]["conf"] == "config0"
    assert planned.qemu is not None
    assert "/etc/ceph/extra" in planned.qemu.confinement
    assert "/etc/pve/ceph.conf" not in planned.qemu.confinement


# The machine


def test_qemu_loads_no_configuration_of_its_own_and_probes_nothing() -> None:
    words = argv(of_file())
    assert words[0] == "/usr/bin/qemu-system-x86_64"
    assert {"-nodefaults", "-no-user-config", "-sandbox"} < set(words)
    assert "-drive" not in words
    assert all("driver" in node for node in nodes(words).values())
    assert "-S" not in words  # the supervisor's own addition


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max")])
def test_the_processor_model_follows_the_accelerator(accelerator: str, cpu: str) -> None:
    words = argv(of_file(), host=replace(HOST, accelerator=accelerator))
    assert (value_of(words, "-accel"), value_of(words, "-cpu")) == (accelerator, cpu)


@pytest.mark.parametrize(
    ("free", "wanted", "given"),
    [
        (16 * GIB, None, "2048M"),
        (3 * GIB, None, "1536M"),
        (512 << 20, None, "256M"),
        (GIB, 4 * GIB, "4096M"),
        (GIB, (100 << 20) + 5, "100M"),
    ],
)
def test_memory_is_two_gib_or_half_of_what_is_free_unless_chosen(free: int, wanted: int | None, given: str) -> None:
    assert value_of(argv(of_file(), Options(memory=wanted), replace(HOST, memory=free)), "-m") == given


@pytest.mark.parametrize(("usable", "wanted", "given"), [(8, None, "2"), (1, None, "1"), (2, 6, "6")])
def test_processors_are_two_at_most_unless_chosen(usable: int, wanted: int | None, given: str) -> None:
    assert value_of(argv(of_file(), Options(cpus=wanted), replace(HOST, cpus=usable)), "-smp") == given


def test_a_host_without_memory_is_told_so() -> None:
    assert "500 MiB of memory are free" in refusals(of_file(), host=replace(HOST, memory=500 << 20))
    assert not refusals(of_file(), options=Options(memory=128 << 20), host=replace(HOST, memory=500 << 20))


@pytest.mark.parametrize("options", [Options(memory=1000), Options(memory=-1), Options(cpus=0), Options(cpus=1000)])
def test_impossible_machines_are_refused(options: Options) -> None:
    assert refusals(of_file(), options=options)


def test_asking_for_more_than_there_is_is_noted() -> None:
    notes = plan([of_file()], Options(memory=8 * GIB, cpus=4), replace(HOST, memory=GIB, cpus=1)).notes
    assert sum("more" in note for note in notes) == 2


@pytest.mark.parametrize(
    ("boots_by", "wish", "uefi"),
    [
        (BIOS | UEFI, FirmwareWish.AUTO, False),
        (UEFI, FirmwareWish.AUTO, True),
        (frozenset(), FirmwareWish.AUTO, False),
        (None, FirmwareWish.AUTO, False),
        (None, FirmwareWish.UEFI, True),
        (UEFI, FirmwareWish.BIOS, False),
    ],
)
def test_the_firmware_is_what_the_image_wants_or_the_person(
    boots_by: frozenset[Firmware] | None, wish: FirmwareWish, uefi: bool
) -> None:
    planned = plan([of_file(judged=image(firmware=boots_by))], Options(firmware=wish), HOST)
    assert ("pflash0" in value_of(argv_of(planned), "-machine")) is uefi
    assert (CopyFile("/usr/share/OVMF/OVMF_VARS_4M.fd", "vars.fd") in planned.steps) is uefi
    if uefi:
        graph = nodes(argv_of(planned))
        assert graph["uefi-code"]["read-only"] is True
        assert graph["uefi-vars-file"]["filename"] == "vars.fd"


def test_without_uefi_firmware_only_images_that_need_it_are_refused() -> None:
    bare = replace(HOST, uefi=None)
    assert "ovmf" in refusals(of_file(judged=image(firmware=UEFI)), host=bare)
    assert not refusals(of_file(), host=bare)


@pytest.mark.parametrize(
    ("layer", "wish", "network"),
    [
        (of_web(), None, "user,id=net0,restrict=on,ipv6=off"),
        (of_file(), None, "user,id=net0"),
        (of_rbd(), Network.RESTRICTED, "user,id=net0,restrict=on,ipv6=off"),
        (of_web(), Network.USER, "user,id=net0"),
    ],
)
def test_guests_of_the_web_reach_nothing_unless_asked_otherwise(
    layer: Layer, wish: Network | None, network: str
) -> None:
    assert value_of(argv(layer, Options(network=wish)), "-netdev") == network


def test_without_a_network_there_is_no_card() -> None:
    words = argv(of_file(), Options(network=Network.NONE))
    assert "-netdev" not in words
    assert not any("virtio-net" in value for value in values_of(words, "-device"))


# Confinement, as the plan asks for it


@pytest.mark.parametrize(
    ("layer", "network", "shut"),
    [
        (of_file(), Network.RESTRICTED, True),
        (of_file(), Network.USER, False),
        (of_web(), Network.NONE, False),
        (by_bridge(of_web()), Network.RESTRICTED, True),
        (of_rbd(), Network.NONE, False),
    ],
)
def test_qemu_is_off_the_network_unless_it_needs_it(layer: Layer, network: Network, shut: bool) -> None:
    start = plan([layer], Options(network=network), HOST).qemu
    assert start is not None
    assert ("--unshare-net" in start.confinement) is shut


def test_under_root_qemu_runs_as_an_account_of_its_own() -> None:
    start = plan([of_file()], NOTHING, HOST).qemu
    assert start is not None
    assert start.uid == 1_900_000_001
    assert start.confinement[start.confinement.index("--reuid") + 1] == "1900000001"
    assert start.confinement[start.confinement.index("--groups") + 1] == "104"  # for /dev/kvm
    user = plan([of_file()], NOTHING, USER_HOST).qemu
    assert user is not None
    assert user.uid is None
    assert "--unshare-user" in user.confinement


def test_without_bubblewrap_it_still_boots_and_says_what_is_lost() -> None:
    bare = replace(USER_HOST, bwrap=None, netns=False, missing=("bubblewrap is not installed: the files are visible",))
    planned = plan([of_file()], NOTHING, bare)
    assert planned.qemu is not None
    assert planned.qemu.confinement == ()
    assert "bubblewrap is not installed: the files are visible" in planned.notes


# Refusals


def test_a_hazard_that_refuses_is_final() -> None:
    bad = image(hazards=(Hazard("data-file", "it keeps its data in /etc/passwd", Verdict.REFUSE),))
    assert refusals(of_file(judged=bad), options=Options(accept=frozenset({"data-file"}))) == (
        "it keeps its data in /etc/passwd"
    )


def test_a_hazard_that_asks_needs_a_yes() -> None:
    odd = image(hazards=(Hazard("dirty", "it was not closed cleanly", Verdict.ASK),))
    assert "dirty" in refusals(of_file(judged=odd))
    accepted = plan([of_file(judged=odd)], Options(accept=frozenset({"dirty"})), HOST)
    assert not accepted.refusals
    assert "it was not closed cleanly" in accepted.notes
    assert not accepted.drive


def test_hazards_of_backing_images_count_as_well() -> None:
    bad = image(hazards=(Hazard("x", "no", Verdict.REFUSE),))
    assert refusals(of_web(judged=image("qcow2", backing=Backing("b"))), of_web(judged=bad)) == "no"


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (of_web(judged=image("vmdk")), "format vmdk"),
        (of_web("https://h/x", node={"driver": "gluster"}), "no driver gluster"),
        (of_web(judged=image(size=0)), "empty"),
        (of_web(judged=image("qcow2", backing=Backing("/etc/pass\x1bwd"))), "backing image /etc/pass\\x1bwd"),
        (of_rbd(node={"driver": "rbd", "pool": "p", "image": "\udcff"}), "UTF-8"),
    ],
)
def test_what_cannot_boot_says_why_before_it_is_tried(layer: Layer, words: str) -> None:
    assert words in refusals(layer)


def test_what_follows_from_a_refusal_is_not_told_beside_it() -> None:
    packed = image("gzip", size=0, hazards=(Hazard("compressed", "it is compressed with gzip", Verdict.REFUSE),))
    assert refusals(of_file(judged=packed)) == "it is compressed with gzip"


def test_a_backing_image_under_a_format_that_has_none_is_refused() -> None:
    assert "raw has no backing image" in refusals(of_web(judged=image("raw")), of_web())


def test_a_bridge_needs_nbd() -> None:
    without = replace(HOST, facts=replace(HOST.facts, drivers=frozenset({"qcow2"})))
    assert "nbd" in refusals(by_bridge(of_web()), host=without)


def test_every_refusal_is_told_once() -> None:
    planned = plan([of_web(judged=image("vmdk")), of_web(judged=image("vmdk"))], Options(mode=Mode.WRITE), HOST)
    assert len(planned.refusals) == len(set(planned.refusals)) > 1


# Why it is refused


def test_only_what_the_image_is_counts_as_refused_because_of_the_image() -> None:
    bad = image(hazards=(Hazard("x", "no", Verdict.REFUSE),))
    assert plan([of_file(judged=bad)], NOTHING, HOST).image_refused
    assert plan([of_file(judged=image(size=0))], NOTHING, HOST).image_refused
    assert not plan([of_file(judged=image(firmware=UEFI))], NOTHING, replace(HOST, uefi=None)).image_refused
    assert not plan([of_file()], Options(mode=Mode.WRITE), HOST).image_refused
    assert not plan([of_file()], NOTHING, replace(HOST, memory=0)).image_refused
    assert not plan([of_file()], NOTHING, HOST).image_refused


# No text of a server's or a person's makes an option


_ODD = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=()), min_size=1, max_size=40),
    st.sampled_from(
        ["-drive", ",file=/etc/passwd", "x,process=y", '"}', "a,,b", "%s", "\x1b]0;x\x07", "../..", "[bold]", "json:{}"]
    ),
)


@given(name=_ODD, label=_ODD, validator=_ODD, value=_ODD)
def test_no_name_becomes_an_option(name: str, label: str, validator: str, value: str) -> None:
    expected = option_names(argv(of_rbd(secrets=(SecretSlot("key-secret", Secret("k"), "l", "key"),))))
    layer = of_rbd(secrets=(SecretSlot("key-secret", Secret("k"), label, "key"),))
    node = {**layer.attachment.node, "image": name, "user": value}
    location = Location("rbd", path=rbd_path("pool", name))
    attachment = replace(
        layer.attachment, location=location, node=node, pin=replace(layer.attachment.pin, validator=validator)
    )
    planned = plan([replace(layer, attachment=attachment)], NOTHING, HOST)
    if planned.refusals:
        assert all("UTF-8" in refusal for refusal in planned.refusals)
        assert re.search("[\ud800-\udfff]", name + value)
        return
    words = argv_of(planned)
    assert option_names(words) == expected
    assert set(keyed(value_of(words, "-name"))) == {"guest"}
    proto = nodes(words)["proto0"]
    assert (proto["image"], proto["user"]) == (name, value)
    assert set(proto) == {"driver", "node-name", "pool", "image", "user", "key-secret", "read-only"}


@given(name=_ODD, validator=_ODD)
def test_no_name_becomes_an_option_of_the_bridge(name: str, validator: str) -> None:
    layer = by_bridge(of_rbd())
    attachment = replace(
        layer.attachment,
        location=Location("rbd", path=rbd_path("pool", name)),
        pin=replace(layer.attachment.pin, validator=validator),
    )
    planned = plan([replace(layer, attachment=attachment)], NOTHING, HOST)
    (bridge,) = [step for step in planned.steps if isinstance(step, StartBridge)]
    assert [word.partition("=")[0] for word in bridge.argv[1:7]] == [
        "bridge", "--socket", "--size", "--validator", "--evidence", "--format",
    ]  # fmt: skip
    assert bridge.argv[7:] == ("--", str(attachment.location))


@given(name=_ODD)
def test_notes_and_refusals_hold_nothing_that_a_terminal_could_act_on(name: str) -> None:
    layer = by_bridge(of_web(judged=image("qcow2", hazards=(Hazard("x", name, Verdict.OK),))), why=name)
    assert all(is_clean(note) for note in plan([layer], NOTHING, HOST).notes)
    refused = plan([of_web(judged=image("qcow2", backing=Backing(name)))], NOTHING, HOST)
    assert all(is_clean(text) for text in refused.refusals)
