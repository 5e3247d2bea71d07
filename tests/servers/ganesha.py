"""A real NFS server (Ganesha, in user space), with a portmapper, in a network namespace of its own: ports 111 and 2049.

It serves folders below its `root` by version 3 and 4, or by 4 only. What is changed in them on this host is seen at
once (Ganesha would believe its own notes for a minute).
"""

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from probes.entry import Entry
from probes.location import Location
from probes.sources.nfs import NfsSource
from tests.servers.faults import FaultyProxy
from tests.servers.netns import Netns
from tests.servers.server import Server, wait_until

NFS, MOUNTD = 100003, 100005
"""The numbers of their RPC programs."""

_CONFIGURATION = """
NFS_CORE_PARAM {{
    Protocols = {protocols};
    Enable_NLM = false;
    Enable_RQUOTA = false;
    mount_path_pseudo = {by_pseudo};
    {core}
}}
NFSV4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = "{home}/recovery"; }}
LOG {{ Default_Log_Level = EVENT; }}
"""
_EXPORT = """
EXPORT {{
    Export_Id = {number}; Path = "{path}"; Pseudo = "{pseudo}";
    SecType = sys; Attr_Expiration_Time = 0; {options} {clients}
    FSAL {{ Name = VFS; }}
}}
"""


@dataclass(frozen=True)
class Export:
    """A folder below the server's root. `pseudo` is its name by version 4; `options` are Ganesha's; `clients` have
    an access type of their own.
    """

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    pseudo: str = ""
    clients: Mapping[str, str] = field(default_factory=dict)


