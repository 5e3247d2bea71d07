"""TFTP's packets (RFC 1350), with options (2347): blksize (2348), timeout and tsize (2349), windowsize (7440)."""

from collections.abc import Mapping
from dataclasses import dataclass

BLOCK = 512
"""Bytes of a block where nothing else was agreed on."""
LARGEST_BLOCK = 65464

_RRQ, _DATA, _ACK, _ERROR, _OACK = 1, 3, 4, 5, 6

UNDEFINED, NOT_FOUND, DENIED, ILLEGAL, UNKNOWN_TID, OPTIONS_REFUSED = 0, 1, 2, 4, 5, 8
"""Codes of an ERROR."""


@dataclass(frozen=True, slots=True)
class Data:
    """A block; `number` counts from 1, modulo 65536."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Error:
    """The end of a transfer."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class OptionAck:
    """The options that the server agrees to, names in lower case."""

    options: Mapping[str, str]


Packet = Data | Error | OptionAck


def read_request(name: bytes, options: Mapping[str, int]) -> bytes:
    """Ask for the file `name`, as octets."""
    asked = b"".join(b"%s\0%d\0" % (option.encode("ascii"), value) for option, value in options.items())
    return _RRQ.to_bytes(2, "big") + name + b"\0octet\0" + asked


def ack(number: int) -> bytes:
    """Say that every block up to `number` has come; 0 agrees to the options."""
    return _ACK.to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big")


def error(code: int, text: str) -> bytes:
    """End the transfer."""
    return _ERROR.to_bytes(2, "big") + code.to_bytes(2, "big") + text.encode("ascii") + b"\0"


def parse(packet: bytes) -> Packet | None:
    """The packet that a server sent; None for anything that it has no business to send."""
    code, number = int.from_bytes(packet[:2], "big"), packet[2:4]
    if len(packet) < 4:
        return None
    if code == _DATA:
        return Data(int.from_bytes(number, "big"), packet[4:])
    if code == _ERROR:
        return Error(int.from_bytes(number, "big"), packet[4:].split(b"\0")[0].decode("utf-8", "replace")[:300])
    if code == _OACK:
        words = [word.decode("ascii", "replace") for word in packet[2:].split(b"\0")[:-1]]
        if len(words) % 2:
            return None
        return OptionAck({name.lower(): value for name, value in zip(words[::2], words[1::2], strict=True)})
    return None
