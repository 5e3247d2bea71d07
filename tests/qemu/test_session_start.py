"""Starting a session: what is checked before the guest runs, what is kept secret, and what a failed start leaves."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.qemu.sessions.session import SessionState, launch, sessions, stop
from app.qemu.steps import (
    BootPlan,
    CheckUnchanged,
    CopyFile,
    CreateOverlay,
    LaySecret,
    OpenFile,
    StartBridge,
    StartQemu,
    Step,
)
from probes.credentials import Credentials, Secret
from probes.errors import Changed, Denied, FarbootError, MissingClient, NotFound, Refused, Unsupported
from probes.evidence import NOT_JUDGED
from probes.location import Location
from probes.reader import Pin
from tests.qemu.conftest import Home
from tests.qemu.guests import NOTHING, image_plan, is_running, location, node, plan, processes_with, until
from tests.unprivileged import NOBODY, Readable, becoming

Scratch = Callable[[str], Path]
SECRET = "tell-nobody-4711"


@pytest.fixture
def image(scratch: Scratch) -> Path:
    """A raw image that a test may change."""
    path = scratch("image.raw")
    path.write_bytes(b"what was judged".ljust(1 << 20, b"."))
    return path


@pytest.fixture(autouse=True)
def nothing_is_left(home: Home) -> object:
    """Whatever a test does to its guests, in the end there is no folder and no process of theirs."""
    yield
    for session in sessions():
        if not session.is_over:
            stop(session.id, force=True)
    for session in sessions():
        stop(session.id)
    assert sessions() == []
    assert home.guest_folders() == []
    until(lambda: not os.listdir(home.runtime))  # a supervisor that was cut off still clears away


def failing(*steps: Step, argv: tuple[str, ...] = NOTHING) -> FarbootError:
    with pytest.raises(FarbootError) as caught:
        launch(plan(*steps, argv=argv))
    return caught.value


def test_an_image_that_is_what_was_judged_runs(image: Path) -> None:
    session = launch(image_plan(image))
    assert session.state is SessionState.RUNNING
    assert is_running(session.pid or 0)


def test_an_image_that_changed_after_it_was_judged_is_never_run(image: Path) -> None:
    made = image_plan(image, (*NOTHING, "-name", "swapped-4711"))
    image.write_bytes(b"what was swapped in".ljust(1 << 20, b"."))
    with pytest.raises(Changed, match="not those that were judged"):
        launch(made)
    assert processes_with("swapped-4711") == []


def test_an_image_that_grew_after_it_was_judged_is_never_run(image: Path) -> None:
    made = image_plan(image)
    with image.open("ab") as file:
        file.write(bytes(1 << 20))
    with pytest.raises(Changed, match="2097152 bytes where 1048576 were judged"):
        launch(made)


def test_a_validator_that_changed_is_a_changed_image(image: Path) -> None:
    made = image_plan(image)
    check = CheckUnchanged(made.location, Pin(1 << 20, "another"), NOT_JUDGED, "base", 1 << 20)
    with pytest.raises(Changed, match="written since"):
        launch(BootPlan(made.location, "driver", steps=(*made.steps[:2], check)))


def test_a_backing_file_that_nobody_judged_is_noticed_before_the_guest_runs(scratch: Scratch) -> None:
    secret, hostile = scratch("of the host"), scratch("hostile.qcow2")
    secret.write_bytes(bytes(4096))
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(secret), "-F", "raw", str(hostile)]
    subprocess.run(create, check=True)
    nodes = (*node("proto", "file", filename=str(hostile)), *node("base", "qcow2", file="proto"))
    error = failing(argv=(*NOTHING, *nodes))
    assert isinstance(error, Changed)
    assert "QEMU opened something that was not planned" in error.why
    assert str(secret) in error.why


def test_a_file_replaced_while_qemu_opened_it_is_noticed(image: Path) -> None:
    # The supervisor's own check of its descriptors; no test can step between its steps, so it is called by itself.
    import asyncio

    from app.qemu.sessions.start import Machinery, _check

    descriptor = os.open(image, os.O_RDONLY)
    check = CheckUnchanged(location(image), Pin(1 << 20), NOT_JUDGED, "base", 1 << 20)
    copy = image.with_name("copy")
    copy.write_bytes(image.read_bytes())
    copy.rename(image)
    seen = ({"node-name": "base", "image": {"virtual-size": 1 << 20}},)
    machinery = Machinery(None, None, files={str(image): descriptor}, nodes=seen)  # type: ignore[arg-type]  # not used
    try:
        with pytest.raises(Changed, match="was replaced while it was opened"):
            asyncio.run(_check(check, Credentials(), machinery))
    finally:
        os.close(descriptor)


def test_qemu_tells_in_its_own_words_why_it_does_not_start() -> None:
    error = failing(argv=(*NOTHING, *node("proto", "file", filename="/no/such/image")))
    assert str(error) == (
        "cannot boot /nowhere/odd name.img: QEMU says: Could not open '/no/such/image': No such file or directory"
    )
    assert "-blockdev" in error.detail


def test_the_words_of_a_hostile_server_do_not_reach_the_terminal() -> None:
    error = failing(argv=("/bin/sh", "-c", "printf 'qemu-system-x86_64: \\033[2Jgone' >&2; exit 1"))
    assert error.why == r"QEMU says: \x1b[2Jgone"


def test_a_qemu_that_dies_without_a_word_is_told_with_its_status() -> None:
    assert failing(argv=("/bin/sh", "-c", "exit 7")).why == "QEMU ended with status 7"


def test_a_qemu_that_is_not_installed_is_missing() -> None:
    assert isinstance(failing(argv=("/nowhere/qemu-system-x86_64",)), MissingClient)


def test_a_plan_with_refusals_or_without_qemu_starts_nothing() -> None:
    with pytest.raises(Refused, match="it is hostile"):
        launch(BootPlan(location(), "driver", refusals=("it is hostile",)))
    with pytest.raises(Unsupported):
        launch(BootPlan(location(), "driver"))


def test_host_files_must_be_there_and_be_files_or_devices(scratch: Scratch) -> None:
    assert isinstance(failing(OpenFile(str(scratch("missing")), 3, False)), NotFound)
    os.mkfifo(scratch("pipe"))
    assert isinstance(failing(OpenFile(str(scratch("pipe")), 3, False)), Unsupported)
    assert "neither a file nor a block device" in failing(OpenFile(str(scratch(".")), 3, False)).why


def test_a_link_to_an_image_is_that_image(image: Path, scratch: Scratch) -> None:
    scratch("link").symlink_to(image)
    session = launch(image_plan(scratch("link")))
    assert session.name == "link"


def test_overlay_and_variables_are_made_in_the_guest_folder(image: Path) -> None:
    create = CreateOverlay("overlay.qcow2", 1 << 20, ("qemu-img", "create", "-q", "-f", "qcow2", "overlay.qcow2", "1M"))
    nodes = (*node("file", "file", filename="overlay.qcow2"), *node("overlay", "qcow2", file="file", backing=None))
    session = launch(plan(create, CopyFile(str(image), "vars.fd"), argv=(*NOTHING, *nodes)))
    assert (Path(session.folder) / "vars.fd").read_bytes() == image.read_bytes()
    assert (Path(session.folder) / "overlay.qcow2").stat().st_mode & 0o077 == 0o044  # the folder itself is 0700
    assert Path(session.folder).stat().st_mode & 0o777 == 0o700


def test_an_overlay_that_cannot_be_made_says_why() -> None:
    create = CreateOverlay("o", 1, ("qemu-img", "create", "-q", "-f", "qcow2", "/no/such/folder/o", "1M"))
    assert "No such file or directory" in failing(create).why


def secret_plan() -> BootPlan:
    laid = LaySecret("secret0", location(), "password", "password of alice")
    return plan(laid, argv=(*NOTHING, "-object", "secret,id=secret0,file=secret0"))


def test_a_secret_is_nowhere_once_the_guest_runs(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARBOOT_PASSWORD", SECRET)
    session = launch(secret_plan(), {"secret0": Secret(SECRET)}, Credentials(password=Secret(SECRET)))
    assert processes_with(SECRET) == []
    # whoever has our session folders in his environment is one of ours: supervisor and QEMU
    ours = [pid for pid in os.listdir("/proc") if pid.isdigit() and pid != str(os.getpid())]
    for pid in ours:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if str(home.folder).encode() in environment:
            assert SECRET.encode() not in environment
    for path in home.folder.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    assert not (Path(session.folder) / "secret0").exists()


def test_a_secret_vanishes_from_a_failed_start_too(home: Home) -> None:
    laid = secret_plan().steps[0]
    with pytest.raises(FarbootError) as caught:
        launch(plan(laid, argv=(*NOTHING, "-no-such-option")), {"secret0": Secret(SECRET)})
    assert SECRET not in str(caught.value) + caught.value.detail
    assert home.guest_folders() == []


def test_a_secret_that_nobody_gave_is_asked_for_by_its_label() -> None:
    with pytest.raises(FarbootError, match="the password of alice is missing"):
        launch(secret_plan())


def bridge(script: str, *words: str) -> StartBridge:
    return StartBridge("bridge.sock", location(), (sys.executable, "-c", script, *words, "--", "rbd:a/b"))


def test_what_the_bridge_says_is_the_error() -> None:
    error = failing(bridge("import sys; sys.exit('noise\\nfarboot: cannot read rbd:a/b: the pool is gone')"))
    assert error.why == "cannot read rbd:a/b: the pool is gone"


def test_an_error_that_the_bridge_tells_as_an_object_arrives_as_it_was() -> None:
    told = '{"error": "denied", "tried": "read", "on": "rbd:a/b", "why": "no", "hint": "ask", "wants": ["key"]}'
    error = failing(bridge(f"import sys; sys.exit({told!r})"))
    assert isinstance(error, Denied)
    assert error.wants == ("key",)
    assert str(error) == "cannot read rbd:a/b: no (ask)"


def test_the_bridge_gets_its_credentials_on_its_standard_input_and_nowhere_else(scratch: Scratch) -> None:
    script = f"import sys; open({str(scratch('seen'))!r}, 'w').write(sys.stdin.read() + repr(sys.argv)); sys.exit(3)"
    with pytest.raises(FarbootError, match="the bridge ended with status 3"):
        launch(plan(bridge(script)), {}, Credentials(username="alice", password=Secret(SECRET)))
    assert scratch("seen").read_text() == (
        f'{{"username": "alice", "password": "{SECRET}"}}' + repr(["-c", "--credentials-stdin", "--", "rbd:a/b"])
    )


def test_the_bridge_imports_nothing_from_the_guest_folder() -> None:
    # QEMU's account may write there, and the bridge may be root
    error = failing(bridge("import sys; sys.exit('safe' if '' not in sys.path else 'unsafe')"))
    assert error.why == "safe"


def test_no_guest_stays_behind_when_the_start_is_interrupted(home: Home) -> None:
    program = """
        import sys
        from app.qemu.sessions.session import launch
        from app.qemu.steps import StartBridge
        from tests.qemu.guests import location, plan
        launch(plan(StartBridge("bridge.sock", location(), ("sh", "-c", f"sleep {sys.argv[1]}.5"))))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(os.getpid())]
    bridge_words = f"sleep {os.getpid()}.5"
    launcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: processes_with(bridge_words))
        assert [str(session.state) for session in sessions()] == ["starting"]
    finally:
        launcher.kill()
        launcher.wait()
    until(lambda: not sessions() and not home.guest_folders())
    until(lambda: not processes_with(bridge_words))


