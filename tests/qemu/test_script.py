"""The printed script: what it runs is what the plan says, in any shell, and it leaves nothing behind."""

import os
import pty
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.demo.guest import MARKER, GuestImages
from app.engine import Engine, Inspection, Prepared
from app.qemu.boot.plan import plan
from app.qemu.boot.script import script
from app.qemu.host.find import find_host
from app.qemu.options import FirmwareWish, Host, Network, Options
from app.qemu.steps import BootPlan, Layer, LaySecret, StartBridge
from probes.attachment import Mode, SecretSlot
from probes.credentials import Credentials, Secret
from probes.errors import Refused
from probes.image import Hazard, MediaKind, Verdict
from probes.location import Location, rbd_path
from tests.qemu.layers import HOST, USER_HOST, by_bridge, image, of_file, of_rbd, of_web
from tests.servers.server import wait_until

NOTHING = Options()
SHELLS = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]
NOBODY = 65534
RECORDER = """#!/bin/sh
for word do printf '%s\\0' "$word"; done >>"{record}"
"""


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    """A program that stands for QEMU and writes down the words that it is given."""
    program = tmp_path / "qemu"
    program.write_text(RECORDER.format(record=tmp_path / "record"))
    program.chmod(0o755)
    return program


def run(text: str, shell: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*shell, "-c", text], capture_output=True, text=True, timeout=60, check=False, cwd="/")


def words_of(recorder: Path) -> list[str]:
    record = recorder.parent / "record"
    words = os.fsdecode(record.read_bytes()).split("\0")[:-1]
    record.unlink()
    return words


def within(folder: Path, planned: BootPlan) -> str:
    """The script, making its folder in `folder`, for others use /var/tmp at the same time."""
    text = script(planned)
    assert "mktemp -d /var/tmp/farboot-" in text
    return text.replace("/var/tmp/farboot-", f"{folder}/farboot-")


def left_in(folder: Path) -> list[str]:
    return [entry for entry in os.listdir(folder) if entry.startswith("farboot-")]


