"""What a text on a TFTP server names: TFTP lists nothing, but boot menus and plain lists say what lies there.

Read are: pxelinux configurations (syslinux's config.txt), iPXE scripts, GRUB configurations, and, for all else, lists
of one name a line. They are read for the files that they name, not carried out: what depends on variables other than
those set in the file itself is left out.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LARGEST = 1 << 20
"""Bytes of a text that is still read for names."""
MOST_NAMES = 100_000

_LONGEST_NAME = 1000
_LONGEST_LINE = 4096
# Within a line each, so that no text takes longer than its length: the server may mean harm.
_PXELINUX = re.compile(r"(?im)^[ \t]*(label|kernel|append|initrd|default|menu|ui|com32|include)[ \t]+\S")
_GRUB = re.compile(r"(?m)^[ \t]*(?:(?:menuentry|submenu)\b.*\{|set \w+=)")
_GRUB_LINUX = re.compile(r"(?m)^[ \t]*linux(?:16|efi)?[ \t]+\S")
_GRUB_END = re.compile(r"(?m)^[ \t]*\}")
_IPXE_OPTION = re.compile(r"\s(?:--?(?:name|n|timeout|t)\s+\S+|--\S+)(?=\s|$)")
_INITRD = re.compile(r"(?i)(?:^|\s)(?:initrd|iso|fetch|iso-url|url|filename)=(\S+)")


@dataclass(frozen=True, slots=True)
class Named:
    """A file that the text names. `path` is as written there: a URL, a path from the server's folder (with a `/`), or
    one beside the text. `is_index` says that it is such a text itself, `note` what the text calls it.
    """

    path: str
    note: str = ""
    is_index: bool = False


def names_in(text: str) -> Iterator[Named]:
    """What `text` names, in its order, each once."""
    seen = set()
    reader = _reader(text)
    for named in reader(text):
        if reader is not _plain and "$" in named.path:  # a variable that is set elsewhere
            continue
        if named.path and len(named.path) <= _LONGEST_NAME and named.path not in seen:
            seen.add(named.path)
            yield named
            if len(seen) >= MOST_NAMES:
                return


def is_pxelinux(text: str) -> bool:
    """Whether it is a pxelinux configuration: its paths are from pxelinux's folder, not from the configuration's."""
    return _reader(text) is _pxelinux


def is_text(data: bytes) -> bool:
    """Whether it can be such a text at all."""
    return b"\0" not in data and sum(byte < 32 and byte not in b"\t\r\n\x1b\x07" for byte in data[:4096]) == 0


def _reader(text: str) -> Callable[[str], Iterator[Named]]:
    if text.lstrip("\ufeff").startswith("#!ipxe"):
        return _ipxe
    linux = _GRUB_LINUX.search(text)
    if _GRUB.search(text) or (linux and _GRUB_END.search(text, linux.end())):
        return _grub
    return _pxelinux if _PXELINUX.search(text) else _plain


def _plain(text: str) -> Iterator[Named]:
    for line in text.split("\n"):
        name = line.rstrip("\r")
        if name.strip() and not name.startswith("#"):
            yield Named(name.rstrip("/"), is_index=name.endswith("/"))


def _pxelinux(text: str) -> Iterator[Named]:
    label = ""
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        word, rest = word.lower(), rest.strip()
        first = rest.split()[0] if rest.split() else ""
        if word == "label":
            label = rest
        elif word == "menu" and first.lower() == "label":
            label = rest[len(first) :].replace("^", "").strip()
        elif word == "menu" and first.lower() == "include":
            yield Named(_pxe_path(rest.split()[1]) if len(rest.split()) > 1 else "", is_index=True)
        elif word in {"kernel", "linux", "boot", "bss", "pxe", "fdimage", "com32"}:
            yield Named(_pxe_path(first), label)
        elif word == "initrd":
            yield from (Named(_pxe_path(name), label) for name in first.split(","))
        elif word in {"config", "include"}:
            yield Named(_pxe_path(first), label, is_index=True)
        elif word in {"append", "ipappend"}:
            for match in _INITRD.finditer(rest):
                yield from (Named(_pxe_path(name), label) for name in match[1].split(","))


def _pxe_path(path: str) -> str:
    """What pxelinux takes `::path` (from the server's root) and `host::path` (on another server) for."""
    host, mark, rest = path.partition("::")
    if not mark:
        return path
    return f"tftp://{host}/{rest.lstrip('/')}" if host else f"/{rest.lstrip('/')}"


def _ipxe(text: str) -> Iterator[Named]:
    variables: dict[str, str] = {}
    label = ""
    for line in text.splitlines():
        words = _expanded(line.strip(), variables).split()
        if not words:
            continue
        command, *rest = _IPXE_OPTION.sub(" ", " ".join(words)).split() or [""]
        if command.startswith(":"):
            label = command[1:]
        elif command == "set" and len(rest) > 1:
            variables[rest[0]] = " ".join(rest[1:])
        elif command in {"kernel", "initrd", "module", "imgfetch", "sanboot", "boot", "imgselect"} and rest:
            yield Named(rest[0], label)
        elif command == "chain" and rest:
            yield Named(rest[0], label, is_index=rest[0].endswith((".ipxe", ".cfg")))


def _expanded(line: str, variables: dict[str, str]) -> str:
    return re.sub(
        r"\$\{([\w/:-]+)\}", lambda match: variables.get(match[1], match[0])[:_LONGEST_NAME], line[:_LONGEST_LINE]
    )[:_LONGEST_LINE]


def _grub(text: str) -> Iterator[Named]:
    label = ""
    variables: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        if match := re.match(r"(?:menuentry|submenu)\s+(?:\"([^\"]*)\"|'([^']*)'|(\S+))", line):
            label = next(group for group in match.groups() if group is not None)
        elif match := re.match(r"set\s+(\w+)=[\"']?([^\"'\s]*)", line):
            variables[match[1]] = match[2]
        else:
            plain = re.sub(r"\$\{?(\w+)\}?", lambda m: variables.get(m[1], m[0])[:_LONGEST_NAME], line[:_LONGEST_LINE])
            words = [word.strip("\"'") for word in plain[:_LONGEST_LINE].split() if not word.startswith("--")]
            if not words:
                continue
            if words[0] in {"linux", "linux16", "linuxefi", "chainloader", "multiboot", "multiboot2", "kernel"}:
                yield from (Named(_grub_path(word), label) for word in words[1:2])
                yield from (Named(_grub_path(match[1]), label) for match in _INITRD.finditer(" ".join(words[2:])))
            elif words[0] in {"initrd", "initrd16", "initrdefi"}:
                yield from (Named(_grub_path(word), label) for word in words[1:])
            elif words[0] == "loopback" and len(words) > 2:
                yield Named(_grub_path(words[2]), label)
            elif words[0] in {"configfile", "source", "."} and len(words) > 1:
                yield Named(_grub_path(words[1]), label, is_index=True)


def _grub_path(path: str) -> str:
    """`(tftp,host)/path` and `(http,host)/path` name a server; `(pxe)/path` is this one's, as is `($root)/path`."""
    match = re.match(r"\((?:(tftp|http|https),([^)]*)|[^)]*)\)(.*)", path)
    if match is None:
        return path
    return f"{match[1]}://{match[2]}{match[3]}" if match[1] else match[3]
