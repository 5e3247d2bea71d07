"""vmdk: VMware's; also what VirtualBox, cloud providers and OVAs give away.

VMware's "Virtual Disk Format 5.0" describes it; the limits are those of QEMU's block/vmdk.c, or ours, which are said.

- A hosted sparse image (`KDMV`) holds a whole disk and a descriptor of it; a stream-optimized one packs it. Only these
  are for us. Of the descriptor QEMU takes the parent alone, unless the header tells of no disk at all: then it opens
  whatever files the descriptor names.
- A descriptor alone in a file names others that hold the data: by any path or URL. Nothing neutralises that in QEMU.
- The parts of such a disk (`KDMV` without a descriptor, ESX's `COWD` and seSparse) are no disks by themselves.
"""

import struct

from probes.formats.vmdk_descriptor import LENGTH as DESCRIPTOR_LENGTH
from probes.formats.vmdk_descriptor import Descriptor, is_descriptor
from probes.formats.vmdk_grains import GrainMap, likely_places
from probes.formats.vmdk_header import (
    DEFLATE,
    HAS_MARKERS,
    HAS_ZEROED_GRAINS,
    IS_PACKED,
    LENGTH,
    MAGIC,
    SECTOR,
    Header,
    read_header,
)
from probes.image import Backing, Format, Hazard, Image, Verdict
from probes.mapping import CannotMap, MappedReader
from probes.reader import Reader, ahead
from probes.recording import HEAD
from probes.text import clean
from probes.words import human_size

COWD, SESPARSE = b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0"

MAX_DIRECTORY_BYTES = 32 << 20  # ours: 256 TiB of qemu-img's grains. QEMU would take 128 MiB into memory, twice
MAX_GRAIN = 64 << 20  # ours, in bytes: QEMU takes such a one into memory to write into it, and allows 1 GiB
MAX_PACKED_GRAIN = 2 << 20  # ours, in bytes: QEMU takes three times that to read a byte of it, and breaks at 1 GiB
_MAX_TABLE_ENTRIES = 512
_VERSIONS = frozenset({1, 2, 3})
_USUAL_GRAIN = 64 << 10
_NO_PARENT = 0xFFFFFFFF
_MAX_SIZE = 1 << 63
_HOW = "If you trust it, convert a copy that has them beside it: qemu-img convert -f vmdk -O qcow2 FROM TO."


class Vmdk(Format):
    """A VMDK image."""

    name = "vmdk"

    def probe(self, reader: Reader) -> Image | None:
        head = reader.pread(0, min(HEAD, reader.size))
        if head.startswith(MAGIC):
            return _hosted(reader, Header(head[:LENGTH].ljust(LENGTH, b"\0")))
        if head.startswith((COWD, SESPARSE)):
            kind = "COWD" if head.startswith(COWD) else "seSparse"
            text = (
                f"It is a part of an ESX disk ({kind}), which QEMU opens by the disk's descriptor only: a small text"
                " beside it. Convert a copy of both: qemu-img convert -f vmdk -O qcow2 DESCRIPTOR TO."
            )
            hazard = Hazard("vmdk-part", text, Verdict.REFUSE)
            return Image(self.name, 0, reader.size, features=(kind,), hazards=(hazard,))
        if is_descriptor(head):
            return _described(reader, Descriptor(head), Descriptor(head))
        return None

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        header = read_header(reader)
        if header is None or not header.covered:
            raise CannotMap("no header that can be followed")
        ahead(reader, likely_places(header))
        return MappedReader(reader, GrainMap(reader, header), backing)