# What it says


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize(
    ("layer", "options", "host"),
    [
        (of_web(), NOTHING, HOST),
        (by_bridge(of_web()), Options(firmware=FirmwareWish.UEFI), HOST),
        (of_file("/srv/it's $HOME `id` \\ \n.img"), NOTHING, USER_HOST),
        (of_rbd(secrets=(SecretSlot("key-secret", Secret("k"), "key of client.admin", "key"),)), NOTHING, HOST),
    ],
)
def test_every_script_is_valid_in_every_shell(layer: Layer, options: Options, host: Host, shell: list[str]) -> None:
    text = script(plan([layer], options, host))
    checked = subprocess.run([*shell, "-n"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_secret_is_asked_for_and_not_told() -> None:
    slot = SecretSlot("password-secret", Secret("hunter2"), "password of \x1b[31malice", "password")
    text = script(plan([of_web(secrets=(slot,))], NOTHING, HOST))
    assert "hunter2" not in text
    assert "\x1b" not in text
    assert "farboot secret -- http://h:8000/test1.qcow2 password >secret0" in text


def test_a_plan_with_refusals_is_no_script() -> None:
    refused = plan([of_web(judged=image(hazards=(Hazard("x", "it is evil", Verdict.REFUSE),)))], NOTHING, HOST)
    with pytest.raises(Refused, match="it is evil"):
        script(refused)


def test_notes_stand_at_its_head() -> None:
    planned = BootPlan(Location("file", path="/x"), "driver", notes=("first\nrm -rf /",))
    assert "# (first\\x0arm -rf /)\n" in script(planned)


# What it runs


def recording(layer: Layer, recorder: Path, options: Options = NOTHING) -> BootPlan:
    bare = replace(USER_HOST, qemu=str(recorder), bwrap=None, qemu_img="/bin/true", command=(str(recorder),))
    return plan([layer], options, bare)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_qemu_gets_the_plans_words_to_the_letter(recorder: Path, shell: list[str]) -> None:
    planned = recording(of_web("http://h/it's%20100%25,$(id)"), recorder)
    done = run(script(planned), shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert planned.qemu is not None
    assert words_of(recorder) == list(planned.qemu.argv[1:])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_any_name_arrives_to_the_letter(recorder: Path, name: str) -> None:
    layer = of_rbd(secrets=(SecretSlot("key-secret", Secret("k"), name, "key"),))
    location = Location("rbd", path=rbd_path("pool", name))
    node = {**layer.attachment.node, "image": name}
    planned = recording(replace(layer, attachment=replace(layer.attachment, location=location, node=node)), recorder)
    done = run(script(planned), ["dash"])
    assert (done.returncode, done.stderr) == (0, "")
    (secret,) = [step for step in planned.steps if isinstance(step, LaySecret)]
    assert planned.qemu is not None
    assert words_of(recorder) == [*secret.argv[1:], *planned.qemu.argv[1:]]
    assert secret.argv[-3:] == ("--", str(location), "key")


@pytest.mark.parametrize("name", ["a\n", "\n\n", "-n", "it's", "\x1b]0;x\x07", "caf\udce9", "\\", "%s%n"])
def test_an_odd_host_file_is_opened(recorder: Path, tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    odd.write_bytes(b"the image")
    recorder.write_text(f"#!/bin/sh\ncat <&3 >'{tmp_path}/record'\n")
    done = run(script(recording(of_file(str(odd)), recorder)), ["dash"])
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "record").read_bytes() == b"the image"


def test_a_file_to_be_written_that_is_gone_is_not_made_anew(recorder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "it's gone"
    layer = of_file(str(gone))
    files = tuple(replace(file, writable=True) for file in layer.attachment.files)
    writable = replace(layer, attachment=replace(layer.attachment, files=files, writable=True))
    planned = recording(writable, recorder, Options(mode=Mode.WRITE))
    done = run(script(planned), ["dash"])
    assert (done.returncode, done.stderr) == (1, f"there is no {gone}\n")
    assert not gone.exists()


def test_it_ends_as_qemu_ends_and_leaves_nothing_behind(recorder: Path) -> None:
    recorder.write_text("#!/bin/sh\npwd; exit 7\n")
    done = run(within(recorder.parent, recording(of_web(), recorder)), ["dash"])
    assert done.returncode == 7
    assert done.stdout.startswith(f"{recorder.parent}/farboot-")
    assert not left_in(recorder.parent)


def test_its_folder_is_for_its_owner_alone(recorder: Path) -> None:
    recorder.write_text('#!/bin/sh\nstat -c %a . "$PWD"\n')
    assert run(script(recording(of_web(), recorder)), ["dash"]).stdout.split() == ["700", "700"]


def test_a_bridge_that_fails_ends_it_with_the_bridges_words(recorder: Path) -> None:
    planned = recording(by_bridge(of_web()), recorder)
    recorder.write_text('#!/bin/sh\necho "farboot: cannot reach h" >&2; exit 1\n')
    done = run(script(planned), ["dash"])
    assert done.returncode == 1
    assert done.stderr.startswith("farboot: cannot reach h\n")


def test_a_missing_image_is_told_by_name(recorder: Path, tmp_path: Path) -> None:
    done = run(script(recording(of_file(str(tmp_path / "absent.img")), recorder)), ["dash"])
    assert done.returncode != 0
    assert "absent.img" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_a_signal_ends_qemu_and_the_bridge_too(recorder: Path, shell: list[str], number: signal.Signals) -> None:
    pids = recorder.parent / "pids"
    sleeper = f"echo $$ >>{pids}; exec sleep 600"
    serve = f"python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('bridge.sock')\"; {sleeper}"
    recorder.write_text(f"#!/bin/sh\ncase $1 in bridge) {serve};; *) {sleeper};; esac\n")
    text = within(recorder.parent, recording(by_bridge(of_web()), recorder))
    process = subprocess.Popen([*shell, "-c", text], stdin=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, "bridge and QEMU")
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids.read_text().split()), "their end")
    assert not left_in(recorder.parent)


# And with the real QEMU


def judged(path: Path) -> Layer:
    cd = path.suffix == ".iso"
    return of_file(str(path), image(size=path.stat().st_size, kind=MediaKind.CD if cd else MediaKind.DISK))


def until_marker(text: str, prefix: list[str]) -> str:
    """Run the script until the guest says that it is there; return what the serial line said."""
    process = subprocess.Popen(
        [*prefix, "dash", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/"
    )
    assert process.stdout is not None
    said = b""
    try:
        while MARKER.encode() not in said and (more := os.read(process.stdout.fileno(), 4096)):
            said += more
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
    return said.decode(errors="replace")


@pytest.mark.boots
def test_root_boots_a_disk_by_it(tiny_guest: GuestImages) -> None:
    planned = plan([judged(tiny_guest.raw)], Options(network=Network.RESTRICTED), find_host())
    assert MARKER in until_marker(script(planned), [])


@pytest.mark.boots
def test_a_user_boots_a_cd_by_it(tiny_guest: GuestImages, open_folder: Callable[[str], Path]) -> None:
    iso = open_folder("iso") / "tiny.iso"
    iso.write_bytes(tiny_guest.iso.read_bytes())
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    user = replace(find_host(), root=False, setpriv=None, guest_uid=None, kvm_gid=None, accelerator="tcg")
    assert MARKER in until_marker(script(plan([judged(iso)], NOTHING, user)), as_nobody)


def test_ctrl_c_at_a_terminal_ends_it_and_mends_the_terminal(tmp_path: Path) -> None:
    disk = tmp_path / "empty.img"
    disk.write_bytes(bytes(1 << 20))
    text = within(tmp_path, plan([judged(disk)], NOTHING, find_host()))
    child, terminal = pty.fork()
    if child == 0:
        os.execvp("dash", ["dash", "-c", f"{text}\n"])
    wait_until(
        lambda: any((tmp_path / folder / "vnc.sock").exists() for folder in left_in(tmp_path)), "QEMU's start", 60
    )
    os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in {130, 0}
    assert not left_in(tmp_path)
    os.close(terminal)


def test_the_bridge_is_awaited_by_its_socket() -> None:
    planned = plan([by_bridge(of_web())], NOTHING, HOST)
    (bridge,) = [step for step in planned.steps if isinstance(step, StartBridge)]
    text = script(planned)
    assert text.index(bridge.argv[2]) < text.index("until [ -S bridge.sock ]") < text.index("qemu-system-x86_64")


def test_a_host_key_accepted_for_once_does_not_reach_the_bridge_of_a_script_which_says_so() -> None:
    def head_for(layer: Layer, host_key: str | None) -> str:
        seen = Inspection(layer.attachment.location, layer.image, layer.attachment.pin, layer.evidence)
        prepared = Prepared(plan([layer], NOTHING, HOST), {}, Credentials(host_key=host_key), seen)
        return Engine().script(prepared).partition("set -eu")[0]

    assert "known_hosts" in head_for(by_bridge(of_web()), "SHA256:abc")
    assert "known_hosts" not in head_for(by_bridge(of_web()), None)
    assert "known_hosts" not in head_for(of_web(), "SHA256:abc")