class Ganesha:
    """A server with these exports, from `start` to `stop`; a context manager."""

    def __init__(
        self, netns: Netns, exports: tuple[Export, ...], protocols: str = "3,4", core: str = "", by_pseudo: bool = False
    ) -> None:
        self.netns = netns
        self.home = Path(tempfile.mkdtemp(prefix="farboot-nfs-", dir="/var/tmp"))
        self.home.chmod(0o755)
        self.root = self.home / "root"
        self.address, self.address6 = netns.address, netns.address6
        self._exports = exports
        self._has_3 = "3" in protocols
        for folder in ("recovery", "run", "root"):
            (self.home / folder).mkdir()
        lines = {"protocols": protocols, "core": core, "by_pseudo": str(by_pseudo).lower(), "home": str(self.home)}
        text = _CONFIGURATION.format(**lines)
        for number, export in enumerate(exports, 1):
            self.folder(export.name).mkdir(parents=True, exist_ok=True)
            options = {"Access_Type": "RW", "Squash": "No_Root_Squash"} | dict(export.options)
            text += _EXPORT.format(
                number=number,
                path=self.folder(export.name),
                pseudo=export.pseudo or f"/{export.name}",
                options=" ".join(f"{name} = {value};" for name, value in options.items()),
                clients=" ".join(
                    f"CLIENT {{ Clients = {who}; Access_Type = {access}; }}" for who, access in export.clients.items()
                ),
            )
        (self.home / "conf").write_text(text)
        self._portmapper: Server | None = None
        self._server: Server | None = None

    def folder(self, name: str) -> Path:
        """Where an export's files are, on this host."""
        return self.root / name

    def location(self, name: str = "", query: str = "", host: str = "") -> str:
        """The location of an export, with a slash at its end (or of the list of them)."""
        host = host or self.address
        bracketed = f"[{host}]" if ":" in host else host
        path = f"{self.folder(name)}/" if name else "/"
        return f"nfs://{bracketed}{path}" + (f"?{query}" if query else "")

    def port(self, program: int, version: int = 3) -> int:
        """The TCP port that the portmapper knows of a program."""
        for line in self.netns.run(["rpcinfo", "-p", "127.0.0.1"]).splitlines():
            words = line.split()
            if words[:3] == [str(program), str(version), "tcp"]:
                return int(words[3])
        raise AssertionError(f"program {program} is not registered")

    def start(self) -> Self:
        """Bring it up. Raises ServerFailed."""
        if self._has_3 and self._portmapper is None:
            argv = ["rpcbind", "-f", "-w", "-h", self.address, "-h", self.address6]
            self._portmapper = self._daemon("rpcbind", argv, 111)
        argv = ["ganesha.nfsd", "-F", "-f", f"{self.home}/conf", "-L", f"{self.home}/log", "-p", f"{self.home}/pid"]
        self._server = self._daemon("ganesha", argv, 2049)
        wait_until(lambda: "NFS SERVER INITIALIZED" in (self.home / "log").read_text(), "Ganesha")
        return self

    def stop(self) -> None:
        """End it and its portmapper and remove its files."""
        for server in (self._server, self._portmapper):
            if server is not None:
                server.kill()
        self._server = self._portmapper = None
        shutil.rmtree(self.home, ignore_errors=True)

    def kill(self) -> None:
        """End it as a crash would; its portmapper stays."""
        assert self._server is not None
        self._server.kill()
        (self.home / "log").unlink()

    def pause(self) -> None:
        """Have it accept connections and say nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        os.kill(self._server.pid, number)

    def _daemon(self, name: str, argv: list[str], port: int) -> Server:
        folder = self.home / f"{name}-daemon"
        folder.mkdir(exist_ok=True)
        whole = self.netns.argv(*argv, binds={str(self.home / "run"): "/run"})
        return Server(whole, folder, lambda: _is_listening(self.address, port)).start()


def _is_listening(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


STANDARD = (
    Export("images"),
    Export("nested"),
    Export("nested/inner"),
    Export("squashed", {"Squash": "Root_Squash"}),
    Export("readonly", {"Access_Type": "RO"}),
    Export("closed", {"Access_Type": "NONE"}, clients={"192.0.2.1": "RW"}),
    Export("team", {"Access_Type": "NONE"}, clients={"192.0.2.1": "RO", "198.18.0.0/15": "RW"}),
    Export("secure", {"PrivilegedPort": "true"}),
)


@pytest.fixture(scope="session")
def ganesha(netns: Netns) -> Iterator[Ganesha]:
    """A server for versions 3 and 4; write into the folders of its exports (`images` is open to all)."""
    with Ganesha(netns, STANDARD) as server:
        yield server


@pytest.fixture(scope="session")
def ganesha4(netns: Netns) -> Iterator[Ganesha]:
    """A server for version 4 only, without a portmapper, in a namespace of its own."""
    with Netns() as other, Ganesha(other, (Export("images"), Export("deep", pseudo="/a/b/deep")), "4") as server:
        yield server


@pytest.fixture
def nfs_source() -> Iterator[NfsSource]:
    """A source in this very process, for what the contract does not ask."""
    with NfsSource() as made:
        yield made


@pytest.fixture
def nfs_images(ganesha: Ganesha, tmp_path: Path) -> tuple[Path, Location]:
    """A fresh folder of the export `images`: where it is on this host, and its location."""
    folder = ganesha.folder("images") / tmp_path.name
    folder.mkdir()
    return folder, at(ganesha.location("images")).child(tmp_path.name, container=True)


@pytest.fixture
def nfs_proxied(ganesha: Ganesha) -> Iterator[tuple[FaultyProxy, str]]:
    """A proxy before NFS, and the location of the server behind it and one before MOUNT, with {} for its path."""
    with (
        FaultyProxy(ganesha.port(NFS), ganesha.address) as nfs,
        FaultyProxy(ganesha.port(MOUNTD), ganesha.address) as mount,
    ):
        yield nfs, f"nfs://127.0.0.1:{nfs.port}{{}}?mountport={mount.port}"


def at(text: str) -> Location:
    """A location from its text."""
    return Location.parse(text)[0]


def rows(source: NfsSource, place: Location) -> dict[str, Entry]:
    """What a place lists, by name."""
    return {entry.name: entry for entry in source.entries(place)}
