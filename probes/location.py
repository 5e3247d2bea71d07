r"""Where a thing is: the text that QEMU's users type, taken apart and put together again.

    http://h:8000/images/test1.qcow2     nfs://h/export/dir/     rbd:pool/namespace/image@snap:id=admin
    ssh://root@h:22/srv/a.img            iscsi://h:3260/iqn.2001-04.org:x/1     host_device:/dev/sdb
    nbd+unix:///export?socket=/run/s     /srv/images/a.iso       file:///srv/odd%1bname

Cut short, a location is the place to list. One that ends in `/` is a container for sure; one that does not may
be either, and the source's `stat` tells. Parsing splits off whatever is secret at once: a Location never holds a
secret, so it can be stored, shown, logged and put on a command line.

URLs follow RFC 3986; `rbd:` follows QEMU's block/rbd.c, whose `\` makes the next character literal. Names that a
terminal could act on are printed percent-encoded: `rbd://pool/odd%1bname`, `host_device:///dev/odd%1bname`, as
`file://` does for paths.
"""

import ipaddress
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from probes.credentials import Credentials, Secret
from probes.errors import BadLocation
from probes.text import is_clean

URL_SCHEMES = (
    "http", "https", "ftp", "ftps", "tftp", "ssh", "sftp", "nfs", "iscsi",
    "nbd", "nbds", "nbd+unix", "nbds+unix", "gluster", "sheepdog", "sheepdog+unix",
)  # fmt: skip
BARE_SCHEMES = ("rbd", "host_device")
SCHEMES = (*URL_SCHEMES, *BARE_SCHEMES, "file")

# The user is part of the address there; elsewhere (an http token, say) it may be a secret itself.
_ADDRESSED_BY_USER = frozenset({"ssh", "sftp", "ftp", "ftps", "iscsi"})
# Options that hold for everything below a place, too.
_INHERITS_QUERY = frozenset({"rbd", "nfs", "nbd+unix", "nbds+unix", "gluster", "iscsi", "sheepdog+unix"})
# Without a path these mean the server's default export, as QEMU takes them: `nbd://h` is one image, `nbd://h/` all.
_NAMELESS_IMAGE = frozenset({"nbd", "nbds", "nbd+unix", "nbds+unix"})
# There `#` names a snapshot; elsewhere what follows it is none of the server's business.
_HAS_SNAPSHOTS = frozenset({"sheepdog", "sheepdog+unix"})
_SAFE = "/:@+,=~"
# Where a location that names no port leads.
_PORTS = {
    "http": 80, "https": 443, "ftp": 21, "ftps": 990, "tftp": 69, "ssh": 22, "sftp": 22, "nfs": 2049, "iscsi": 3260,
    "nbd": 10809, "nbds": 10809, "gluster": 24007, "sheepdog": 7000,
}  # fmt: skip
_NEVER_QUOTED = re.compile(r"[A-Za-z0-9_.~-]*")  # RFC 3986, section 2.3
_ALREADY_QUOTED = "%!$&'()*;"
_SECRET_NAME = re.compile(
    r"(?i)sig|token|secret|passw|auth|credential|key|session|expires|policy|x-(amz|goog)-|^s[eprtvk]$|^jwt$"
)
# Long random values: mixed case with digits (base64, JWT), or nothing but hex digits. File names are neither.
_TOKEN_LIKE = re.compile(r"(?=.*\d)(?=.*[a-z])(?=.*[A-Z])[A-Za-z0-9_+/%.~-]{24,}|[0-9a-fA-F]{32,}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*):")
_WHAT_IS_TYPED = "type it as QEMU takes it, such as http://host/dir/, rbd:pool/image or /path/to/image"