def _hosted(reader: Reader, first: Header) -> Image:
    descriptor = Descriptor(reader.pread(LENGTH, DESCRIPTOR_LENGTH).ljust(DESCRIPTOR_LENGTH, b"\0"))
    if not first.virtual_size and first.descriptor_offset:
        return _described(reader, Descriptor(reader.pread(first.descriptor_offset, DESCRIPTOR_LENGTH)), descriptor)
    header = read_header(reader)
    if header is None:
        hazards = [_truncated("it is a stream, and the footer that must end it is not there")]
        return Image(Vmdk.name, first.virtual_size, reader.size, _backing(descriptor), hazards=tuple(hazards))
    hazards = _invalid(header) or _directories(header, reader.size) or _tables(reader, header)
    hazards = hazards or _text(first, descriptor)
    if all(hazard.verdict is not Verdict.REFUSE for hazard in hazards):
        hazards += _told(header)
    return Image(
        Vmdk.name,
        header.virtual_size if header.virtual_size < _MAX_SIZE else 0,
        reader.size,
        backing=_backing(descriptor),
        features=_features(header, descriptor),
        hazards=tuple(hazards),
    )


def _described(reader: Reader, descriptor: Descriptor, parents: Descriptor) -> Image:
    """Judge what is a descriptor to QEMU, which looks for a parent in `parents`."""
    words = [word for word in (descriptor.type, *_machine(descriptor)) if word]
    size = descriptor.virtual_size
    return Image(
        Vmdk.name,
        size if size < _MAX_SIZE else 0,
        reader.size,
        backing=_backing(parents),
        features=tuple(words),
        hazards=(_outside(descriptor),),
    )


def _backing(descriptor: Descriptor) -> Backing | None:
    return Backing(descriptor.parent, Vmdk.name) if descriptor.parent else None


def _outside(descriptor: Descriptor) -> Hazard:
    files = descriptor.files
    names = f" ({files})" if files else ""
    why = f"Its data lie in other files{names}: QEMU would open those, wherever they are. {_HOW}"
    return Hazard("vmdk-external-extent", why, Verdict.REFUSE)


def _broken(why: str) -> Hazard:
    return Hazard("vmdk-invalid", f"Its VMDK header makes no sense: {why}.", Verdict.REFUSE)


def _truncated(why: str) -> Hazard:
    return Hazard("vmdk-truncated", f"It is cut short: {why}.", Verdict.REFUSE)


def _invalid(header: Header) -> list[Hazard]:
    """Judge the numbers that the others depend on."""
    if header.version not in _VERSIONS:
        why = f"It is a VMDK image of version {header.version}, which nobody knows."
        return [Hazard("vmdk-version", why, Verdict.REFUSE)]
    is_packed = header.compression == DEFLATE
    if header.compression > DEFLATE or is_packed != bool(header.flags & IS_PACKED):
        return [_packing(f"the header says both of method {header.compression} and of packed grains or none")]
    if is_packed and not header.flags & HAS_MARKERS:
        return [_packing("there are no markers before its packed grains")]
    if not 0 < header.table_entries <= _MAX_TABLE_ENTRIES:
        return [_broken(f"grain tables of {header.table_entries} entries")]
    if not header.grain_sectors or header.grain_sectors & (header.grain_sectors - 1):
        return [_broken(f"grains of {header.grain_sectors} sectors")]
    if header.grain > (MAX_PACKED_GRAIN if is_packed else MAX_GRAIN):
        return [_heavy(f"Its grains of {human_size(header.grain)} are larger")]
    if not header.virtual_size:
        return [Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE)]
    if header.directory_entries * 4 > MAX_DIRECTORY_BYTES:
        return [_heavy("Its grain directory is larger")]
    return []


def _packing(why: str) -> Hazard:
    text = f"How it is compressed cannot be told: {why}."
    return Hazard("vmdk-compression", text, Verdict.REFUSE)


def _heavy(what: str) -> Hazard:
    return Hazard("vmdk-tables", f"{what} than any real image needs: it would eat memory.", Verdict.REFUSE)


def _directories(header: Header, file_size: int) -> list[Hazard]:
    """Judge where things lie. QEMU takes for zeros what lies beyond the end."""
    for name, place in (("grain directory", header.directory), ("second grain directory", header.second_directory)):
        end = place + header.directory_entries * 4
        if end > file_size:
            return [_truncated(f"its {name} would end at byte {end}, and it has {file_size}")]
    if header.directory < LENGTH:
        return [_broken("its grain directory lies in it")]
    if header.grains_offset >= file_size + SECTOR:
        return [_truncated(f"its data begin at byte {header.grains_offset}, and it has {file_size}")]
    return []


