"""A real iSCSI target for the tests: tgtd, with targets that tests make of files in its folder.

`tgt` is shared by the whole run: tests make targets of their own in it. Whoever wants to stop or break one starts
another: `with Tgt() as mine`. LUN 0 of every target is tgt's controller. tgtd listens on loopback, on a port that was
free, and its control socket lies in its folder.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.servers.server import Server, ServerFailed, free_port, is_listening, start_on_free_port


class TgtFailedError(AssertionError):
    """tgtadm did not do what it was told."""


class Tgt:
    """A tgtd in a folder of its own, alive between `start` and `stop`. `port` is its portal's on 127.0.0.1."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fb-tgt-", dir="/tmp"))  # short: socket paths have 108 bytes
        self.environment = os.environ | {"TGT_IPC_SOCKET": str(self.folder / "ipc")}
        self.port = 0
        self._server: Server | None = None
        self._ids = itertools.count(1)
        self._files = itertools.count(1)

    # Its life

    def start(self) -> Self:
        """Bring it up, with no targets. Raises ServerFailed."""
        try:
            self._server, self.port = start_on_free_port(self._made)
        except BaseException:
            self.stop()
            raise
        return self

    def _made(self, port: int) -> Server:
        argv = ["tgtd", "-f", "-C", "0", "--iscsi", f"portal=127.0.0.1:{port}"]
        return Server(argv, self.folder, lambda: is_listening(port) and self._answers(), self.environment)

    def _answers(self) -> bool:
        asked = ["tgtadm", "--op", "show", "--mode", "target"]
        return subprocess.run(asked, env=self.environment, capture_output=True, timeout=30, check=False).returncode == 0

    def stop(self) -> None:
        """End it and remove its folder."""
        if self._server is not None:
            self._server.kill()  # SIGTERM it heeds only without targets
            self._server = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """End it as a crash would; it forgets its targets."""
        assert self._server is not None
        self._server.kill()

    def restart(self) -> None:
        """Bring it up again after `kill`, at the same port and without any target."""
        self._server = self._made(self.port).start()
        self._ids = itertools.count(1)

    @property
    def pid(self) -> int:
        """tgtd's process."""
        assert self._server is not None
        return self._server.pid

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It answers nothing meanwhile."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What it holds

    def adm(self, *argv: str) -> str:
        """Run tgtadm. Raises TgtFailedError."""
        done = subprocess.run(
            ["tgtadm", "--lld", "iscsi", *argv], env=self.environment, capture_output=True, timeout=60, check=False
        )
        if done.returncode:
            raise TgtFailedError(f"tgtadm {' '.join(argv)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="replace")

    def portal(self, host: str = "127.0.0.1") -> int:
        """Listen at one more portal; return its port."""
        for _ in range(5):
            port = free_port(host)
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            with contextlib.suppress(TgtFailedError):
                self.adm("--op", "new", "--mode", "portal", "--param", f"portal={where}")
                return port
        raise ServerFailed("tgtd found no free port for a second portal")

    def file(self, content: bytes | int | Path) -> Path:
        """Lay these bytes, those of a file, or that many zeros into a new file."""
        path = self.folder / f"disk-{next(self._files)}"
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.touch()
            os.truncate(path, content)
        return path

    def target(self, name: str, initiators: tuple[str, ...] = (), user: str = "", password: str = "") -> "TgtTarget":
        """Make a target: for all initiators or for those named, with CHAP where there is a user."""
        number = next(self._ids)
        self.adm("--op", "new", "--mode", "target", "--tid", str(number), "-T", name)
        made = TgtTarget(self, number, name)
        for initiator in initiators:
            made.adm("--op", "bind", "--mode", "target", "-Q", initiator)
        if not initiators:
            made.adm("--op", "bind", "--mode", "target", "-I", "ALL")
        if user:
            made.account(user, password)
        return made


class TgtTarget:
    """One target of a tgtd."""

    def __init__(self, tgt: Tgt, number: int, name: str) -> None:
        self._tgt = tgt
        self.number = number
        self.name = name

    def adm(self, *argv: str) -> str:
        """Run tgtadm on this target."""
        return self._tgt.adm(*argv, "--tid", str(self.number))

    def account(self, user: str, password: str, outgoing: bool = False) -> None:
        """Let in only who proves to be `user`; with `outgoing`, prove ourselves to be that user."""
        with contextlib.suppress(TgtFailedError):  # it may be there already
            self._tgt.adm("--op", "new", "--mode", "account", "--user", user, "--password", password)
        self.adm("--op", "bind", "--mode", "account", "--user", user, *(["--outgoing"] if outgoing else []))

    def lun(
        self,
        number: int,
        content: bytes | int | Path | None,
        kind: str = "disk",
        block: int = 0,
        readonly: bool = False,
    ) -> Path | None:
        """Make a LUN of these bytes, of a copy of a file, or of that many zeros; None is a drive without a medium."""
        argv = ["--op", "new", "--mode", "logicalunit", "--lun", str(number), "--device-type", kind]
        path = None
        if content is not None:
            path = self._tgt.file(content)
            argv += ["--backing-store", str(path)]
        argv += ["--blocksize", str(block)] if block else []
        self.adm(*argv)
        if readonly:
            self.update(number, "readonly=1")
        return path

    def tape(self, number: int) -> None:
        """Make a tape drive with a tape in it."""
        path = self._tgt.folder / f"tape-{self.number}-{number}"
        made = ["--device-type", "tape", "--barcode", "FB0001", "--size", "10", "--type", "data", "--file", str(path)]
        subprocess.run(["tgtimg", "--op", "new", *made], capture_output=True, check=True, timeout=60)
        where = ["--device-type", "tape", "--bstype", "ssc", "--backing-store", str(path)]
        self.adm("--op", "new", "--mode", "logicalunit", "--lun", str(number), *where)

    def update(self, lun: int, parameters: str) -> None:
        """Change parameters of a LUN ("vendor_id=X,product_id=Y", "readonly=1", "online=0")."""
        self.adm("--op", "update", "--mode", "logicalunit", "--lun", str(lun), "--params", parameters)

    def remove(self, lun: int) -> None:
        """Take a LUN away, once nobody's command is under way on it."""
        end = time.monotonic() + 10
        while True:
            try:
                self.adm("--op", "delete", "--mode", "logicalunit", "--lun", str(lun))
                return
            except TgtFailedError:
                if time.monotonic() > end:
                    raise


@pytest.fixture(scope="session")
def tgt() -> Iterator[Tgt]:
    """The iSCSI target daemon that the whole run shares."""
    with Tgt() as server:
        yield server
