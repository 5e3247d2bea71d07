"""What an iSCSI location names, who logs in, and where: from the text to what libiscsi and QEMU are given.

    iscsi://[user[%password]@]host[:port][/target[/lun]][?initiator=NAME&header_digest=crc32c]

The initiator is this host's own (`/etc/iscsi/initiatorname.iscsi`, as open-iscsi has it), so that a target's access
list that lets the host in lets Farboot in, and its guests, who use the same. A host without one is
`iqn.2008-11.org.linux-kvm:farboot-HOSTNAME`: QEMU's own form, stable, and different on each host.
"""

import ipaddress
import re
import socket
import threading
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl

from probes.credentials import Credentials, Secret
from probes.errors import BadLocation, NotFound, TimedOut, Unreachable, Unsupported
from probes.iscsi.commands import Lun
from probes.iscsi.library import HEADER_DIGESTS
from probes.location import Location

PORT = 3260
INITIATOR_FILE = "/etc/iscsi/initiatorname.iscsi"
_LONGEST_NAME = 223  # bytes (RFC 7143, 4.2.7.1)
_LONGEST_WORD = 255  # characters of a CHAP name or secret: libiscsi cuts the rest off
_NAME = re.compile(r"(?:iqn\.[0-9]{4}-[0-9]{2}\.|eui\.|naa\.)[^\x00-\x20\x7f,]+")
_WHAT_IS_TYPED = "iscsi://host/target/lun, such as iscsi://storage/iqn.2001-04.org.example:disks/1"


@dataclass(frozen=True)
class Place:
    """What a location names: `target` and `lun` are missing above them. `number` is the LUN as it is typed."""

    host: str
    port: int
    target: str = ""
    lun: Lun | None = None


@dataclass(frozen=True)
class Login:
    """Everything that a session is opened with; equal logins can share one. `target` is empty for discovery."""

    host: str
    port: int
    target: str
    initiator: str
    user: str = ""
    password: Secret | None = None
    target_user: str = ""
    target_password: Secret | None = None
    digest: str = ""

    @property
    def is_authenticated(self) -> bool:
        """Whether it proves who it is."""
        return bool(self.user and self.password)


def place_of(location: Location, tried: str) -> Place:
    """Take a location apart. Raises NotFound for what can be no LUN, BadLocation for what can be no target."""
    names = location.names
    if len(names) > 2:
        raise NotFound(tried, location, "nothing lies below a LUN", _WHAT_IS_TYPED)
    place = Place(location.host, location.port or PORT)
    if not names:
        return place
    target = names[0]
    if not re.fullmatch(r"[^\x00-\x20\x7f]+", target) or len(_bytes(target)) > _LONGEST_NAME:
        raise BadLocation(tried, location, "no target has such a name", _WHAT_IS_TYPED)
    place = replace(place, target=target)
    if len(names) == 1:
        return place
    lun = Lun.of(int(names[1])) if re.fullmatch(r"[0-9]{1,5}", names[1]) else None
    if lun is None:
        raise NotFound(tried, location, "a LUN is a number from 0 to 16383", _WHAT_IS_TYPED)
    return replace(place, lun=lun)


def login_of(location: Location, place: Place, credentials: Credentials, tried: str) -> Login:
    """Return who logs in at `place`. Raises BadLocation for options that nobody knows, Unsupported."""
    options = _options(location, credentials, tried)
    initiator = options.get("initiator") or own_initiator()
    if not is_name(initiator):
        raise BadLocation(tried, location, "that is no initiator's name", "one looks like iqn.2001-04.org.example:name")
    user = credentials.username or location.user or ""
    target_user, target_secret = options.get("target_user", ""), options.get("target_password")
    words = [user, credentials.password.reveal() if credentials.password else "", target_user, target_secret or ""]
    if any(len(_bytes(word)) > _LONGEST_WORD or "\0" in word for word in words):
        raise Unsupported(tried, location, f"libiscsi takes no CHAP name or secret of more than {_LONGEST_WORD} bytes")
    return Login(
        place.host,
        place.port,
        place.target,
        initiator,
        user,
        credentials.password,
        target_user,
        Secret(target_secret) if target_secret else None,
        options.get("header_digest", ""),
    )


def own_initiator(file: str = INITIATOR_FILE) -> str:
    """Return this host's initiator name: open-iscsi's where that can be read, else one made of the host's name."""
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines.read(65536).splitlines():
                name, _, value = line.partition("=")
                if name.strip() == "InitiatorName" and is_name(value.strip()):
                    return value.strip()
    except OSError:
        pass  # not there, or for root alone
    host = re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.") or "localhost"
    return f"iqn.2008-11.org.linux-kvm:farboot-{host}"[:_LONGEST_NAME]


def is_name(text: str) -> bool:
    """Whether `text` is the name of an iSCSI node (RFC 7143, 4.2.7): iqn., eui. or naa."""
    return len(_bytes(text)) <= _LONGEST_NAME and bool(_NAME.fullmatch(text))


def portal_text(host: str, port: int) -> str:
    """`host:port` as libiscsi and QEMU take it, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def portal_of(text: str) -> tuple[str, int] | None:
    """Take a TargetAddress apart ("10.0.0.1:3260,1", "[fe80::1]:3260,1", "name"): host and port; None for nonsense."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9][A-Za-z0-9._-]*))(?::([0-9]{1,5}))?(?:,[0-9]*)?", text)
    if match is None or (match[1] and not _is_ipv6(match[1])):
        return None
    port = int(match[3] or PORT)
    return (match[1] or match[2], port) if 0 < port < 65536 else None


def is_wildcard(host: str) -> bool:
    """Whether it is "any address" (0.0.0.0, ::): what some targets tell of themselves."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def addresses(host: str, port: int, deadline: float, tried: str, on: Location) -> list[str]:
    """Return the addresses of `host`, in the order in which the system would try them.

    libiscsi would take the first and wait for the resolver as long as that pleases. Raises Unreachable, TimedOut.
    """
    found: list[str] = []
    failure: list[OSError | UnicodeError] = []

    def ask() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(answer[4][0]) for answer in answers))
        except (OSError, UnicodeError) as error:
            failure.append(error)

    asking = threading.Thread(target=ask, name="resolve", daemon=True)
    asking.start()
    asking.join(deadline)
    if asking.is_alive():
        raise TimedOut(tried, on, f"nobody told the address of {host} in time", "is a name server reachable?")
    if failure or not found:
        why = str(getattr(failure[0], "strerror", None) or failure[0]) if failure else "it has none"
        raise Unreachable(tried, on, f"the address of {host} cannot be found: {why}", "is the name right?")
    return found


def _options(location: Location, credentials: Credentials, tried: str) -> dict[str, str]:
    """The options of a location; its whole query travels with the credentials where one of them is a secret."""
    text = credentials.query.reveal() if credentials.query else location.query
    options = dict(parse_qsl(text, keep_blank_values=True))
    if "iser" in options:
        raise Unsupported(tried, location, "iSER (iSCSI over RDMA) is not spoken here", "leave ?iser out to use TCP")
    unknown = sorted(set(options) - {"initiator", "header_digest", "target_user", "target_password"})
    if unknown:
        raise BadLocation(tried, location, f"nobody knows the option {unknown[0]}", "?initiator= and ?header_digest=")
    if (digest := options.get("header_digest")) is not None and digest not in HEADER_DIGESTS:
        raise BadLocation(tried, location, "no such header_digest", " or ".join(HEADER_DIGESTS))
    return options


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(text), ipaddress.IPv6Address)
    except ValueError:
        return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
