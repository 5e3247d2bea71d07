"""The credentials of this run, in memory: which of them belong to which place."""

import threading
from dataclasses import dataclass, replace
from typing import Protocol

from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.errors import Denied, Locked
from probes.location import Location


@dataclass(frozen=True, slots=True)
class Server:
    """Whom credentials are for: one server, and one person on it where the location says which.

    `address` is the host and port, `user` the one that is part of the address (ssh, ftp, iscsi). For rbd it is the
    cluster: `options` are the location's. The passphrase of an encrypted image is for that image alone, wherever it
    lies: its `address` is then the whole location.
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

    @staticmethod
    def of_image(location: Location) -> "Server":
        """Whom the passphrase of the image at `location` is for."""
        return Server(_IMAGE, str(location))

    def __str__(self) -> str:
        """The server as a URL, for a keyring's list."""
        if self.scheme == _IMAGE:
            return f"{_IMAGE}:{self.address}"
        if self.scheme == "rbd":
            return f"rbd::{self.options}" if self.options else "rbd:"
        user = f"{self.user}@" if self.user else ""
        return f"{self.scheme}://{user}{self.address}" + (f"?{self.options}" if self.options else "")


_IMAGE = "image"
_ONE_LOGIN = {"sftp": "ssh", "nbds+unix": "nbd+unix"}


def place_of(error: Denied, location: Location) -> Location:
    """Where what `error` wants belongs, that was met on the way to `location`: an encrypted image may be another one of
    its chain.
    """
    return Location.parse(error.image)[0] if isinstance(error, Locked) else location


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
    """Remembers credentials by `Server`, a signed query by its very URL, a passphrase by its very image.

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

    def passphrase(self, location: Location) -> Secret | None:
        """The passphrase of the encrypted image at `location`, if it is known: no server is ever told it."""
        server = Server.of_image(location)
        self._ask_saved(server)
        with self._lock:
            return self._by_server.get(server, NO_CREDENTIALS).image_passphrase

    def add(
        self, location: Location, credentials: Credentials, save: bool = False, vouch_for_host: bool = False
    ) -> None:
        """Remember `credentials` for the server of `location`, over what was known; a passphrase for the image there.

        With `save` they go to the keyring as well, with `vouch_for_host` the host key goes into known_hosts, both once
        they turned out to be right: see `keep` and `keep_passphrase`.
        """
        with self._lock:
            if credentials.image_passphrase is not None:
                image = Server.of_image(location)
                self._by_server[image] = Credentials(image_passphrase=credentials.image_passphrase)
                if save:
                    self._to_save.add(image)
                credentials = replace(credentials, image_passphrase=None)
                save = save and bool(credentials)
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
        return self._keep(Server.of(location))

    def keep_passphrase(self, location: Location) -> bool:
        """The passphrase opened the image: save it now if that was wished. Whether it was. Raises FarbootError."""
        return self._keep(Server.of_image(location))

    def _keep(self, server: Server) -> bool:
        with self._lock:
            credentials = self._by_server.get(server, NO_CREDENTIALS)
            wished = server in self._to_save and self.saved is not None and bool(credentials)
            self._to_save.discard(server)
        if wished and self.saved is not None:
            self.saved.save(server, credentials)
        return wished

    def forget(self, location: Location) -> bool:
        """Forget what is known for the server of `location`, and for the image there, here and in the keyring; whether
        that had anything. Raises FarbootError.
        """
        servers = (Server.of(location), Server.of_image(location))
        with self._lock:
            for server in servers:
                self._by_server.pop(server, None)
                self._to_save.discard(server)
        if self.saved is None:
            return False
        gone = [self.saved.forget(server) for server in servers]
        return any(gone)

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
