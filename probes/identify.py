"""The judgement: what is this image, and may QEMU have it?

Every format looks, whatever the others found. None found: it is raw. One: that. Two at once: someone made it to be
taken for something else than it is, and it is refused; only a disc that is a disk as well (a hybrid ISO) is common
and harmless. The end of an image is looked at only where its head says nothing: there it costs a read, and what QEMU
is told to take for raw or qcow2 it takes for that, whatever lies at its end. A read that fails is an error, never
"raw".
"""

import hashlib
from dataclasses import replace

from probes.fields import big
from probes.formats import magics
from probes.formats.iso import Iso
from probes.formats.qcow2 import Qcow2
from probes.formats.raw import Raw
from probes.image import Hazard, Image, Media, Verdict
from probes.reader import Reader
from probes.recording import HEAD, OverBudget, RecordingReader


def identify(reader: Reader, look_inside: bool = True) -> Image:
    """Judge the image in `reader`. Give a `RecordingReader` to keep what was read.

    Without `look_inside` the guest's blocks in formats that map them (qcow2) are not looked at: one read is then
    enough for those, and their media stay unknown; the verdict is the same.

    Raises whatever `reader` raises; nothing that the image holds raises anything. One that would cost more than the
    budget to tell is refused ("too-costly").
    """
    recorder = reader if isinstance(reader, RecordingReader) else RecordingReader(reader)
    try:
        return _judge(recorder, look_inside)
    except OverBudget as error:
        text = f"Telling what it is was given up: {error.why}. It may have been made to cost dearly."
        hazard = Hazard("too-costly", text, Verdict.REFUSE)
        return Image("unknown", 0, reader.size, media=Media(), hazards=(hazard,))


def head_digest(reader: Reader) -> str:
    """Return the hex SHA-256 of the first 64 KiB, or of all of it if it is smaller. Raises what `reader` raises."""
    return hashlib.sha256(reader.pread(0, min(HEAD, reader.size))).hexdigest()


def _judge(reader: RecordingReader, look_inside: bool) -> Image:
    qcow2 = Qcow2(look_inside).probe(reader)
    iso = Iso().probe(reader)
    foreign = magics.recognise(reader)
    if iso:  # whose first 32 KiB are anybody's: a program that starts it from a disk, say
        foreign = [image for image in foreign if not magics.is_tame(image)]
    if qcow2 and iso and _holds_disc(reader, qcow2):
        iso = None
    found = [image for image in (qcow2, iso, *foreign) if image]
    if len(found) > 1:
        return _ambiguous(found)
    if found:
        return found[0]
    behind = magics.recognise_tail(reader)
    return behind[0] if behind else Raw().probe(reader)


def _holds_disc(reader: Reader, qcow2: Image) -> bool:
    """Whether the volume descriptor that lies 32 KiB into a qcow2 is its guest's own, moved there by small clusters."""
    small_clusters = big(reader.pread(20, 4), 0, 4) <= 15
    inside = qcow2.media.filesystem
    return small_clusters and inside is not None and inside.type == "iso9660"


def _ambiguous(found: list[Image]) -> Image:
    names = " and ".join("ISO 9660" if "ISO 9660" in image.features else image.format for image in found)
    text = f"It is several formats at once ({names}): made to be taken for something else than it is."
    hazards = tuple(hazard for image in found for hazard in image.hazards)
    return replace(found[0], hazards=(Hazard("two-formats", text, Verdict.REFUSE), *hazards))
