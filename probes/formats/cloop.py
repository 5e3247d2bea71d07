"""cloop: the compressed loop device's."""

from probes.image import Format, Image
from probes.reader import Reader


class Cloop(Format):
    """A cloop image."""

    name = "cloop"

    def probe(self, reader: Reader) -> Image | None:
        return None
