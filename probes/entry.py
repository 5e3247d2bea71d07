"""One row of a listing."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from probes.location import Location

# Extensions by which disk images are known. A name decides only how a row is shown: what a file is, its bytes tell.
_IMAGE_ENDINGS = frozenset({
    "bin", "bochs", "cloop", "cow", "dd", "dmg", "efi", "fd", "flp", "hdd", "hds", "img", "ima", "image", "iso", "luks",
    "ova", "ovf", "parallels", "qcow", "qcow2", "qed", "raw", "udf", "vdi", "vfd", "vhd", "vhdx", "vmdk", "vpc", "wic",
})  # fmt: skip
_COMPRESSED_ENDINGS = frozenset(["bz2", "gz", "lz4", "xz", "zip", "zst", "7z"])


class Kind(StrEnum):
    """What can be done with an entry: listed, read and booted, or neither."""

    CONTAINER = "container"
    IMAGE = "image"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """A thing in a listing.

    `name` is as the server spells it, undecodable bytes kept as surrogates: pass it through `probes.text.clean`
    before it is shown. `size` is in bytes; `rounded` says that the server gave it rounded ("1.2G"). `modified`
    carries a time zone only where the server told one. `note` is a few words that a person should see ("in use
    by client.4123", "mounted at /").
    """

    location: Location
    name: str
    kind: Kind
    size: int | None = None
    modified: datetime | None = None
    note: str = ""
    rounded: bool = False


def kind_by_name(name: str) -> Kind:
    """Return IMAGE for names that end as disk images do (compressed ones too), else OTHER."""
    stem, _, ending = name.lower().rpartition(".")
    if stem and ending in _COMPRESSED_ENDINGS:
        ending = stem.rpartition(".")[2]
    return Kind.IMAGE if ending in _IMAGE_ENDINGS else Kind.OTHER
