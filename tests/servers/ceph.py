"""A real Ceph for the tests: one monitor and one OSD that keeps its objects in memory.

`ceph` is shared by the whole run: tests make pools and images of their own in it and may pause its daemons for a
moment (`paused_osd`, `paused_monitor`). Whoever wants to break one for good starts another: `with Ceph() as mine`.
Nothing of the machine's own /etc/ceph is read or written.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

READY_WITHIN = 120.0  # seconds; it takes 5 on an idle machine

_CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
keyring = {folder}/admin.keyring
auth client required = cephx
auth cluster required = cephx
auth service required = cephx
run dir = {folder}/run
admin socket = {folder}/run/$cluster-$name-$pid.$cctid.asok
log file =
log to stderr = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon allow pool delete = true
mon max pg per osd = 5000
auth allow insecure global id reclaim = false

[mon]
keyring = {folder}/mon.keyring
log file = {folder}/mon.log
mon data avail crit = 0
mon data avail warn = 1
mon initial members = a
mon osd report timeout = 3600
mon warn on pool no redundancy = false
paxos propose interval = 0.02
paxos min wait = 0.01

[osd]
keyring = {folder}/osd/keyring
log file = {folder}/osd.log
osd objectstore = memstore
memstore device bytes = 4294967296
osd data = {folder}/osd
osd fast shutdown = false
osd journal =
osd class load list = *
osd class default list = *
osd heartbeat grace = 3600
public addr = 127.0.0.1
ms bind ipv6 = false
"""


class CephFailedError(Exception):
    """The test cluster did not do what it must."""


