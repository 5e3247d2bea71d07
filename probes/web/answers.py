"""What a web server's answers say (RFC 9110): statuses as errors, ranges, validators. Each is judged, none believed."""

import contextlib
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

from probes.errors import BadAnswer, Denied, NotFound, Unreachable, Unsupported
from probes.web.index_pages import page_kind
from probes.web.pool import Answer, phrase

WHOLE = 16 << 20
"""Size in bytes up to which an image on a server without ranges is read whole."""

_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)", re.ASCII)
_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]{1,256}")')


def check_status(answer: Answer, redirected_to: str, had_credentials: bool) -> None:
    """Raise the family's error for a status that is none of 200, 206 and 416."""
    tried, on, status = answer.call.tried, answer.call.on, answer.status
    if status in {200, 206, 416}:
        return
    where = f" ({redirected_to}, where it redirects to)" if redirected_to else ""
    if status == 401:
        asked = answer.headers.get("WWW-Authenticate", "Basic")
        if "basic" not in asked.lower():
            scheme = re.match(r"[A-Za-z]{1,20}", asked)
            why = f"the server wants {scheme[0] if scheme else 'some other'} authentication{where}"
            raise Denied(tried, on, why, "only Basic is spoken")
        why = f"the user name or the password is wrong{where}" if had_credentials else f"it wants a password{where}"
        raise Denied(tried, on, why, wants=("username", "password"))
    why = f"the server says {phrase(status)}{where}"
    if status == 403:
        raise Denied(tried, on, why)
    if status == 407:
        raise Denied(tried, on, f"the proxy says {phrase(status)}", "put user and password into http_proxy")
    if status in {404, 410}:
        raise NotFound(tried, on, why)
    if status in {408, 425, 429, 502, 503, 504}:
        raise Unreachable(tried, on, why, "try again later")
    raise BadAnswer(tried, on, why)


def check_encoding(answer: Answer) -> None:
    """Raise BadAnswer for a body that is not sent as it is."""
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        why = "the server compresses what was asked for as it is"
        raise BadAnswer(answer.call.tried, answer.call.on, why, "Content-Encoding has to be off for it")


def content_range(answer: Answer) -> tuple[int, int, int]:
    """First byte, the byte after the last, and the whole size; first and last are 0 for a 416."""
    tried, on = answer.call.tried, answer.call.on
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
    if match is None:
        why = "the server does not say which range it sent"
        raise BadAnswer(tried, on, why if answer.status == 206 else "the server refuses the range")
    if match[3] == "*":
        raise BadAnswer(tried, on, "the server does not tell the size")
    size = int(match[3])
    if answer.status == 416:
        if size:
            raise BadAnswer(tried, on, "the server refuses the range")
        return 0, 0, 0
    if match[1] is None or not int(match[1]) <= int(match[2]) < size:
        raise BadAnswer(tried, on, "the range that the server sent makes no sense")
    return int(match[1]), int(match[2]) + 1, size


def exact_body(answer: Answer, length: int) -> bytes:
    """The body, which must have exactly `length` bytes."""
    data = answer.body(length)
    if data is None:
        raise BadAnswer(answer.call.tried, answer.call.on, "the server sent more than it said")
    if len(data) < length:
        why = f"the connection broke off after {len(data)} of {length} bytes"
        raise Unreachable(answer.call.tried, answer.call.on, why)
    return data


def whole_body(answer: Answer) -> bytes:
    """The body of an answer without ranges, if it is small."""
    data = answer.body(WHOLE)
    if data is None:
        why = "the server does not serve ranges: each read would fetch the whole image"
        hint = f"serve it with ranges, as nginx and Apache do; up to {WHOLE >> 20} MiB are read whole"
        raise Unsupported(answer.call.tried, answer.call.on, why, hint)
    return data


def validator_of(headers: Mapping[str, str]) -> tuple[str, bool]:
    """The entity tag without its `W/`, else the date; and whether it is strong."""
    if etag := _ETAG.fullmatch(headers.get("ETag", "").strip()):
        return etag[2], etag[1] is None
    date = headers.get("Last-Modified", "").strip()
    return (date if date.isascii() and date.isprintable() and len(date) < 64 else ""), False


def modified_at(answer: Answer) -> datetime | None:
    """When it was changed, as the server says."""
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(answer.headers.get("Last-Modified", ""))
    return None


def is_s3_error(answer: Answer) -> bool:
    """Whether an object store says that it has no such object: it may have a folder of that name."""
    if answer.status not in {403, 404} or page_kind(answer.content_type) != "xml":
        return False
    body = answer.body(64 << 10) or b""
    return b"<Error>" in body and b"<Code>" in body
