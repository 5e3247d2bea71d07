"""Where sessions live: whom the folders belong to, who is alive in them, and what becomes of what is left behind."""

import fcntl
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.qemu.sessions import folders, roster
from app.qemu.sessions.session import find, sessions, stop
from app.qemu.sessions.wire import SessionInfo, SessionState, to_line
from probes.attachment import Mode
from probes.errors import NotFound, Refused, Unsupported
from probes.location import Location

Scratch = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_folders(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARBOOT_RUNTIME_DIR", str(scratch("runtime")))
    monkeypatch.setenv("FARBOOT_STATE_DIR", str(scratch("state")))


@pytest.mark.parametrize("root", [folders.runtime_root, folders.state_root])
class TestTheRoots:
    @pytest.fixture
    def path(self, root: Callable[[], folders.Folder], scratch: Scratch) -> Path:
        return scratch("runtime" if root is folders.runtime_root else "state")

    def test_are_made_for_their_owner_alone(self, root: Callable[[], folders.Folder], path: Path) -> None:
        before = os.umask(0)
        try:
            root().close()
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o700

    def test_are_refused_when_they_are_links(
        self, root: Callable[[], folders.Folder], path: Path, scratch: Scratch
    ) -> None:
        scratch("elsewhere").mkdir(mode=0o700)
        path.symlink_to(scratch("elsewhere"))
        with pytest.raises(Refused, match="it is a link or no folder"):
            root()

    def test_are_refused_when_others_may_enter(self, root: Callable[[], folders.Folder], path: Path) -> None:
        path.mkdir()
        path.chmod(0o750)
        with pytest.raises(Refused, match=r"others may look into it \(mode 750\) \(chmod 700"):
            root()

    def test_are_refused_when_they_are_files(self, root: Callable[[], folders.Folder], path: Path) -> None:
        path.write_text("")
        with pytest.raises(Refused):
            root()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
    def test_are_refused_when_they_belong_to_another(self, root: Callable[[], folders.Folder], path: Path) -> None:
        path.mkdir(mode=0o700)
        os.chown(path, 65534, 65534)
        with pytest.raises(Refused, match="it belongs to nobody, not to you"):
            root()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="there is no tmpfs to try it on")
def test_guests_are_never_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"/dev/shm/farboot-test-{os.getpid()}"
    monkeypatch.setenv("FARBOOT_STATE_DIR", place)
    try:
        with pytest.raises(Unsupported, match="it is in memory"):
            folders.state_root()
    finally:
        os.rmdir(place)


def test_a_user_without_a_lasting_runtime_folder_gets_one_in_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FARBOOT_RUNTIME_DIR")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    asked: list[str] = []
    monkeypatch.setattr(folders, "open_private", asked.append)
    folders.runtime_root()
    assert asked == ["/tmp/farboot-4711"]


def info(identity: str, state: SessionState = SessionState.RUNNING, ended: float = 0.0) -> SessionInfo:
    return SessionInfo(identity, "/an/image", "image", state, started=time.time(), ended=ended)


def left_behind(scratch: Scratch, told: SessionInfo) -> Path:
    """The folders of a session whose supervisor is gone."""
    for root in (folders.runtime_root, folders.state_root):
        with root() as opened:
            os.mkdir(f"{opened.path}/{told.id}", 0o700)
    scratch(f"state/{told.id}/overlay.qcow2").write_bytes(bytes(100))
    scratch(f"runtime/{told.id}/state").write_bytes(to_line(told.to_json()))
    return scratch(f"state/{told.id}")


def test_no_sessions_are_an_empty_list() -> None:
    assert sessions() == []


def test_a_session_whose_supervisor_is_gone_is_told_as_failed_and_its_guest_folder_removed(scratch: Scratch) -> None:
    guest = left_behind(scratch, info("dead-abc"))
    assert find("dead").state is SessionState.FAILED
    assert not guest.exists()
    assert find("dead").error == "its supervisor was killed, and the guest with it"
    stop("dead-abc")
    assert sessions() == []
    assert os.listdir(scratch("runtime")) == []


def test_a_story_leaves_the_list_after_an_hour(scratch: Scratch) -> None:
    left_behind(scratch, info("old-abc", SessionState.ENDED, time.time() - 3601))
    left_behind(scratch, info("new-abc", SessionState.ENDED, time.time() - 3500))
    assert [session.id for session in sessions()] == ["new-abc"]


