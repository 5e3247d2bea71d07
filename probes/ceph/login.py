"""How to log in to a Ceph cluster: what a location's options, the credentials and the configuration say together."""

import base64
import binascii
import configparser
import os
import re
from dataclasses import dataclass

from probes.credentials import Credentials, Secret
from probes.errors import BadLocation, Denied, NotFound
from probes.location import Location

CONF_PLACES = ("/etc/ceph/ceph.conf", "~/.ceph/ceph.conf")
HOW_TO_NAME_IT = "name one with :conf=/path or in CEPH_CONF, or a monitor with :mon_host=address"

# What a location's options may set: where the monitors are and how to log in; nothing that names a plug-in, a
# log or a socket. Tuning that people paste along with QEMU's command lines is understood and left out.
_TAKEN = ("auth_client_required", "auth_supported", "keyring", "mon_host")
_LEFT_OUT = re.compile(
    r"rbd_cache\w*|rbd_default_\w+|client_mount_timeout|rados_(mon|osd)_op_timeout|log_\w+|debug_\w+"
)


@dataclass(frozen=True)
class Login:
    """Who logs in where: the client's id ("admin"), the configuration file (None: there is none), and settings over
    it. Two locations with equal logins share one connection.
    """

    user: str
    conf: str | None
    settings: tuple[tuple[str, str], ...] = ()


def login(location: Location, credentials: Credentials, tried: str) -> Login:
    """Return how the options of `location` (`id`, `conf`, `mon_host`…) and the credentials say to log in.

    Without `conf` it is $CEPH_CONF, else /etc/ceph/ceph.conf, else ~/.ceph/ceph.conf. Raises BadLocation for an
    option that Farboot does not pass on, NotFound where nothing says which cluster is meant.
    """
    options = _options(location, tried)
    user = options.pop("id", None) or credentials.username or "admin"
    if "/" in user or not user.isprintable():
        raise BadLocation(tried, location, "that is no name of a Ceph user", "id=admin means client.admin")
    conf = options.pop("conf", None) or os.environ.get("CEPH_CONF")
    if conf is not None:
        conf = os.path.abspath(os.path.expanduser(conf))
    else:
        places = [os.path.expanduser(place) for place in CONF_PLACES]
        conf = next((place for place in places if os.path.exists(place)), None)
        if conf is None and "mon_host" not in options:
            raise NotFound(tried, location, f"there is no {places[0]}", HOW_TO_NAME_IT)
    return Login(user, conf, tuple(sorted(options.items())))


def _options(location: Location, tried: str) -> dict[str, str]:
    options = {}
    for part in re.findall(r"(?s)((?:\\.|[^:\\])+)", location.query):
        name, _, value = part.partition("=")
        name = _literal(name).strip().replace(" ", "_").replace("-", "_").lower()
        if name in {"id", "conf", *_TAKEN}:
            options[name] = _literal(value)
        elif not _LEFT_OUT.fullmatch(name):
            hint = "it passes on " + ", ".join(("id", "conf", *_TAKEN))
            raise BadLocation(tried, location, f"Farboot does not pass the option {name} to Ceph", hint)
    return options


def _literal(text: str) -> str:
    return re.sub(r"(?s)\\(.)", r"\1", text)


def addresses(text: str) -> list[tuple[str, int]]:
    """Return the hosts and ports in a `mon host` value; the port is 0 where none is said.

    It is a list of hosts, `host:port`, and groups `[v2:host:port/0,v1:host:port/0]`, separated by commas, semicolons
    or blanks; IPv6 addresses stand in brackets.
    """
    found = []
    pattern = r"(?:v[12]:|any:)?(?:\[([0-9A-Fa-f:.%\w]+)\]|([\w.-]+))(?::(\d{1,5}))?(?:/\d+)?(?=[\],;\s]|$)"
    for six, host, port in re.findall(pattern, re.sub(r"\[(?=v[12]:|any:)", " ", text)):
        found.append((six or host, int(port or 0)))
    return found


def checked_key(key: Secret, user: str, tried: str, on: Location) -> str:
    """Return the text of a cephx key. Raises Denied for what cannot be one: librados would only say EINVAL."""
    text = key.reveal().strip()
    try:
        whole = len(base64.b64decode(text, validate=True)) >= 12 + 16
    except (binascii.Error, ValueError):
        whole = False
    if not whole:
        hint = f"`ceph auth print-key client.{user}` prints it"
        raise Denied(tried, on, "that is not a cephx key: it is base64 of 28 bytes or more", hint, wants=("key",))
    return text


def key_in(path: str, user: str) -> str | None:
    """Return the key of client.`user` in the keyring at `path`, or None, also where the file cannot be read."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_string("\n".join(line.strip() for line in file.read(1 << 20).splitlines()))
        return parser.get(f"client.{user}", "key", fallback=None)
    except (OSError, UnicodeDecodeError, configparser.Error):
        return None
