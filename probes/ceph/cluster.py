"""A Ceph cluster as one client sees it: logged in, asked, let go of; and what its failures mean.

librados waits for ever unless it is told otherwise, writes to the terminal, the log and an admin socket if the
configuration says so, and must not be shut down while a call runs: `Cluster` bounds, silences and counts.
"""

import contextlib
import errno
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import rados

from probes.ceph.login import HOW_TO_NAME_IT, Login, addresses, checked_key, key_in
from probes.credentials import Secret
from probes.errors import (
    BadAnswer,
    Cancelled,
    Denied,
    FarbootError,
    NotFound,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location

# A library in somebody else's process keeps off the terminal, logs to nobody and opens no sockets; and it reads what is
# there, not what a cache remembers.
_QUIET = {
    "log_to_stderr": "false",
    "err_to_stderr": "false",
    "log_to_file": "false",
    "log_file": "",
    "log_to_syslog": "false",
    "err_to_syslog": "false",
    "admin_socket": "",
    "rbd_cache": "false",
    "rbd_plugins": "",
    "rbd_parent_cache_enabled": "false",
    "rbd_persistent_cache_mode": "disabled",
}


class Shared:
    """Something that several threads use, and that must not end while one does: `end` is called once, when it is
    closed and the last of them is done.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end
        self._users = 1  # whoever will close it
        self._closed = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, tried: str, on: Location) -> Iterator[None]:
        """Keep it alive meanwhile. Raises Cancelled when it was closed."""
        with self._lock:
            if self._closed:
                raise Cancelled(tried, on, "it was closed")
            self._users += 1
        try:
            yield
        finally:
            self._leave()

    def close(self) -> None:
        """Let nobody use it any more; end it once nobody does. May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._end()


class Cluster(Shared):
    """One connection to a cluster. `deadline` in seconds is divided between logging in and each later operation.

    `tried` and `on` are the errors' words. Raises Denied, NotFound, TimedOut, Unreachable, BadAnswer.
    """

    def __init__(self, how: Login, key: Secret | None, deadline: float, tried: str, on: Location) -> None:
        self.user = how.user
        self._how = how
        self._prepare(key, deadline, tried, on)
        super().__init__(self._client.shutdown)
        try:
            self._knock(min(1.0, deadline / 4), tried, on)
            self._client.connect()
        except (rados.Error, FarbootError) as error:
            why = self._login_failure(error, tried, on)
            self._client.shutdown()
            raise why from None

    # What it is asked

    def pools(self) -> list[str]:
        """Return the names of the pools that have the application rbd."""
        found = []
        for name in self._client.list_pools():
            with contextlib.suppress(rados.ObjectNotFound), self.pool(name) as io:  # it may have gone meanwhile
                if "rbd" in io.application_list():
                    found.append(name)
        return found

    @contextlib.contextmanager
    def pool(self, name: str, namespace: str = "") -> Iterator[Any]:
        """Open a pool, at one of its namespaces, as a `rados.Ioctx`. Raises what librados raises."""
        io = self._client.open_ioctx(name)
        try:
            io.set_namespace(namespace)
            yield io
        finally:
            io.close()

    def monitors(self) -> list[tuple[str, int]]:
        """Return the monitors' addresses and ports, as the cluster itself tells them; where this user may not ask,
        as the configuration does. Of a monitor with several addresses it is the one of protocol v2.
        """
        status, out, _ = self._client.mon_command(json.dumps({"prefix": "mon dump", "format": "json"}), b"")
        if status:
            return addresses(self._client.conf_get("mon_host") or "")
        found = []
        for monitor in json.loads(out)["mons"]:
            vector = [(address["type"], address["addr"]) for address in monitor["public_addrs"]["addrvec"]]
            chosen = next((addr for kind, addr in vector if kind == "v2"), vector[0][1] if vector else "")
            found += addresses(chosen)
        return found

    def key(self) -> Secret | None:
        """Return the cephx key that this user logs in with, wherever it is configured; None where none is found."""
        if key := self._client.conf_get("key"):
            return Secret(key)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if path := self._client.conf_get("keyfile"):
                with open(path, encoding="utf-8") as file:
                    return Secret(file.read(4096).strip())
        for path in self.keyrings():
            if key := key_in(path, self._how.user):
                return Secret(key)
        return None

    def keyrings(self) -> list[str]:
        """Return the paths where the user's key is looked for."""
        return [path for path in re.split(r"[,;\s]+", self._client.conf_get("keyring") or "") if path]

    def authentication(self) -> list[str]:
        """Return the ways to log in that are configured, among those that QEMU knows ("cephx", "none")."""
        text = self._client.conf_get("auth_supported") or self._client.conf_get("auth_client_required") or ""
        return [way for way in ("cephx", "none") if way in re.split(r"[,;\s]+", text)]

    # How it logs in

    def _prepare(self, key: Secret | None, deadline: float, tried: str, on: Location) -> None:
        how = self._how
        client = rados.Rados(name=f"client.{how.user}")
        login_takes, asking_takes = max(1, round(deadline * 0.6)), str(max(1, round(deadline * 0.4)))
        self._set(client, _QUIET)  # reading the configuration may have something to say already
        if how.conf is not None:
            self._read(client, how.conf, tried, on)
        self._set(client, dict(how.settings))
        if key is not None:
            self._set(client, {"key": checked_key(key, how.user, tried, on)})
        self._set(client, _QUIET | {"rados_mon_op_timeout": asking_takes, "rados_osd_op_timeout": asking_takes})
        self._client = client
        if self.key() is None:
            # A monitor that wants a key leaves whoever has none without an answer; one that wants none is quick.
            login_takes = min(login_takes, 2)
        self._set(client, {"client_mount_timeout": str(login_takes)})

    @staticmethod
    def _set(client: Any, settings: dict[str, str]) -> None:
        for name, value in settings.items():
            with contextlib.suppress(rados.ObjectNotFound):  # not every version has every option
                client.conf_set(name, value)

    @staticmethod
    def _read(client: Any, conf: str, tried: str, on: Location) -> None:
        try:
            with open(conf, "rb"):
                pass
            client.conf_read_file(conf)
        except FileNotFoundError:
            raise NotFound(tried, on, f"there is no {conf}", HOW_TO_NAME_IT) from None
        except PermissionError:
            raise Denied(tried, on, f"this account may not read {conf}", HOW_TO_NAME_IT) from None
        except (OSError, rados.Error):
            raise BadAnswer(tried, on, f"{conf} cannot be understood as a Ceph configuration", HOW_TO_NAME_IT) from None

    def _knock(self, limit: float, tried: str, on: Location) -> None:
        """Find out at once what librados finds out only by its time-out: that all monitors refuse."""
        where = [(host, port) for host, named in self._monitors_configured() for port in named]
        refusals = set()
        for host, port in where:
            try:
                socket.create_connection((host, port), timeout=limit).close()
                return
            except OSError as error:
                if not isinstance(error, ConnectionRefusedError | socket.gaierror) and error.errno not in _NO_WAY:
                    return  # slow, not refused: librados has more patience
                refusals.add(str(error.strerror or error))
        if where:
            hosts = ", ".join(dict.fromkeys(host for host, _ in where[:8]))
            why = f"no monitor can be reached at {hosts}: {', '.join(sorted(refusals))}"
            raise Unreachable(tried, on, why, "is this the right cluster, and is it up?")

    def _monitors_configured(self) -> list[tuple[str, tuple[int, ...]]]:
        found = addresses(self._client.conf_get("mon_host") or "")
        return [(host, (port,) if port else _USUAL_PORTS) for host, port in found]

    def _login_failure(self, error: Exception, tried: str, on: Location) -> FarbootError:
        if isinstance(error, FarbootError):
            return error
        code, user = getattr(error, "errno", None), f"client.{self._how.user}"
        how = "give its key, or name another user: :id=name"
        if not self._client.conf_get("mon_host") and code in {errno.ENOENT, errno.EINVAL}:
            conf = self._how.conf or "the location"
            return NotFound(tried, on, f"{conf} names no monitor", HOW_TO_NAME_IT, str(error))
        if code in {errno.EACCES, errno.EPERM}:
            return Denied(tried, on, f"the cluster does not accept {user} with this key", how, str(error), ("key",))
        if self.key() is None:
            return Denied(tried, on, f"no key of {user} was found", how, str(error), ("key",))
        if code == errno.ETIMEDOUT:
            return TimedOut(tried, on, "no monitor of the cluster answered in time", "is the cluster up?", str(error))
        return failure(error, tried, on, user)


_USUAL_PORTS = (3300, 6789)
_NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNRESET, errno.EADDRNOTAVAIL, errno.EINVAL}


