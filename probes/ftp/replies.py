"""What a server says on the control connection: its replies, as the family's errors (RFC 959, 2228, 3659, 4217)."""

import re
from dataclasses import dataclass

from probes.entry import Kind
from probes.errors import BadAnswer, Denied, FarbootError, NotFound, Unreachable, Unsupported
from probes.network.call import Call

WANTS = ("username", "password")

_LONGEST = 300  # characters of a reply that are repeated to a person
_TLS_WORDS = re.compile(r"(?i)\b(ssl|tls|encrypt\w*|cleartext|secure|AUTH first)\b")
_DENIED_WORDS = re.compile(r"(?i)permission|denied|not (?:permitted|allowed)|forbidden|privilege")
_FULL_WORDS = re.compile(r"(?i)too many|maximum|limit|connections|busy")


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: its code and its text, which may have several lines."""

    code: int
    text: str

    @property
    def is_done(self) -> bool:
        """It was done."""
        return 200 <= self.code < 300

    @property
    def is_unknown(self) -> bool:
        """The server does not know the command, or not these arguments of it."""
        return self.code in {500, 501, 502, 503, 504, 522}

    @property
    def wants_tls(self) -> bool:
        """Whether it says that this is to be had over TLS only."""
        return self.code in {421, 503, 521, 522, 530, 534, 550} and bool(_TLS_WORDS.search(self.text))

    @property
    def is_full(self) -> bool:
        """Whether the server has as many clients, or as many from here, as it takes."""
        return self.code == 421 or (self.code == 530 and bool(_FULL_WORDS.search(self.text)))

    def quoted(self, secrets: tuple[str, ...] = ()) -> str:
        """The server's own words for a person, bounded, and without what it may have been told."""
        text = " ".join(self.text.split())[:_LONGEST]
        return "" if any(secret and secret in self.text for secret in secrets) else text


def login_error(call: Call, reply: Reply, user: str, had_password: bool) -> FarbootError:
    """What a refused greeting, USER or PASS means. The server's words about a password are not repeated."""
    if reply.wants_tls:
        return needs_tls(call)
    if reply.is_full:
        return Unreachable(call.tried, call.on, "the server takes no more connections", "try again later")
    if reply.code == 530 or reply.code in {331, 332, 430, 532}:
        if had_password:
            return Denied(call.tried, call.on, "the user name or the password is wrong", wants=WANTS)
        if user == "anonymous":
            return Denied(call.tried, call.on, "it wants a user name and a password", wants=WANTS)
        return Denied(call.tried, call.on, f"{user} needs a password", wants=WANTS)
    if 400 <= reply.code < 500:
        return Unreachable(call.tried, call.on, f"the server says {reply.code}", "try again later")
    return Denied(call.tried, call.on, f"the server does not let us in ({reply.code})", wants=WANTS)


def needs_tls(call: Call) -> Denied:
    """A plain ftp:// was typed, and the server wants TLS."""
    hint = "type ftps:// instead of ftp://"
    return Denied(call.tried, call.on, "the server wants an encrypted connection", hint)


def reply_error(call: Call, reply: Reply, secrets: tuple[str, ...] = (), kind: Kind = Kind.OTHER) -> FarbootError:
    """What a refused command about a file or a folder means."""
    said = reply.quoted(secrets)
    words = f': "{said}"' if said else ""
    if reply.wants_tls:
        return needs_tls(call)
    if reply.code == 530:
        return Denied(call.tried, call.on, f"the server wants a login{words}", wants=WANTS)
    if reply.code in {550, 553, 450, 501}:
        if _DENIED_WORDS.search(reply.text):
            hint = "its owner can change its mode, or name a user who may read it"
            return Denied(call.tried, call.on, f"the server does not give it to us{words}", hint)
        what = "folder" if kind is Kind.CONTAINER else "file"
        return NotFound(call.tried, call.on, f"there is no such {what}, or it may not be read{words}")
    if 400 <= reply.code < 500:
        hint = "the data connection is one more, to a port that the server picks: a firewall may forbid it"
        why = f"the server says {reply.code}{words}"
        return Unreachable(call.tried, call.on, why, hint if reply.code == 425 else "")
    if reply.is_unknown:
        return Unsupported(call.tried, call.on, f"the server does not understand what was asked ({reply.code}){words}")
    return BadAnswer(call.tried, call.on, f"the server says {reply.code}{words}")


def passive_port(call: Call, reply: Reply) -> int:
    """The port of a 229 (RFC 2428) or a 227; the address in a 227 is not believed. Raises BadAnswer."""
    if reply.code == 229:
        match = re.search(r"\(([\x21-\x7e])\1\1(\d{1,5})\1\)", reply.text)
        port = int(match[2]) if match else 0
    else:
        match = re.search(r"(\d{1,3},){4}(\d{1,3}),(\d{1,3})", reply.text)
        port = int(match[2]) * 256 + int(match[3]) if match else 0
    if not 0 < port < 65536:
        raise BadAnswer(call.tried, call.on, "the server names no port for the data")
    return port


def size_in(reply: Reply) -> int | None:
    """The size that a 213 tells."""
    match = re.fullmatch(r"\s*(\d{1,19})\s*", reply.text)
    return int(match[1]) if match else None


def stamp_in(reply: Reply) -> str:
    """The time stamp that the 213 of an MDTM tells, or "" for what is none."""
    match = re.fullmatch(r"\s*(\d{14}(?:\.\d{1,9})?)\s*", reply.text)
    return match[1] if match else ""


def working_folder(reply: Reply) -> str:
    """The path in a 257, whose quotes are doubled (RFC 959); "" where there is none."""
    match = re.search(r'"((?:[^"]|"")*)"', reply.text)
    path = match[1].replace('""', '"') if match else ""
    return path if path.startswith("/") else ""
