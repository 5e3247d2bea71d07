"""The locations that were used before, newest first. A location never holds a secret, so neither does the list."""

from app.lines import lines, put_first, state_file, take_off
from probes.location import Location

MOST = 200


def used_before(path: str | None = None) -> list[str]:
    """The locations as text, newest first."""
    return lines(path or state_file("history"))[:MOST]


def remember(location: Location, path: str | None = None) -> None:
    """Put a location first."""
    put_first(path or state_file("history"), str(location), MOST)


def forget(text: str, path: str | None = None) -> None:
    """Take a location off the list."""
    take_off(path or state_file("history"), text)
