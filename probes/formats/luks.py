"""luks: an encrypted volume."""

from probes.image import Format, Image
from probes.reader import Reader


class Luks(Format):
    """A LUKS volume."""

    name = "luks"

    def probe(self, reader: Reader) -> Image | None:
        return None
