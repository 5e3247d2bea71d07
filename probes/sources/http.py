"""Web servers: index pages, and images read by ranges (RFC 9110).

What a URL names is told by one request for its first bytes: 206 tells the exact size (HEAD is refused by many, and
a 200 tells that ranges are not served). A server without ranges is read whole, up to 16 MiB; larger images cannot be
read in pieces from it, so they are refused. Redirects are resolved once, when an image is opened, and anew should their
target stop answering.

Credentials go to the server of the first location that a source is used with, and to no other; the signed query goes to
that very location only. Nothing is taken from ~/.netrc. Proxies are taken from the environment.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar
from urllib.parse import quote, urlencode

from probes.attachment import Attachment, Mode, Node, QemuFacts, Route, RouteWish, SecretSlot
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.entry import Entry, Kind, kind_by_name
from probes.errors import (
    BadAnswer,
    Cancelled,
    Changed,
    Denied,
    FarbootError,
    NotAContainer,
    NotAnImage,
    NotFound,
    Refused,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.network.call import Call
from probes.reader import Pin, Reader
from probes.source import DEADLINE, Source
from probes.web.answers import (
    check_encoding,
    content_range,
    exact_body,
    is_s3_error,
    modified_at,
    validator_of,
    whole_body,
)
from probes.web.client import Target, WebClient, is_one_server, url_of
from probes.web.index_pages import ROW_LIMIT, More, Row, WholeBucket, page_kind, rows
from probes.web.pool import Answer, proxy_for

HEAD = 64 << 10
"""Bytes asked for when an image is opened, and kept: what it takes to judge most images."""
BUCKET_PAGES = 10_000
"""Pages of a bucket's list, of up to 1,000 rows each, after which we do not believe that it ends."""
UNSOUND = "QEMU's own http driver can hang with several requests in flight"
"""Measured on real guests: 7.2.22 now and then; 10.0.13 (libcurl 8.14) before GRUB had a kernel, 8 of 8 times."""

_ACCEPT = {"Accept": "application/json, text/html;q=0.9, */*;q=0.8"}  # Caddy lists in JSON if asked


