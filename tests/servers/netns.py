"""A network namespace for servers whose ports are fixed (111, 2049, 24007): joined to this host by a veth pair.

Clients on this host reach `address` (and `address6`) as they reach any other machine, and so does a confined QEMU. A
command run in it sees its own interfaces and ports, its own mounts, and this host's files. Addresses are of the range
for benchmarks (RFC 2544) and of the unique local ones (RFC 4193). Making one takes root.
"""

import ipaddress
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import pytest

_RANGE = ipaddress.ip_network("198.18.0.0/15")
_NAME = re.compile(r"farboot-(\d+)-\d+")
_NUMBERS = itertools.count()
_ATTEMPTS = 50
_BIND = 'while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 1; shift 2; done; shift; exec "$@"'


class Netns:
    """One namespace, from `start` to `stop`; a context manager."""

    def __init__(self) -> None:
        number = next(_NUMBERS)
        self.name = f"farboot-{os.getpid()}-{number}"
        self._link = f"fb{os.getpid()}n{number}"[:15]
        self.address = ""
        self.address6 = ""
        self.host_address = ""

    def start(self) -> Self:
        """Make it, and remove those that an earlier run left behind. Raises AssertionError."""
        remove_leftovers()
        _ip("netns", "add", self.name)
        try:
            _ip("link", "add", self._link, "type", "veth", "peer", "name", "veth0", "netns", self.name)
            self._choose_addresses()
            _ip("link", "set", self._link, "up")
            for inside in ("lo", "veth0"):
                _ip("-n", self.name, "link", "set", inside, "up")
        except BaseException:
            self.stop()
            raise
        return self

    def argv(self, *argv: str, binds: Mapping[str, str] | None = None) -> list[str]:
        """`argv` as it runs in here. `binds` are paths of this host (keys) that it sees in the place of others."""
        inside = ["ip", "netns", "exec", self.name]
        if binds:
            pairs = [part for source, target in binds.items() for part in (source, target)]
            inside += ["sh", "-c", _BIND, "sh", *pairs, "--"]
        return [*inside, *argv]

    def run(self, argv: Sequence[str], timeout: float = 60.0) -> str:
        """Run a command in here to its end and return what it printed. Raises CalledProcessError."""
        return subprocess.run(
            self.argv(*argv), check=True, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL
        ).stdout

    def stop(self) -> None:
        """End what still runs in here and remove it."""
        _remove(self.name)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _choose_addresses(self) -> None:
        """Take a small subnet that nothing on this host has a route to."""
        taken = {word for line in _ip("-4", "route", "show", "table", "all").splitlines() for word in line.split()}
        subnets = 1 << (30 - _RANGE.prefixlen)
        start = (os.getpid() * 7 + int(self.name.rpartition("-")[2])) % subnets
        for attempt in range(_ATTEMPTS):
            index = (start + attempt) % subnets
            subnet = ipaddress.ip_network((int(_RANGE.network_address) + 4 * index, 30))
            if str(subnet) not in taken:
                break
        else:
            raise AssertionError("no free subnet was found")
        self.host_address, self.address = str(subnet[1]), str(subnet[2])
        prefix6 = f"fdfb:{index:x}::"
        self.address6 = f"{prefix6}2"
        for inside, device, four, six in (
            ((), self._link, self.host_address, f"{prefix6}1"),
            (("-n", self.name), "veth0", self.address, self.address6),
        ):
            _ip(*inside, "addr", "add", f"{four}/30", "dev", device)
            _ip(*inside, "addr", "add", f"{six}/64", "dev", device, "nodad")


def remove_leftovers() -> None:
    """Remove the namespaces of runs that are no more."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        found = _NAME.fullmatch(name)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            _remove(name)


def _remove(name: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    for pid in pids.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)  # its veth goes with it


def _ip(*argv: str) -> str:
    done = subprocess.run(["ip", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"ip {' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture(scope="session")
def netns() -> Iterator[Netns]:
    """A namespace that the whole run shares: for servers whose fixed ports do not collide with one another's."""
    if os.geteuid():
        pytest.skip("a network namespace that others can reach takes root")
    with Netns() as made:
        yield made