def test_a_session_that_still_starts_can_be_stopped() -> None:
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(launch, plan(bridge("import time; time.sleep(4712.5)")))
        until(sessions)
        stop(sessions()[0].id)
        assert starting.exception(30).__class__.__name__ == "Cancelled"
    assert processes_with("4712.5") == []


def test_many_that_start_at_once_each_get_an_id_of_their_own() -> None:
    with ThreadPoolExecutor(12) as pool:
        started = list(pool.map(lambda _: launch(plan()), range(12)))
    assert len({session.id for session in started}) == 12
    assert sorted(s.id for s in sessions()) == sorted(s.id for s in started)
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda session: stop(session.id, force=True), started))
    assert {session.state for session in sessions()} == {SessionState.ENDED}


def test_many_that_fail_at_once_leave_nothing() -> None:
    with ThreadPoolExecutor(20) as pool:
        errors = list(pool.map(lambda _: failing(argv=(*NOTHING, "-no-such-option")), range(20)))
    assert all("invalid option" in error.why for error in errors)
    assert sessions() == []


@pytest.mark.parametrize("name", ["[bold]x", "../../etc", "a" * 300, "-rf", "\x1b[2J", "ü", ".", "Übung 7.QCOW2"])
def test_any_name_makes_a_harmless_id(name: str, home: Home) -> None:
    session = launch(plan(place=Location("http", "h", "/" + "".join(f"%{byte:02x}" for byte in name.encode()))))
    assert session.id.isascii()
    assert session.id.replace("-", "").isalnum()
    assert len(session.id) <= 20
    assert home.guest_folders() == [session.id]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give QEMU an account of its own")
