"""What ~/.ssh/config and /etc/ssh/ssh_config say about a host (ssh_config(5)), for us and for QEMU, who reads none.

paramiko reads the format; what it lacks is added here: Include, comments behind a value, blocks within an included file
that hold only where the including block does, and Match exec.
"""

import getpass
import glob
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from probes.errors import BadLocation, FarbootError

_SYSTEM = "/etc/ssh"
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
_DEEPEST = 16
_MOST_LINES = 100_000
_EXEC_SECONDS = 5.0
# As OpenSSH's valid_ruser; and no blank before what could become an option of the program that a shell then starts.
_FOR_A_SHELL = re.compile(r"""[\x00-\x1f\x7f'"`$;&<>|(){}]|\\\Z|\s[-\\]""")
_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*\S)\s*")


@dataclass(frozen=True)
class Target:
    """A host as ssh would connect to it.

    `name` is as it was typed, `host`, `port` and `user` what it stands for. `keys` are paths of private keys,
    `keys_given` whether the configuration names them; `only_keys` that an agent's other keys are not tried.
    `agent` is the path of the agent's socket, or empty. `jumps` are the hosts to go through, outermost first, as
    `[user@]host[:port]`; `command` is a program to connect through instead. `known_as` replaces the host in known_hosts
    files. `strict` is StrictHostKeyChecking: "yes", "ask", "accept-new" or "no".
    """

    name: str
    host: str
    port: int
    user: str
    keys: tuple[str, ...] = ()
    keys_given: bool = False
    certificates: tuple[str, ...] = ()
    only_keys: bool = False
    agent: str = ""
    jumps: tuple[str, ...] = ()
    command: str = ""
    known_as: str = ""
    known_hosts: tuple[str, ...] = ()
    known_hosts_of_all: tuple[str, ...] = ()
    strict: str = "ask"
    hash_names: bool = False

    @property
    def address(self) -> str:
        """What a person knows it as: `user@host`, with the port where it is not 22."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != 22 else "")


def resolve(name: str, port: int | None = None, user: str | None = None) -> Target:
    """Return what `name` stands for; `port` and `user` were given with it, and go before what is configured.

    Raises BadLocation for a user that could make a shell do something (Match exec and ProxyCommand may hold %r), and
    FarbootError for a configuration that cannot be read or understood.
    """
    if user is not None and (user.startswith("-") or not user or _FOR_A_SHELL.search(user)):
        raise BadLocation(
            "log in to", name, "no user is called that", "leave quotes and the like out of the user's name"
        )
    home = os.path.expanduser("~")
    found = _lookup(home, name, port, user)
    keys = tuple(os.path.expanduser(path) for path in found.pop("identityfile", ()))
    text = {key: str(value).strip() for key, value in found.items() if value is not None}
    yes = {key for key, value in text.items() if value.lower() in {"yes", "true"}}
    strict = text.get("stricthostkeychecking", "ask").lower()
    jumps = text.get("proxyjump", "")
    return Target(
        name=name,
        host=text.get("hostname") or name,
        port=_port(text.get("port", ""), name),
        user=text.get("user") or _account(),
        keys=tuple(keys) or tuple(f"{home}/.ssh/{key}" for key in _DEFAULT_KEYS),
        keys_given=bool(keys),
        certificates=_paths(text.get("certificatefile", "")),
        only_keys="identitiesonly" in yes,
        agent=_agent(text.get("identityagent", "SSH_AUTH_SOCK")),
        jumps=() if jumps.lower() == "none" else tuple(jump.strip() for jump in jumps.split(",") if jump.strip()),
        command=text.get("proxycommand", ""),
        known_as=text.get("hostkeyalias", ""),
        known_hosts=_paths(text.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")),
        known_hosts_of_all=_paths(
            text.get("globalknownhostsfile", f"{_SYSTEM}/ssh_known_hosts {_SYSTEM}/ssh_known_hosts2")
        ),
        strict={"true": "yes", "off": "no", "false": "no"}.get(strict, strict),
        hash_names="hashknownhosts" in yes,
    )


def parse_jump(jump: str) -> tuple[str, int | None, str | None]:
    """Return host, port and user of a ProxyJump's `[user@]host[:port]` or `ssh://…`. Raises ValueError."""
    user, _, address = jump.removeprefix("ssh://").rstrip("/").rpartition("@")
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:]+)(?::(\d{1,5}))?", address)
    if match is None or address.startswith("-"):
        raise ValueError(jump)
    port = match[2] or match[4]
    return match[1] or match[3], int(port) if port else None, user or None


