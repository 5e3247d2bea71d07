"""What the size of a raw image says, counted in sectors as QEMU and guests do."""

from probes.image import Hazard, Verdict

SECTOR = 512


def whole_sectors(size: int) -> int:
    """Return the size in bytes that a guest sees of a raw image of `size`: QEMU counts whole sectors."""
    return size + -size % SECTOR


def size_hazards(size: int) -> tuple[Hazard, ...]:
    """Return what is odd about the size of a raw image."""
    if size <= 0:
        return (Hazard("empty", "There is nothing in it: it is 0 bytes long.", Verdict.REFUSE),)
    if size < SECTOR:
        text = f"It is too small to be a disk: {size} bytes, less than one sector."
        return (Hazard("too-small", text, Verdict.REFUSE),)
    if size % SECTOR:
        text = "Its size is not a whole number of sectors; the guest sees zeros at its end. It may be cut short."
        return (Hazard("odd-size", text, Verdict.OK),)
    return ()