class HttpSource(Source):
    """One web server, http or https."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    title: ClassVar[str] = "Web server"

    def __init__(self, credentials: Credentials = NO_CREDENTIALS, deadline: float = DEADLINE) -> None:
        super().__init__(credentials, deadline)
        self.client = WebClient(credentials)

    def entries(self, location: Location) -> Iterator[Entry]:
        with self.client.web.call("list", location, self.deadline) as call:
            answer, target = self.client.follow(call, self.client.target(location), _ACCEPT)
            with contextlib.closing(answer):
                bucket = _may_be_prefix(answer, target)
                if not bucket:
                    self.client.check(answer, target)
                    if not page_kind(answer.content_type):
                        raise NotAContainer("list", location, "it is a file, not an index page")
                    check_encoding(answer)
                    folder = _folder(target)
                    for item in rows(answer.page(), answer.content_type, url_of(target.location)):
                        if isinstance(item, Row):
                            yield _entry(folder, item)
                        elif isinstance(item, WholeBucket):
                            bucket = True
            if bucket:
                yield from self._bucket_entries(call, target)

    def stat(self, location: Location) -> Entry:
        with self.client.web.call("look at", location, self.deadline) as call:
            answer, target = self.client.follow(call, self.client.target(location), {"Range": "bytes=0-0", **_ACCEPT})
            with contextlib.closing(answer):
                if _may_be_prefix(answer, target):
                    return self._stat_of_prefix(call, target)
                self.client.check(answer, target)
                if _is_page(answer, target):
                    place = replace(target.location, path=_folder(target).path) if target.redirected else location
                    return Entry(place, location.name, Kind.CONTAINER)
                size = answer.length if answer.status == 200 else content_range(answer)[2]
                return Entry(location, location.name, kind_by_name(location.name), size, modified_at(answer))

    def open(self, location: Location) -> "HttpReader":
        with self.client.web.call("open", location, self.deadline) as call:
            answer, target = self.client.follow(call, self.client.target(location), {"Range": f"bytes=0-{HEAD - 1}"})
            with contextlib.closing(answer):
                self.client.check(answer, target)
                if _is_page(answer, target):
                    raise NotAnImage("open", location, "it is an index page, not an image")
                check_encoding(answer)
                if answer.status == 200:
                    head = whole_body(answer)
                    size = len(head)
                else:
                    start, end, size = content_range(answer)
                    if start:
                        raise BadAnswer("open", location, "the server sent another range than was asked for")
                    head = exact_body(answer, end - start) if end else b""
                validator, strong = validator_of(answer.headers)
                return HttpReader(self, target, location, Pin(size, validator, strong), head, answer.status != 200)

    def attach(self, location: Location, qemu: QemuFacts, mode: Mode) -> Attachment:
        if mode is Mode.WRITE:
            why = "an image on a web server cannot be written"
            raise Refused("attach", location, why, "without --write its guest writes into a throwaway overlay")
        with self.open(location) as reader:
            return self._attachment(reader, qemu)

    def close(self) -> None:
        self.client.web.close()

    # -- how QEMU gets at it ------------------------------------------------------------------------------------

    def _attachment(self, reader: "HttpReader", qemu: QemuFacts) -> Attachment:
        target, location = reader.target, reader.location
        notes: list[str] = []
        if target.location != location:
            notes.append(f"redirected to {target.location}")
        if target.downgraded:
            notes.append("the redirect leaves TLS: nothing proves that the image is the server's")
        impossible = self._why_not_direct(reader, qemu)
        if qemu.route is RouteWish.DIRECT and impossible:
            raise Unsupported("attach", location, impossible, "the bridge can: leave the route to auto")
        if qemu.route is not RouteWish.DIRECT:
            why = impossible or UNSOUND if qemu.route is RouteWish.AUTO else "as was asked for"
            return Attachment(location, Route.BRIDGE, reader.pin, why=why, notes=tuple(notes))
        notes.append(UNSOUND)
        # 30 s instead of QEMU's 5: that is its limit for a whole request, and lines may be slow.
        node: dict[str, object] = {"driver": target.location.scheme, "url": target.url, "timeout": 30}
        secrets = []
        if target.location.scheme == "https":
            node["sslverify"] = True
        if self.client.sends_credentials(target):
            own = self.credentials
            if own.username is not None:
                label = f"password of {own.username} at {target.location.authority}"
                node["username"] = own.username
                secrets.append(SecretSlot("password-secret", own.password or Secret(""), label, "password"))
            if own.cookie is not None:
                label = f"cookie for {target.location.authority}"
                secrets.append(SecretSlot("cookie-secret", own.cookie, label, "cookie"))
        found: Node = node
        return Attachment(location, Route.DRIVER, reader.pin, found, tuple(secrets), notes=tuple(notes))

    def _why_not_direct(self, reader: "HttpReader", qemu: QemuFacts) -> str:
        scheme = reader.target.location.scheme
        if scheme not in qemu.drivers:
            return f"this QEMU has no {scheme} driver"
        if not reader.has_ranges:
            return "the server does not serve ranges, which QEMU's driver needs"
        if reader.target.is_signed:
            return "its address is signed, and QEMU would show the signature to everybody on this host"
        if scheme == "https" and self.credentials.ca_file:
            return "QEMU's driver cannot be given an authority of one's own"
        if proxy_for(scheme, reader.target.location.host):
            return "a proxy stands in between, and confined QEMU does not know it"
        if self.client.sends_credentials(reader.target) and ":" in (self.credentials.username or ""):
            return "the user name has a colon"
        return ""

    # -- S3 -----------------------------------------------------------------------------------------------------

    def _bucket_entries(self, call: Call, target: Target) -> Iterator[Entry]:
        """List a folder of a bucket: `http://bucket.host/folder/` or `http://host/bucket/folder/`."""
        folder = target.location if target.location.path.endswith("/") else target.location.child("", container=False)
        names = folder.names
        failure: FarbootError | None = None
        for depth in range(min(2, len(names) + 1)):
            root = "/" + "/".join(_quoted(name) for name in names[:depth])
            prefix = "".join(f"{_quoted(name)}/" for name in names[depth:])
            found = self._bucket_pages(call, replace(folder, path=root, query=""), prefix)
            try:
                first = next(found, None)
            except (Denied, NotFound, BadAnswer) as error:
                failure = failure or error
                continue
            if first is None and prefix:
                continue
            if first is not None:
                yield _entry(folder, first)
            for item in found:
                yield _entry(folder, item)
            return
        raise failure or NotFound(call.tried, call.on, "there is no such folder in the bucket")

    def _bucket_pages(self, call: Call, root: Location, prefix: str) -> Iterator[Row]:
        asked = {"list-type": "2", "delimiter": "/", "encoding-type": "url"}
        token, count = "", 0
        for _ in range(BUCKET_PAGES):
            query = urlencode(asked | ({"continuation-token": token} if token else {}), quote_via=quote)
            url = f"{url_of(root)}?{query}" + (f"&prefix={prefix}" if prefix else "")
            answer, there = self.client.follow(call, Target(url, root), _ACCEPT)
            last, token = token, ""
            with contextlib.closing(answer):
                self.client.check(answer, there)
                if page_kind(answer.content_type) != "xml":
                    raise NotFound(call.tried, call.on, "there is no such folder")
                for item in rows(answer.page(), answer.content_type, url):
                    if isinstance(item, Row):
                        count += 1
                        yield item
                    elif isinstance(item, More):
                        token = item.token
                    else:
                        raise BadAnswer(call.tried, call.on, "the bucket does not list by folders")
            if not token:
                return
            if token == last or count > ROW_LIMIT:
                break
        raise BadAnswer(call.tried, call.on, "the bucket's list does not end")

    def _stat_of_prefix(self, call: Call, target: Target) -> Entry:
        next(self._bucket_entries(call, target), None)
        return Entry(target.location, target.location.name, Kind.CONTAINER)


class HttpReader(Reader):
    """An image on a web server. Each read that is not within the head is one request, pinned by the validator."""

    def __init__(
        self, source: HttpSource, target: Target, location: Location, pin: Pin, head: bytes, has_ranges: bool
    ) -> None:
        self.target = target
        self.location = location
        self.has_ranges = has_ranges
        self._source = source
        self._pin = pin
        self._head = head
        self._calls: set[Call] = set()
        self._closed = False
        self._lock = threading.Lock()

    @property
    def is_whole(self) -> bool:
        return not self.has_ranges

    def lies_below(self, folder: Location) -> bool:
        """Whether no redirect led away from the folder's server: what lies where on it, only that server knows."""
        return not self.target.redirected or is_one_server(folder, self.target.location)

    def pread(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.size)
        with self._source.client.web.call("read", self.location, self._source.deadline) as call:
            with self._lock:
                if self._closed:
                    raise Cancelled("read", self.location, "it was closed")
                self._calls.add(call)
            try:
                if offset >= end:
                    return b""
                if end <= len(self._head):
                    return self._head[offset:end]
                data = bytearray()
                while offset + len(data) < end:  # a server may answer with less of a range than was asked for
                    data += self._ask(call, offset + len(data), end)
                return bytes(data)
            finally:
                with self._lock:
                    self._calls.discard(call)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls = list(self._calls)
        for call in calls:
            call.abort()

    def _ask(self, call: Call, start: int, end: int) -> bytes:
        """One request for the bytes from `start` to before `end`; if a redirect's target fails, the redirect is
        asked for anew: signed targets expire.
        """
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if self._pin.strong:
            headers["If-Match"] = self._pin.validator
        if self.target.redirected:
            try:
                answer, target = self._source.client.follow(call, self.target, headers)
            except Unreachable:
                answer = None
            if answer is not None and answer.status in {206, 412, 416}:
                return self._take(answer, target, start, end)
            if answer is not None:
                answer.close()
        answer, target = self._source.client.follow(call, self._source.client.target(self.location), headers)
        data = self._take(answer, target, start, end)
        self.target = target
        return data

    def _take(self, answer: Answer, target: Target, start: int, end: int) -> bytes:
        with contextlib.closing(answer):
            if answer.status == 412:
                raise Changed("read", self.location, "it is no longer the image that was opened", "open it again")
            self._source.client.check(answer, target)
            check_encoding(answer)
            self._compare(answer)
            if not self._pin.validator and not is_one_server(self.target.location, target.location):
                why = "its server leads to another one for a part of it, and nothing proves that it is the same there"
                raise Changed("read", self.location, why, "open it again")
            if answer.status == 200:
                raise BadAnswer("read", self.location, "the server no longer serves ranges")
            first, beyond, size = content_range(answer)
            if size != self.size:
                why = f"it has {size} bytes now, and had {self.size} when it was opened"
                raise Changed("read", self.location, why, "open it again")
            if first != start or beyond > end or beyond <= start:
                raise BadAnswer("read", self.location, "the server sent another range than was asked for")
            return exact_body(answer, beyond - start)

    def _compare(self, answer: Answer) -> None:
        """ETags are compared weakly: Apache calls the same one weak for a second and strong from then on."""
        if answer.status == 416:
            return
        if self._pin.validator and validator_of(answer.headers)[0] != self._pin.validator:
            raise Changed("read", self.location, "it is no longer the image that was opened", "open it again")


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="surrogateescape")


def _folder(target: Target) -> Location:
    """The place whose children an index page lists."""
    path = target.location.path
    return replace(target.location, path=path[: path.rfind("/") + 1] or "/", query="")


def _entry(folder: Location, item: Row) -> Entry:
    kind = Kind.CONTAINER if item.container else kind_by_name(item.name)
    place = folder.child(item.name, item.container)
    return Entry(place, item.name, kind, item.size, item.modified, rounded=item.rounded)


def _is_page(answer: Answer, target: Target) -> bool:
    """Whether this is a place to list rather than a file that happens to be HTML."""
    if answer.status == 416 or not page_kind(answer.content_type):
        return False
    return target.location.path.endswith("/") or "." not in target.location.name


def _may_be_prefix(answer: Answer, target: Target) -> bool:
    """Whether it can be a folder of an object store: no such object, or the empty one that stands for a folder."""
    if target.location.path.endswith("/") and (answer.status == 416 or (answer.status == 200 and answer.length == 0)):
        return True
    return is_s3_error(answer)
