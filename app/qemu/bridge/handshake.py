"""The beginning of a conversation in NBD: fixed newstyle negotiation without TLS, of one export named ""."""

import struct

from app.qemu.bridge.wire import Gone, Wire

LONGEST = 32 << 20
"""Bytes that one request may ask for or bring: what the protocol lets a client assume."""
PREFERRED = 4096
SEND_DF = 1 << 7

_GREETING = struct.pack(">8s8sH", b"NBDMAGIC", b"IHAVEOPT", 0b11)  # fixed newstyle, no zeroes
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_OPTION_REPLY_MAGIC = 0x0003E889045565A9
_LONGEST_OPTION = 8192

_OPT_EXPORT_NAME, _OPT_ABORT, _OPT_LIST, _OPT_INFO, _OPT_GO, _OPT_STRUCTURED_REPLY = 1, 2, 3, 6, 7, 8
_REP_ACK, _REP_SERVER, _REP_INFO = 1, 2, 3
_REP_ERR_UNSUP, _REP_ERR_INVALID, _REP_ERR_UNKNOWN = 0x80000001, 0x80000003, 0x80000006
_INFO_EXPORT, _INFO_BLOCK_SIZE = 0, 3


async def negotiate(wire: Wire, size: int, export_flags: int) -> bool:
    """Answer options until the client enters transmission; return whether it wants structured replies.

    `export_flags` are the transmission flags of the export, of which `SEND_DF` is ours to add. Raises Gone when it
    enters nothing.
    """
    await wire.send(_GREETING)
    flags = int.from_bytes(await wire.take(4), "big")
    if flags & ~0b11:
        raise Gone
    structured = False
    while True:
        magic, option, length = _OPTION.unpack(await wire.take(_OPTION.size))
        if magic != b"IHAVEOPT" or length > _LONGEST_OPTION:
            raise Gone
        data = await wire.take(length)
        export = struct.pack(">QH", size, export_flags | (SEND_DF if structured else 0))
        if option == _OPT_EXPORT_NAME:
            if data:
                raise Gone  # the only way in which this option can say that there is no such export
            await wire.send(export, b"" if flags & 0b10 else bytes(124))
            return structured
        replies = _option_replies(option, data, export)
        for kind, reply in replies:
            await wire.send(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(reply)), reply)
        accepted = replies[-1][0] == _REP_ACK
        if option == _OPT_ABORT:
            raise Gone
        if option == _OPT_GO and accepted:
            return structured
        structured = structured or (option == _OPT_STRUCTURED_REPLY and accepted)


def _option_replies(option: int, data: bytes, export: bytes) -> list[tuple[int, bytes]]:
    """Return the replies to one option, as (type, data); `export` is our size and flags."""
    if option == _OPT_ABORT:
        return [(_REP_ACK, b"")]
    if option == _OPT_STRUCTURED_REPLY:
        return [(_REP_ERR_INVALID if data else _REP_ACK, b"")]
    if option == _OPT_LIST:
        return [(_REP_ERR_INVALID, b"")] if data else [(_REP_SERVER, bytes(4)), (_REP_ACK, b"")]
    if option not in (_OPT_INFO, _OPT_GO):
        return [(_REP_ERR_UNSUP, b"")]
    name_length = int.from_bytes(data[:4], "big")
    wishes = data[4 + name_length :]
    if len(wishes) < 2 or len(wishes) != 2 + 2 * int.from_bytes(wishes[:2], "big"):
        return [(_REP_ERR_INVALID, b"")]
    if name_length:
        return [(_REP_ERR_UNKNOWN, b"")]
    return [
        (_REP_INFO, struct.pack(">H", _INFO_EXPORT) + export),
        (_REP_INFO, struct.pack(">HIII", _INFO_BLOCK_SIZE, 1, PREFERRED, LONGEST)),
        (_REP_ACK, b""),
    ]
