"""What a web server's index page lists: bytes in, rows out, as they arrive.

Understood are the HTML pages of nginx, Apache (fancy, table and plain), lighttpd, Python's http.server and anything
that links to what lies beside it; the JSON of nginx and Caddy; the XML of nginx; and S3's ListBucketResult (Amazon S3
API Reference, ListObjectsV2), which comes in pages of 1,000.

Names come from the links' targets, never from their texts, which servers cut. Links that leave the folder are dropped.
Nothing is fetched here, and nothing a page says costs more than its own length.
"""

import codecs
import contextlib
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, unquote_plus, urljoin, urlsplit
from xml.parsers import expat

from probes.errors import BadAnswer

PAGE_LIMIT = 64 << 20
"""Bytes of one page that are looked at."""
ROW_LIMIT = 1_000_000
"""Rows of one page that are taken."""

_TAG_LIMIT = 64 << 10
_TAIL_LIMIT = 400
_MONTHS = {
    name: number + 1
    for number, name in enumerate("JanFebMarAprMayJunJulAugSepOctNovDec"[i : i + 3] for i in range(0, 36, 3))
}
_HREF = re.compile(r"""(?is)(?:^|\s)href\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
_QUOTE_OR_END = re.compile("[\"'>]")
_SKIPPED = re.compile(r"(?i)(script|style|template|textarea|title)\b")
_DATE = re.compile(
    r"(?P<y>\d{4})-(?P<m>\d\d|[A-Z][a-z]{2})-(?P<d>\d\d)[ T]+(?P<t>\d\d:\d\d(?::\d\d)?)"
    r"|(?P<d2>\d\d)-(?P<m2>[A-Z][a-z]{2})-(?P<y2>\d{4}) +(?P<t2>\d\d:\d\d(?::\d\d)?)"
)
_SIZE = re.compile(r"(?:^|\s)(?P<n>\d{1,20}(?:\.\d{1,3})?)\s?(?P<u>[KMGTPE]i?B?|[Bb]ytes?|B)?(?=\s|$)")
_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
_PLAIN_NAME = re.compile(r"(?:\./)?([^/:?#\\%&]+)(/?)")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of an index page. `name` is raw, undecodable bytes as surrogates; never empty, `.` or `..`, nor with a
    `/` in it. `size` is in bytes; `rounded` says that the page gave it rounded. `modified` has a time zone only where
    the page tells one.
    """

    name: str
    container: bool
    size: int | None = None
    modified: datetime | None = None
    rounded: bool = False


@dataclass(frozen=True, slots=True)
class More:
    """The last thing an S3 page yields when there are more: what to pass as `continuation-token`."""

    token: str


@dataclass(frozen=True, slots=True)
class WholeBucket:
    """The first and only thing yielded for an S3 page that lists every object without regard to folders: ask again,
    with `list-type=2`, a delimiter and a prefix.
    """


Item = Row | More | WholeBucket


def page_kind(content_type: str) -> str:
    """Return "html", "json" or "xml" for the media types that index pages come as, else ""."""
    media = content_type.partition(";")[0].strip().lower()
    if media in {"text/html", "application/xhtml+xml"}:
        return "html"
    if media in {"text/xml", "application/xml"}:
        return "xml"
    return "json" if media in {"application/json", "text/json"} else ""


def rows(chunks: Iterable[bytes], content_type: str, url: str) -> Iterator[Item]:
    """Yield what the page at `url` (absolute, after redirects) lists, while its bytes arrive.

    Each name comes once. Raises BadAnswer for what is no index page, is cut short or is beyond the limits.
    """
    kind = page_kind(content_type)
    parse = {"html": _html_rows, "json": _json_rows, "xml": _xml_rows}.get(kind)
    if parse is None:
        raise BadAnswer("list", _shown(url), f"it is {content_type or 'of no type'}, not an index page")
    seen: set[str] = set()
    for item in parse(_limited(chunks, url), url):
        if isinstance(item, Row):
            if item.name in seen:
                continue
            if len(seen) >= ROW_LIMIT:
                raise BadAnswer("list", _shown(url), f"it has more than {ROW_LIMIT:,} entries")
            seen.add(item.name)
        yield item


def row(name: str, container: bool, size: object = None, modified: datetime | None = None) -> Row | None:
    """Make a row with an exact size of a raw name, or None if no file can be called that."""
    if name.endswith("/") and container:
        name = name[:-1]
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        return None
    if not name.isascii():
        try:  # bytes that came as escapes and bytes that came raw shall give one name
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # a lone half of a pair, by a JSON escape
            return None
    exact = size if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 63 else None
    return Row(name, container, None if container else exact, modified)


def _limited(chunks: Iterable[bytes], url: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > PAGE_LIMIT:
            raise BadAnswer("list", _shown(url), f"the page is larger than {PAGE_LIMIT >> 20} MiB")
        yield chunk


def _shown(url: str) -> str:
    """`url` without its query, which may hold a signature."""
    return url.partition("?")[0]


# -- HTML ----------------------------------------------------------------------------------------------------------


def _html_rows(chunks: Iterable[bytes], url: str) -> Iterator[Row]:
    """A row is a link and the text behind it, up to the next link."""
    folder = _Folder(url)
    pending: Row | None = None
    tail: list[str] = []
    length = 0
    for is_tag, text in _tokens(chunks):
        if not is_tag:
            if pending is not None and length < _TAIL_LIMIT:
                tail.append(text)
                length += len(text)
            continue
        name = text[:2].lower()
        if name[:1] == "a" and not name[1:].isalpha():
            found = _HREF.search(text, 1)
            if found:
                if pending is not None:
                    yield _described(pending, "".join(tail))
                pending, tail, length = folder.row(found[1].strip("\"'")), [], 0
        elif name == "/a":
            tail, length = [], 0  # what stood in between was the link's text
        else:
            tail.append(" ")
    if pending is not None:
        yield _described(pending, "".join(tail))


def _described(found: Row, tail: str) -> Row:
    """Add the date and the size that the text behind a link tells."""
    if "&" in tail:
        tail = html.unescape(tail)
    date = _DATE.search(tail)
    size = _SIZE.search(tail, date.end()) if date else _SIZE.search(tail)
    modified = _date(date) if date else None
    if found.container or size is None:
        return Row(found.name, found.container, None, modified)
    unit = (size["u"] or "")[:1].upper()
    rounded = unit not in {"", "B"} or "." in size["n"]
    number = float(size["n"]) * _UNITS[unit] if rounded else int(size["n"])
    if number >= 1 << 63:
        return Row(found.name, False, None, modified)
    return Row(found.name, False, int(number), modified, rounded)


def _date(match: re.Match[str]) -> datetime | None:
    year, month, day, time = (match[key] or match[key + "2"] for key in "ymdt")
    number = int(month) if month.isdigit() else _MONTHS.get(month, 0)
    parts = [int(part) for part in time.split(":")]
    with contextlib.suppress(ValueError):  # 31 February
        return datetime(int(year), number, int(day), *parts)  # noqa: DTZ001 - the server's own, unnamed time zone
    return None


class _Folder:
    """Tells which links of a page lead to what lies directly in the page's folder."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.origin = (parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower())
        self.parts = [_decoded(part) for part in parts.path.split("/")[:-1]] or [""]

    def row(self, href: str) -> Row | None:
        if plain := _PLAIN_NAME.fullmatch(href):
            return row(plain[1].strip(), bool(plain[2]))
        try:
            target = urlsplit(urljoin(self.url, html.unescape(href).strip()))
            origin = (target.scheme.lower(), target.netloc.rpartition("@")[2].lower())
        except ValueError:  # an address like http://[oops
            return None
        *folder, last = target.path.split("/")
        container = not last
        if container and folder:
            last = folder.pop()
        if origin != self.origin or [_decoded(part) for part in folder] != self.parts:
            return None
        return row(_decoded(last), container)


def _decoded(part: str) -> str:
    return unquote(part, errors="surrogateescape")


def _tokens(chunks: Iterable[bytes]) -> Iterator[tuple[bool, str]]:
    """Split HTML into (True, inside of a tag) and (False, text), without comments, scripts and styles.

    Each byte is looked at a bounded number of times: a tag that does not end within 64 KiB is text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text, awaited = "", ""  # awaited: what ends the comment or script that we are in
    for chunk, final in _with_last(chunks):
        text += decoder.decode(chunk, final)
        at = 0
        while at < len(text):
            if awaited:
                end = text.lower().find(awaited, at) if awaited != "-->" else text.find(awaited, at)
                if end < 0:
                    at = max(at, len(text) - len(awaited) + 1)  # its beginning may be here already
                    break
                at, awaited = end + (3 if awaited == "-->" else 0), ""
                continue
            start = text.find("<", at)
            if start != at:
                yield False, text[at : start if start >= 0 else None]
                at = start if start >= 0 else len(text)
                continue
            if text.startswith("<!--", at):
                at, awaited = at + 4, "-->"
                continue
            end = _tag_end(text, at)
            if end < 0:
                if not final and len(text) - at < _TAG_LIMIT:
                    break  # the rest is still to come
                yield False, "<"
                at += 1
                continue
            inside = text[at + 1 : end]
            yield True, inside
            at = end + 1
            if skipped := _SKIPPED.match(inside):
                awaited = f"</{skipped[1].lower()}"
        text = text[at:]


def _tag_end(text: str, start: int) -> int:
    """Where the `>` of the tag at `start` is, quoted ones left out; -1 if it is not there (yet)."""
    if start + 1 < len(text) and not (text[start + 1].isalpha() or text[start + 1] in "/!?"):
        return -1 if len(text) - start < 2 else start  # a lone "<" ends itself: an empty tag
    at, limit = start + 1, start + _TAG_LIMIT
    while found := _QUOTE_OR_END.search(text, at, limit):
        if found[0] == ">":
            return found.start()
        at = text.find(found[0], found.end(), limit) + 1
        if not at:
            break
    return -1


def _with_last(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for chunk in chunks:
        yield chunk, False
    yield b"", True


# -- JSON ----------------------------------------------------------------------------------------------------------


def _json_rows(chunks: Iterable[bytes], url: str) -> Iterator[Row]:
    """nginx: name, type, mtime, size; Caddy: name, size, url, mod_time, is_dir."""
    try:
        listing = json.loads(b"".join(chunks).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise BadAnswer("list", _shown(url), "its JSON is cut short or broken", detail=type(error).__name__) from None
    if listing is None:  # Caddy, of an empty folder
        return
    if not isinstance(listing, list):
        raise BadAnswer("list", _shown(url), "it answers JSON that is not an index page")
    for item in listing:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            continue
        container = item.get("type") == "directory" or item.get("is_dir") is True
        modified = _stamp(item.get("mtime", item.get("mod_time")))
        if found := row(item["name"], container, item.get("size"), modified):
            yield found


def _stamp(text: object) -> datetime | None:
    """A time that names its zone: of HTTP (RFC 9110, 5.6.7) or of RFC 3339."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(text)
    return None


# -- XML -----------------------------------------------------------------------------------------------------------


def _xml_rows(chunks: Iterable[bytes], url: str) -> Iterator[Item]:
    page = _XmlPage(url)
    for chunk, final in _with_last(chunks):
        page.feed(chunk, final)
        yield from page.take()
        if page.is_whole_bucket:
            return
    if page.token:
        yield More(page.token)


class _XmlPage:
    """S3's ListBucketResult, and nginx's <list>. expat knows no namespaces here; a DOCTYPE ends it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.token = ""
        self.is_whole_bucket = False
        self._rows: list[Item] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self._values: dict[str, str] = {}
        self._object: dict[str, str] = {}
        self._parser = parser = expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        parser.buffer_text = True

    def feed(self, chunk: bytes, final: bool) -> None:
        try:
            self._parser.Parse(chunk, final)
        except expat.ExpatError as error:
            why = f"its XML is cut short or broken: {expat.ErrorString(error.code)}"
            raise BadAnswer("list", _shown(self.url), why) from None

    def take(self) -> list[Item]:
        taken, self._rows = self._rows, []
        return taken

    def _doctype(self, *_: object) -> None:
        raise BadAnswer("list", _shown(self.url), "its XML has a DOCTYPE, which no index page needs")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._open and name not in {"ListBucketResult", "list"}:
            raise BadAnswer("list", _shown(self.url), "it answers XML that is not an index page")
        if len(self._open) > 16:
            raise BadAnswer("list", _shown(self.url), "its XML is nested too deeply")
        self._open.append(name)
        self._text = []
        if name in {"Contents", "CommonPrefixes"} or self._open[0] == "list":
            self._object = dict(attributes)
            delimiter = self._values.get("Delimiter")
            if name in {"Contents", "CommonPrefixes"} and delimiter is None:
                self.is_whole_bucket = True

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, name: str) -> None:
        text = "".join(self._text)
        self._text = []
        self._open.pop()
        path = self._open[1:]
        if self._open[:1] == ["list"] and not path and name in {"file", "directory"}:
            size = _integer(self._object.get("size"))
            self._add(row(text, name == "directory", size, _stamp(self._object.get("mtime"))))
        elif path in (["Contents"], ["CommonPrefixes"]):
            self._object[name] = text
        elif self._open == ["ListBucketResult"]:
            if name == "Contents":
                key, size = self._object.get("Key", ""), _integer(self._object.get("Size"))
                self._add(self._below_prefix(key, size))
            elif name == "CommonPrefixes":
                self._add(self._below_prefix(self._object.get("Prefix", ""), None))
            else:
                self._values[name] = text
        elif name == "ListBucketResult":
            if "Delimiter" not in self._values:
                self.is_whole_bucket = True
            elif self._values.get("IsTruncated") == "true":
                self.token = self._values.get("NextContinuationToken", "")
                if not self.token:
                    raise BadAnswer("list", _shown(self.url), "its list goes on, and it does not say where")

    def _below_prefix(self, key: str, size: int | None) -> Row | None:
        prefix = self._values.get("Prefix", "")
        if self._values.get("EncodingType") == "url":
            key, prefix = (unquote_plus(text, errors="surrogateescape") for text in (key, prefix))
        if not key.startswith(prefix):
            return None
        return row(key[len(prefix) :], key.endswith("/"), size, _stamp(self._object.get("LastModified")))

    def _add(self, found: Row | None) -> None:
        if found is not None and not self.is_whole_bucket:
            self._rows.append(found)


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 20 else None
