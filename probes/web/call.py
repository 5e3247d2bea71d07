"""One call's bounds, the sockets that keep them, and what their failures are called."""

import contextlib
import errno
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextvars import ContextVar
from http.client import HTTPException
from typing import Any

from urllib3.exceptions import HTTPError, InvalidChunkLength, LocationValueError

from probes.errors import BadAnswer, BadLocation, Cancelled, Denied, FarbootError, TimedOut, Unreachable

PROGRESS = 16 << 10
"""Bytes that a body must bring within each deadline: a server that drips is as good as dead."""

_UNTRUSTED = frozenset({2, 18, 19, 20, 21, 27})  # X509_V_ERR_…: nobody we know vouches for it
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL}


class Call:
    """One call's bounds: what is tried on what (for its errors), until when, and whether somebody has ended it."""

    def __init__(self, tried: str, on: object, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.tried = tried
        self.on = on
        self.seconds = seconds
        self._waits_in: socket.socket | None = None
        self._lock = threading.Lock()
        self._looking_up: Future[Any] | None = None
        self._clock = clock
        self._end = clock() + seconds
        self._progress = 0
        self._aborted = False

    def remaining(self) -> float:
        """Seconds left, more than 0. Raises TimedOut, Cancelled."""
        if self._aborted:
            raise Cancelled(self.tried, self.on, "it was closed")
        left = self._end - self._clock()
        if left <= 0:
            raise TimedOut(self.tried, self.on, f"no answer within {self.seconds:g} s", "is the server up?")
        return left

    def progressed(self, amount: int) -> None:
        """Count bytes of the body; with enough of them the deadline starts anew."""
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
        if (looking_up := self._looking_up) is not None:
            looking_up.cancel()
        with self._lock:
            if self._waits_in is not None:
                with contextlib.suppress(OSError):  # past any TLS layer: it is the system call that waits
                    socket.socket.shutdown(self._waits_in, socket.SHUT_RDWR)

    def waits_in(self, connection: socket.socket | None) -> None:
        """Remember what `abort` has to break. Once a connection is given back it may be another call's."""
        with self._lock:
            self._waits_in = connection

    def look_up(self, host: str, port: int) -> list[tuple[Any, ...]]:
        """Return what getaddrinfo says. It cannot be interrupted, so a thread of its own is left to it."""
        self._looking_up = answer = Future[list[tuple[Any, ...]]]()

        def ask() -> None:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                try:
                    answer.set_result(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
                except (OSError, UnicodeError) as error:
                    answer.set_exception(error)

        threading.Thread(target=ask, name="getaddrinfo", daemon=True).start()
        try:
            return answer.result(self.remaining())
        except TimeoutError:
            hint = "the name server does not answer"
            raise TimedOut(self.tried, self.on, f"looking up {host} took over {self.seconds:g} s", hint) from None
        except CancelledError:
            raise Cancelled(self.tried, self.on, "it was closed") from None
        except (OSError, UnicodeError) as error:
            why, hint = f"the name {host} is not known", "check the spelling and the name server"
            raise Unreachable(self.tried, self.on, why, hint, detail=str(error)) from None
        finally:
            self._looking_up = None

    def dial(self, host: str, port: int) -> socket.socket:
        """Connect, to the first address of `host` that answers. Raises Unreachable, TimedOut."""
        addresses = self.look_up(host, port)
        last: OSError | None = None
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            connection = PlainSocket(family, kind, protocol)
            connection.host = host
            self.waits_in(connection)
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(self.remaining() / (len(addresses) - index))  # leave time for the others
                connection.connect(address)
                self.waits_in(None)
                self.remaining()
            except OSError as error:
                connection.close()
                last = error
            except FarbootError:
                connection.close()
                raise
            else:
                return connection
        self.remaining()
        raise _unreachable(self, f"{host}:{port}", last)


CURRENT: ContextVar[Call] = ContextVar("call")
"""The call on whose behalf this thread is in urllib3."""


class _Bounded:
    """Mixed into a socket class: each wait ends with the call."""

    def recv_into(self, *arguments: Any) -> Any:
        return self._bounded("recv_into", *arguments)

    def recv(self, *arguments: Any) -> Any:
        return self._bounded("recv", *arguments)

    def sendall(self, *arguments: Any) -> None:
        self._bounded("sendall", *arguments)

    def _bounded(self, name: str, *arguments: Any) -> Any:
        call = CURRENT.get()
        base: Any = super()
        call.waits_in(self)  # type: ignore[arg-type]  # it is mixed into sockets only
        try:
            self.settimeout(call.remaining())  # type: ignore[attr-defined]  # the same
            return getattr(base, name)(*arguments)
        except TimeoutError:
            call.remaining()
            raise
        finally:
            call.waits_in(None)


class PlainSocket(_Bounded, socket.socket):
    """A TCP socket that knows the call, and the `host` that it was made for."""

    host = ""


class TlsSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket that knows the call, from its handshake on."""

    def do_handshake(self, *arguments: Any) -> None:
        self._bounded("do_handshake", *arguments)


class HungUp(Exception):
    """The server ended the connection before it said anything."""

    def __init__(self, call: Call, detail: str) -> None:
        self.call = call
        self.detail = detail
        super().__init__(detail)

    def as_unreachable(self) -> Unreachable:
        why = "the server hung up without an answer"
        return Unreachable(self.call.tried, self.call.on, why, "does it speak this protocol?", self.detail)


@contextlib.contextmanager
def translated(call: Call) -> Iterator[None]:
    """Let the sockets know their call, and turn what goes wrong into the family."""
    token = CURRENT.set(call)
    try:
        yield
    except LocationValueError:
        raise BadLocation(call.tried, call.on, "no web server can be called that") from None
    except (HTTPError, HTTPException, OSError, ValueError) as error:  # ValueError: what urllib3 will not send
        call.remaining()
        raise _told(call, error) from None
    finally:
        CURRENT.reset(token)


def _told(call: Call, error: Exception) -> Exception:
    causes = list(_causes(error))
    detail = "; ".join(type(cause).__name__ for cause in causes)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _untrusted(call, cause)
        if isinstance(cause, ssl.SSLError) and "EOF" not in str(cause):
            why, hint = f"TLS failed: {cause.reason or 'no reason was given'}", "is it http, not https?"
            return Unreachable(call.tried, call.on, why, hint, detail)
        if isinstance(cause, InvalidChunkLength):
            return Unreachable(call.tried, call.on, "the connection broke off", detail=detail)
    for cause in causes:
        if isinstance(cause, http.client.RemoteDisconnected | ConnectionError | ssl.SSLError):
            return HungUp(call, detail)
        if isinstance(cause, http.client.IncompleteRead):
            return Unreachable(call.tried, call.on, "the connection broke off", detail=detail)
        if isinstance(cause, OSError) and "tunnel" in str(cause).lower():
            return Unreachable(call.tried, call.on, "the proxy does not let us through", "see https_proxy", detail)
    if any(isinstance(cause, HTTPException) for cause in causes):
        return BadAnswer(call.tried, call.on, "the answer is not HTTP", "does something else listen there?", detail)
    return _unreachable(call, "", next((cause for cause in causes if isinstance(cause, OSError)), None), detail)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue = [error]
    while queue:
        cause = queue.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue.extend([cause.__cause__, cause.__context__, *(a for a in cause.args if isinstance(a, BaseException))])


def _untrusted(call: Call, error: ssl.SSLCertVerificationError) -> Denied:
    why = f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if error.verify_code in _UNTRUSTED:
        return Denied(call.tried, call.on, why, "give the file of the authority that signed it", wants=("ca_file",))
    return Denied(call.tried, call.on, why, "check the host's name, and the clocks of both sides")


def _unreachable(call: Call, address: str, error: OSError | None, detail: str = "") -> Unreachable:
    where = f"{address} " if address else "the server "
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(call.tried, call.on, f"{where}refuses connections", "does the server run there?", detail)
    if isinstance(error, TimeoutError):
        return Unreachable(call.tried, call.on, f"{where}does not answer", "", detail)
    if error is not None and error.errno in _NO_ROUTE:
        return Unreachable(call.tried, call.on, f"there is no way to {address or 'the server'}", "", detail)
    reason = os.strerror(error.errno) if error is not None and error.errno else "it does not answer"
    return Unreachable(call.tried, call.on, f"{where}cannot be reached: {reason}", "", detail)
