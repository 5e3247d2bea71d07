"""vpc: Virtual PC's and Hyper-V's VHD."""

from probes.image import Format, Image
from probes.reader import Reader


class Vpc(Format):
    """A dynamic VHD: its head is a copy of its footer."""

    name = "vpc"

    def probe(self, reader: Reader) -> Image | None:
        return None


class FixedVpc(Format):
    """A fixed VHD: the disk itself, with a footer."""

    name = "vpc"

    def probe(self, reader: Reader) -> Image | None:
        return None
