"""Listings: MLSD's facts (RFC 3659), and the two forms in which servers answer LIST, which no standard describes.

    -rw-r--r--    1 1000     1000      4194304 Jan 12 09:31 a name.img        unix: ls -l
    lrwxrwxrwx    1 0        0              11 Jan 12  2024 latest -> v2.img
    01-12-24  09:31AM       <DIR>          images                             DOS, IIS
    01-12-24  09:31AM              4194304 a name.img

A name is what follows exactly one space, so that it may begin or end with spaces. Times of LIST are the server's own,
in a zone that it does not tell.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_IN_NO_NAME = re.compile(r"[/\r\n\0]")
_UNIX = re.compile(
    r"(?P<type>[-bcdlpsD])[-rwxsStTlL?]{9}[.+@]?\s.*?"
    r"(?P<size>\d{1,19})\s+"
    r"(?:(?P<month>[^\s\d]{3,9})\.?\s+(?P<day>\d{1,2})\s+(?:(?P<hour>\d{1,2}):(?P<minute>\d\d)|(?P<year>\d{4}))"
    r"|(?P<iso>\d{4}-\d\d-\d\d\s+\d\d:\d\d)(?::\d\d(?:\.\d+)?(?:\s[+-]\d{4})?)?)"
    r"\s(?P<name>.+)",
    re.DOTALL,
)
_DOS = re.compile(
    r"(?P<month>\d\d)[-/](?P<day>\d\d)[-/](?P<year>\d{2}|\d{4})\s+(?P<hour>\d\d):(?P<minute>\d\d)\s?(?P<half>[AaPp][Mm])?"
    r"\s+(?:(?P<folder><(?:DIR|JUNCTION|SYMLINKD?)> {1,10})|(?P<size>[\d,.]{1,25})\s)(?P<name>.+)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one line tells. `type` is "dir", "file", "link" (LIST only: what it leads to is not known) or "other";
    `stamp` is MLSD's `modify` as it came, `target` where a link leads to.
    """

    name: str
    type: str
    size: int | None = None
    modified: datetime | None = None
    stamp: str = ""
    target: str = ""


def is_sane(name: str) -> bool:
    """Whether a name can be one: of something in this very folder, and to be had by a line of text."""
    return bool(name) and name not in {".", ".."} and not _IN_NO_NAME.search(name)


def mlsd_row(line: str) -> Row | None:
    """One line of MLSD or MLST; None for what tells nothing, such as the folder itself."""
    told, space, name = line.partition(" ")
    if not space or "=" not in told:
        return None
    facts = facts_in(told)
    kind = facts.get("type", "").lower()
    if kind in {"cdir", "pdir"}:
        return None
    size = facts.get("size", "")
    return Row(
        name,
        "dir" if kind == "dir" else "file" if kind == "file" else "link" if "link" in kind else "other",
        int(size) if kind == "file" and re.fullmatch(r"\d{1,19}", size) else None,
        stamp_time(facts.get("modify", "")),
        facts.get("modify", "")[:40],
    )


def facts_in(text: str) -> Mapping[str, str]:
    """`type=file;size=5;` as a mapping, names in lower case."""
    facts = {}
    for fact in text.split(";"):
        name, mark, value = fact.partition("=")
        if mark:
            facts[name.strip().lower()] = value
    return facts


def stamp_time(stamp: str) -> datetime | None:
    """The time of `20240112093100` or `20240112093100.123`, in UTC; None for what is none."""
    if len(stamp) < 14 or not stamp[:14].isascii() or not stamp[:14].isdigit():
        return None
    try:  # strptime takes five times as long
        month, day, hour, minute, second = (int(stamp[at : at + 2]) for at in range(4, 14, 2))
        return datetime(int(stamp[:4]), month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def list_row(line: str, today: datetime) -> Row | None:
    """One line of LIST; None for what is no entry ("total 5"). `today` (without a zone) tells years left out."""
    if match := _UNIX.match(line):
        return _unix_row(match, today)
    if match := _DOS.match(line):
        return _dos_row(match)
    return None


def _unix_row(match: re.Match[str], today: datetime) -> Row:
    name, target = match["name"], ""
    kind = {"d": "dir", "-": "file", "l": "link"}.get(match["type"], "other")
    if kind == "link":
        name, _, target = name.partition(" -> ")
    return Row(name, kind, int(match["size"]) if kind == "file" else None, _unix_time(match, today), target=target)


def _unix_time(match: re.Match[str], today: datetime) -> datetime | None:
    try:
        if match["iso"]:
            return datetime.fromisoformat(" ".join(match["iso"].split()))
        month = _MONTHS.index(match["month"][:3].lower()) + 1
        if match["year"]:
            return datetime(int(match["year"]), month, int(match["day"]))  # noqa: DTZ001  # the zone is not told
        for year in (today.year, today.year - 1, today.year - 2, today.year - 3):  # a 29th of February may be far
            found = _date(year, month, int(match["day"]), int(match["hour"]), int(match["minute"]))
            if found is not None and found <= today + timedelta(days=1):
                return found
    except ValueError:  # a month in another language, a 31st of June
        pass
    return None


def _date(*parts: int) -> datetime | None:
    try:
        return datetime(*parts)  # type: ignore[arg-type]  # noqa: DTZ001  # the zone is not told
    except ValueError:
        return None


def _dos_row(match: re.Match[str]) -> Row:
    size = re.sub(r"[.,]", "", match["size"] or "")
    year = int(match["year"])
    year += 0 if year > 99 else 2000 if year < 70 else 1900
    hour = int(match["hour"])
    if match["half"]:
        hour = hour % 12 + (12 if match["half"].lower() == "pm" else 0)
    modified = _date(year, int(match["month"]), int(match["day"]), hour, int(match["minute"]))
    return Row(match["name"], "dir" if match["folder"] else "file", int(size) if size else None, modified)


def rows(lines: Iterator[str], is_mlsd: bool, today: datetime) -> Iterator[Row]:
    """The rows of a listing, those that no name can have left out."""
    for line in lines:
        row = mlsd_row(line) if is_mlsd else list_row(line, today)
        if row is not None and is_sane(row.name):
            yield row
