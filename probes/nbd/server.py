"""What an NBD location names: a server, how to speak to it, and one of its exports.

`nbd://host[:port]/export`, `nbd+unix:///export?socket=/path`, and `nbds` for both with TLS, as QEMU and the NBD URI
specification (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md) have them. A path of nothing but a
slash is the list of the exports, no path at all the export without a name.
"""

from dataclasses import dataclass
from urllib.parse import unquote

from probes.errors import BadLocation
from probes.location import Location

PORT = 10809
_LONGEST_SOCKET = 107  # bytes; the kernel's own limit
_LONGEST_NAME = 4096  # bytes, by the protocol


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens: `host` and `port`, or the path of a Unix `socket`. `tls` says that it must be TLS."""

    host: str = ""
    port: int = PORT
    socket: str = ""
    tls: bool = False

    @property
    def shown(self) -> str:
        """As a person reads it in an error."""
        return f"the socket {self.socket}" if self.socket else f"{self.host} port {self.port}"


def server_of(location: Location, tried: str) -> Server:
    """Return the server that `location` names. Raises BadLocation."""
    tls = location.scheme.startswith("nbds")
    if not location.scheme.endswith("+unix"):
        return Server(location.host, location.port or PORT, tls=tls)
    options = dict(pair.partition("=")[::2] for pair in location.query.split("&"))
    socket = unquote(options.get("socket", ""), errors="surrogateescape")
    if not socket.startswith("/") or "\0" in socket:
        hint = f"{location.scheme}:///?socket=/path/of/the/socket"
        raise BadLocation(tried, location, "it names no socket by its absolute path", hint)
    if len(_raw(socket)) > _LONGEST_SOCKET:
        raise BadLocation(tried, location, f"the path of a socket cannot be longer than {_LONGEST_SOCKET} bytes")
    return Server(socket=socket, tls=tls)


def export_of(location: Location) -> bytes | None:
    """Return the name of the export that `location` names, None for the list of them all."""
    if location.path == "/":
        return None
    return _raw(unquote(location.path.removeprefix("/"), errors="surrogateescape"))


def place_of(name: bytes, location: Location) -> Location:
    """Return where the export `name` is, on the server that `location` names."""
    top = Location(location.scheme, location.authority, "/", location.query)
    return top.child(text(name)) if name else Location(top.scheme, top.authority, "", top.query)


def is_possible(name: bytes) -> bool:
    """Whether an export can have this name at all."""
    return len(name) <= _LONGEST_NAME and b"\0" not in name


def text(name: bytes) -> str:
    """A name as text, undecodable bytes as surrogates."""
    return name.decode("utf-8", "surrogateescape")


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
