"""One call's bounds: a deadline that moves on only with progress, an end from another thread, and sockets that keep
both.

The standard library's time-outs bound each single wait, so a server that drips holds a client for ever, and nothing
ends a wait from another thread. Here every wait of a call (looking up the name, connecting, the TLS handshake, each
read) is against one deadline.
"""

import contextlib
import errno
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import Any

from probes.errors import Cancelled, Denied, FarbootError, TimedOut, Unreachable

PROGRESS = 16 << 10
"""Bytes that must come within each deadline: a server that drips is as good as dead."""

_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}
_UNTRUSTED = frozenset({2, 18, 19, 20, 21, 27})  # X509_V_ERR_…: nobody we know vouches for it
_CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class Call:
    """What is tried on what (for its errors), until when, and whether somebody has ended it."""

    def __init__(self, tried: str, on: object, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.tried = tried
        self.on = on
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds
        self._progress = 0
        self._aborted = False
        self._lock = threading.Lock()
        self._interrupt: Callable[[], object] | None = None

    def remaining(self) -> float:
        """Seconds left, more than 0. Raises TimedOut, Cancelled."""
        if self._aborted:
            raise Cancelled(self.tried, self.on, "it was closed")
        left = self._end - self._clock()
        if left <= 0:
            raise TimedOut(self.tried, self.on, f"no answer within {self.seconds:g} s", "is the server up?")
        return left

    def progressed(self, amount: int) -> None:
        """Count bytes that came; with enough of them the deadline starts anew."""
        self._progress += amount
        if self._progress >= PROGRESS:
            self._progress = 0
            self._end = self._clock() + self.seconds

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Stop the clock while the caller is busy with what it got."""
        begun = self._clock()
        try:
            yield
        finally:
            self._end += self._clock() - begun

    def abort(self) -> None:
        """End the call, from any thread; whoever waits in it gets Cancelled."""
        self._aborted = True
        with self._lock:
            if self._interrupt is not None:
                self._interrupt()

    @contextlib.contextmanager
    def waiting(self, interrupt: Callable[[], object]) -> Iterator[float]:
        """Wait for something, for the seconds given at most; `interrupt` ends that wait. Raises as `remaining` does,
        also when the wait is over and was interrupted.
        """
        with self._lock:
            outer, self._interrupt = self._interrupt, interrupt
        try:
            yield self.remaining()
        finally:
            with self._lock:
                self._interrupt = outer
            if self._aborted:
                self.remaining()

    def look_up(self, host: str, port: int, kind: int = socket.SOCK_STREAM) -> list[tuple[Any, ...]]:
        """Return what getaddrinfo says. It cannot be interrupted, so a thread of its own is left to it."""
        answer = Future[list[tuple[Any, ...]]]()

        def ask() -> None:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                try:
                    answer.set_result(socket.getaddrinfo(host, port, type=kind))
                except (OSError, UnicodeError) as error:
                    answer.set_exception(error)

        threading.Thread(target=ask, name="getaddrinfo", daemon=True).start()
        try:
            with self.waiting(answer.cancel) as left:
                return answer.result(left)
        except TimeoutError:
            hint = "the name server does not answer"
            raise TimedOut(self.tried, self.on, f"looking up {host} took over {self.seconds:g} s", hint) from None
        except CancelledError:
            raise Cancelled(self.tried, self.on, "it was closed") from None
        except (OSError, UnicodeError) as error:
            why, hint = f"the name {host} is not known", "check the spelling and the name server"
            raise Unreachable(self.tried, self.on, why, hint, detail=str(error)) from None

    def dial(self, host: str, port: int, share: float = 1.0, make: "type[PlainSocket] | None" = None) -> "PlainSocket":
        """Connect, to the first address of `host` that answers, using up `share` of the time that is left at most.

        `make` is the kind of socket wanted. Raises Unreachable, TimedOut.
        """
        addresses = self.look_up(host, port)
        last: OSError | None = None
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            connection = (make or PlainSocket)(family, kind, protocol)
            connection.call, connection.host = self, host
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self.waiting(connection.interrupt) as left:
                    connection.settimeout(share * left / (len(addresses) - index))  # leave time for the others
                    connection.connect(address)
            except OSError as error:
                connection.close()
                last = error
            except FarbootError:
                connection.close()
                raise
            else:
                return connection
        raise self.unreachable(last, f"{host}:{port}")

    def unreachable(self, error: OSError | None, address: str = "the server", detail: str = "") -> FarbootError:
        """What an error of the kernel's says about a server; our own time-out or end comes first."""
        try:
            self.remaining()
        except FarbootError as ours:
            return ours
        reason = os.strerror(error.errno) if error is not None and error.errno else "it does not answer"
        why, hint = f"{address} cannot be reached: {reason}", ""
        if isinstance(error, ConnectionRefusedError):
            why, hint = f"{address} refuses connections", "does the server run there?"
        elif isinstance(error, TimeoutError):
            why, hint = f"{address} does not answer", "does a firewall drop it?"
        elif error is not None and error.errno in _NO_ROUTE:
            why = f"there is no way to {address}"
        return Unreachable(self.tried, self.on, why, hint, detail)

    def untrusted(self, error: ssl.SSLCertVerificationError) -> Denied:
        """What a certificate that does not pass says."""
        why = f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
        if error.verify_code in _UNTRUSTED:
            return Denied(self.tried, self.on, why, "give the file of the authority that signed it", wants=("ca_file",))
        return Denied(self.tried, self.on, why, "check the host's name, and the clocks of both sides")

    def tls_context(self, ca_file: str | None, make: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
        """A context that verifies by the system's authorities and those in `ca_file`. Raises Denied for a bad file.

        `make` is the kind of context wanted.
        """
        # Not create_default_context: Python 3.13's is so strict that authorities made with plain openssl, which curl
        # and QEMU take, do not pass. This one verifies certificates and host names just the same.
        context = make(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = TlsSocket
        context.load_default_certs()
        paths = ssl.get_default_verify_paths()
        if not paths.cafile and not paths.capath:  # a Python that was not built for this system
            for bundle in filter(os.path.exists, _CA_BUNDLES):
                context.load_verify_locations(bundle)
        if ca_file:
            try:
                context.load_verify_locations(ca_file)
            except OSError as error:
                reason = "it is no PEM file" if isinstance(error, ssl.SSLError) else error.strerror
                why = f"the CA file {ca_file} cannot be used: {reason}"
                raise Denied(self.tried, self.on, why, wants=("ca_file",)) from None
        return context


class Bounded:
    """Mixed into a socket class: each wait ends with `call`, which whoever uses the socket sets."""

    call: Call

    @property
    def current(self) -> Call:
        """The call on whose behalf it waits now."""
        return self.call

    def recv_into(self, *arguments: Any) -> Any:
        return self._bounded("recv_into", *arguments)

    def recv(self, *arguments: Any) -> Any:
        return self._bounded("recv", *arguments)

    def sendall(self, *arguments: Any) -> None:
        self._bounded("sendall", *arguments)

    def interrupt(self) -> None:
        """End whatever waits in it: past any TLS layer, for it is the system call that waits."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # type: ignore[arg-type]  # it is mixed into sockets only

    def _bounded(self, name: str, *arguments: Any) -> Any:
        base: Any = super()
        try:
            with self.current.waiting(self.interrupt) as left:
                self.settimeout(left)  # type: ignore[attr-defined]  # the same
                return getattr(base, name)(*arguments)
        except TimeoutError:
            self.current.remaining()
            raise


class PlainSocket(Bounded, socket.socket):
    """A TCP socket that knows the call, and the `host` that it was made for."""

    host = ""


class TlsSocket(Bounded, ssl.SSLSocket):
    """A TLS socket that knows the call: set `call` before its handshake."""

    def do_handshake(self, *arguments: Any) -> None:
        self._bounded("do_handshake", *arguments)
