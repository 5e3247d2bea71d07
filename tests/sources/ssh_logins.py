"""Trying to be let in, for the tests of SSH."""

import pytest

from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Kind
from probes.errors import Denied
from probes.location import Location
from probes.sources.ssh import SshSource
from tests.servers.sshd import USER, Sshd

PASSWORD = "s3cret pässword:with%odd#chars"
PASSPHRASE = "a pässphrase with spaces"


def place(server: Sshd, path: str = "/", user: str = USER) -> Location:
    """A location on the server."""
    return Location("ssh", f"{user}@127.0.0.1:{server.port}", path)


def lets_in(where: Location, credentials: Credentials = NO_CREDENTIALS) -> bool:
    """Whether the folder there can be seen."""
    with SshSource(credentials) as source:
        return source.stat(where).kind is Kind.CONTAINER


def refusal(where: Location, credentials: Credentials = NO_CREDENTIALS) -> Denied:
    """The error of not being let in."""
    with SshSource(credentials) as source, pytest.raises(Denied) as caught:
        source.stat(where)
    return caught.value
