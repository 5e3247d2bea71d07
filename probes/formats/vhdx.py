"""vhdx: Hyper-V's."""

from probes.image import Format, Image
from probes.reader import Reader


class Vhdx(Format):
    """A VHDX image."""

    name = "vhdx"

    def probe(self, reader: Reader) -> Image | None:
        return None
