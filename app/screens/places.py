"""The places that looking can begin at: the registry's systems, and what was opened."""

import os
from collections.abc import Sequence

from probes.location import Location
from probes.registry import SYSTEMS, System
from widgets.places import Place


def places(opened: Sequence[Location]) -> list[Place]:
    """The storage systems, then the servers and folders opened in this run."""
    found = [Place("Storage", heading=True)]
    found += [_of_system(system) for system in SYSTEMS]
    roots: list[Location] = []
    for location in opened:
        root = location if location.scheme == "file" else location.root
        if root not in roots and str(root) not in {str(place.location) for place in found}:
            roots.append(root)
    if roots:
        found.append(Place("Opened", heading=True))
        found += [Place(_title(root), root) for root in roots]
    return found


def examples() -> list[str]:
    """Locations as they are typed, one a system."""
    return [system.example for system in SYSTEMS if system.example]


def _of_system(system: System) -> Place:
    missing = "; ".join(client.remedy for client in system.clients if not client.present)
    scheme = system.schemes[0]
    if scheme == "file":
        return Place(system.title, Location("file", path=os.getcwd().rstrip("/") + "/"))
    if scheme in {"host_device", "rbd"}:
        return Place(system.title, Location(scheme), missing=missing)
    return Place(system.title, typed=f"{scheme}://", missing=missing)


def _title(root: Location) -> str:
    if root.scheme == "file":
        return root.path
    return root.authority or str(root)
