"""The descriptor of a VMDK: a text that says what the disk consists of, alone in a file or within a sparse image.

QEMU looks for a few words in it, whatever stands around them and be it a comment (block/vmdk.c), and so does this: what
it would find is found.
"""

import re
from dataclasses import dataclass

from probes.text import clean

LENGTH = 20 * 512
"""Bytes of a descriptor that QEMU looks at when it looks for a parent."""

_HINT = b"parentFileNameHint"
_TITLE = b"# disk descriptorfile"
_VERSION = re.compile(rb"(?:#[^\n]*\n|[ \t\r]*\n)*version=[123]\r?\n")  # vmdk_probe, and a little more
_HEX = re.compile(rb"[0-9A-Fa-f]{1,8}(?![0-9A-Fa-fxX])")
_EXTENT = re.compile(
    rb"^[ \t]*(RW|RDONLY|NOACCESS)\s+([0-9]{1,18})\s+([A-Z0-9]{1,20})\b(?:\s+\"([^\"\r\n]*)\")?", re.M | re.I
)
_VALUE = rb"\s{0,9}=\s{0,9}\"([^\"\r\n]{1,64})\""
_TYPE = re.compile(rb"createType" + _VALUE, re.I)
_ADAPTER = re.compile(rb"ddb\.adapterType" + _VALUE, re.I)
_HARDWARE = re.compile(rb"ddb\.virtualHWVersion" + _VALUE, re.I)

_COUNTED = frozenset({"FLAT", "VMFS", "SPARSE", "VMFSSPARSE", "SESPARSE"})
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of the disk: how it may be used, its size in sectors, its kind, and the file that holds it, if any."""

    access: str
    sectors: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a descriptor says, unjudged. `data` is what lies where QEMU looks for it; zeros end the text."""

    data: bytes

    @property
    def text(self) -> bytes:
        return self.data.partition(b"\0")[0]

    @property
    def is_ended(self) -> bool:
        """Whether QEMU sees all of it."""
        return b"\0" in self.data[:LENGTH]

    @property
    def cid(self) -> int | None:
        """The number of this state of the disk; None where QEMU finds none, and then opens nothing."""
        return self._number(b"CID")

    @property
    def parent_cid(self) -> int | None:
        """The number of the parent's state; all ones if there is no parent."""
        return self._number(b"parentCID")

    @property
    def names_parent(self) -> bool:
        return _HINT in self.text

    @property
    def parent(self) -> str | None:
        """The parent's name as QEMU takes it: what follows the word and two more bytes, up to a quote; None without."""
        at = self.text.find(_HINT)
        if at < 0:
            return None
        name, quote, _ = self.data[at + len(_HINT) + 2 :].partition(b"\0")[0].partition(b'"')
        return name.decode("utf-8", "surrogateescape") if quote else None

    @property
    def extents(self) -> tuple[Extent, ...]:
        return tuple(
            Extent(match[1].decode().upper(), int(match[2]), match[3].decode().upper(), _text(match[4] or b""))
            for match in _EXTENT.finditer(self.text)
        )

    @property
    def virtual_size(self) -> int:
        """Bytes of the disk by the extents that QEMU would open."""
        return 512 * sum(
            extent.sectors
            for extent in self.extents
            if extent.access == "RW" and extent.kind in _COUNTED and extent.name
        )

    @property
    def type(self) -> str:
        """What kind of disk it calls itself, cleaned."""
        return self._word(_TYPE)

    @property
    def adapter(self) -> str:
        """Which adapter the guest is to find its disk at ("ide", "lsilogic"), cleaned."""
        return self._word(_ADAPTER)

    @property
    def hardware(self) -> str:
        """The version of VMware's virtual hardware that it is for, cleaned."""
        return self._word(_HARDWARE)

    @property
    def files(self) -> str:
        """The files that its extents lie in, for a person; the first few of many."""
        names = list(dict.fromkeys(clean(extent.name, 100) for extent in self.extents if extent.name))
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more

    def _number(self, word: bytes) -> int | None:
        at = self.text.find(word)
        match = _HEX.match(self.text, at + len(word) + 1) if at >= 0 else None
        return int(match[0], 16) if match else None

    def _word(self, pattern: re.Pattern[bytes]) -> str:
        match = pattern.search(self.text)
        return clean(_text(match[1]), 40) if match else ""


def is_descriptor(head: bytes) -> bool:
    """Whether a file that begins with `head` is a descriptor: by its title, or as QEMU's probing takes it."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[: len(_TITLE)].lower() == _TITLE or _VERSION.match(head) is not None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
