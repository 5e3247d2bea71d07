"""The plan of a chain: every image a pair of nodes of its own, pinned to the next by name, each with what it takes."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from app.qemu.boot.plan import plan
from app.qemu.boot.script import script
from app.qemu.options import Host, Options
from app.qemu.steps import (
    UNLOCKS,
    BootPlan,
    CheckUnchanged,
    CheckUnused,
    CreateOverlay,
    Layer,
    LaySecret,
    OpenFile,
    StartAgent,
    StartBridge,
)
from probes.attachment import Mode, SecretSlot
from probes.credentials import Secret
from probes.image import Backing, Hazard, Image, MediaKind, Verdict
from probes.location import Location
from tests.qemu.argv import nodes, values_of
from tests.qemu.layers import GIB, HOST, by_bridge, image, of_file, of_rbd, of_web

ASKS = Hazard("backing-file", "It needs a backing image beside it, base.raw: that is opened as well.", Verdict.ASK)
YES = Options(accept=frozenset({"backing-file"}))
TOP = image("qcow2", size=2 * GIB, hazards=(ASKS,), backing=Backing("base.raw", "raw"))


def planned(chain: list[Layer], options: Options = YES, host: Host = HOST) -> BootPlan:
    made = plan(chain, options, host)
    assert made.refusals == ()
    return made


def argv(made: BootPlan) -> tuple[str, ...]:
    assert made.qemu is not None
    return made.qemu.argv


def of_files() -> list[Layer]:
    return [of_file("/srv/top.qcow2", TOP), of_file("/srv/base.raw", image("raw"))]


def over_ssh(text: str, judged: Image) -> Layer:
    location = Location.parse(text)[0]
    return of_rbd(judged=judged, location=location, agent_key="SHA256:abc", node={"driver": "ssh", "path": text})


def test_each_image_is_pinned_to_the_next_and_the_last_to_nothing() -> None:
    middle = image("qcow2", backing=Backing("base.qcow2"))
    made = planned([of_file("/srv/top", TOP), of_file("/srv/middle", middle), of_file("/srv/base", image("qcow2"))])
    graph = nodes(argv(made))
    assert list(graph)[:6] == ["proto2", "format2", "proto1", "format1", "proto0", "format0"]
    assert [graph[f"format{n}"]["backing"] for n in range(3)] == ["format1", "format2", None]
    assert [graph[f"format{n}"]["file"] for n in range(3)] == ["proto0", "proto1", "proto2"]
    assert graph["overlay"]["backing"] == "format0"
    assert all(graph[name]["read-only"] for name in graph if not name.startswith("overlay"))
    assert [(s.path, s.fd, s.writable) for s in made.steps if isinstance(s, OpenFile)] == [
        ("/srv/top", 3, False),
        ("/srv/middle", 4, False),
        ("/srv/base", 5, False),
    ]


def test_a_raw_backing_image_is_told_of_no_backing() -> None:
    graph = nodes(argv(planned(of_files())))
    assert "backing" not in graph["format1"]
    assert graph["format0"]["backing"] == "format1"


def test_the_guest_s_disk_is_as_large_as_the_image_says_whatever_is_behind_it() -> None:
    assert [str(place) for place in planned(of_files()).backing] == ["/srv/base.raw"]
    (overlay,) = [step for step in planned(of_files()).steps if isinstance(step, CreateOverlay)]
    assert overlay.size == 2 * GIB


def test_every_image_is_checked_before_the_guest_runs() -> None:
    chain = of_files()
    checks = [step for step in planned(chain).steps if isinstance(step, CheckUnchanged)]
    assert [(c.location, c.evidence, c.node, c.size) for c in checks] == [
        (chain[0].attachment.location, chain[0].evidence, "format0", 2 * GIB),
        (chain[1].attachment.location, chain[1].evidence, "format1", GIB),
    ]


def test_without_a_yes_it_is_refused_and_says_how_to_say_it() -> None:
    made = plan(of_files(), Options(), HOST)
    (refusal,) = made.refusals
    assert "--accept backing-file" in refusal
    assert made.image_refused
    assert made.steps == ()


def test_a_yes_to_something_else_is_none_to_this() -> None:
    assert plan(of_files(), Options(accept=frozenset({"luks-slow"})), HOST).refusals


def test_a_chain_that_is_not_whole_is_refused_even_with_a_yes() -> None:
    (refusal,) = plan([of_file("/srv/top", TOP)], YES, HOST).refusals
    assert "base.raw" in refusal


def test_only_the_booted_image_is_ever_written() -> None:
    chain = [of_file("/srv/top", TOP, writable=True), of_file("/srv/base.raw", image("raw"), writable=True)]
    made = planned(chain, replace(YES, mode=Mode.WRITE))
    graph = nodes(argv(made))
    assert {name: node["read-only"] for name, node in graph.items()} == {
        "proto1": True, "format1": True, "proto0": False, "format0": False,
    }  # fmt: skip
    assert [s.writable for s in made.steps if isinstance(s, OpenFile)] == [True, False]
    assert {s.location.path for s in made.steps if isinstance(s, CheckUnused)} == {"/srv/top"}
    assert any("only read" in note for note in made.notes)


def test_a_guest_that_writes_into_a_backing_file_keeps_others_out() -> None:
    chain = [of_file("/srv/top", TOP), replace(of_file("/srv/base.raw", image("raw")), guests=("base-abc",))]
    (refusal,) = plan(chain, YES, HOST).refusals
    assert "base-abc" in refusal
    web = [of_web(judged=TOP), replace(of_rbd(judged=image("raw")), guests=("base-abc",))]
    assert any("base-abc" in note for note in planned(web).notes)


def test_each_image_has_a_bridge_and_a_socket_of_its_own() -> None:
    chain = [by_bridge(of_web("http://h/top.qcow2", TOP)), by_bridge(of_web("http://h/base.raw", image("raw")))]
    made = planned(chain)
    bridges = [step for step in made.steps if isinstance(step, StartBridge)]
    assert [(b.socket, b.argv[-1]) for b in bridges] == [
        ("bridge.sock", "http://h/top.qcow2"),
        ("bridge1.sock", "http://h/base.raw"),
    ]
    assert [f"--evidence={layer.evidence}" in b.argv for layer, b in zip(chain, bridges, strict=True)] == [True, True]
    graph = nodes(argv(made))
    assert graph["proto0"]["server"]["path"] == "bridge.sock"
    assert graph["proto1"]["server"]["path"] == "bridge1.sock"


def test_secrets_are_laid_for_each_image_under_names_of_their_own() -> None:
    slot = SecretSlot("password-secret", Secret("x"), "password of me at h", "password")
    chain = [
        of_web("http://h/top.qcow2", TOP, secrets=(slot,)),
        of_web("http://h/base.raw", image("raw"), secrets=(slot,)),
    ]
    made = planned(chain)
    laid = [step for step in made.steps if isinstance(step, LaySecret)]
    assert [(s.path, str(s.location)) for s in laid] == [
        ("secret0", "http://h/top.qcow2"),
        ("secret1", "http://h/base.raw"),
    ]
    graph = nodes(argv(made))
    assert [graph[f"proto{n}"]["password-secret"] for n in range(2)] == ["secret0", "secret1"]


def test_one_ssh_agent_serves_the_whole_chain() -> None:
    host = replace(HOST, facts=replace(HOST.facts, drivers=HOST.facts.drivers | {"ssh"}))
    made = planned([over_ssh("ssh://h/top.qcow2", TOP), over_ssh("ssh://h/base.raw", image("raw"))], host=host)
    assert len([step for step in made.steps if isinstance(step, StartAgent)]) == 1
    assert script(made).count("farboot agent") == 1


def test_a_backing_image_that_is_a_disc_makes_no_cd_of_the_image() -> None:
    disc = image("raw", kind=MediaKind.CD)
    assert nodes(argv(planned([of_file("/srv/top", TOP), of_file("/srv/base.iso", disc)])))["overlay"]


def test_the_short_drive_is_withheld_for_a_chain() -> None:
    made = planned(of_files())
    assert made.drive == ""
    assert made.drive_withheld


def test_more_files_than_a_shell_has_descriptors_are_refused() -> None:
    middle = image("qcow2", backing=Backing("x"))
    chain = [of_file("/srv/top", TOP), *(of_file(f"/srv/{n}", middle) for n in range(6)), of_file("/srv/base")]
    assert any("more than 7 files" in refusal for refusal in plan(chain, YES, HOST).refusals)


def test_the_script_of_a_chain_is_one_a_shell_understands() -> None:
    chain = [by_bridge(of_web("http://h/top.qcow2", TOP)), by_bridge(of_web("http://h/it's.raw", image("raw")))]
    for made in (planned(chain), planned(of_files())):
        text = script(made)
        checked = subprocess.run([shutil.which("dash") or "sh", "-n"], input=text, text=True, check=False)
        assert checked.returncode == 0
        assert "that is opened as well" in text


# Passphrases


def encrypted(form: str, **more: object) -> Image:
    return replace(image(form), needs_passphrase=True, **more)  # type: ignore[arg-type]  # Image's own fields


@pytest.mark.parametrize("form", ["luks", "qcow2"])
def test_an_encrypted_image_names_the_secret_that_opens_it(form: str) -> None:
    host = replace(HOST, facts=replace(HOST.facts, drivers=HOST.facts.drivers | {"luks"}))
    made = planned([of_file("/srv/a b", encrypted(form))], host=host)
    (laid,) = [step for step in made.steps if isinstance(step, LaySecret)]
    assert (laid.path, laid.field, str(laid.location)) == ("passphrase0", UNLOCKS, "/srv/a b")
    assert laid.argv == ("farboot", "secret", "--", "/srv/a b", UNLOCKS)
    assert "secret,id=passphrase0,file=passphrase0" in values_of(argv(made), "-object")
    node = nodes(argv(made))["format0"]
    key = {"key-secret": "passphrase0"}
    assert (node.get("encrypt") if form == "qcow2" else {"key-secret": node.get("key-secret")}) == (
        {"format": "luks", **key} if form == "qcow2" else key
    )
    assert made.drive == ""
    assert "encrypted" in made.drive_withheld


def test_encrypted_images_of_a_chain_have_a_secret_each() -> None:
    top = encrypted("qcow2", backing=Backing("base.qcow2", "qcow2"))
    made = planned([by_bridge(of_web("http://h/a", top)), by_bridge(of_web("http://h/b", encrypted("qcow2")))])
    graph = nodes(argv(made))
    assert [graph[f"format{n}"]["encrypt"]["key-secret"] for n in range(2)] == ["passphrase0", "passphrase1"]
    laid = [str(step.location) for step in made.steps if isinstance(step, LaySecret)]
    assert laid == ["http://h/a", "http://h/b"]