@dataclass(frozen=True, slots=True)
class Location:
    """A place, as text parts.

    `authority` is `[user@]host[:port]` and empty for `rbd`, `host_device` and `file`. `path` is as printed:
    percent-encoded for URLs, with QEMU's backslashes for `rbd`, literal for `host_device` and `file`. `query` is
    what follows a URL's `?`, or the `key=value:…` options of `rbd`.
    """

    scheme: str
    authority: str = ""
    path: str = ""
    query: str = ""

    @staticmethod
    def parse(text: str) -> tuple["Location", Credentials]:
        """Split `text` into the place and whatever secrets it held. Raises BadLocation.

        A relative path is taken from the current folder.
        """
        text = text.strip() if "://" in text else text
        if not text:
            raise BadLocation("understand", "an empty location", "there is nothing in it", _WHAT_IS_TYPED)
        match = _SCHEME.match(text)
        scheme = match[1].lower() if match else ""
        if match and scheme in {"sheepdog", "sheepdog+tcp"}:
            return _parse_sheepdog(text[match.end() :])
        if match and text[match.end() :].startswith("//") and scheme in URL_SCHEMES:
            return _parse_url(scheme, text[match.end() + 2 :])
        if scheme == "rbd":
            return _parse_rbd(text[4:])
        if scheme == "host_device":
            path = _unquote(text[14:]) if text[12:].startswith("//") else text[12:]
            return Location("host_device", path=_absolute(path) if path else ""), Credentials()
        if scheme == "file":
            return _parse_file(text[5:])
        if match and (text[match.end() :].startswith("//") or scheme in URL_SCHEMES):
            why = "wants // after it" if scheme in SCHEMES else "is not a storage system that Farboot knows"
            raise BadLocation("understand", f"{scheme}:…", f"{scheme}: {why}", _WHAT_IS_TYPED)
        if scheme in {"json", "fat", "blkdebug", "blkverify", "nvme", "vvfat"} and not os.path.exists(text):
            why = "it is a block graph of its own, not a place where an image lies"
            raise BadLocation("understand", f"{scheme}:…", why, _WHAT_IS_TYPED)
        return Location("file", path=_absolute(text)), Credentials()

    def __str__(self) -> str:
        if self.scheme == "file":
            if is_clean(self.path) and "://" not in self.path:
                return self.path
            return "file://" + _quote(self.path)
        if self.scheme in BARE_SCHEMES:
            text = self.path + (f":{self.query}" if self.query else "")
            return f"{self.scheme}:{text}" if is_clean(text) else f"{self.scheme}://{_quote(text)}"
        path, mark, snapshot = self.path.partition("#")  # sheepdog's: elsewhere a path has its `#` encoded
        query = f"?{self.query}" if self.query else ""
        return f"{self.scheme}://{self.authority}{path}{query}{mark}{snapshot}"

    @property
    def names(self) -> tuple[str, ...]:
        """The decoded parts of the path, outermost first, undecodable bytes as surrogates."""
        if self.scheme == "rbd":
            return split_rbd(self.path)
        parts = [part for part in self.path.split("/") if part]
        return tuple(part if self.scheme in {"file", "host_device"} else _unquote(part) for part in parts)

    @property
    def name(self) -> str:
        """The last of `names` (`image@snap` for a snapshot), or the host, or the scheme: what to call the place."""
        names = self.names
        if self.scheme == "rbd" and rbd_parts(self.path)[1] is not None:
            return "".join(names[-2:])
        return names[-1] if names else (self.host or self.scheme)

    @property
    def title(self) -> str:
        """`name`, or more where that alone tells a person nothing: a LUN says of which target."""
        names = self.names
        if self.scheme == "iscsi" and len(names) == 2:
            return f"{names[0].rpartition(':')[2] or names[0]} LUN {names[1]}"
        return self.name

    @property
    def decoded_path(self) -> str:
        """The path as the server's file system spells it, undecodable bytes as surrogates."""
        return self.path if self.scheme in {"file", "host_device", "rbd"} else _unquote(self.path)

    @property
    def user(self) -> str | None:
        """The user of the authority, decoded."""
        user, at, _ = self.authority.rpartition("@")
        return _unquote(user) if at else None

    @property
    def host(self) -> str:
        """The host of the authority, without brackets; an IPv6 zone comes after a plain `%`."""
        return _split_port(self.authority.rpartition("@")[2])[0].replace("%25", "%")

    @property
    def port(self) -> int | None:
        """The port of the authority."""
        port = _split_port(self.authority.rpartition("@")[2])[1]
        return int(port) if port else None

    @property
    def address(self) -> str:
        """The server, `host` or `host:port`, written in one way however it was typed: in small letters, an IPv6 address
        in its shortest form, and without the port that the scheme has anyway. No name is looked up.
        """
        host, port = self.host.lower(), self.port
        with suppress(ValueError):
            host = str(ipaddress.ip_address(host))
        shown = f"[{host}]" if ":" in host else host
        return shown if port in {None, _PORTS.get(self.scheme)} else f"{shown}:{port}"

    @property
    def is_container(self) -> bool:
        """Whether the text alone says that this is a place to list."""
        if self.scheme == "rbd":
            return rbd_parts(self.path)[2]
        if self.scheme in _NAMELESS_IMAGE and not self.path:
            return False
        return self.path.endswith("/") or not self.path.strip("/")

    @property
    def is_snapshot(self) -> bool:
        """Whether it says itself that it is a snapshot of an image (`rbd:pool/image@snap`, `sheepdog://host/vdi#tag`)."""
        if self.scheme == "rbd":
            return rbd_parts(self.path)[1] is not None
        return self.scheme in _HAS_SNAPSHOTS and "#" in self.path

    def child(self, name: str, container: bool = False) -> "Location":
        """The place called `name` (raw) in this one. For URLs and paths; rbd's own are made with `rbd_path`."""
        base = self.path if self.path.endswith("/") else self.path + "/"
        part = name if self.scheme in {"file", "host_device"} else _quote(name, safe=_SAFE.replace("/", ""))
        query = self.query if self.scheme in _INHERITS_QUERY else ""
        # Not by `replace`, which takes as long as all the rest: listings have a hundred thousand of them.
        return Location(self.scheme, self.authority, base + part + ("/" if container else ""), query)

    @property
    def parent(self) -> "Location | None":
        """The place that lists this one, or None at the top of its storage system."""
        if self.scheme == "rbd":
            return _rbd_parent(self)
        if self.scheme == "host_device":
            return replace(self, path="") if self.path else None
        if self.scheme in _NAMELESS_IMAGE:  # whatever slashes an export's name has, it lies in nothing but the server
            return replace(self, path="/") if self.path != "/" else None
        path, mark, _ = self.path.rstrip("/").partition("#")
        if mark:
            return replace(self, path=path)
        if not path:
            return None
        query = self.query if self.scheme in _INHERITS_QUERY else ""
        return replace(self, path=path[: path.rfind("/") + 1], query=query)

    @property
    def root(self) -> "Location":
        """The outermost place that lists this one."""
        place = self
        while (outer := place.parent) is not None:
            place = outer
        return place


