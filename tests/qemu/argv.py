"""QEMU's argv, taken apart as QEMU does it."""

import json
import re
from collections.abc import Sequence
from typing import Any


def option_names(argv: Sequence[str]) -> list[str]:
    """The words that QEMU takes for options: every second one here, but for those without a value."""
    names, rest = [], list(argv[1:])
    while rest:
        name = rest.pop(0)
        assert name.startswith("-"), f"{name!r} stands where an option should"
        names.append(name)
        if name not in {"-nodefaults", "-no-user-config", "-S"}:
            rest.pop(0)
    return names


def values_of(argv: Sequence[str], option: str) -> list[str]:
    """The values of every `option`, in order."""
    return [argv[index + 1] for index, word in enumerate(argv) if word == option]


def value_of(argv: Sequence[str], option: str) -> str:
    """The value of the one `option`."""
    (value,) = values_of(argv, option)
    return value


def nodes(argv: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The nodes of all `-blockdev` by their names, in order."""
    read = [json.loads(value) for value in values_of(argv, "-blockdev")]
    assert len({node["node-name"] for node in read}) == len(read), "a node name is taken twice"
    return {node["node-name"]: node for node in read}


def keyed(value: str) -> dict[str, str]:
    """A `name=value,…` value as QEMU's option parser reads it: a doubled comma is a comma (util/qemu-option.c)."""
    parts = [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]
    return dict(re.fullmatch(r"([^=]*)=?(.*)", part, re.DOTALL).groups() for part in parts)  # type: ignore[union-attr, misc]  # it always matches
