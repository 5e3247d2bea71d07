"""What a call is to urllib3: the sockets that ask whose they are just now, and what their failures are called."""

import contextlib
import http.client
import ssl
from collections.abc import Iterator
from contextvars import ContextVar
from http.client import HTTPException

from urllib3.exceptions import HTTPError, InvalidChunkLength, LocationValueError

from probes.errors import BadAnswer, BadLocation, Unreachable
from probes.network import call as network
from probes.network.call import Call

CURRENT: ContextVar[Call] = ContextVar("call")
"""The call on whose behalf this thread is in urllib3: its connections outlive the calls that made them."""


class PlainSocket(network.PlainSocket):
    """A TCP socket that waits on behalf of this thread's call."""

    @property
    def current(self) -> Call:
        return CURRENT.get()


class TlsSocket(network.TlsSocket):
    """A TLS socket that does, from its handshake on."""

    @property
    def current(self) -> Call:
        return CURRENT.get()


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
            return call.untrusted(cause)
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
    return call.unreachable(next((cause for cause in causes if isinstance(cause, OSError)), None), detail=detail)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue = [error]
    while queue:
        cause = queue.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue.extend([cause.__cause__, cause.__context__, *(a for a in cause.args if isinstance(a, BaseException))])