def rbd_path(*names: str, namespace: bool = False, snapshot: str | None = None) -> str:
    """The `path` of an rbd Location: pool, namespace and image names (raw), QEMU's specials escaped.

    `namespace` says that the last of two names is a namespace (`pool/namespace/`), not an image.
    """
    path = "/".join(re.sub(r"([\\/@:=])", r"\\\1", name) for name in names)
    if namespace:
        path += "/"
    if snapshot is not None:
        path += "@" + re.sub(r"([\\/@:=])", r"\\\1", snapshot)
    return path


def split_rbd(path: str) -> tuple[str, ...]:
    """The names in an rbd path, unescaped; a snapshot comes last with its `@` before it.

    `pool/image@snap` is `("pool", "image", "@snap")`; `pool/namespace/` is `("pool", "namespace")`.
    """
    names, snapshot, _ = rbd_parts(path)
    return names if snapshot is None else (*names, f"@{snapshot}")


def rbd_parts(path: str) -> tuple[tuple[str, ...], str | None, bool]:
    r"""The names in an rbd path, unescaped; its snapshot, if any; and whether it is a container for sure.

    `pool/namespace/` is `(("pool", "namespace"), None, True)`; `pool/\@x@snap` is `(("pool", "@x"), "snap", False)`.
    """
    names, snapshot, closed = [""], None, True
    for escaped, plain in re.findall(r"(?s)\\(.)|(.)", path):
        closed = plain == "/" and snapshot is None
        if snapshot is not None:
            snapshot += escaped or plain
        elif plain == "@":
            snapshot = ""
        elif closed:
            names.append("")
        else:
            names[-1] += escaped or plain
    found = tuple(name for name in names if name)
    return found, snapshot or None, (closed and not snapshot) or not found


