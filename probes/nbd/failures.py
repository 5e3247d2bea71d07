"""What libnbd's failures mean to a person: libnbd tells them by an errno, and more by its words."""

import copy
import errno
import re

from probes.credentials import Credentials
from probes.errors import BadAnswer, BadLocation, Denied, FarbootError, NotFound, TimedOut, Unreachable, Unsupported
from probes.location import Location
from probes.nbd.library import Failed, Handle
from probes.nbd.server import Server
from probes.nbd.tls import ASKED_FOR_PSK

REMEDY = "apt install libnbd0 or dnf install libnbd"

_ONE_CLIENT = "a qemu-nbd lets one client in at a time unless it is started with --shared=0"


def told(failed: Failed, server: Server, tried: str, on: Location) -> FarbootError:
    """The error of a server that answered, and refused."""
    number, words = failed.number, _words(failed.words)
    if "requires TLS" in words:
        secure = str(on).replace(on.scheme, on.scheme.replace("nbd", "nbds", 1), 1)
        return Denied(tried, on, "the server wants TLS", f"open {secure}")
    if number == errno.ENOENT:
        top = str(Location(on.scheme, on.authority, "/", on.query))
        return NotFound(tried, on, "the server has no such export", f"`farboot ls {top}` lists them")
    if "policy" in words or number in {errno.EACCES, errno.EPERM}:
        return Denied(tried, on, "the server does not allow it")
    if number == errno.ESHUTDOWN or "shutting down" in words:
        return Unreachable(tried, on, "the server is shutting down")
    if number == errno.ENOTCONN or "disconnected" in words or "closed" in words:
        return Unreachable(tried, on, f"{server.shown} broke the connection", detail=words)
    if number in {errno.ENOTSUP, errno.ENOSYS}:
        return Unsupported(tried, on, "the server does not know how", detail=words)
    if number == errno.ENOSPC:
        return FarbootError(tried, on, "the storage behind it is full")
    if number == errno.EIO:
        return FarbootError(tried, on, "the server reports an I/O error", "its own log may say more")
    return BadAnswer(tried, on, words)


def broken(
    failed: Failed | OSError, server: Server, credentials: Credentials, tried: str, on: Location
) -> FarbootError:
    """The error of a connection that did not come about, or that broke."""
    if isinstance(failed, OSError):
        return FarbootError(tried, on, failed.strerror or "the system failed")
    number, words = failed.number, _words(failed.words)
    if "getaddrinfo" in words:
        return Unreachable(tried, on, f"no address of {server.host} is known", "is the name right?", words)
    if "TLS" in words or "gnutls" in words:
        return _tls(words, credentials, tried, on)
    if "magic" in words or "newstyle" in words or "handshake" in words:
        return BadAnswer(tried, on, f"what answers at {server.shown} is no NBD server, or speaks it wrongly", "", words)
    if server.socket and number in {errno.EACCES, errno.EPERM}:
        return Denied(tried, on, f"this account may not use {server.shown}", "its mode and its folder's decide")
    if server.socket and number in {errno.ENOENT, errno.ENOTSOCK}:
        return Unreachable(tried, on, f"there is no such socket as {server.socket}", "is the server running?")
    if number == errno.ECONNREFUSED:
        return Unreachable(tried, on, f"nobody listens at {server.shown}", "is the server running, and its port right?")
    if number == errno.ETIMEDOUT:
        return TimedOut(tried, on, f"{server.shown} does not answer", "does a firewall drop its port?")
    if number == errno.EINVAL:
        return BadAnswer(tried, on, words)
    why = f"{server.shown} broke the connection" if number in _BREAKS else f"{server.shown}: {words}"
    return Unreachable(tried, on, why, detail=words)


def silence(server: Server, stands: bool, deadline: float, tried: str, on: Location) -> TimedOut:
    """The error of a server that says nothing for `deadline` seconds."""
    hint = "try again" if stands else f"does a firewall drop its port? {_ONE_CLIENT}"
    return TimedOut(tried, on, f"{server.shown} did not answer within {deadline:g} s", hint)


def again(error: FarbootError, tried: str, on: Location) -> FarbootError:
    """The same error for another call: each raises one of its own, for several threads may wait for one answer."""
    error = copy.copy(error)
    error.tried, error.on = tried, str(on)
    error.args = (str(error),)
    return error


def last(handle: Handle, number: int) -> Failed:
    """The failure that a callback was told of by its errno, with libnbd's words of this moment."""
    return Failed(number, handle.failure().words)


def host_name(server: Server, tried: str, on: Location) -> bytes:
    """The host as the resolver takes it. Raises BadLocation."""
    try:
        return server.host.encode("ascii" if server.host.isascii() else "idna")
    except UnicodeError:
        raise BadLocation(tried, on, "its host is not a name that can be looked up") from None


_BREAKS = {0, errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ECONNABORTED}


def _tls(words: str, credentials: Credentials, tried: str, on: Location) -> FarbootError:
    if "refused TLS" in words or "oldstyle" in words or "newstyle" in words:
        plain = str(on).replace("nbds", "nbd", 1)
        return Denied(tried, on, "the server speaks no TLS", f"without any secrecy it is {plain}", words)
    if "verification" in words:
        why = "its certificate is not vouched for by an authority that is trusted here, or is for another name"
        return Denied(tried, on, why, "name the file of its authority (--ca-file)", words, wants=("ca_file",))
    if credentials.key is not None:
        why = f"the server does not accept the shared key of {credentials.username}"
        return Denied(tried, on, why, detail=words, wants=ASKED_FOR_PSK)
    if credentials.client_cert is not None or credentials.ca_file is not None:
        what = "does not accept our certificate" if credentials.client_cert else "wants a certificate of ours"
        return Denied(tried, on, f"the server {what}", detail=words, wants=("client_cert", "client_key"))
    why = "no TLS comes about: the server wants a shared key or a certificate of ours"
    return Denied(tried, on, why, "give the user and the key, or the certificate and its key", words, ASKED_FOR_PSK)


def _words(words: str) -> str:
    return re.sub(r"^nbd_\w+: ", "", words)
