"""A partition table: the value that the readers of each kind return."""

from dataclasses import dataclass

from probes.image import Partition


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table: `kind` as in `probes.image.Media.table`, `sector` the bytes of its sectors.

    `problems` are sentences about what is wrong with it. `features` are short words about it. `legacy_boot` is GPT's
    attribute bit 2 on any partition. `disk` is the size in bytes that it says the disk has, 0 where it does not.
    `holders` are the numbers of partitions that only hold others. `copy` is where its second copy lies, in bytes.
    """

    kind: str
    partitions: tuple[Partition, ...]
    sector: int = 512
    problems: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    legacy_boot: bool = False
    disk: int = 0
    holders: frozenset[int] = frozenset()
    copy: int | None = None