class Ceph:
    """A cluster in a folder of its own, alive between `start` and `stop`.

    `conf`, `keyring` and `key` are those of client.admin; `environment` lets a program use them by itself.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fb-ceph-", dir="/tmp"))  # short: socket paths have 108 bytes
        self.folder.chmod(0o755)  # other accounts of this machine may be clients, too
        self.conf = str(self.folder / "ceph.conf")
        self.keyring = str(self.folder / "admin.keyring")
        self.key = ""
        self.ports: tuple[int, int] = (0, 0)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("CEPH_")} | {"CEPH_CONF": self.conf}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._monitor_data = self.folder
        self._cluster: Any = None

    # Its life

    def start(self) -> Self:
        """Bring it up, with one pool for images, `rbd`. Raises CephFailedError with the daemons' last words."""
        try:
            self._start_monitor()
            self._start_osd()
            self.pool("rbd")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every daemon and remove the folder."""
        if self._cluster is not None:
            # Shutting a client down waits for its daemons: they still run here.
            with contextlib.suppress(Exception):
                self._cluster.shutdown()
            self._cluster = None
        for name in ("osd", "mon"):
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self, name: str) -> None:
        """End the daemon `name` ("mon" or "osd") at once; there is no way back."""
        if (daemon := self._daemons.pop(name, None)) is not None:
            daemon.kill()
            daemon.wait()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """No daemon runs meanwhile. They come back with all that the cluster holds."""
        for name in ("osd", "mon"):  # in this order: it lays its memory down on SIGTERM, having told the monitor
            daemon = self._daemons.pop(name)
            daemon.terminate()
            daemon.wait()
        try:
            yield
        finally:
            self._spawn("mon", "ceph-mon", "--id", "a", "--mon-data", str(self._monitor_data))
            self._spawn("osd", "ceph-osd", "--id", "0")

    @contextlib.contextmanager
    def paused_osd(self) -> Iterator[None]:
        """No object can be read or written meanwhile."""
        with self._paused("osd"):
            yield

    @contextlib.contextmanager
    def paused_monitor(self) -> Iterator[None]:
        """Nobody can log in meanwhile."""
        with self._paused("mon"):
            yield

    @contextlib.contextmanager
    def _paused(self, name: str) -> Iterator[None]:
        daemon = self._daemons[name]
        daemon.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            daemon.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What it holds

    def cli(self, *argv: str, data: bytes | None = None) -> str:
        """Run one of Ceph's own programs on this cluster and return what it printed."""
        done = subprocess.run(
            argv, input=data, capture_output=True, env=self.environment, timeout=READY_WITHIN, check=False
        )
        if done.returncode:
            raise CephFailedError(f"{' '.join(argv)}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode(errors="replace")

    @property
    def cluster(self) -> Any:
        """A connected `rados.Rados` of client.admin."""
        if self._cluster is None:
            import rados

            settings = {"client_mount_timeout": "60", "rados_mon_op_timeout": "60", "rados_osd_op_timeout": "60"}
            client = rados.Rados(name="client.admin", conffile=self.conf, conf=settings)
            client.connect()
            self._cluster = client
        return self._cluster

    def command(self, prefix: str, **arguments: object) -> str:
        """Give the monitor a command, as `ceph` does. Raises CephFailedError."""
        status, out, words = self.cluster.mon_command(json.dumps({"prefix": prefix, **arguments}), b"")
        if status:
            raise CephFailedError(f"{prefix}: {words} ({status})")
        return str(out.decode())

    def pool(self, name: str, application: str | None = "rbd") -> str:
        """Make a pool, for images or (application None) for nothing that is said, and return its name."""
        self.command("osd pool create", pool=name, pg_num=4, size=1, yes_i_really_mean_it=True)
        if application:
            self.command("osd pool application enable", pool=name, app=application, yes_i_really_mean_it=True)
        if application == "rbd":
            import rbd

            with self._io(name) as io:
                rbd.RBD().pool_init(io, True)
        return name

    def fresh_pool(self) -> str:
        """Make a pool for images with a name that nobody else has."""
        return self.pool(f"pool-{uuid.uuid4().hex[:8]}")

    def namespace(self, pool: str, name: str) -> str:
        """Make a namespace in a pool."""
        import rbd

        with self._io(pool) as io:
            rbd.RBD().namespace_create(io, name)
        return name

    def image(
        self, pool: str, name: str | bytes, content: bytes | str | os.PathLike[str] | int, namespace: str = ""
    ) -> None:
        """Make an image of these bytes, of the file at this path, or an empty one of this size."""
        import rbd

        if isinstance(content, str | os.PathLike):
            content = Path(content).read_bytes()
        size = content if isinstance(content, int) else len(content)
        with self._io(pool, namespace) as io:
            rbd.RBD().create(io, name, size, old_format=False)
            if isinstance(content, bytes):
                with rbd.Image(io, name) as image:
                    step = 4 << 20
                    for offset in range(0, size, step):
                        piece = content[offset : offset + step]
                        if piece.strip(b"\0"):
                            image.write(piece, offset)

    def snapshot(self, pool: str, image: str, name: str, namespace: str = "", protect: bool = False) -> str:
        """Take a snapshot."""
        import rbd

        with self._io(pool, namespace) as io, rbd.Image(io, image) as opened:
            opened.create_snap(name)
            if protect:
                opened.protect_snap(name)
        return name

    def clone(self, pool: str, image: str, snapshot: str, name: str) -> str:
        """Make a copy-on-write child of a (protected) snapshot in the same pool."""
        import rbd

        with self._io(pool) as io:
            rbd.RBD().clone(io, image, snapshot, io, name)
        return name

    def user(self, name: str, pool: str, rights: str = "profile rbd-read-only") -> str:
        """Make client.`name`, who may only read in one pool, and return its key."""
        caps = ["mon", "profile rbd", "osd", f"{rights} pool={pool}"]
        return str(
            json.loads(self.command("auth get-or-create-key", entity=f"client.{name}", caps=caps, format="json"))["key"]
        )

    @contextlib.contextmanager
    def _io(self, pool: str, namespace: str = "") -> Iterator[Any]:
        io = self.cluster.open_ioctx(pool)
        try:
            io.set_namespace(namespace)
            yield io
        finally:
            io.close()

    # How it comes up

    def _start_monitor(self) -> None:
        (self.folder / "run").mkdir()
        for attempt in range(5):
            self.ports = _free_ports()
            fsid = str(uuid.uuid4())
            Path(self.conf).write_text(_CONF.format(fsid=fsid, folder=self.folder, v2=self.ports[0], v1=self.ports[1]))
            data = self._monitor_data = self.folder / f"mon-{attempt}"
            self._make_monitor(fsid, data)
            daemon = self._spawn("mon", "ceph-mon", "--id", "a", "--mon-data", str(data))
            try:
                _until(lambda d=daemon: self._monitor_is_ready(d), "the monitor", self.folder / "mon.log")  # type: ignore[misc]  # bound per turn
            except _DiedError:
                continue  # somebody took one of the ports in between
            return
        raise CephFailedError("the monitor found no free ports: " + _tail(self.folder / "mon.log"))

    def _make_monitor(self, fsid: str, data: Path) -> None:
        mon_keyring = str(self.folder / "mon.keyring")
        everything = ["--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self.cli("ceph-authtool", "--create-keyring", self.keyring, "--gen-key", "-n", "client.admin", *everything)
        self.cli("ceph-authtool", "--create-keyring", mon_keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self.cli("ceph-authtool", mon_keyring, "--import-keyring", self.keyring)
        Path(self.keyring).chmod(0o644)
        self.key = self.cli("ceph-authtool", "-p", "-n", "client.admin", self.keyring).strip()
        monmap, address = str(self.folder / "monmap"), f"[v2:127.0.0.1:{self.ports[0]},v1:127.0.0.1:{self.ports[1]}]"
        self.cli("monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", fsid, monmap)
        self.cli(
            "ceph-mon", "-c", self.conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", mon_keyring,
            "--mon-data", str(data),
        )  # fmt: skip

    def _monitor_is_ready(self, daemon: subprocess.Popen[bytes]) -> bool:
        if daemon.poll() is not None:
            raise _DiedError
        import rados

        settings = {"client_mount_timeout": "2", "rados_mon_op_timeout": "2"}
        try:
            with rados.Rados(name="client.admin", conffile=self.conf, conf=settings) as probe:
                return bool(probe.get_fsid())
        except rados.Error:
            return False

    def _start_osd(self) -> None:
        data, identity = self.folder / "osd", str(uuid.uuid4())
        data.mkdir()
        secret = self.cli("ceph-authtool", "--gen-print-key").strip()
        status, out, words = self.cluster.mon_command(
            json.dumps({"prefix": "osd new", "uuid": identity}), json.dumps({"cephx_secret": secret}).encode()
        )
        if status:
            raise CephFailedError(f"osd new: {words} {out!r}")
        (data / "keyring").write_text(f"[osd.0]\n\tkey = {secret}\n")
        self.cli("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", identity)
        daemon = self._spawn("osd", "ceph-osd", "--id", "0")

        def ready() -> bool:
            if daemon.poll() is not None:
                raise CephFailedError("the OSD died: " + _tail(self.folder / "osd.log"))
            return bool(json.loads(self.command("osd stat", format="json"))["num_up_osds"])

        _until(ready, "the OSD", self.folder / "osd.log")

    def _spawn(self, name: str, program: str, *argv: str) -> subprocess.Popen[bytes]:
        whole = [program, "-c", self.conf, "-f", *argv]
        if (setpriv := shutil.which("setpriv")) is not None:  # a run that is killed leaves no daemons behind
            whole = [setpriv, "--pdeathsig", "KILL", *whole]
        with (self.folder / f"{name}.out").open("ab") as out:
            daemon = subprocess.Popen(
                whole, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment, start_new_session=True
            )
        self._daemons[name] = daemon
        return daemon


class _DiedError(Exception):
    pass


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def _until(ready: Callable[[], bool], what: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not ready():
        if time.monotonic() > deadline:
            raise CephFailedError(f"{what} was not ready within {READY_WITHIN:.0f} s: {_tail(log)}")
        time.sleep(0.05)  # between two looks


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace")[-2000:]
    return "(it left no log)"


@pytest.fixture(scope="session")
def ceph() -> Iterator[Ceph]:
    """The cluster that the whole run shares."""
    with Ceph() as cluster:
        yield cluster
