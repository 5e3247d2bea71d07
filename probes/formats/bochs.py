"""bochs: Bochs'."""

from probes.image import Format, Image
from probes.reader import Reader


class Bochs(Format):
    """A growing Bochs image."""

    name = "bochs"

    def probe(self, reader: Reader) -> Image | None:
        return None
