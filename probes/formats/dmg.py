"""dmg: Apple's; told by its trailer."""

from probes.image import Format, Image
from probes.reader import Reader


class Dmg(Format):
    """An Apple disk image."""

    name = "dmg"

    def probe(self, reader: Reader) -> Image | None:
        return None
