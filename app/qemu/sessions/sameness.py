"""When two locations are one image: as far as this host can tell without asking the storage."""

import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import replace

from probes.errors import BadLocation, FarbootError
from probes.host.files import within
from probes.known.identity import Identities
from probes.known.root import Root
from probes.location import Location

_LOOKING_UP = 3.0
"""Seconds that a name server has; a name that it does not tell by then is another name."""

_ONE_FAMILY = {"sftp": "ssh", "nbds": "nbd", "https": "http", "ftps": "ftp"}


def same_as(location: Location, others: Iterable[str]) -> list[bool]:
    """Return for each of `others`, locations as text, whether it is the image at `location`.

    Files and devices are what their paths lead to. A file on an NFS mount is the server's as well, and a device of the
    kernel's initiator the target's LUN. Servers are one if their names lead to a common address; that is looked up only
    where all else is equal.
    """
    identities: Identities | None = None
    found = []
    for text in others:
        try:
            other = Location.parse(text)[0]
        except BadLocation:  # of another version of Farboot
            found.append(str(location) == text)
            continue
        identities = identities or Identities(Root())
        found.append(_is_one(location, other, identities) or _is_one_by_two_names(location, other, identities))
    return found


def _is_one(one: Location, other: Location, identities: Identities) -> bool:
    if _place(one) == _place(other):
        return True
    if "rbd" in {one.scheme, other.scheme}:  # Ceph itself tells who has an image
        return False
    # Two ports of a host may be two machines behind it; a LUN is the same by every portal.
    if _family(one) == _family(other) and one.scheme != "iscsi" and _port(one) != _port(other):
        return False
    return bool(set(identities.keys(one)) & set(identities.keys(other)))


def _is_one_by_two_names(one: Location, other: Location, identities: Identities) -> bool:
    if _family(one) != _family(other) or not (one.host and other.host) or one.host.lower() == other.host.lower():
        return False
    renamed = replace(other, authority=other.authority.removesuffix(_server(other)) + _server(one))
    if _port(one) != _port(other) or not _is_one(one, renamed, identities):
        return False
    return not _addresses(one).isdisjoint(_addresses(other))


def _server(location: Location) -> str:
    return location.authority.rpartition("@")[2]


def _family(location: Location) -> str:
    return _ONE_FAMILY.get(location.scheme, location.scheme)


def _port(location: Location) -> str:
    """The port, however it was typed; empty for the one that the scheme has anyway."""
    return location.address.rpartition("]")[2].partition(":")[2]


def _addresses(location: Location) -> set[str]:
    """The addresses that a host's name leads to, by ssh's configuration where it is ssh's; the name itself if none."""
    host = location.host
    try:
        if _family(location) == "ssh":
            from probes.ssh.config import resolve

            host = resolve(host).host
        answers = within(_LOOKING_UP, "find", location, lambda: socket.getaddrinfo(host, None))
    except FarbootError:
        return {host.lower()}
    return {str(answer[4][0]) for answer in answers}


def _place(location: Location) -> tuple[object, ...]:
    """What is equal for two locations of one image, whatever options and user they are reached with."""
    if location.scheme in {"file", "host_device"}:
        return _local(location.path)
    if location.scheme == "rbd":
        options = (option for option in location.query.split(":") if option.startswith(("conf=", "mon_host=")))
        return ("rbd", location.names, *sorted(options))
    query = location.query if location.scheme.endswith("+unix") else ""
    scheme = "ssh" if location.scheme == "sftp" else location.scheme
    return (scheme, location.address, location.decoded_path, query)


def _local(path: str) -> tuple[object, ...]:
    whole = os.path.realpath(path)
    try:
        found = os.stat(whole)
    except OSError:
        return (whole,)
    return ("device", found.st_rdev) if stat.S_ISBLK(found.st_mode) else ("file", found.st_dev, found.st_ino)
