"""The hosts that ~/.ssh/config names (ssh_config(5)): those of `Host` lines, not patterns; `Include` is followed."""

import shlex
from collections.abc import Iterator

from probes.known.found import Found, url
from probes.known.root import Root

CONFIGURATION = "~/.ssh/config"
_DEEPEST = 8
_MOST = 2000


def find(root: Root) -> list[Found]:
    """One place for each name. ssh itself says later which host, port and user the name stands for."""
    hosts: dict[str, bool] = {}
    for names, user in blocks(root):
        for name in names:
            hosts.setdefault(name, user == "git")  # a forge: it has no files to list
            if len(hosts) >= _MOST:
                break
    places = ((name, url("ssh", name, "/")) for name, is_forge in hosts.items() if not is_forge)
    return [Found(name, place, CONFIGURATION) for name, place in places if place is not None]


def blocks(root: Root) -> Iterator[tuple[list[str], str]]:
    """The names of each `Host` line, patterns left out, and the block's `User`."""
    names: list[str] = []
    user = ""
    for keyword, values in _lines(root, CONFIGURATION, 0):
        if keyword in {"host", "match"}:
            yield names, user
            names = [value for value in values if not set(value) & set("*?!")] if keyword == "host" else []
            user = ""
        elif keyword == "user" and values and not user:
            user = values[0]
    yield names, user


def _lines(root: Root, path: str, depth: int) -> Iterator[tuple[str, list[str]]]:
    for line in root.read(path).splitlines():
        keyword, values = _split(line)
        if keyword == "include" and depth < _DEEPEST:
            for pattern in values:
                whole = pattern if pattern.startswith(("/", "~/")) else f"~/.ssh/{pattern}"
                for included in root.files(whole)[:100]:
                    yield from _lines(root, included, depth + 1)
        elif keyword:
            yield keyword, values


def _split(line: str) -> tuple[str, list[str]]:
    """A line's keyword in lower case, and its values: `Host a "b c"`, `Host=a`."""
    try:
        words = shlex.split(line.replace("=", " ", 1) if "=" in line.split(" ", 1)[0] else line, comments=True)
    except ValueError:  # quotes that do not end
        return "", []
    values = words[1:] if words[1:2] != ["="] else words[2:]
    return (words[0].lower(), values) if words else ("", [])
