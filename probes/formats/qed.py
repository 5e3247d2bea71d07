"""qed: QEMU's enhanced disk."""

from probes.image import Format, Image
from probes.reader import Reader


class Qed(Format):
    """A QED image."""

    name = "qed"

    def probe(self, reader: Reader) -> Image | None:
        return None
