"""The places that looking can begin at: the registry's systems, what the machine knows, what was saved and used."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from app.memory import Remembered
from app.settings import Bookmark
from probes.errors import BadLocation, Unsupported
from probes.location import Location
from probes.registry import SYSTEMS, System, system_of
from probes.text import clean
from widgets.places import Place

_USED = 12
"""How many of the locations used before are shown; the question for a location (o) offers all."""


def places(opened: Sequence[Location], known: Remembered | None = None) -> list[Place]:
    """Saved places, the storage systems, the servers and folders of this run, what was found, what was used before."""
    known = known or Remembered()
    listed: list[Place] = []
    listed += _group("Bookmarks", [_of_bookmark(bookmark) for bookmark in known.settings.bookmarks])
    listed += _group("Storage", [_of_system(system) for system in SYSTEMS])
    elsewhere = [*(place.location for place in listed), *(found.location for found in known.found)]
    listed += _group("Opened", _opened(opened, elsewhere))
    for origin in dict.fromkeys(found.origin for found in known.found):
        here = [found for found in known.found if found.origin == origin]
        about = f"Found in {origin}." if origin != "mounted" else "Found among the mounts."
        listed += _group(origin, [_off(Place(f.title, f.location, about=about)) for f in here])
    listed += _group("Used before", list(_used(known.used, listed, opened)))
    return listed


def examples() -> list[str]:
    """Locations as they are typed, one a system."""
    return [system.example for system in SYSTEMS if system.example]


def bookmark_of(place: Place | None, known: Remembered) -> Bookmark | None:
    """The saved place that a line of the list is."""
    if place is None or place.kind != "bookmark":
        return None
    return next((b for b in known.settings.bookmarks if place == _of_bookmark(b)), None)


def described(place: Place) -> str:
    """What there is to say of a place under the cursor."""
    title = clean(place.title)
    if place.missing:
        ways = place.missing.replace("; ", "\n\n").replace(" or ", "\nor ")
        return f"{title} cannot be used yet. Install its client:\n\n{ways}"
    about = f"\n\n{place.about}" if place.about else ""
    if place.location is not None:
        return f"{title}\n\nEnter lists {place.location}{about}"
    return f"{title}\n\nEnter asks for its address: {clean(place.typed)}...{about}"


def _group(title: str, members: list[Place]) -> list[Place]:
    return [Place(title, heading=True), *members] if members else []


def _of_system(system: System) -> Place:
    missing = _missing(system)
    scheme = system.schemes[0]
    if scheme == "file":
        return Place(system.title, Location("file", path=os.getcwd().rstrip("/") + "/"))
    if scheme in {"host_device", "rbd"}:
        return Place(system.title, Location(scheme), missing=missing)
    about = f"Such as {system.example}" if system.example else ""
    return Place(system.title, typed=f"{scheme}://", missing=missing, about=about)


def _of_bookmark(bookmark: Bookmark) -> Place:
    place = bookmark.place
    about = "n names it anew, d removes it."
    if place is None:
        return Place(bookmark.name, typed=bookmark.location, about=f"That is no location. {about}", kind="bookmark")
    return _off(Place(bookmark.name, place, about=f"Saved. {about}", kind="bookmark"))


def _opened(opened: Sequence[Location], elsewhere: Sequence[Location | None]) -> list[Place]:
    roots = (location if location.scheme == "file" else location.root for location in opened)
    known = {str(location).rstrip("/") for location in elsewhere}
    return [Place(_title(root), root) for root in dict.fromkeys(roots) if str(root).rstrip("/") not in known]


def _used(used: Sequence[str], listed: Sequence[Place], opened: Sequence[Location]) -> Iterator[Place]:
    known = {str(location).rstrip("/") for location in (*opened, *(place.location for place in listed))}
    texts = [text for text in used if text.rstrip("/") not in known][:_USED]
    for text in texts:
        try:
            location = Location.parse(text)[0]
        except BadLocation:
            continue
        yield _off(Place(text, location, about="Used before. d takes it off this list.", kind="used"))


def _off(place: Place) -> Place:
    """A place of a storage system whose client is missing says so."""
    if place.location is None:
        return place
    try:
        return replace(place, missing=_missing(system_of(place.location.scheme)))
    except Unsupported:
        return place


def _missing(system: System) -> str:
    return "; ".join(client.remedy for client in system.clients if not client.present)


def _title(root: Location) -> str:
    if root.scheme == "file":
        return root.path
    return root.authority or str(root)
