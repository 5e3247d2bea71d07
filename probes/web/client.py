"""Asking web servers on behalf of one person: where a location really is, and who may see the credentials.

Credentials go to the server of the first location that a client is used with, and to no other; the signed query goes to
that very location only. Nothing is taken from ~/.netrc.
"""

import base64
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, urljoin, urlsplit

from probes.credentials import Credentials
from probes.errors import BadAnswer, BadLocation
from probes.location import Location
from probes.network.call import Call
from probes.web.answers import check_status
from probes.web.pool import Answer, Web

REDIRECTS = 10
_QUERY_SAFE = "/:@+,=~%!$&'()*;?"


@dataclass(frozen=True)
class Target:
    """Where a location really is, after redirects. `url` may hold a signature, `location` never does."""

    url: str
    location: Location
    redirected: bool = False
    downgraded: bool = False

    @property
    def is_signed(self) -> bool:
        return self.url != url_of(self.location)


class WebClient:
    """A person's view of the web. Safe to use from several threads."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self.web = Web(credentials.ca_file)
        self._home: Location | None = None
        self._lock = threading.Lock()

    def target(self, location: Location) -> Target:
        """Where to ask for `location` first."""
        with self._lock:
            if self._home is None:
                self._home = location
            home = self._home
        url = url_of(location)
        if self.credentials.query is not None and location == home:
            url += ("&" if location.query else "?") + quote(self.credentials.query.reveal(), safe=_QUERY_SAFE)
        return Target(url, location)

    def follow(self, call: Call, target: Target, headers: Mapping[str, str]) -> tuple[Answer, Target]:
        """Ask, and ask again where the server sends us. The answer may be any status but a redirect."""
        for _ in range(REDIRECTS + 1):
            answer = self.web.get(call, target.url, {**headers, **self._authorization(target)})
            if answer.status not in {301, 302, 303, 307, 308}:
                return answer, target
            answer.close()
            target = _redirected(call, target, answer.headers.get("Location", ""))
        raise BadAnswer(call.tried, call.on, f"it redirects more than {REDIRECTS} times")

    def sends_credentials(self, target: Target) -> bool:
        """Whether our credentials are meant for that server."""
        if self._home is None or not (self.credentials.username is not None or self.credentials.cookie):
            return False
        return is_one_server(self._home, target.location)

    def check(self, answer: Answer, target: Target) -> None:
        """Raise the family's error for a status that is none of 200, 206 and 416."""
        check_status(answer, target.location.authority if target.redirected else "", self.sends_credentials(target))

    def _authorization(self, target: Target) -> dict[str, str]:
        headers = {}
        own = self.credentials
        if self.sends_credentials(target):
            if own.username is not None:
                pair = f"{own.username}:{own.password.reveal() if own.password else ''}"
                headers["Authorization"] = "Basic " + base64.b64encode(pair.encode("utf-8", "replace")).decode()
            if own.cookie is not None:
                text = re.sub(r"[\r\n]+", "", own.cookie.reveal())
                headers["Cookie"] = text.encode("utf-8", "replace").decode("latin-1")
        return headers


def url_of(location: Location) -> str:
    """The location as an URL of ASCII alone: international host names by their xn-- form."""
    return str(replace(location, authority=_ascii_authority(location)))


def _ascii_authority(location: Location) -> str:
    if location.authority.isascii():
        return location.authority
    try:
        import idna

        host = idna.encode(location.host, uts46=True).decode()
    except ImportError:
        host = location.host.encode("idna").decode()
    except UnicodeError:
        raise BadLocation("find", location, "no host can be called that") from None
    return host if location.port is None else f"{host}:{location.port}"


def is_one_server(asked: Location, there: Location) -> bool:
    """Whether `there` is on the server of `asked`; an upgrade to https of the same host is the same."""
    home = _origin(asked)
    return _origin(there) in {home, ("https", home[1], 443) if home == ("http", home[1], 80) else home}


def _origin(location: Location) -> tuple[str, str, int]:
    return location.scheme, location.host.lower(), location.port or {"http": 80}.get(location.scheme, 443)


def _redirected(call: Call, target: Target, header: str) -> Target:
    """Where a Location header sends us. Userinfo in it is not used, a signature is kept out of the location."""
    text = header.encode("latin-1", "replace").decode("utf-8", "surrogateescape").strip()
    try:
        url = urljoin(target.url, text)
        scheme = urlsplit(url).scheme
        location, credentials = Location.parse(url)
    except (ValueError, BadLocation):
        scheme = ""
    if not text or scheme not in {"http", "https"}:
        raise BadAnswer(call.tried, call.on, "it redirects to what is not a web address")
    signed = credentials.query.reveal() if credentials.query else ""
    whole = url_of(location) + (f"?{quote(signed, safe=_QUERY_SAFE)}" if signed else "")
    downgraded = target.downgraded or (target.location.scheme, scheme) == ("https", "http")
    return Target(whole, location, True, downgraded)