def lines(path: str, folder: str, within: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the lines of the configuration file `path`, included files in their places.

    `folder` is where relative names of included files begin. `within` are the criteria (of a Match line) of the block
    that includes this file. A file that is missing has no lines. Raises FarbootError.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read().splitlines()[:_MOST_LINES]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise FarbootError("read", path, error.strerror or "it failed") from None
    block = within
    for line in text:
        match = _LINE.fullmatch(line if '"' in line else re.sub(r"\s#.*", "", line))
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if match is None:
            raise FarbootError("understand", path, f"the line {line.strip()!r} says nothing")
        keyword, value = match[1].lower(), match[2]
        if keyword in {"host", "match"}:
            inner = value if keyword == "match" else f"originalhost {shlex.quote(','.join(_words(value, path)))}"
            block = " ".join(part for part in (within, inner) if part not in {"", "all"}) or "all"
            yield f"Match {block}"
        elif keyword == "include" and depth < _DEEPEST:
            for word in _words(value, path):
                for found in sorted(glob.glob(os.path.join(folder, os.path.expanduser(word)))):
                    yield from lines(found, folder, block, depth + 1)
                    yield f"Match {block or 'all'}"
        elif keyword != "include":
            yield f"{keyword} {value}"


def _lookup(home: str, name: str, port: int | None, user: str | None) -> dict[str, Any]:
    given = [f"Port {port}"] if port else []
    given += [f"User {user}"] if user else []
    # An alias may hold what no host name does; a space would end it.
    whole = [
        *given,
        *lines(f"{home}/.ssh/config", f"{home}/.ssh"),
        "Match all",
        *lines(f"{_SYSTEM}/ssh_config", _SYSTEM),
    ]
    try:
        config = _config_class().from_text("\n".join(whole))
        found: dict[str, Any] = dict(config.lookup(name))
    except Exception as error:  # noqa: BLE001  paramiko has no family of errors for what it cannot parse
        raise FarbootError("understand", f"{home}/.ssh/config", str(error) or type(error).__name__) from None
    return found


def _config_class() -> Any:
    """The class SSHConfig of paramiko, which is imported only now, with Match exec run as ssh runs it. (By itself
    paramiko hands such a program our standard input: the keys that a person presses.)
    """
    import paramiko

    class Config(paramiko.SSHConfig):
        def _does_match(self, criteria: Any, name: str, canonical: bool, final: bool, options: Any) -> bool:
            others = [one for one in criteria if one["type"] != "exec"]
            programs = [one for one in criteria if one["type"] == "exec"]
            if programs and not others:
                others = [{"type": "all", "param": None, "negate": False}]
            base: Any = super()
            return bool(base._does_match(others, name, canonical, final, options)) and all(
                _succeeds(base._tokenize(options, name, "match-exec", one["param"])) is not one["negate"]
                for one in programs
            )

    return Config


def _succeeds(command: str) -> bool:
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_EXEC_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _words(value: str, path: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise FarbootError("understand", path, str(error)) from None


def _paths(value: str) -> tuple[str, ...]:
    if value.lower() == "none":
        return ()
    home = os.path.expanduser("~")
    try:
        words = shlex.split(value)
    except ValueError:
        words = value.split()
    return tuple(os.path.expanduser(word.replace("%d", home)) for word in words)


def _agent(value: str) -> str:
    if value.lower() == "none":
        return ""
    if value == "SSH_AUTH_SOCK":
        return os.environ.get("SSH_AUTH_SOCK", "")
    if value.startswith("$"):
        return os.environ.get(value[1:].strip("{}"), "")
    return os.path.expanduser(value.replace("%d", os.path.expanduser("~")))


def _port(text: str, name: str) -> int:
    if not text:
        return 22
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise FarbootError("understand", "~/.ssh/config", f"the port of {name} is not a port number")
    return int(text)


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return str(os.getuid())
