"""vdi: VirtualBox's."""

from probes.image import Format, Image
from probes.reader import Reader


class Vdi(Format):
    """A VDI image."""

    name = "vdi"

    def probe(self, reader: Reader) -> Image | None:
        return None