def failure(error: Exception, tried: str, on: object, user: str = "this user") -> FarbootError:
    """Return what an error of librados or librbd (or of ours) means to a person."""
    if isinstance(error, FarbootError):
        return error
    code, detail = getattr(error, "errno", None), str(error)
    if code == errno.ETIMEDOUT:
        return TimedOut(tried, on, "the cluster did not answer in time", "are its OSDs up?", detail)
    if code in {errno.EPERM, errno.EACCES}:
        return Denied(
            tried, on, f"{user} may not do that there", "another user may: :id=name, or its key", detail, ("key",)
        )
    if code == errno.ENOENT:
        return NotFound(tried, on, "there is no such pool, image or snapshot", "", detail)
    if code == errno.ESHUTDOWN:
        return Denied(tried, on, "the cluster has shut this client out (it is on its blocklist)", "try again", detail)
    if code in {errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOEXEC}:
        return Unsupported(tried, on, "this librbd cannot open such an image", "", detail)
    if isinstance(error, UnicodeError):
        return BadAnswer(tried, on, "a name there is not UTF-8, which Ceph's Python binding wants", "", detail)
    name = errno.errorcode.get(code, str(code)) if isinstance(code, int) else type(error).__name__
    return BadAnswer(tried, on, f"Ceph reports {name}", "", detail)