def _rbd_parent(place: Location) -> Location | None:
    names, snapshot, _ = rbd_parts(place.path)
    if not names:
        return None
    outer = names if snapshot is not None else names[:-1]
    return replace(place, path=rbd_path(*outer, namespace=snapshot is None and len(outer) == 2))


def _parse_url(scheme: str, rest: str) -> tuple[Location, Credentials]:
    match = re.fullmatch(r"(?s)([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", rest)
    if match is None:
        raise BadLocation("understand", f"{scheme}://…", "it has no host", _WHAT_IS_TYPED)
    authority, path, query = match[1], match[2], match[3] or ""
    userinfo, _, address = authority.rpartition("@")
    user, password = _split_userinfo(scheme, userinfo)
    address = address.removesuffix(":")
    _check_address(scheme, address)
    credentials = Credentials(
        username=_unquote(user) if user else None,
        password=Secret(_unquote(password)) if password is not None else None,
    )
    if query and _looks_secret(query, by_value=scheme in {"http", "https"}):
        credentials = Credentials(credentials.username, credentials.password, query=Secret(query))
        query = ""
    if user and scheme in _ADDRESSED_BY_USER:
        if scheme == "iscsi" and not is_clean(user):
            raise BadLocation("understand", "iscsi://…", "the user's name has characters that no name has")
        # iSCSI names (iqn.2001-04.org:x) are full of colons, and `%` begins libiscsi's password.
        address = f"{user if scheme == 'iscsi' else _quote(_unquote(user), safe='')}@{address}"
    path = _quote(path, safe=_SAFE + _ALREADY_QUOTED) or ("" if scheme in _NAMELESS_IMAGE else "/")
    if match[4] and scheme in _HAS_SNAPSHOTS:
        path += "#" + _quote(match[4], safe=_SAFE.replace("/", "") + _ALREADY_QUOTED)
    return Location(scheme, address, path, _quote(query, safe=_SAFE + _ALREADY_QUOTED + "?")), credentials


def _split_userinfo(scheme: str, userinfo: str) -> tuple[str, str | None]:
    if scheme == "iscsi" and ("%" in userinfo or userinfo.startswith(("iqn.", "eui.", "naa."))):  # libiscsi's own form
        user, mark, password = userinfo.partition("%")
    else:
        user, mark, password = userinfo.partition(":")
    return user, password if mark else None


def _check_address(scheme: str, address: str) -> None:
    """Raise BadLocation for what cannot be a host and a port. A port is not shown: it may be half a password."""
    host, port = _split_port(address)
    shown = f"{scheme}://{host}"
    if address.startswith("["):
        try:
            ipaddress.IPv6Address(host.replace("%25", "%"))
        except ValueError:
            raise BadLocation("understand", shown, "what is in brackets is not an IPv6 address") from None
        if not re.fullmatch(r"\[[0-9A-Za-z.:%_-]*\](:[0-9]+)?", address):
            raise BadLocation("understand", shown, "only a colon and a port may follow the brackets")
    elif not host and not scheme.endswith("+unix"):
        hint = "an IPv6 address goes into brackets" if address.count(":") > 1 else _WHAT_IS_TYPED
        raise BadLocation("understand", shown, "it names no host", hint)
    elif host.startswith("-") or not (re.fullmatch(r"[A-Za-z0-9._~-]*", host) or _is_idn(host)):
        raise BadLocation("understand", f"{scheme}://…", "the host has characters that no host name has")
    if port and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise BadLocation("understand", shown, "what follows the host's colon is not a port number", "1 to 65535")


