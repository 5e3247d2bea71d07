"""From a location to the path that is asked for, as curl does it, so that QEMU's driver opens the same file.

`ftp://h/dir/a` is `dir/a` in the folder that the login begins in; `ftp://h//dir/a` and `ftp://h/%2Fdir/a` are `/dir/a`
(RFC 1738, 3.2.2). A `;type=i` at the end is not part of the name.
"""

import re
from urllib.parse import unquote

from probes.errors import BadLocation
from probes.location import Location


def path_in(location: Location) -> str:
    """The path that is meant, undecodable bytes as surrogates: absolute, or from the login's folder; "" for that.

    Raises BadLocation for one that no command can hold.
    """
    text = location.path[1:] + (f"?{location.query}" if location.query else "")
    path = unquote(re.sub(r";type=[aidAID]$", "", text), errors="surrogateescape")
    if any(character in path for character in "\r\n\0"):
        why = "FTP's commands are lines of text, and its name has a line break or a NUL"
        raise BadLocation("ask for", location, why)
    return path


def absolute(path: str, home: str) -> str:
    """The same from the server's root, given the login's folder; unchanged where that is not known."""
    if path.startswith("/") or not home:
        return path
    return f"{home.rstrip('/')}/{path}"


def url_of(location: Location) -> str:
    """The URL for curl, without the user, and with what it would take for something else encoded."""
    authority = location.authority.rpartition("@")[2]
    path = re.sub(r";type=[aidAID]$", "", location.path).replace(";", "%3B")
    query = f"%3F{location.query.replace(';', '%3B')}" if location.query else ""
    return f"{location.scheme}://{authority}{path}{query}"
