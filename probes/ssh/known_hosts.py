"""Whose key a server may show: OpenSSH's known_hosts files (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").

A key is believed if a line for the host holds it. A host that has another key of the same kind there has changed:
nobody is asked, for that is what an attack looks like. Certificate authorities (`@cert-authority`) do not count, for
paramiko does not ask servers for certificates.
"""

import base64
import binascii
import fnmatch
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from probes.errors import FarbootError

_LARGEST = 64 << 20


@dataclass(frozen=True)
class Line:
    """One line that is about the host: where it stands, and the key. `marker` is empty, "revoked" or "cert-authority";
    `with_port` says that the line names the very port (or that the port is 22).
    """

    file: str
    number: int
    marker: str
    kind: str
    blob: bytes
    with_port: bool = True

    @property
    def place(self) -> str:
        """`file:number`, as ssh says it."""
        return f"{self.file}:{self.number}"


class Verdict(Enum):
    """What the files say about a key."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key as OpenSSH prints it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def host_names(host: str, port: int, known_as: str = "") -> tuple[str, ...]:
    """Under which names a host stands in the files: the first one is its own, a key under a further one will do."""
    if known_as:
        return (known_as.lower(),)
    host = host.lower()
    return (host,) if port == 22 else (f"[{host}]:{port}", host)


def lines_for(names: Sequence[str], files: Sequence[str]) -> tuple[Line, ...]:
    """Return the lines of `files` about a host of these `names` (`host_names`). A missing file has none.

    Raises FarbootError for one that cannot be read.
    """
    return tuple(line for file in files for line in _lines(names, file))


def judge(kind: str, blob: bytes, lines: Sequence[Line]) -> tuple[Verdict, Line | None]:
    """Say what `lines` make of the key `blob`, and which of them says so. `kind` is the key's type ("ssh-rsa")."""
    for line in lines:
        if line.marker == "revoked" and hmac.compare_digest(line.blob, blob):
            return Verdict.REVOKED, line
    plain = [line for line in lines if not line.marker]
    for line in plain:
        if hmac.compare_digest(line.blob, blob):
            return Verdict.KNOWN, line
    for line in plain:
        if line.kind == kind and line.with_port:
            return Verdict.CHANGED, line
    return Verdict.UNKNOWN, None


def remember_host_key(names: Sequence[str], kind: str, blob: bytes, file: str, hashed: bool = False) -> None:
    """Append the key to the known_hosts `file`, which only its owner may write. Raises FarbootError."""
    name = _hashed(names[0]) if hashed else names[0]
    text = f"{name} {kind} {base64.b64encode(blob).decode()}\n"
    try:
        os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "ab") as known:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                text = "\n" + text
            known.write(text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise FarbootError("write", file, error.strerror or "it failed") from None


def _lines(names: Sequence[str], file: str) -> Iterator[Line]:
    try:
        with open(file, "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):  # /dev/null
                return
            content = opened.read(_LARGEST).decode("utf-8", "surrogateescape")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise FarbootError("read", file, error.strerror or "it failed", "it says which servers to trust") from None
    for number, text in enumerate(content.split("\n"), 1):
        words = text.split()
        marker = words.pop(0)[1:] if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        matched = next((name for name in names if _matches(words[0], name)), None)
        if matched is None:
            continue
        try:
            blob = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        yield Line(file, number, marker, words[1], blob, matched == names[0])


def _matches(field: str, name: str) -> bool:
    if field.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in field[3:].split("|"))
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(hmac.digest(salt, name.encode("utf-8", "surrogateescape"), "sha1"), digest)
    found = False
    for pattern in field.lower().split(","):
        if fnmatch.fnmatchcase(name, _glob(pattern.removeprefix("!"))):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _glob(pattern: str) -> str:
    """A pattern of OpenSSH's, which knows `*` and `?` only, as one of fnmatch's."""
    return pattern.replace("[", "[[]")


def _hashed(name: str) -> str:
    salt = secrets.token_bytes(20)
    digest = hmac.digest(salt, name.encode("utf-8", "surrogateescape"), "sha1")
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"
