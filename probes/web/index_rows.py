"""The rows of index pages, and what pages of every kind share."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime


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


def shown(url: str) -> str:
    """`url` without its query, which may hold a signature."""
    return url.partition("?")[0]


def stamp(text: object) -> datetime | None:
    """A time that names its zone: of HTTP (RFC 9110, 5.6.7) or of RFC 3339."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return parsedate_to_datetime(text)
    return None


def with_last(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each chunk with False, and an empty one with True: the end."""
    for chunk in chunks:
        yield chunk, False
    yield b"", True
