"""The judgement: what is this image, and may QEMU have it?

Every format looks, whatever the others found. None found: it is raw. One: that. Two at once: someone made it to be
taken for something else than it is, and it is refused; only a disc that is a disk as well (a hybrid ISO) is common
and harmless. The end of an image is looked at only where its head says nothing: there it costs a read, and what QEMU
is told to take for raw or qcow2 it takes for that, whatever lies at its end. A read that fails is an error, never
"raw".
"""

from dataclasses import replace

from probes.backing import judge_name
from probes.fields import big
from probes.formats import magics
from probes.formats.archives import Ar, Cpio, Rar, Rpm, SevenZip
from probes.formats.bochs import Bochs
from probes.formats.cloop import Cloop
from probes.formats.dmg import Dmg
from probes.formats.iso import Iso
from probes.formats.luks import Luks
from probes.formats.lz4 import Lz4
from probes.formats.packed import Bzip2, Gzip, Inside, Lzip, Lzop, Packed
from probes.formats.parallels import Parallels
from probes.formats.qcow import Qcow
from probes.formats.qcow2 import Qcow2
from probes.formats.qed import Qed
from probes.formats.raw import Raw
from probes.formats.tar import Tar
from probes.formats.vdi import Vdi
from probes.formats.vhdx import Vhdx
from probes.formats.vmdk import Vmdk
from probes.formats.vpc import FixedVpc, Vpc
from probes.formats.xz import Xz
from probes.formats.zip import Zip
from probes.formats.zstd import Zstd
from probes.image import Format, Hazard, Image, MapsGuest, Media, Verdict
from probes.inside import PrefixReader, described
from probes.mapping import CannotMap
from probes.media.look import Findings, examine, first_spans
from probes.reader import Reader
from probes.recording import TAIL, OverBudget, RecordingReader

HEAD_FORMATS: tuple[Format, ...] = (
    Qcow2(), Qcow(), Qed(), Vmdk(), Vdi(), Vpc(), Vhdx(), Parallels(), Luks(), Bochs(), Cloop(),
)  # fmt: skip
"""Formats that the first bytes tell."""

FOREIGN_FORMATS: tuple[Format, ...] = (
    Gzip(), Xz(), Zstd(), Bzip2(), Lz4(), Lzop(), Lzip(), Tar(), Zip(), SevenZip(), Rar(), Cpio(), Ar(), Rpm(),
)  # fmt: skip
"""What holds images rather than being one, told by the first bytes as well. QEMU opens none of them."""

_DMG = Dmg()
TAIL_FORMATS: tuple[Format, ...] = (FixedVpc(), _DMG)
"""Formats that only the last bytes tell: the disk itself stands before them."""

_ISO, _RAW = Iso(), Raw()
_DISCS = ("ISO 9660", "UDF")


def identify(reader: Reader, look_inside: bool = True) -> Image:
    """Judge the image in `reader`. Give a `RecordingReader` to keep what was read, and its `evidence`.

    Without `look_inside` nobody looks at what the guest would find on its disk: a read or two are then enough, and the
    media of all but discs stay unknown; the verdict is the same.

    Raises whatever `reader` raises; nothing that the image holds raises anything. One that would cost more than the
    budget to tell is refused ("too-costly").
    """
    recorder = reader if isinstance(reader, RecordingReader) else RecordingReader(reader)
    try:
        form, image = _judge(recorder, look_inside)
    except OverBudget as error:
        text = f"Telling what it is was given up: {error.why}. It may have been made to cost dearly."
        hazard = Hazard("too-costly", text, Verdict.REFUSE)
        return Image("unknown", 0, reader.size, media=Media(), hazards=(hazard,))
    recorder.seal()
    if image.backing is not None:
        image = replace(image, hazards=(*image.hazards, judge_name(image.backing)))
    if isinstance(form, Packed) and look_inside:
        return form.describe(recorder, _inside(recorder, form, image))
    return with_media(image, _look(recorder, form, image)) if look_inside else image


