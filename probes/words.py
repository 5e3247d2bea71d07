"""Sizes, times and counts as a person reads them, and names in the order a person expects."""

import re
from datetime import datetime

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_DIGITS = re.compile(r"[0-9]+")


def human_size(size: int | None, rounded: bool = False) -> str:
    """Say a size in bytes in at most 9 cells: `512 B`, `1.50 GiB`, `~324 MiB`; nothing for None."""
    if size is None:
        return ""
    mark = "~" if rounded else ""
    if size < 1024:
        return f"{mark}{size} B"
    value, index = size / 1024, 0
    while value >= 999.5 and index < len(_UNITS) - 1:
        value, index = value / 1024, index + 1
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    number = f"{value:.{digits}f}"
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return f"{mark}{number} {_UNITS[index]}"


def short_time(moment: datetime | None, width: int = 16) -> str:
    """Say a moment as `2026-05-01 12:33`, or only the day where `width` is less than 16; in local time if the zone is
    known. Nothing for None.
    """
    if moment is None:
        return ""
    try:
        if moment.tzinfo is not None:
            moment = moment.astimezone()
        return moment.strftime("%Y-%m-%d %H:%M" if width >= 16 else "%Y-%m-%d")
    except (ValueError, OverflowError):  # the year 1, as some servers have it
        return ""


def since(seconds: float) -> str:
    """Say how long something has lasted: `42 s`, `12 min`, `3 h 05`, `4 d`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02}"
    return f"{whole // 86400} d"


def counted(number: int, noun: str) -> str:
    """Say `1 guest`, `2 guests`, `1,234 entries`."""
    if number == 1:
        return f"1 {noun}"
    many = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {many}"


def how_far(came: int, size: int | None) -> str:
    """Say how much of something has come: `45 % of 120 MiB`, or `54 MiB` where its size is not known."""
    if not size:
        return human_size(came)
    return f"{min(100, 100 * came // size)} % of {human_size(size)}"


def natural(text: str) -> str:
    """Return a key under which `disk2` sorts before `disk10`."""
    return _DIGITS.sub(_number, text)


def _number(match: re.Match[str]) -> str:
    digits = match[0].lstrip("0")
    return f"{len(digits):04}{digits}"
