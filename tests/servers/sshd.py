"""Real sshds, each in a folder of its own with its own host keys, and keys and agents for whoever logs in.

They take the account that the tests run as, by public key; what they look up in a home folder (authorized_keys) is
named in their configuration, so nobody's real one is touched. Accounts with passwords exist in a mount namespace of the
server's own, in which it sees other files at /etc/passwd and /etc/shadow: this machine never has them (root only).
"""

import getpass
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.servers.server import Server, is_listening, start_on_free_port

USER = getpass.getuser()
_SSHD = "/usr/sbin/sshd"
_CONFIGURATION = """
Port {port}
ListenAddress 127.0.0.1
PidFile {folder}/pid
{host_keys}
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin yes
MaxStartups 200
MaxSessions 50
LoginGraceTime 60
AuthorizedKeysFile {folder}/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding no
X11Forwarding no
PrintMotd no
{lines}
"""


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "", form: Sequence[str] = ()) -> Path:
    """Make a key pair at `path` and `path`.pub."""
    argv: list[str | os.PathLike[str]] = [
        "ssh-keygen",
        "-q",
        "-t",
        kind,
        "-N",
        passphrase,
        "-C",
        f"{path.name} of the tests",
        "-f",
        path,
        *form,
    ]
    subprocess.run([*argv, *(["-b", "2048"] if kind == "rsa" else [])], check=True, capture_output=True)
    return path


def public(path: Path) -> str:
    """The public half of the key at `path`, as a line."""
    return Path(f"{path}.pub").read_text().strip()


def print_of(path: Path) -> str:
    """The key's fingerprint, as OpenSSH itself prints it."""
    said = subprocess.run(["ssh-keygen", "-lf", f"{path}.pub"], check=True, capture_output=True, text=True).stdout
    return said.split()[1]


@dataclass
class Sshd:
    """A running sshd. Whoever has a key in `authorized` is let in."""

    server: Server
    port: int
    folder: Path
    host_keys: dict[str, Path]

    @property
    def address(self) -> str:
        """`user@host:port`."""
        return f"{USER}@127.0.0.1:{self.port}"

    def url(self, path: str | os.PathLike[str] = "/") -> str:
        """The location of a file or folder of this machine, by way of the server."""
        return f"ssh://{self.address}{os.fspath(path)}"

    def authorize(self, *keys: Path) -> None:
        """Let the owners of these keys in, and nobody else."""
        (self.folder / "authorized_keys").write_text("".join(public(key) + "\n" for key in keys))

    def known(self, *kinds: str, port: int | None = None) -> str:
        """The server's lines for a known_hosts file: for its keys of these kinds, or all."""
        names = f"[127.0.0.1]:{port or self.port}"
        return "".join(f"{names} {public(key)}\n" for kind, key in self.host_keys.items() if not kinds or kind in kinds)


def start_sshd(
    folder: Path, lines: str = "", kinds: Sequence[str] = ("ed25519",), passwords: Mapping[str, str] | None = None
) -> Sshd:
    """Start an sshd in `folder`. `lines` go before its configuration; `kinds` are those of its host keys.

    `passwords` are those of accounts that exist for this server alone.
    """
    folder.mkdir(exist_ok=True)
    keys = {kind: make_key(folder / f"host_{kind}", kind) for kind in kinds if not (folder / f"host_{kind}").exists()}
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # where sshd shuts in those not yet let in

    def make(port: int) -> Server:
        sftp = "" if "Subsystem" in lines else "Subsystem sftp internal-sftp"
        named = "\n".join(f"HostKey {key}" for key in keys.values())
        text = _CONFIGURATION.format(port=port, folder=folder, host_keys=named, lines=sftp)
        # sshd takes the first value of each keyword.
        (folder / "sshd_config").write_text(f"{lines}\n{text}")
        argv = [*_with_accounts(folder, passwords or {}), _SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]
        return Server(argv, folder, lambda: is_listening(port))

    server, port = start_on_free_port(make)
    return Sshd(server, port, folder, keys)


def _with_accounts(folder: Path, passwords: Mapping[str, str]) -> list[str]:
    """The argv prefix that gives a program these accounts, beside the real ones."""
    if not passwords:
        return []
    users, hashes = Path("/etc/passwd").read_text(), Path("/etc/shadow").read_text()
    for number, (name, password) in enumerate(passwords.items()):
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=password.encode(), check=True, capture_output=True
        ).stdout.decode()
        users += f"{name}:x:{61_000 + number}:65534::/:/bin/sh\n"
        hashes += f"{name}:{hashed.strip()}:19000:0:99999:7:::\n"
    (folder / "passwd").write_text(users)
    (folder / "shadow").write_text(hashes)
    (folder / "shadow").chmod(0o600)
    binds = " && ".join(f"mount --bind '{folder}/{name}' /etc/{name}" for name in ("passwd", "shadow"))
    return ["unshare", "--mount", "sh", "-c", f'{binds} && exec "$@"', "sh"]


@dataclass
class SshHome:
    """A home folder with a ~/.ssh: what a person has who logs in somewhere."""

    path: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def ssh(self) -> Path:
        """Its ~/.ssh."""
        return self.path / ".ssh"

    def trust(self, *lines: str) -> None:
        """Have known_hosts hold these lines, and no others."""
        (self.ssh / "known_hosts").write_text("".join(lines))

    def configure(self, text: str) -> None:
        """Write ~/.ssh/config."""
        (self.ssh / "config").write_text(text)

    def key(self, name: str = "id_ed25519", kind: str = "ed25519", passphrase: str = "", pem: bool = False) -> Path:
        """Make a key in ~/.ssh."""
        return make_key(self.ssh / name, kind, passphrase, ("-m", "PEM") if pem else ())


def make_home(path: Path) -> SshHome:
    """Make an empty home folder at `path`."""
    (path / ".ssh").mkdir(mode=0o700, parents=True)
    return SshHome(path)


class Agent:
    """A real ssh-agent with a socket in `folder`; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent"
        self.server = Server(["ssh-agent", "-D", "-a", str(self.socket)], folder, self.socket.exists)

    def add(self, key: Path, *options: str) -> None:
        """Have it hold this key."""
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.socket)}
        subprocess.run(["ssh-add", "-q", *options, key], check=True, capture_output=True, env=environment)

    def __enter__(self) -> "Agent":
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd with host keys of three kinds. `authorize` your keys before you log in."""
    running = start_sshd(tmp_path_factory.mktemp("sshd"), kinds=("ed25519", "ecdsa", "rsa"))
    yield running
    running.server.stop()


@pytest.fixture
def ssh_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> SshHome:
    """A home folder of the test's own, and no agent: what `~` means while the test runs."""
    home = make_home(tmp_path_factory.mktemp("home"))
    monkeypatch.setenv("HOME", str(home.path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return home


def version() -> tuple[int, ...]:
    """OpenSSH's version, such as (9, 2)."""
    said = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", said)
    assert found, said
    return tuple(map(int, found.groups()))
