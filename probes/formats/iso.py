"""iso: an optical disc's image (ISO 9660, UDF, or both), with what it boots by (El Torito).

QEMU has no driver of that name: to it such an image is raw, and so `Image.format` is "raw". What sets it apart is
`media.kind`, CD, which gives it a CD drive and no overlay, and a feature, "ISO 9660" or "UDF".
"""

from probes.image import Format, Image
from probes.media.look import examine_disc, find_disc
from probes.media.sectors import size_hazards, whole_sectors
from probes.reader import Reader


class Iso(Format):
    """An image of a disc, be it a hybrid or not."""

    name = "raw"

    def probe(self, reader: Reader) -> Image | None:
        disc = find_disc(reader)
        if disc is None:
            return None
        found = examine_disc(reader, disc)
        hazards = (*size_hazards(reader.size), *found.hazards)
        size = whole_sectors(reader.size)
        return Image(self.name, size, reader.size, media=found.media, features=found.features, hazards=hazards)
