"""parallels: Parallels'."""

from probes.image import Format, Image
from probes.reader import Reader


class Parallels(Format):
    """A Parallels image."""

    name = "parallels"

    def probe(self, reader: Reader) -> Image | None:
        return None
