"""HTTP whose every call ends: requests, over sockets that know the call's deadline.

requests (and urllib3 below it) bounds each single read; a server that drips one byte a second holds it for ever, its
name look-up is not bounded at all, and nothing ends a read from another thread. Here every wait of a call (looking up
the name, connecting, the TLS handshake, headers, body) is against one deadline, which moves on only with real progress,
and `Call.abort` frees a thread that waits. Errors are of the family, and never quote what the server said or what we
sent.
"""

import contextlib
import http
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from probes.errors import Unreachable, Unsupported
from probes.network.call import Call
from probes.web.call import CURRENT, HungUp, PlainSocket, TlsSocket, translated

POOL_SIZE = 16
USER_AGENT = "farboot"

_CHUNK = 64 << 10


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return CURRENT.get().dial(self._dns_host, self.port or 80, make=PlainSocket)


class _TlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return CURRENT.get().dial(self._dns_host, self.port or 443, make=PlainSocket)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    """Has requests use our connections, and our judgement of certificates instead of its bundle."""

    def __init__(self, manager: urllib3.PoolManager, proxy: str) -> None:
        super().__init__(pool_maxsize=POOL_SIZE)
        self.poolmanager = manager
        self._proxies = {"http": proxy, "https": proxy} if proxy else None

    def send(self, request: requests.PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> requests.Response:
        return super().send(request, stream=True, timeout=timeout, proxies=self._proxies)

    def get_connection_with_tls_context(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> Any:
        return self.poolmanager.connection_from_url(request.url)

    def cert_verify(self, *_: Any) -> None:
        """The manager's TLS context has it all."""

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        return {}  # they are the manager's

    def close(self) -> None:
        self.poolmanager.clear()


@dataclass
class Answer:
    """A response whose body is still on its way: read it with `chunks` or `body`, then `close` it."""

    call: Call
    url: str
    status: int
    headers: Mapping[str, str]
    _response: Any

    @property
    def length(self) -> int | None:
        """The body's length in bytes, where the server told it."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "")

    def chunks(self, size: int = _CHUNK) -> Iterator[bytes]:
        """Yield the body as it arrives, in pieces of up to `size` bytes. Raises Unreachable where it is cut short."""
        received, told = 0, self.length
        while True:
            try:
                with translated(self.call):
                    piece: bytes = self._response.read(size, decode_content=False)
            except HungUp as error:
                why = f"the connection broke off after {received} bytes"
                raise Unreachable(self.call.tried, self.call.on, why, detail=error.detail) from None
            if not piece:
                break
            received += len(piece)
            self.call.progressed(len(piece))
            with self.call.resting():
                yield piece
        if told is not None and received < told:
            why = f"the connection broke off after {received} of {told} bytes"
            raise Unreachable(self.call.tried, self.call.on, why)

    def page(self) -> Iterator[bytes]:
        """`chunks` in small pieces, of which a page of HTML can be shown early. One that began and did not end, of a
        server that does not tell lengths, was cut short: Unreachable as well.
        """
        is_framed = self.length is not None or "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        begun, tail = False, b""
        for piece in self.chunks(16 << 10):
            begun = begun or (not tail and b"<html" in piece[:1024].lower())
            tail = (tail + piece)[-1024:]
            yield piece
        if begun and not is_framed and b"</html" not in tail.lower():
            raise Unreachable(self.call.tried, self.call.on, "the connection broke off in the middle of the page")

    def body(self, limit: int) -> bytes | None:
        """The whole body, or None if it is longer than `limit` bytes."""
        if (self.length or 0) > limit:
            return None
        parts, total = [], 0
        for piece in self.chunks():
            parts.append(piece)
            total += len(piece)
            if total > limit:
                return None
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else end it."""
        if not self._response.closed:
            self._response.close()
        self._response.release_conn()


class Web:
    """The connections of one source: a pool of them for each server, shared by its threads.

    `ca_file` vouches for servers in addition to the system's authorities.
    """

    def __init__(self, ca_file: str | None = None) -> None:
        self.ca_file = ca_file
        self._adapters: dict[tuple[str, str], _Adapter] = {}
        self._calls: set[Call] = set()
        self._closed = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def call(self, tried: str, on: object, seconds: float) -> Iterator[Call]:
        """Begin a call; what is fetched in it must be read in it."""
        call = Call(tried, on, seconds)
        with self._lock:
            self._calls.add(call)
            if self._closed:
                call.abort()
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def get(self, call: Call, url: str, headers: Mapping[str, str]) -> Answer:
        """Send one GET, follow nothing, and return the answer once its headers are there."""
        adapter = self._adapter(call, url)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        for attempt in (1, 2):
            try:
                with translated(call):
                    request = requests.Request("GET", url, headers).prepare()
                    response = adapter.send(request, timeout=call.remaining()).raw
                    return Answer(call, url, response.status, response.headers, response)
            except HungUp as error:
                # A server may end a connection that rested just when we use it again: that says nothing about it.
                if attempt == 2:
                    raise error.as_unreachable() from None
        raise AssertionError("the loop returns or raises")

    def close(self) -> None:
        """End every call and every connection."""
        with self._lock:
            self._closed = True
            calls = list(self._calls)
            adapters, self._adapters = list(self._adapters.values()), {}
        for call in calls:
            call.abort()
        for adapter in adapters:
            adapter.close()

    def _adapter(self, call: Call, url: str) -> _Adapter:
        parts = urlsplit(url)
        proxy = proxy_for(parts.scheme, parts.hostname or "")
        needs_tls = "https" in {parts.scheme, urlsplit(proxy).scheme}
        key = ("https" if needs_tls else "http", proxy)
        call.remaining()
        with self._lock:
            adapter = self._adapters.get(key)
        if adapter is None:
            adapter = _Adapter(_make_manager(call, proxy, self._context(call) if needs_tls else None), proxy)
            with self._lock:
                adapter = self._adapters.setdefault(key, adapter)
        return adapter

    def _context(self, call: Call) -> ssl.SSLContext:
        context = call.tls_context(self.ca_file, _Context)
        context.sslsocket_class = TlsSocket
        return context


class _Context(ssl.SSLContext):
    """Knows the server's name even where it is an address: urllib3 before 2 leaves it out, and cannot check it then."""

    def wrap_socket(self, sock: socket.socket, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        if options.get("server_hostname") is None and isinstance(sock, PlainSocket):
            options["server_hostname"] = sock.host
        return super().wrap_socket(sock, *arguments, **options)


def _make_manager(call: Call, proxy: str, context: ssl.SSLContext | None) -> urllib3.PoolManager:
    options: dict[str, Any] = {"num_pools": 8, "maxsize": POOL_SIZE}
    if context is not None:
        options["ssl_context"] = context
    manager: urllib3.PoolManager
    if not proxy:
        manager = urllib3.PoolManager(**options)
    elif urlsplit(proxy).scheme in {"http", "https"}:
        userinfo, at, _ = urlsplit(proxy).netloc.rpartition("@")
        headers = urllib3.make_headers(proxy_basic_auth=unquote(userinfo)) if at else None
        manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    else:
        why = f"the environment names a {urlsplit(proxy).scheme} proxy, and only http proxies are spoken"
        raise Unsupported(call.tried, call.on, why, "set no_proxy for this host")
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


def proxy_for(scheme: str, host: str) -> str:
    """The proxy that the environment names for `host`, or "": loopback is never reached through one."""
    if host == "localhost" or host.startswith("127.") or host in {"::1", "0.0.0.0"}:
        return ""
    proxies = getproxies_environment()
    if proxy_bypass(host):
        return ""
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def phrase(status: int) -> str:
    """`404 Not Found`, in our words: the server's own could hold anything, what we sent included."""
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
