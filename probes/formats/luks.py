"""luks: an encrypted volume, LUKS version 1.

The specification is cryptsetup's docs/on-disk-format.pdf; the limits are those of QEMU's block/crypto.c and
crypto/block-luks.c (`luks_header`). Nothing of the disk in it can be seen without its passphrase.
"""

from probes.formats.luks_header import LENGTH, MAGIC, LuksHeader, judge_luks
from probes.image import Format, Hazard, Image, Verdict
from probes.reader import Reader

_SECTOR = 512


class Luks(Format):
    """A LUKS volume."""

    name = "luks"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, LENGTH)
        if data[:6] != MAGIC:
            return None
        header = LuksHeader(data.ljust(LENGTH, b"\0"))
        if header.version != 1:
            return Image(self.name, 0, reader.size, hazards=(_other_version(header.version),))
        hazards = judge_luks(header)
        disk = max(reader.size + -reader.size % _SECTOR - header.payload * _SECTOR, 0)  # sectors, as QEMU counts them
        if all(hazard.verdict is not Verdict.REFUSE for hazard in hazards) and not disk:
            text = "It holds keys and no disk: it was cut short, or it is empty."
            hazards = (Hazard("empty", text, Verdict.REFUSE),)
        words = tuple(word for word in header.words if word)
        text = "It is encrypted (LUKS): its passphrase is needed to start it."
        return Image(
            self.name,
            disk,
            reader.size,
            features=("version 1", *words),
            hazards=(Hazard("encrypted", text, Verdict.OK), *hazards),
            needs_passphrase=True,
        )


def _other_version(version: int) -> Hazard:
    if version != 2:
        text = f"It is a LUKS volume of version {version}, which QEMU does not open."
        return Hazard("luks-version", text, Verdict.REFUSE)
    text = (
        "It is a LUKS volume of version 2, and QEMU opens only version 1. Open it with cryptsetup and boot a copy of "
        "the disk inside; or, if its keys use PBKDF2, convert a copy: cryptsetup convert --type luks1."
    )
    return Hazard("luks2", text, Verdict.REFUSE)