def guest_disk(image: Image, reader: Reader, backing: Reader | None = None) -> Reader:
    """Return a reader of the guest's disk in `image`, which `reader` reads and which is not refused; `backing` is that
    of its backing image. Raises CannotMap, as reading it does, and what `reader` raises.
    """
    if image.format == _RAW.name:
        return reader
    for form in (*HEAD_FORMATS, *TAIL_FORMATS):
        if form.name == image.format and isinstance(form, MapsGuest) and form.probe(reader) is not None:
            return form.guest(reader, backing)
    raise CannotMap(f"the blocks of {image.format} are not followed")


def with_media(image: Image, found: Findings) -> Image:
    """Return `image` with what was found on its guest's disk."""
    if found.media == Media():
        return image
    return replace(
        image,
        media=found.media,
        features=(*image.features, *(word for word in found.features if word not in image.features)),
        hazards=(*image.hazards, *(hazard for hazard in found.hazards if hazard not in image.hazards)),
    )


def _judge(reader: RecordingReader, look_inside: bool) -> tuple[Format | None, Image]:
    """Return the format and what it says, without the guest's disk; no format for what is none of QEMU's."""
    found: list[tuple[Format | None, Image]] = []
    for form in (*HEAD_FORMATS, *FOREIGN_FORMATS):
        image = form.probe(reader)
        if image is not None:
            found.append((form, image))
    iso = _ISO.probe(reader)
    foreign = magics.recognise(reader)
    if found or iso is not None:  # the first bytes of a disc are anybody's: a program that starts it from a disk, say
        foreign = [image for image in foreign if not magics.is_tame(image)]
    if iso is not None and not (found and _is_guests_own(reader, *found[0])):
        found.append((_ISO, iso))
    found += [(None, image) for image in foreign]
    if [image.format for _, image in found] in (["bzip2"], ["xz"]):  # as the first chunk of a DMG may be packed
        disk = _DMG.probe(reader)
        if disk is not None:
            return _DMG, disk
    if len(found) > 1:
        return None, _ambiguous([image for _, image in found])
    if found:
        return found[0]
    if look_inside:  # most likely it is a disk: what tells its filesystems comes along with its end
        reader.ahead([(max(reader.size - TAIL, 0), TAIL), *first_spans(reader)])
    for form in TAIL_FORMATS:
        image = form.probe(reader)
        if image is not None:
            return form, image
    behind = magics.recognise_tail(reader)
    return (None, behind[0]) if behind else (_RAW, _RAW.probe(reader))


def _look(reader: RecordingReader, form: Format | None, image: Image) -> Findings:
    """Look at what the guest would find, as far as the blocks needed for it can be read cheaply."""
    closed = image.verdict is Verdict.REFUSE or image.needs_passphrase or image.backing is not None
    if closed or not isinstance(form, MapsGuest):
        return Findings(Media())
    try:
        return examine(form.guest(reader))
    except (CannotMap, OverBudget):
        return Findings(Media())  # unknown, which is no fault of the image


def _inside(reader: RecordingReader, form: Packed, image: Image) -> Inside | None:
    """Judge the first bytes of what `image` unpacks to; what is compressed in there again stays closed."""
    first = form.head(reader)
    if not first:
        return None
    prefix = RecordingReader(PrefixReader(first, image.virtual_size))
    try:
        found, inner = _judge(prefix, look_inside=False)
    except OverBudget:
        return None
    return described(with_media(inner, _look(prefix, found, inner)) if found is _RAW else inner)


def _is_guests_own(reader: RecordingReader, form: Format | None, image: Image) -> bool:
    """Whether the volume descriptor 32 KiB into a qcow2 is its guest's own, moved there by small clusters."""
    if image.format != "qcow2" or big(reader.pread(20, 4), 0, 4) > 15:
        return False
    inside = _look(reader, form, image).media.filesystem
    return inside is not None and inside.type in {"iso9660", "udf"}


def _ambiguous(found: list[Image]) -> Image:
    names = " and ".join(next((one for one in _DISCS if one in image.features), image.format) for image in found)
    text = f"It is several formats at once ({names}): made to be taken for something else than it is."
    hazards = tuple(hazard for image in found for hazard in image.hazards)
    return replace(found[0], hazards=(Hazard("two-formats", text, Verdict.REFUSE), *hazards))
