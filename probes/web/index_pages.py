"""What a web server's index page lists: bytes in, rows out, as they arrive.

Understood are the HTML pages of nginx, Apache (fancy, table and plain), lighttpd, Python's http.server and anything
that links to what lies beside it; the JSON of nginx and Caddy; the XML of nginx; and S3's ListBucketResult (Amazon S3
API Reference, ListObjectsV2), which comes in pages of 1,000.

Names come from the links' targets, never from their texts, which servers cut. Links that leave the folder are dropped.
Nothing is fetched here, and nothing a page says costs more than its own length.
"""

import json
from collections.abc import Iterable, Iterator

from probes.errors import BadAnswer
from probes.web.index_html import html_rows
from probes.web.index_rows import Item, More, Row, WholeBucket, row, shown, stamp
from probes.web.index_xml import xml_rows

__all__ = ["PAGE_LIMIT", "ROW_LIMIT", "Item", "More", "Row", "WholeBucket", "page_kind", "rows"]

PAGE_LIMIT = 64 << 20
"""Bytes of one page that are looked at."""
ROW_LIMIT = 1_000_000
"""Rows of one page that are taken."""


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
    parse = {"html": html_rows, "json": _json_rows, "xml": xml_rows}.get(kind)
    if parse is None:
        raise BadAnswer("list", shown(url), f"it is {content_type or 'of no type'}, not an index page")
    seen: set[str] = set()
    for item in parse(_limited(chunks, url), url):
        if isinstance(item, Row):
            if item.name in seen:
                continue
            if len(seen) >= ROW_LIMIT:
                raise BadAnswer("list", shown(url), f"it has more than {ROW_LIMIT:,} entries")
            seen.add(item.name)
        yield item


def _limited(chunks: Iterable[bytes], url: str) -> Iterator[bytes]:
    total = 0
    for chunk in chunks:
        total += len(chunk)
        if total > PAGE_LIMIT:
            raise BadAnswer("list", shown(url), f"the page is larger than {PAGE_LIMIT >> 20} MiB")
        yield chunk


def _json_rows(chunks: Iterable[bytes], url: str) -> Iterator[Row]:
    """nginx: name, type, mtime, size; Caddy: name, size, url, mod_time, is_dir."""
    try:
        listing = json.loads(b"".join(chunks).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise BadAnswer("list", shown(url), "its JSON is cut short or broken", detail=type(error).__name__) from None
    if listing is None:  # Caddy, of an empty folder
        return
    if not isinstance(listing, list):
        raise BadAnswer("list", shown(url), "it answers JSON that is not an index page")
    for item in listing:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            continue
        container = item.get("type") == "directory" or item.get("is_dir") is True
        modified = stamp(item.get("mtime", item.get("mod_time")))
        if found := row(item["name"], container, item.get("size"), modified):
            yield found
