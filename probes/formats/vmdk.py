"""vmdk: VMware's."""

from probes.image import Format, Image
from probes.reader import Reader


class Vmdk(Format):
    """A VMDK image."""

    name = "vmdk"

    def probe(self, reader: Reader) -> Image | None:
        return None