def test_under_root_qemu_has_an_account_of_its_own_and_the_folder_is_its(image: Path) -> None:
    made = image_plan(image)
    start = made.steps[1]
    assert isinstance(start, StartQemu)
    drop = (
        "setpriv",
        "--reuid=1900004711",
        "--regid=1900004711",
        "--clear-groups",
        "--pdeathsig=KILL",
        "--no-new-privs",
    )
    laid = LaySecret("secret0", location(), "password", "password")
    argv = (*start.argv, "-object", "secret,id=secret0,file=secret0")
    steps = (laid, made.steps[0], StartQemu(argv, drop, 1900004711), made.steps[2])
    image.chmod(0o600)  # which QEMU's account could not open by itself
    session = launch(BootPlan(made.location, "driver", steps=steps), {"secret0": Secret(SECRET)})
    status = Path(f"/proc/{session.pid}/status").read_text()
    assert "Uid:\t1900004711\t1900004711" in status
    assert Path(session.folder).stat().st_uid == 1900004711
    assert Path(session.log).stat().st_uid == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_has_sessions_of_his_own(scratch: Scratch, readable: Readable) -> None:
    own = scratch("home")
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    program = """
        from tests.qemu.guests import plan
        from app.qemu.sessions.session import launch, sessions, stop
        session = launch(plan())
        assert [s.id for s in sessions()] == [session.id]
        stop(session.id, force=True)
        assert sessions()[0].state == "ended", sessions()
        stop(session.id)
        assert sessions() == []
        print("done")
    """
    folders = {"FARBOOT_RUNTIME_DIR": str(own / "runtime"), "FARBOOT_STATE_DIR": str(own / "state")}
    done = subprocess.run(
        [*becoming(NOBODY), readable.python, "-c", textwrap.dedent(program)],
        env={**readable.environment, **folders, "HOME": str(own)},
        cwd=own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
