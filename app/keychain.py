"""The credentials of this run, in memory: which of them belong to which place."""

import threading
from dataclasses import dataclass, replace
from typing import Protocol

from probes.credentials import NO_CREDENTIALS, Credentials
from probes.location import Location


@dataclass(frozen=True, slots=True)
class Server:
    """Whom credentials are for: one server, and one person on it where the location says which.

    `address` is the host and port, `user` the one that is part of the address (ssh, ftp, iscsi). For rbd it is the
    cluster: `options` are the location's.
    """

    scheme: str
    address: str
    user: str = ""
    options: str = ""

    @staticmethod
    def of(location: Location) -> "Server":
        """The server of a location. What is reached with TLS and what is not are two."""
        scheme = _ONE_LOGIN.get(location.scheme, location.scheme)
        options = location.query if scheme in {"rbd", "nbd+unix"} else ""
        return Server(scheme, location.address, location.user or "", options)

    def __str__(self) -> str:
        """The server as a URL, for a keyring's list."""
        if self.scheme == "rbd":
            return f"rbd::{self.options}" if self.options else "rbd:"
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}://{user}{self.address}" + (f"?{self.options}" if self.options else "")


_ONE_LOGIN = {"sftp": "ssh", "nbds+unix": "nbd+unix"}


class Saved(Protocol):
    """Where credentials outlive this run, by a person's wish: the system's keyring."""

    def load(self, server: Server) -> Credentials:
        """What is saved for a server; empty where nothing is, or nobody answers in time."""
        ...

    def save(self, server: Server, credentials: Credentials) -> None:
        """Save what is known for a server. Raises FarbootError."""
        ...

    def forget(self, server: Server) -> bool:
        """Delete what is saved for a server; whether there was anything. Raises FarbootError."""
        ...


class Keychain:
    """Remembers credentials by `Server`, a signed query by its very URL.

    Credentials given for one server never go to another one, nor one person's to another on the same server: those
    given without a user hold for every location there that names none. `saved` is asked once for each server that
    nothing is known of. Safe to use from several threads; `get` may block as long as `saved` does.
    """

    def __init__(self, saved: Saved | None = None) -> None:
        self.saved = saved
        self._by_server: dict[Server, Credentials] = {}
        self._by_location: dict[str, Credentials] = {}
        self._asked: set[Server] = set()
        self._to_save: set[Server] = set()
        self._to_vouch_for: set[Server] = set()
        self._lock = threading.Lock()
        self._asking = threading.Lock()

    def get(self, location: Location) -> Credentials:
        """Return what is known for `location`; empty credentials if nothing is."""
        server = Server.of(location)
        self._ask_saved(server)
        with self._lock:
            known = self._by_server.get(server, NO_CREDENTIALS)
            return self._by_location.get(str(location), NO_CREDENTIALS).over(known)

    def add(
        self, location: Location, credentials: Credentials, save: bool = False, vouch_for_host: bool = False
    ) -> None:
        """Remember `credentials` for the server of `location`, over what was known.

        With `save` they go to the keyring as well, with `vouch_for_host` the host key goes into known_hosts, both once
        they turned out to be right: see `keep`.
        """
        with self._lock:
            if credentials.query is not None:
                self._by_location[str(location)] = Credentials(query=credentials.query)
                credentials = replace(credentials, query=None)
            server = Server.of(location)
            self._by_server[server] = credentials.over(self._by_server.get(server, NO_CREDENTIALS))
            if save:
                self._to_save.add(server)
            if vouch_for_host:
                self._to_vouch_for.add(server)

    def is_to_keep(self, location: Location) -> bool:
        """Whether something about the server of `location` shall outlive this run, and does not yet."""
        server = Server.of(location)
        with self._lock:
            return server in self._to_save or server in self._to_vouch_for

    def vouches_for_host(self, location: Location) -> bool:
        """Whether the host key shall be written down: answers yes once."""
        server = Server.of(location)
        with self._lock:
            wished = server in self._to_vouch_for
            self._to_vouch_for.discard(server)
            return wished

    def keep(self, location: Location) -> bool:
        """The server let us in: save its credentials now if that was wished. Whether it was. Raises FarbootError."""
        server = Server.of(location)
        with self._lock:
            credentials = self._by_server.get(server, NO_CREDENTIALS)
            wished = server in self._to_save and self.saved is not None and bool(credentials)
            self._to_save.discard(server)
        if wished and self.saved is not None:
            self.saved.save(server, credentials)
        return wished

    def forget(self, location: Location) -> bool:
        """Forget what is known for the server of `location`, here and in the keyring; whether that had anything.

        Raises FarbootError.
        """
        server = Server.of(location)
        with self._lock:
            self._by_server.pop(server, None)
            self._to_save.discard(server)
        return self.saved.forget(server) if self.saved is not None else False

    def _ask_saved(self, server: Server) -> None:
        if self.saved is None or server.scheme in _NEVER_SAVED:
            return
        with self._asking:  # others who want the same wait for the one answer
            if server in self._asked:
                return
            found = self.saved.load(server)
            with self._lock:
                self._asked.add(server)
                if found:
                    self._by_server[server] = self._by_server.get(server, NO_CREDENTIALS).over(found)


_NEVER_SAVED = frozenset({"file", "host_device", "tftp", "nfs"})
