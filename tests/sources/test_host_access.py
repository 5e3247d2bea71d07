"""Who may open a file or device of this host, and who has it open: other processes, a real QEMU, another account."""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probes.errors import (
    NotFound,
)
from probes.location import Location
from probes.source import TellsUse, Use
from probes.sources.host import DeviceSource, FileSource
from tests.servers.loop import LoopDevice
from tests.unprivileged import NOBODY, Readable, becoming

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other accounts are root's to take on")


def place(path: Path | str) -> Location:
    return Location("file", path=str(path))


Ask = Callable[[str], str]


class TestUse:
    def test_the_sources_tell_it(self) -> None:
        assert isinstance(FileSource(), TellsUse)
        assert isinstance(DeviceSource(), TellsUse)

    def test_an_unused_file_has_no_users_that_can_be_seen(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"x")
        with FileSource() as source:
            assert source.in_use(place(tmp_path / "a.img")) == Use((), certain=False)

    def test_our_own_reading_does_not_count(self, tmp_path: Path) -> None:
        (tmp_path / "a.img").write_bytes(b"x")
        with FileSource() as source, source.open(place(tmp_path / "a.img")):
            assert source.in_use(place(tmp_path / "a.img")).users == ()

    def test_a_missing_file_is_not_found(self, tmp_path: Path) -> None:
        with FileSource() as source, pytest.raises(NotFound):
            source.in_use(place(tmp_path / "a.img"))

    def test_another_process_that_has_it_open_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.img"
        path.write_bytes(b"x")
        with path.open("rb") as file, subprocess.Popen(["sleep", "600"], stdin=file) as other:
            with FileSource() as source:
                assert source.in_use(place(path)).users == (f"open in sleep (process {other.pid})",)
            other.kill()

    def test_it_may_be_open_by_another_of_its_names(self, tmp_path: Path) -> None:
        path, other_name = tmp_path / "a.img", tmp_path / "b.img"
        path.write_bytes(b"x")
        os.link(path, other_name)
        with other_name.open("rb") as file, subprocess.Popen(["sleep", "600"], stdin=file) as other:
            other_name.unlink()
            with FileSource() as source:
                assert source.in_use(place(path)).users == (f"open in sleep (process {other.pid})",)
            other.kill()

    def test_the_kernel_that_serves_it_to_others_uses_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """As its configuration tells: here is no kernel with a target of its own."""
        path = tmp_path / "a.img"
        path.write_bytes(b"x")
        (tmp_path / "other.img").write_bytes(b"x")
        (tmp_path / "udev_path").write_text(f"{path}\n")
        monkeypatch.setattr("probes.host.use._EXPORTED", (str(tmp_path / "udev_*"),))
        with FileSource() as source:
            (user,) = source.in_use(place(path)).users
            assert "targetcli" in user
            assert source.in_use(place(tmp_path / "other.img")).users == ()

    def test_a_qemu_that_locks_it_is_seen_even_where_processes_are_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.img"
        path.write_bytes(b"x" * 1024)
        monkeypatch.setattr("probes.host.use._holders", lambda _: set())  # as an unprivileged account would see
        with a_qemu_with(path), FileSource() as source:
            assert source.in_use(place(path)).users == ("a QEMU that holds its locks",)


@contextlib.contextmanager
def a_qemu_with(path: Path) -> Iterator[None]:
    """A real QEMU that has the raw image open for writing."""
    node = json.dumps({"driver": "file", "filename": str(path), "node-name": "f"})
    raw = json.dumps({"driver": "raw", "file": "f", "node-name": "r", "read-only": False})
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-S", "-qmp", "stdio"]
    command += ["-blockdev", node, "-blockdev", raw, "-device", "virtio-blk-pci,drive=r"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        try:
            assert b"QMP" in qemu.stdout.readline()
            qemu.stdin.write(b'{"execute": "qmp_capabilities"}')
            qemu.stdin.flush()
            assert b"return" in qemu.stdout.readline()  # answered once everything is open
            yield
        finally:
            qemu.kill()


@needs_root
class TestUnprivileged:
    """The same calls from an account that owns nothing."""

    @pytest.fixture
    def outside(self, tmp_path: Path) -> Iterator[Path]:
        """A folder that any account can reach (pytest's own are 0700)."""
        folder = Path("/var/tmp") / f"farboot-test-{os.getpid()}-{tmp_path.name}"
        folder.mkdir(mode=0o755)
        yield folder
        shutil.rmtree(folder)

    @pytest.fixture
    def as_nobody(self, readable: Readable, outside: Path) -> Ask:
        """Evaluate an expression as the account nobody; give its text, or the name of the error and its text."""

        def evaluate(expression: str) -> str:
            program = (
                "from probes.sources.host import *; from probes.errors import FarbootError\n"
                f"try: print({expression})\n"
                "except FarbootError as error: print(type(error).__name__, error)\n"
            )
            command = [*becoming(NOBODY), readable.python, "-c", program]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=False, env=readable.environment, cwd=outside
            )
            assert not done.stderr, done.stderr
            return done.stdout.strip()

        return evaluate

    def test_an_unreadable_folder_is_denied(self, outside: Path, as_nobody: Ask) -> None:
        (outside / "closed").mkdir(mode=0o700)
        told = as_nobody(f"list(FileSource().entries(Location('file', path='{outside}/closed/')))")
        assert told.startswith("Denied cannot list")
        assert "become root" in told

    def test_an_unreadable_file_is_listed_and_denied_when_opened(self, outside: Path, as_nobody: Ask) -> None:
        (outside / "closed.img").write_bytes(b"x")
        (outside / "closed.img").chmod(0o600)
        told = as_nobody(f"[row.size for row in FileSource().entries(Location('file', path='{outside}/'))]")
        assert told == "[1]"
        told = as_nobody(f"FileSource().open(Location('file', path='{outside}/closed.img'))")
        assert told.startswith("Denied")

    def test_a_file_it_may_only_read_is_not_writable(self, outside: Path, as_nobody: Ask) -> None:
        (outside / "open.img").write_bytes(b"x")
        (outside / "open.img").chmod(0o644)
        facts = "QemuFacts((7, 2, 0), frozenset())"
        where = f"Location('file', path='{outside}/open.img')"
        assert as_nobody(f"FileSource().attach({where}, {facts}, Mode.SNAPSHOT).writable") == "False"

    def test_devices_are_listed_but_not_opened(self, loop_device: LoopDevice, as_nobody: Ask) -> None:
        told = as_nobody("[row.name for row in DeviceSource().entries(Location('host_device'))]")
        assert loop_device.device in told
        told = as_nobody(f"DeviceSource().open(Location('host_device', path='{loop_device.device}'))")
        assert told.startswith("Denied")
