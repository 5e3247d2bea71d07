"""The credentials of this run, in memory: which of them belong to which place."""

import threading
from dataclasses import replace

from probes.credentials import NO_CREDENTIALS, Credentials
from probes.location import Location


class Keychain:
    """Remembers credentials by server (scheme, host and port; for rbd the cluster), a signed query by its very URL.

    Credentials given for one server never go to another one. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._by_server: dict[tuple[str, str, str], Credentials] = {}
        self._by_location: dict[str, Credentials] = {}
        self._lock = threading.Lock()

    def get(self, location: Location) -> Credentials:
        """Return what is known for `location`; empty credentials if nothing is."""
        with self._lock:
            server = self._by_server.get(_server(location), NO_CREDENTIALS)
            return self._by_location.get(str(location), NO_CREDENTIALS).over(server)

    def add(self, location: Location, credentials: Credentials) -> None:
        """Remember `credentials` for the server of `location`, over what was known."""
        with self._lock:
            if credentials.query is not None:
                self._by_location[str(location)] = Credentials(query=credentials.query)
                credentials = replace(credentials, query=None)
            key = _server(location)
            self._by_server[key] = credentials.over(self._by_server.get(key, NO_CREDENTIALS))


def _server(location: Location) -> tuple[str, str, str]:
    address = location.authority.rpartition("@")[2]
    return location.scheme, address.lower(), location.query if location.scheme == "rbd" else ""