def test_of_many_stories_the_latest_stay(scratch: Scratch) -> None:
    for number in range(60):
        left_behind(scratch, info(f"n{number:02d}", SessionState.ENDED, time.time() - 100 + number))
    assert [session.id for session in sessions()] == [f"n{number}" for number in range(10, 60)]
    assert len(os.listdir(scratch("runtime"))) == 50


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b'{"id": 7}', b"\xff", b'{"id":"a","location":"b","name":"c","x":1}']
)
def test_a_dead_session_that_tells_nothing_sensible_is_removed(content: bytes, scratch: Scratch) -> None:
    left_behind(scratch, info("broken-abc"))
    scratch("runtime/broken-abc/state").write_bytes(content)
    assert sessions() == []
    assert os.listdir(scratch("runtime")) == []


def test_a_session_that_was_never_published_is_no_session(scratch: Scratch) -> None:
    with folders.runtime_root() as root, folders.create_locked(root) as (folder, _publish):
        assert os.path.basename(folder.path).startswith(".new-")
        assert sessions() == []
    assert os.listdir(scratch("runtime")) == []


def test_a_name_that_is_taken_is_not_taken_again() -> None:
    with folders.runtime_root() as root:
        os.mkdir(f"{root.path}/taken")
        with folders.create_locked(root) as (folder, publish):
            assert not publish("taken")
            assert publish("free")
        assert folder.path == f"{root.path}/free"
        folder.close()
        assert os.listdir(f"{root.path}/taken") == []


def test_sweeping_removes_guest_folders_that_nobody_holds_and_leaves_the_others(scratch: Scratch) -> None:
    with folders.state_root() as root:
        for name in ("of-the-dead", "of-another-runtime-folder"):
            os.mkdir(f"{root.path}/{name}", 0o700)
        held = os.open(f"{root.path}/of-another-runtime-folder", os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            roster.sweep()
            assert os.listdir(root.path) == ["of-another-runtime-folder"]
        finally:
            os.close(held)


def test_sweeping_does_not_follow_links_out_of_the_folder(scratch: Scratch) -> None:
    scratch("precious").mkdir()
    scratch("precious/file").write_text("kept")
    guest = left_behind(scratch, info("dead-abc"))
    (guest / "link").symlink_to(scratch("precious"))
    with folders.state_root() as root:
        os.symlink(scratch("precious"), f"{root.path}/another-link")
    roster.sweep()
    assert not guest.exists()
    assert scratch("precious/file").read_text() == "kept"


def test_two_who_bury_the_same_session_do_not_hinder_each_other(scratch: Scratch) -> None:
    for number in range(20):
        left_behind(scratch, info(f"dead-{number}"))
    program = "from app.qemu.sessions.session import sessions; print(sorted({str(s.state) for s in sessions()}))"
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["['failed']\n"] * 3
    assert os.listdir(scratch("state")) == []


@pytest.mark.parametrize("identity", ["../escape", "/etc", ".", "..", "a/b", "", "\x00", "no-such-guest"])
def test_an_id_that_is_none_is_not_found(identity: str) -> None:
    for call in (find, stop):
        with pytest.raises(NotFound):
            call(identity)


def test_a_beginning_that_fits_several_is_told_with_them(scratch: Scratch) -> None:
    left_behind(scratch, info("tiny-abc", SessionState.ENDED, time.time()))
    left_behind(scratch, info("tiny-abd", SessionState.ENDED, time.time()))
    with pytest.raises(NotFound, match=r"several guests begin like that \(tiny-abc, tiny-abd\)"):
        find("tiny")
    assert find("tiny-abd").id == "tiny-abd"


@given(st.text())
def test_an_id_is_short_and_safe_whatever_the_name(name: str) -> None:
    identity = folders.invent_id(name)
    assert identity.isascii()
    assert identity.replace("-", "").isalnum()
    assert identity == identity.lower()
    assert 5 <= len(identity) <= 20
    assert identity[0] not in "-."


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("tiny.iso", "tiny"),
        ("debian-12-generic-amd64-20240101.qcow2", "debian-12"),
        ("Übung.img", "bung"),
        ("…", "guest"),
        ("averyveryverylongsinglename.raw", "averyveryverylon"),
        (".hidden", "hidden"),
    ],
)
def test_an_id_keeps_the_words_that_fit(name: str, slug: str) -> None:
    assert folders.invent_id(name)[:-4] == slug


def test_a_folder_writes_all_of_a_file_or_nothing(scratch: Scratch) -> None:
    with folders.open_private(str(scratch("own"))) as folder:
        folder.write("state", b"one")
        scratch("own/state.new").symlink_to("/etc/passwd")  # a trap, or what a killed writer left
        folder.write("state", b"two")
        assert folder.read("state", 100) == b"two"
        assert folder.read("state", 2, -2) == b"wo"
        assert os.listdir(scratch("own")) == ["state"]
        assert scratch("own/state").stat().st_mode & 0o777 == 0o600


