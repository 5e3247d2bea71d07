"""Text that came from elsewhere, made safe to show.

Names, banners and error messages are chosen by servers. `clean` makes them harmless to a terminal;
`shell_word` makes them harmless to a shell. Markup is the business of whoever draws: pass the result as
plain text (`rich.text.Text`, `textual.content.Content`), never as a markup string.
"""

import re
import shlex
import unicodedata

_PLAIN_WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")

# Controls, formats (bidirectional overrides, zero-width), surrogates, private use, unassigned, line and paragraph
# separators.
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def clean(text: str, limit: int = 0) -> str:
    r"""Return `text` with every character that a terminal could act on shown as an escape (`\x1b`).

    Undecodable bytes (kept as surrogates by `os.fsdecode`) show as `\xNN`. With `limit` the result is cut
    to that many characters, the last being `…`.
    """
    if not text.isprintable():
        text = "".join(_visible(character) for character in text)
    if limit and len(text) > limit:
        text = text[: limit - 1] + "…"
    return text


def is_clean(text: str) -> bool:
    """Whether `text` can be shown as it stands."""
    return clean(text) == text


def shell_word(text: str) -> str:
    r"""Quote `text` for a POSIX shell, and so that it can be seen: control characters by `$(printf '\033')`.

    (`$'\033'` would be shorter, and dash does not know it.)
    """
    if _PLAIN_WORD.fullmatch(text):
        return text
    if is_clean(text):
        return shlex.quote(text)
    body = text.rstrip("\n")  # which $(…) would drop
    try:
        raw = body.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a UTF-16 pair: no file has such a name, and it can be printed all the same
        raw = body.encode("utf-8", "surrogatepass")
    octal = "".join(chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\%" else f"\\{byte:03o}" for byte in raw)
    newlines = text[len(body) :]
    return f"\"$(printf -- '{octal}')\"" + (f"'{newlines}'" if newlines else "")


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
