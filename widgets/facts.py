"""What there is to say about the thing under the cursor: values for the details pane."""

from dataclasses import dataclass

from probes.entry import Entry
from probes.errors import FarbootError
from probes.image import Image
from probes.text import clean


def told(error: FarbootError, about: object) -> str:
    """What could not be done, in few words: what everybody is looking at is "it"."""
    return f"Cannot {error.tried} {'it' if error.on == clean(str(about)) else error.on}"


@dataclass(frozen=True)
class Command:
    """How QEMU would be started: the short `-drive` value, or why there is none. `mode` is "snapshot" or "write"."""

    drive: str = ""
    withheld: str = ""
    notes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    mode: str = ""
    error: FarbootError | None = None


@dataclass(frozen=True)
class Facts:
    """As much as is known about one entry. `busy` says what is being done to know more; `text` stands alone."""

    entry: Entry | None = None
    text: str = ""
    image: Image | None = None
    command: Command | None = None
    error: FarbootError | None = None
    busy: str = ""