def test_a_folder_reads_no_links_and_no_pipes(scratch: Scratch) -> None:
    with folders.open_private(str(scratch("own"))) as folder:
        scratch("own/link").symlink_to("/etc/passwd")
        os.mkfifo(scratch("own/pipe"))
        for name in ("link", "pipe"):
            with pytest.raises(OSError, match=r"regular|symbolic"):
                folder.read(name, 100)


def test_a_file_is_removed_from_a_folder_below_and_never_from_elsewhere(scratch: Scratch) -> None:
    scratch("elsewhere").mkdir()
    scratch("elsewhere/keys.psk").write_text("somebody's")
    with folders.open_private(str(scratch("own"))) as folder:
        folder.make_way("tls0/keys.psk")
        folder.create("tls0/keys.psk", b"secret")
        folder.remove("tls0/keys.psk")
        folder.remove("tls0/keys.psk")
        folder.remove("missing/keys.psk")
        assert os.listdir(scratch("own/tls0")) == []
        scratch("own/link").symlink_to(scratch("elsewhere"))  # QEMU's account may write there
        with pytest.raises(OSError, match="Not a directory"):
            folder.remove("link/keys.psk")
    assert scratch("elsewhere/keys.psk").exists()


def told_of(location: str, mode: str = "write") -> SessionInfo:
    return SessionInfo("a-b", location, "x", SessionState.RUNNING, 7, 1.5, mode=mode)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("rbd:p/i", "rbd:p/i:id=admin", True),
        ("rbd:p/i", "rbd:p/i@snap", False),
        ("rbd:p/i:conf=/a", "rbd:p/i:conf=/b", False),
        ("ssh://me@h/a", "sftp://H/a", True),
        ("ssh://h/a", "ssh://h:2222/a", False),
        ("ssh://h//a/./b", "sftp://me@h:22/a/./b", True),
        ("ssh://localhost/a", "ssh://me@127.0.0.1:22/a", True),
        ("nfs://127.0.0.1/e/a", "nfs://127.0.0.2/e/a", False),
        ("nfs://127.0.0.1/e/a", "nfs://localhost/e/b", False),
        ("nbd://localhost/e", "nbds://127.0.0.1:10809/e", True),
        ("iscsi://h/iqn.x/1", "iscsi://me@other:3261/iqn.x/1", True),
        ("ssh://h/a", "ssh://H:22/a", True),
        ("nfs://h/e/a?uid=1", "nfs://h:2049/e/a", True),
        ("nbd://h/e", "nbd://h:10809/e", True),
        ("nbd://h/e", "nbd://h:10810/e", False),
        ("iscsi://[fd00::1]/iqn.x/1", "iscsi://[FD00:0::1]:3260/iqn.x/1", True),
        ("nbd+unix:///e?socket=/a", "nbd+unix:///e?socket=/b", False),
        ("iscsi://h/iqn.x/1", "iscsi://h/iqn.x/2", False),
        ("/etc/../etc/hostname", "/etc/hostname", True),
        ("/nowhere/a", "/nowhere/b", False),
    ],
)
def test_guests_of_an_image_are_found_by_what_it_is(
    one: str, other: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roster, "sessions", lambda: [told_of(one)])
    assert bool(roster.guests_of(Location.parse(other)[0])) is same


def test_guests_of_an_image_are_those_of_one_mode_if_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "sessions", lambda: [told_of("rbd:p/i", "snapshot")])
    assert roster.guests_of(Location.parse("rbd:p/i")[0], Mode.WRITE) == []
    assert roster.guests_of(Location.parse("rbd:p/i")[0], Mode.SNAPSHOT) != []
    ended = replace(told_of("rbd:p/i"), state=SessionState.ENDED)
    monkeypatch.setattr(roster, "sessions", lambda: [ended])
    assert roster.guests_of(Location.parse("rbd:p/i")[0]) == []


def test_who_would_write_into_an_image_learns_of_guests_that_read_it_as_their_backing_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    above = replace(told_of("ssh://h/d/top.qcow2", "write"), backing=("ssh://h/d/base.raw",))
    monkeypatch.setattr(roster, "sessions", lambda: [above])
    base = Location.parse("ssh://h/d/base.raw")[0]
    assert roster.guests_of(base) == [above]
    assert roster.guests_of(base, Mode.WRITE) == [], "who only reads it does not mind"


def test_states_survive_their_journey(scratch: Scratch) -> None:
    told = SessionInfo(
        "a-b", "rbd:p/\udcff", "x", SessionState.PAUSED, 7, 1.5, "why", "raw", "driver", "snapshot", 1, 2, "user",
        backing=("rbd:p/b", "x"),
    )  # fmt: skip
    assert SessionInfo.from_json(json.loads(to_line(told.to_json()))) == told
