"""raw: the disk itself, byte for byte. It has no header, so this format is what remains when no other matches.

`probes.identify` asks it last, after every magic that Farboot knows: a guest can write the header of another format to
the start of its raw disk, and whoever then guesses by the header opens what the guest chose.
"""

from probes.image import Format, Hazard, Image, Verdict
from probes.media.sectors import size_hazards, whole_sectors
from probes.reader import Reader


class Raw(Format):
    """A raw image; `probe` always finds one."""

    name = "raw"

    def probe(self, reader: Reader) -> Image:
        hazards = size_hazards(reader.size)
        if reader.pread(0x202, 4) == b"HdrS" and all(hazard.verdict is not Verdict.REFUSE for hazard in hazards):
            text = "It looks like a Linux kernel, not a disk: only few of them start this way."
            hazards += (Hazard("linux-kernel", text, Verdict.OK),)
        return Image(self.name, whole_sectors(reader.size), reader.size, hazards=hazards)

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        return reader
