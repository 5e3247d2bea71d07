"""One source that this machine knows: the value that every finder gives, and how its location is put together."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from probes.errors import BadLocation
from probes.location import Location
from probes.text import is_clean


@dataclass(frozen=True, slots=True)
class Found:
    """A place to look at. `title` is what its file calls it, `origin` the file, in the words of a person."""

    title: str
    location: Location
    origin: str


def url(
    scheme: str, host: str, path: str, port: str = "", user: str = "", query: str = "", default_port: str = ""
) -> Location | None:
    """A URL's location of raw parts, IPv6 addresses with or without brackets; None for what cannot be one."""
    host = host.strip().strip("[]")
    if not host or not is_clean(host):
        return None
    if ":" in host:
        host = f"[{host.replace('%', '%25')}]"
    authority = f"{quote(user, safe='')}@" if user and scheme != "iscsi" else f"{user}@" if user else ""
    authority += host + (f":{port}" if port and port != default_port else "")
    raw = path.encode("utf-8", "surrogateescape")
    text = f"{scheme}://{authority}/{quote(raw, safe='/:@+,=~').lstrip('/')}"
    return parsed(text + (f"?{query}" if query else ""))


def parsed(text: str) -> Location | None:
    """The location that `text` is; None for what is none. What is secret in it is dropped."""
    try:
        return Location.parse(text)[0]
    except BadLocation:
        return None


def rbd(path: str, options: Mapping[str, str]) -> Location:
    """An rbd location with these options (raw values); those that are empty are left out."""
    query = ":".join(f"{name}={_escaped(value)}" for name, value in options.items() if value)
    return Location("rbd", path=path, query=query)


def folder(path: str) -> Location | None:
    """The location of a folder of this host; None for what is no absolute path."""
    return Location("file", path="/" + path.strip("/") + "/" if path.strip("/") else "/") if _absolute(path) else None


def without_doubles(found: Iterable[Found]) -> list[Found]:
    """Each location once, as it was found first."""
    kept: dict[Location, Found] = {}
    for one in found:
        kept.setdefault(one.location, one)
    return list(kept.values())


def _absolute(path: str) -> bool:
    return path.startswith("/") and "\0" not in path and "/../" not in path + "/"


def _escaped(value: str) -> str:
    return re.sub(r"([\\:=@])", r"\\\1", value)
