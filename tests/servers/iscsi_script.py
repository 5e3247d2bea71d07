"""A small iSCSI portal that says whatever a test wants: what no real target would, or what none at hand can.

tgtd tells one portal, sends nobody elsewhere, refuses odd names, and tells the truth. This one speaks just enough of
RFC 7143: logins, SendTargets, commands without data going out.
"""

import socket
import struct
from collections.abc import Callable, Mapping

from tests.servers.faults import Listener

Reply = tuple[int, bytes]
"""A command's status and its data, or its sense data with CHECK CONDITION."""

LOGIN, TEXT, LOGOUT, COMMAND = 0x03, 0x04, 0x06, 0x01
INQUIRY, REPORT_LUNS, CAPACITY_16, CAPACITY_10, READ_10 = 0x12, 0xA0, 0x9E, 0x25, 0x28
GOOD, CHECK_CONDITION = 0, 2


def sense(key: int, code: int) -> Reply:
    """The reply of a command that failed: fixed format (SPC-4, 4.5.3)."""
    return CHECK_CONDITION, struct.pack(">BxBxxxxBxxxxHxxxx", 0x70, key, 10, code)


def inquiry(kind: int = 0, vendor: bytes = b"ACME", product: bytes = b"DISK") -> Reply:
    """Standard INQUIRY data; `kind` is the whole first byte."""
    return GOOD, bytes([kind, 0, 5, 2, 31, 0, 0, 0]) + vendor.ljust(8) + product.ljust(16) + b"1.0 "


def luns(*eights: int, claimed: int | None = None) -> Reply:
    """A REPORT LUNS answer with these 64-bit numbers, claiming to have so many."""
    count = len(eights) if claimed is None else claimed
    return GOOD, struct.pack(">IxxxxQ", 8 * count & 0xFFFFFFFF, *eights[:1]) + b"".join(
        struct.pack(">Q", eight) for eight in eights[1:]
    )


def capacity(blocks: int, block: int) -> Reply:
    """A READ CAPACITY(16) answer."""
    return GOOD, struct.pack(">QI20x", blocks - 1, block)


class ScriptedPortal(Listener):
    """Answers `commands[operation code]`, or what it returns for the CDB; logins with `login` (status, text); and
    SendTargets with `targets`, one key a line. `raw` is sent in place of every answer to a command.
    """

    def __init__(
        self,
        targets: str = "",
        login: tuple[int, str] = (0, ""),
        commands: Mapping[int, Reply | Callable[[bytes], Reply]] | None = None,
        raw: bytes = b"",
    ) -> None:
        self.targets = targets
        self.login = login
        self.commands = dict(commands or {})
        self.raw = raw
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        number = 0
        while (header := _exactly(client, 48)) is not None:
            length = int.from_bytes(header[5:8], "big")
            _exactly(client, length + -length % 4)
            number += 1
            client.sendall(self._answer(header, number))

    def _answer(self, header: bytes, number: int) -> bytes:
        kind = header[0] & 0x3F
        if kind == LOGIN:
            status, text = self.login
            text = f"HeaderDigest=None\n{text}"  # libiscsi takes silence for a yes to digests
            return _pdu(0x23, header[1], header, number, _keys(text), {36: struct.pack(">H", status), 8: header[8:14]})
        if kind == TEXT:
            return _pdu(0x24, 0x80, header, number, _keys(self.targets), {20: b"\xff" * 4})
        if kind == LOGOUT:
            return _pdu(0x26, 0x80, header, number)
        if self.raw:
            return self.raw
        found = self.commands.get(header[32], sense(5, 0x2000))
        status, data = found(header[32:48]) if callable(found) else found
        if status == GOOD and data:
            room = int.from_bytes(header[20:24], "big")
            left = {44: struct.pack(">I", max(0, room - len(data))), 20: b"\xff" * 4}
            return _pdu(0x25, 0x81 | (0x02 if len(data) < room else 0), header, number, data[:room], left)
        body = struct.pack(">H", len(data)) + data if data else b""
        return _pdu(0x21, 0x80, header, number, body, {3: bytes([status])})


def _keys(text: str) -> bytes:
    return b"".join(line.encode("utf-8", "surrogateescape") + b"\0" for line in text.splitlines())


def _pdu(
    kind: int, flags: int, request: bytes, number: int, data: bytes = b"", more: Mapping[int, bytes] | None = None
) -> bytes:
    header = bytearray(48)
    header[0], header[1] = kind, flags
    header[5:8] = len(data).to_bytes(3, "big")
    header[16:20] = request[16:20]
    # The initiator counts its commands from where it likes; immediate ones are not counted.
    following = int.from_bytes(request[24:28], "big") + (0 if request[0] & 0x40 else 1)
    header[24:36] = struct.pack(">III", number, following & 0xFFFFFFFF, following + 64 & 0xFFFFFFFF)
    for at, value in (more or {}).items():
        header[at : at + len(value)] = value
    return bytes(header) + data + bytes(-len(data) % 4)


def _exactly(client: socket.socket, length: int) -> bytes | None:
    data = client.recv(length, socket.MSG_WAITALL) if length else b""
    return data if len(data) == length else None