def _tables(reader: Reader, header: Header) -> list[Hazard]:
    """Judge what of the grain directory and its tables lies near. QEMU shows zeros where it leads beyond the end."""
    near = reader.pread(0, min(HEAD, reader.size))
    tables = set(_numbers(near, header.directory, header.directory_entries)) - {0}
    end = max(tables, default=0) * SECTOR + header.table_entries * 4
    if tables and end > reader.size:
        return [_truncated(f"a grain table would end at byte {end}, and it has {reader.size}")]
    last = max((max(_numbers(near, at * SECTOR, header.table_entries), default=0) for at in tables), default=0) * SECTOR
    if last >= reader.size:
        return [_truncated(f"a grain would begin at byte {last}, and it has {reader.size}")]
    return []


def _numbers(data: bytes, at: int, count: int) -> tuple[int, ...]:
    """Return up to `count` numbers at byte `at`, as far as `data` holds them."""
    count = min(count, max(len(data) - at, 0) // 4)
    return struct.unpack_from(f"<{count}I", data, at) if count else ()


def _text(first: Header, descriptor: Descriptor) -> list[Hazard]:
    """Judge the descriptor within the image: whether QEMU finds it, and what it says."""
    if not first.descriptor_offset or (first.descriptor_offset == LENGTH and not descriptor.text):
        text = (
            "It has no descriptor: it is one of several files of a disk, as it seems, and QEMU opens none of them"
            " alone. Convert a copy of them all: qemu-img convert -f vmdk -O qcow2 DESCRIPTOR TO."
        )
        return [Hazard("vmdk-part", text, Verdict.REFUSE)]
    if first.descriptor_offset != LENGTH or not descriptor.is_ended:
        return [_broken("its descriptor is not where QEMU looks for it, or longer")]
    if descriptor.cid is None or descriptor.parent_cid is None:
        return [_broken("its descriptor does not say which state of the disk it is")]
    if len(descriptor.extents) > 1 or any(extent.kind != "SPARSE" for extent in descriptor.extents):
        return [_outside(descriptor)]
    return _parent(descriptor)


def _parent(descriptor: Descriptor) -> list[Hazard]:
    if descriptor.names_parent and descriptor.parent is None:
        return [_broken("the name of its parent does not end")]
    has_parent = descriptor.parent_cid != _NO_PARENT
    if has_parent and not descriptor.parent:
        text = (
            "It holds only what differs from another disk, which it does not name: the guest would find its disk full"
            " of holes. Consolidate it with the system that made it."
        )
    elif descriptor.parent and not has_parent:
        text = "It names a parent, and says that it has none: one of the two is wrong, and QEMU could not read it."
    else:
        return []
    return [Hazard("vmdk-parent", text, Verdict.REFUSE)]


def _told(header: Header) -> list[Hazard]:
    """Return what a person should know of a VMDK that can be opened."""
    hazards = []
    if header.is_unclean:
        text = "It was not closed cleanly, or is in use: what was written last may be missing."
        hazards.append(Hazard("dirty", text, Verdict.OK))
    if header.was_sent_as_text:
        text = (
            "Its header shows that something took it for a text and changed its line ends: its data may be damaged. "
            "Transfer it anew, as binary."
        )
        hazards.append(Hazard("vmdk-newlines", text, Verdict.OK))
    return hazards


def _machine(descriptor: Descriptor) -> tuple[str, ...]:
    """Return for which virtual hardware it is, in words."""
    adapter = f"adapter {descriptor.adapter}" if descriptor.adapter else ""
    return adapter, f"hardware version {descriptor.hardware}" if descriptor.hardware else ""


def _features(header: Header, descriptor: Descriptor) -> tuple[str, ...]:
    words = ["streamOptimized" if header.compression == DEFLATE else "sparse", f"version {header.version}"]
    if header.grain != _USUAL_GRAIN and 0 < header.grain <= MAX_GRAIN:
        words.append(f"grains of {human_size(header.grain)}")
    words += ["zeroed grains"] if header.flags & HAS_ZEROED_GRAINS else []
    return (*words, *(clean(word, 60) for word in _machine(descriptor) if word))
