"""How a connection proves who it is and whom it trusts: certificates, or a key that both sides share.

libnbd takes files only. A shared key lies in memory (memfd) until the connection stands; certificates are links, under
the names that libnbd looks for, in a folder that is gone as soon.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

from probes.credentials import Credentials
from probes.errors import Denied, NotFound, Unsupported
from probes.location import Location
from probes.nbd.library import TLS_REQUIRED, Handle

# Debian's, Fedora's and SUSE's. GnuTLS could find them itself, but not through libnbd.
_SYSTEM = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")

ASKED_FOR_PSK = ("username", "key")


@contextlib.contextmanager
def prepared(handle: Handle, credentials: Credentials, tried: str, on: Location) -> Iterator[None]:
    """Have `handle` demand TLS, with what `credentials` hold; the connection must stand before this is left.

    Raises Denied, NotFound, Unsupported.
    """
    if handle("supports_tls") != 1:
        raise Unsupported(tried, on, "this libnbd was built without TLS")
    handle("set_tls", TLS_REQUIRED)
    handle("set_tls_verify_peer", True)
    if credentials.key is not None:
        with _key_in_memory(psk_line(credentials, tried, on)) as path:
            handle("set_tls_username", (credentials.username or "").encode())
            handle("set_tls_psk_file", path.encode())
            yield
        return
    files = certificates(credentials, tried, on)
    with tempfile.TemporaryDirectory(prefix="farboot-nbd-") as folder:
        for name, path in files:
            os.symlink(os.path.abspath(path), os.path.join(folder, name))
        handle("set_tls_certificates", os.fsencode(folder))
        yield


def psk_line(credentials: Credentials, tried: str, on: Location) -> str:
    """Return the line of a GnuTLS key file, `user:hex`, for the credentials' key. Raises Denied where it is none."""
    key = credentials.key.reveal().strip() if credentials.key else ""
    user = credentials.username or ""
    if not user or not user.isprintable() or ":" in user:
        why = "a shared key belongs to a user, whose name is not given" if not user else "no user has such a name"
        raise Denied(tried, on, why, wants=ASKED_FOR_PSK)
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", key):
        raise Denied(tried, on, "the shared key is not in hex digits, as psktool writes it", wants=ASKED_FOR_PSK)
    return f"{user}:{key}"


def certificates(credentials: Credentials, tried: str, on: Location) -> tuple[tuple[str, str], ...]:
    """Return the files as libnbd and QEMU name them, with their paths. Raises NotFound, Denied.

    There is always one of authorities, the system's if no other: without it libnbd believes every server.
    """
    own, key = credentials.client_cert, credentials.client_key
    if (own is None) != (key is None):
        which = "key" if key is None else "certificate"
        raise Denied(tried, on, f"a client certificate needs its key beside it, and the {which} is not given")
    authorities = credentials.ca_file or next(filter(os.path.exists, _SYSTEM), None)
    if authorities is None:
        hint = "name the file of the server's authority, or apt install ca-certificates"
        raise Denied(tried, on, "no certificate authority is known here to vouch for it", hint, "", ("ca_file",))
    named = (("ca-cert.pem", authorities), ("client-cert.pem", own), ("client-key.pem", key))
    files = tuple((name, path) for name, path in named if path)
    for _, path in files:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            kind = NotFound if isinstance(error, FileNotFoundError) else Denied
            raise kind(tried, on, f"{path} cannot be read: {error.strerror}") from None
    return files


@contextlib.contextmanager
def _key_in_memory(line: str) -> Iterator[str]:
    descriptor = os.memfd_create("nbd")
    try:
        os.write(descriptor, line.encode() + b"\n")
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
