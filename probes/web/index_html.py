"""Index pages in HTML: nginx, Apache (fancy, table, plain), lighttpd, http.server, and any page of links.

A link's target gives the name, the text behind the link its date and size.
"""

import codecs
import contextlib
import html
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum
from urllib.parse import unquote, urljoin, urlsplit

from probes.web.index_rows import Row, row, with_last

_TAG_LIMIT = 64 << 10
_TAIL_LIMIT = 400
_MONTHS = {
    name: number + 1
    for number, name in enumerate("JanFebMarAprMayJunJulAugSepOctNovDec"[i : i + 3] for i in range(0, 36, 3))
}
_HREF = re.compile(r"""(?is)(?:^|\s)href\s*=\s*("[^"]*"|'[^']*'|[^\s"'>]+)""")
_QUOTE_OR_END = re.compile("[\"'>]")
_USUAL_LINK = re.compile(r'<a href="([^"]{1,4096})">[^<]{0,4096}</a>')
_COMMENT_END = re.compile("-->")
_SKIPPED = re.compile(r"(?i)(script|style|textarea|title)(?![a-z])")
_SKIPPED_END = {name: re.compile(f"(?i)</{name}") for name in ("script", "style", "textarea", "title")}
_DATE = re.compile(
    r"(\d{4})-(\d\d|[A-Z][a-z]{2})-(\d\d)[ T]+(\d\d):(\d\d)(?::(\d\d))?"
    r"|(\d\d)-([A-Z][a-z]{2})-(\d{4}) +(\d\d):(\d\d)(?::(\d\d))?",
    re.ASCII,
)
_SIZE = re.compile(r"(?:^|\s)(?P<n>\d{1,20}(?:\.\d{1,3})?)\s?(?P<u>[KMGTPE]i?B?|[Bb]ytes?|B)?(?=\s|$)", re.ASCII)
_UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
_PLAIN_NAME = re.compile(r"(?:\./)?([^/:?#\s][^/:?#]*)(/?)")
_TAG_START = re.compile(r"<(?:[A-Za-z/!?]|\Z)")
_IS_LINK = re.compile(r"(?i)a\s")
_IS_LINK_END = re.compile(r"(?i)/a(?![a-z])")


def html_rows(chunks: Iterable[bytes], url: str) -> Iterator[Row]:
    """A row is a link and the text behind it, up to the next link."""
    folder = _Folder(url)
    pending: Row | None = None
    tail: list[str] = []
    length = 0
    for token, text in _tokens(chunks):
        if token is _Token.TEXT:
            if pending is not None and length < _TAIL_LIMIT:
                tail.append(text[:_TAIL_LIMIT])
                length += len(text)
        elif token is _Token.LINK:
            if pending is not None:
                yield _described(pending, "".join(tail))
            pending, tail, length = folder.row(text), [], 0
        elif token is _Token.LINK_END:
            tail, length = [], 0  # what stood in between was the link's text
        else:
            tail.append(" ")
            length += 1
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
    year, month, day, hour, minute, second, *others = match.groups()
    if year is None:
        day, month, year, hour, minute, second = others
    number = _MONTHS.get(month) or (int(month) if month.isdigit() else 0)
    with contextlib.suppress(ValueError):  # 31 February
        return datetime(int(year), number, int(day), int(hour), int(minute), int(second or 0))  # noqa: DTZ001 - the server's own zone, which it does not name
    return None


class _Folder:
    """Tells which links of a page lead to what lies directly in the page's folder."""

    def __init__(self, url: str) -> None:
        self.url = url
        parts = urlsplit(url)
        self.origin = (parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower())
        self.parts = [_decoded(part) for part in parts.path.split("/")[:-1]] or [""]

    def row(self, href: str) -> Row | None:
        if "&" in href:
            href = html.unescape(href)
        href = href.strip()
        if plain := _PLAIN_NAME.fullmatch(href):
            return row(_decoded(plain[1]), bool(plain[2]))
        try:
            target = urlsplit(urljoin(self.url, href))
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
    return unquote(part, errors="surrogateescape") if "%" in part else part


class _Token(Enum):
    TEXT = 1
    LINK = 2  # with its target, as it stands
    LINK_END = 3
    TAG = 4


def _tokens(chunks: Iterable[bytes]) -> Iterator[tuple[_Token, str]]:
    """Take HTML apart, without its comments, scripts and styles.

    Each byte is looked at a bounded number of times, however hostile: a tag that does not end within 64 KiB is text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    text = ""
    awaited: re.Pattern[str] | None = None  # what ends the comment or script that we are in
    for chunk, final in with_last(chunks):
        text += decoder.decode(chunk, final)
        at = 0
        while at < len(text):
            if awaited:
                over = awaited.search(text, at)
                if not over:
                    at = max(at, len(text) - 12)  # the beginning of what we wait for may be here already
                    break
                at, awaited = over.end(), None
            found = _TAG_START.search(text, at)
            start = found.start() if found else len(text)
            if start > at:
                yield _Token.TEXT, text[at:start]
            at = start
            if link := _USUAL_LINK.match(text, at):
                yield _Token.LINK, link[1]
                yield _Token.LINK_END, ""
                at = link.end()
                continue
            if text.startswith("<!--", at):
                at, awaited = at + 4, _COMMENT_END
                continue
            end = _tag_end(text, at)
            if end < 0 and not final and len(text) - at < _TAG_LIMIT:
                break  # the rest is still to come
            if end < 0:
                end = at + _TAG_LIMIT
                yield _Token.TEXT, text[at:end]
            else:
                inside = text[at + 1 : end]
                yield _token(inside)
                skipped = _SKIPPED.match(inside)
                awaited = _SKIPPED_END[skipped[1].lower()] if skipped else None
            at = end + 1
        text = text[at:]


def _token(inside: str) -> tuple[_Token, str]:
    """What the tag is that has `inside` between its angles."""
    if _IS_LINK_END.match(inside):
        return _Token.LINK_END, ""
    if _IS_LINK.match(inside) and (target := _HREF.search(inside)):
        return _Token.LINK, target[1] if target[1][0] not in "\"'" else target[1][1:-1]
    return _Token.TAG, ""


def _tag_end(text: str, start: int) -> int:
    """Where the `>` of the tag at `start` is, those in quotes left out; -1 if it is not there (yet)."""
    at, limit = start + 1, start + _TAG_LIMIT
    while found := _QUOTE_OR_END.search(text, at, limit):
        if found[0] == ">":
            return found.start()
        at = text.find(found[0], found.end(), limit) + 1
        if not at:
            break
    return -1