def _is_idn(host: str) -> bool:
    return all(character.isalnum() or character in "._-" for character in host)


def _split_port(address: str) -> tuple[str, str]:
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host, port.removeprefix(":")
    host, _, port = address.partition(":")
    return host, port


def _looks_secret(query: str, by_value: bool) -> bool:
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if _SECRET_NAME.search(_unquote(name)) or (by_value and _TOKEN_LIKE.fullmatch(value)):
            return True
    return False


def _parse_rbd(text: str) -> tuple[Location, Credentials]:
    if text.startswith("//"):  # how a location prints that holds what a terminal could act on
        text = _unquote(text[2:])
    parts = re.findall(r"(?s)(?:^|:)((?:\\.|[^:\\])*)", text)
    path, options, key = parts[0] if parts else "", [], None
    for option in parts[1:]:
        name, _, value = option.partition("=")
        # As librados reads names of options: blanks and dashes are underscores, and capitals are small.
        name = re.sub(r"(?s)\\(.)", r"\1", name).strip().replace(" ", "_").replace("-", "_").lower()
        if name == "key":
            key = Secret(re.sub(r"(?s)\\(.)", r"\1", value))
        elif name == "keyfile":
            why = "a key file cannot be named in a location"
            raise BadLocation("understand", "rbd:…:keyfile=…", why, "use id= and a keyring, or --key-file")
        elif option:
            options.append(option)
    if len(rbd_parts(path)[0]) > 3:
        raise BadLocation("understand", f"rbd:{path}", "it has more than pool, namespace and image")
    return Location("rbd", path=path, query=":".join(options)), Credentials(key=key)


def _parse_sheepdog(rest: str) -> tuple[Location, Credentials]:
    """Understand the URL, and the forms before it: `vdi`, `vdi:tag`, `host:port:vdi` and `host:port:vdi:tag`."""
    if rest.startswith("//"):
        text = rest[2:]
        return _parse_url("sheepdog", "localhost" + text if text.startswith("/") else text)
    parts = rest.split(":")
    host, port = (parts[0], parts[1]) if len(parts) > 2 else ("", "")
    name, *snapshot = parts[2:] if len(parts) > 2 else parts
    authority = f"{host or 'localhost'}:{port}" if port else host or "localhost"
    where = _quote(name, safe=_SAFE.replace("/", ""))
    return _parse_url("sheepdog", f"{authority}/{where}" + (f"#{_quote(':'.join(snapshot))}" if snapshot else ""))


def _parse_file(rest: str) -> tuple[Location, Credentials]:
    if not rest.startswith("//"):
        return Location("file", path=_absolute(rest or ".")), Credentials()
    host, slash, path = rest[2:].partition("/")
    if host not in {"", "localhost"}:
        raise BadLocation("understand", f"file://{host}/…", "a file lies on this host", "leave the host out")
    return Location("file", path=_absolute(_unquote(slash + path) or "/")), Credentials()


def _absolute(path: str) -> str:
    if "\0" in path:
        raise BadLocation("understand", path, "no path has a NUL in it")
    if path.startswith("~"):
        path = os.path.expanduser(path)
    slash = "/" if path.endswith(("/", "/.", "/..")) or path in {".", ".."} else ""
    whole = os.path.abspath(path)
    return "/" + whole.strip("/") + (slash if whole.strip("/") else "")  # POSIX keeps two leading slashes, Linux not


def _quote(text: str, safe: str = _SAFE) -> str:
    """Percent-encode, but for what is encoded already where `%` is safe; a `%` that begins no code is encoded."""
    if _NEVER_QUOTED.fullmatch(text):
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a UTF-16 pair, from somebody's JSON
        raw = text.encode("utf-8", "surrogatepass")
    quoted = quote(raw, safe=safe)
    return re.sub(r"%(?![0-9A-Fa-f]{2})", "%25", quoted) if "%" in safe else quoted


def _unquote(text: str) -> str:
    return unquote(text, errors="surrogateescape")
