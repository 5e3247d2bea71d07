"""Fields of a header: numbers and texts out of bytes that nobody vouches for.

Whatever lies past the end reads as zeros, so a short or mangled header gives odd values to judge, never an exception.
"""

import uuid


def little(data: bytes, offset: int, width: int) -> int:
    """Return the little-endian unsigned number of `width` bytes at `offset`."""
    return int.from_bytes(data[offset : offset + width], "little")


def big(data: bytes, offset: int, width: int) -> int:
    """Return the big-endian unsigned number of `width` bytes at `offset`."""
    return int.from_bytes(data[offset : offset + width].ljust(width, b"\0"), "big")


def text(data: bytes, offset: int, width: int, encoding: str = "utf-8") -> str:
    """Return the text in `width` bytes at `offset`: up to its first NUL, without the blanks that pad it.

    Bytes that are not of the encoding become U+FFFD. It is not cleaned.
    """
    decoded = data[offset : offset + width].decode(encoding, "replace")
    return decoded.partition("\0")[0].strip(" ")


def uuid_text(data: bytes, offset: int) -> str:
    """Return the UUID of 16 bytes at `offset` as Linux prints it, or nothing if it is all zeros."""
    raw = data[offset : offset + 16]
    return str(uuid.UUID(bytes=raw)) if len(raw) == 16 and any(raw) else ""


def guid_text(data: bytes, offset: int) -> str:
    """Return the GUID (first three fields little-endian) of 16 bytes at `offset`, or nothing if it is all zeros."""
    raw = data[offset : offset + 16]
    return str(uuid.UUID(bytes_le=raw)) if len(raw) == 16 and any(raw) else ""
