"""qcow: version 1, QEMU's before 2008."""

from probes.image import Format, Image
from probes.reader import Reader


class Qcow(Format):
    """A qcow image of version 1."""

    name = "qcow"

    def probe(self, reader: Reader) -> Image | None:
        return None
