"""What a recipe of the corpus is, and the tools that recipes share."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from probes.image import Verdict

REFUSE, ASK, OK = Verdict.REFUSE, Verdict.ASK, Verdict.OK

Words = tuple[str, ...]


@dataclass(frozen=True)
class Outside:
    """What hostile images name: things of the host and of the network that are none of theirs."""

    file: str = "/etc/hostname"
    folder: str = "/etc"
    port: int = 10809


class Reach(Enum):
    """What QEMU goes after if nobody keeps it from it."""

    NOTHING = "nothing"
    FILE = "a file of the host"
    FOLDER = "a folder of the host"
    NETWORK = "somebody else's server"


@dataclass(frozen=True)
class Recipe:
    """How to make an image, and what is to be said of it.

    `size` is the virtual size in bytes, or None where the header says nothing that means anything. `codes` are the
    hazards that there must be; others may be told beside them. `reach` is what QEMU goes after when it opens the image
    by its format and nothing keeps it, `neutralised` whether `"backing": null` already does.
    """

    name: str
    make: Callable[[Path, Outside], object]
    format: str
    size: int | None
    verdict: Verdict = OK
    codes: frozenset[str] = frozenset()
    reach: Reach = Reach.NOTHING
    neutralised: bool = False


def hazards(*names: str) -> frozenset[str]:
    """The codes of a recipe."""
    return frozenset(names)
