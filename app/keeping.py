"""What a person wished to keep beyond this run, done once it turned out to be right: the server let us in."""

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from app.keychain import Keychain
from probes.location import Location
from probes.source import Source


@runtime_checkable
class VouchesForHosts(Protocol):
    """A source whose servers show host keys, which can be written down."""

    def remember_host_key(self, location: Location) -> str:
        """Write the key that the host shows into known_hosts, and return that file's path."""
        ...


class _Opens(Protocol):
    @property
    def keychain(self) -> Keychain: ...

    def open_source(self, location: Location) -> Source: ...


def keep(engine: _Opens, location: Location) -> list[str]:
    """Save what was wished for the server of `location`, and say what was done. Blocks; raises FarbootError."""
    done = []
    if engine.keychain.vouches_for_host(location):
        with engine.open_source(location) as source:
            if isinstance(source, VouchesForHosts):
                done.append(f"The host key was written into {source.remember_host_key(location)}")
    if engine.keychain.keep(location):
        done.append("The credentials were saved in the system's keyring")
    return done


def keep_passphrases(keychain: Keychain, locations: Iterable[Location]) -> list[str]:
    """The same for encrypted images that were opened. Blocks; raises FarbootError."""
    kept = [location for location in locations if keychain.keep_passphrase(location)]
    return ["The passphrase was saved in the system's keyring"] if kept else []
