"""What a person set once and for all, and the places they saved: `$XDG_CONFIG_HOME/farboot/settings.toml`.

    boot = "snapshot"      # what b does on storage that can be written: "snapshot", or "write", which asks first
    deadline = 10          # seconds that one request may take
    memory = "2G"          # the guest's memory
    cpus = 2               # the guest's CPUs
    network = "user"       # the guest's network: "user", "restricted", "none"

    [[bookmark]]
    name = "golden images"
    location = "nfs://nas/golden/"

Everything may be left out. It is edited by hand, and by Farboot where bookmarks change (`app.settings_file`); what
Farboot does not know stays as it is. No secret is ever written into it.
"""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.qemu.options import Network, Options
from probes.attachment import Mode
from probes.errors import BadLocation, FarbootError
from probes.location import Location
from probes.source import DEADLINE

_LARGEST = 4 << 20


class BadSettings(FarbootError):
    """The settings file cannot be read, or says what cannot be; it is left as it is."""

    code = "bad-settings"


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A place that was saved. `location` is text as a person types it; what cannot be parsed any more stays."""

    name: str
    location: str

    @property
    def place(self) -> Location | None:
        """The location, or None for text that is none."""
        try:
            return Location.parse(self.location)[0]
        except BadLocation:
            return None


@dataclass(frozen=True)
class Settings:
    """The settings; `deadline` in seconds, `memory` in bytes, None leaves the choice to the plan."""

    boot: Mode = Mode.SNAPSHOT
    deadline: float = DEADLINE
    memory: int | None = None
    cpus: int | None = None
    network: Network | None = None
    bookmarks: tuple[Bookmark, ...] = ()

    def options(self, mode: Mode) -> Options:
        """The choices for a boot in which nothing else is wished."""
        return Options(mode=mode, memory=self.memory, cpus=self.cpus, network=self.network)


DEFAULTS = Settings()


def settings_path() -> str:
    """Where the settings are: FARBOOT_SETTINGS, else below XDG_CONFIG_HOME."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    base = base if os.path.isabs(base) else os.path.expanduser("~/.config")
    return os.environ.get("FARBOOT_SETTINGS") or os.path.join(base, "farboot", "settings.toml")


def load(path: str | None = None) -> Settings:
    """Read the settings; no file is a file with nothing in it. Raises BadSettings."""
    path = path or settings_path()
    text = read(path)
    return parse(text, path)


def read(path: str) -> str:
    """The file's text; empty where there is none. Raises BadSettings."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_LARGEST + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BadSettings("read", path, (error.strerror or "it cannot be read").lower(), _HINT) from None
    except UnicodeDecodeError:
        raise BadSettings("read", path, "it is not UTF-8 text", _HINT) from None
    if len(text) > _LARGEST:
        raise BadSettings("read", path, "it is far too large for settings", _HINT)
    return text


def parse(text: str, path: str = "the settings") -> Settings:
    """The settings that a file's text says. Raises BadSettings, which names the line where that is known."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings("read", path, f"it is not TOML: {error}", _HINT) from None
    values: dict[str, object] = {}
    for name, read_value in _READERS.items():
        if name in table:
            try:
                values[name] = read_value(table[name])
            except (ValueError, TypeError) as error:
                line = _line_of(text, name)
                where = f"line {line}: " if line else ""
                raise BadSettings("read", path, f"{where}{name} {error}", _HINT) from None
    return Settings(bookmarks=_bookmarks(table, text, path), **values)  # type: ignore[arg-type]  # the readers' types


_HINT = "correct it by hand; until then nothing of it is used, and nothing is written into it"


def _bookmarks(table: Mapping[str, object], text: str, path: str) -> tuple[Bookmark, ...]:
    rows = table.get("bookmark", [])
    if not isinstance(rows, list):
        line = _line_of(text, "bookmark")
        raise BadSettings("read", path, f"line {line}: bookmarks are written as [[bookmark]]", _HINT)
    found = []
    for row in rows:
        name, location = (row.get("name", ""), row.get("location")) if isinstance(row, dict) else ("", None)
        if not isinstance(location, str) or not isinstance(name, str):
            why = "a [[bookmark]] needs a location, in quotes, and its name is text as well"
            raise BadSettings("read", path, why, _HINT)
        found.append(Bookmark(name or location, location))
    return tuple(found)


def _line_of(text: str, name: str) -> int:
    """The line that sets `name`, counted from 1; 0 where it is not plain to see."""
    match = re.search(rf"(?m)^[ \t]*(?:\[\[?)?[\"']?{name}\b", text)
    return text.count("\n", 0, match.start()) + 1 if match else 0


def _boot(value: object) -> Mode:
    if value not in {"snapshot", "write"}:
        raise ValueError('is either "snapshot" or "write"')
    return Mode(str(value))


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError("is a number of seconds")
    return float(value)


def _memory(value: object) -> int:
    match = re.fullmatch(r"(\d+)\s*([MG])(?:i?B)?", str(value))
    if match is None or int(match[1]) == 0:
        raise ValueError('is a size in quotes, such as "2G" or "512M"')
    return int(match[1]) << {"M": 20, "G": 30}[match[2]]


def _cpus(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1024:
        raise ValueError("is a whole number from 1")
    return value


def _network(value: object) -> Network:
    if value not in set(Network):
        raise ValueError("is one of " + ", ".join(f'"{network}"' for network in Network))
    return Network(str(value))


_READERS: Mapping[str, Callable[[object], object]] = {
    "boot": _boot, "deadline": _seconds, "memory": _memory, "cpus": _cpus, "network": _network,
}  # fmt: skip
