"""Where the names in an index lead: from a text on a TFTP server to entries."""

import re
from dataclasses import replace

from probes.entry import Entry, Kind, kind_by_name
from probes.errors import FarbootError
from probes.location import Location
from probes.tftp.index import Named, is_pxelinux


def folder_of(location: Location, text: str) -> Location:
    """Where names in an index begin that have no `/` before them: beside it; for pxelinux, its own folder."""
    parent = replace(location, path=location.path.rstrip("/")).parent or location.root
    if is_pxelinux(text) and parent.name == "pxelinux.cfg":
        return parent.parent or parent
    return parent


_SERVED = frozenset({"tftp", "http", "https", "ftp", "nfs"})


def entry_of(base: Location, named: Named) -> Entry | None:
    """The entry of a name that an index in `base` names; None for one that leads nowhere we know."""
    place = _place(base, named)
    if place is None:
        return None
    if named.is_index and place.scheme == "tftp":
        place = place if place.path.endswith("/") else replace(place, path=place.path + "/")
        return Entry(place, place.name, Kind.CONTAINER, note=named.note)
    kind = Kind.OTHER if named.is_index else kind_by_name(place.name)
    return Entry(place, place.name, kind, note=named.note)


def _place(base: Location, named: Named) -> Location | None:
    """Where a name leads; None for one that leads nowhere we know."""
    path = named.path
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
        try:
            place, credentials = Location.parse(path)
        except FarbootError:
            return None
        return place if place.scheme in _SERVED and place.names and not credentials else None
    place = base.root if path.startswith("/") else base
    parts: list[str] = list(place.names)
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    if not parts:
        return None
    place = base.root
    for part in parts:
        place = place.child(part)
    return place
