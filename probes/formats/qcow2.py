"""qcow2, versions 2 and 3: QEMU's own format.

The specification is QEMU's docs/interop/qcow2.rst; the limits are those of block/qcow2.c, which refuses what passes
them, or of ours, which are said (`qcow2_tables`). All numbers are big-endian.

What the header names outside itself is the danger: a backing file or an external data file is opened by QEMU
wherever it lies, files of the host included. Neither is followed.
"""

from probes.backing import MAX_NAME, read_name
from probes.fields import big, text
from probes.formats import qcow2_header as fields
from probes.formats.luks_header import LENGTH, MAGIC, LuksHeader, judge_luks
from probes.formats.qcow2_clusters import ClusterMap, Place
from probes.formats.qcow2_header import Header, read_extensions
from probes.formats.qcow2_tables import broken, judge_bitmaps, judge_extensions, judge_numbers
from probes.image import Backing, Format, Hazard, Image, Verdict
from probes.mapping import MappedReader
from probes.reader import Reader, ahead
from probes.text import clean

_MAGIC = b"QFI\xfb"
_AES, _LUKS = 1, 2
_FIRST = 64 << 10  # bytes of a disk that are looked at first


class Qcow2(Format):
    """A qcow2 image."""

    name = "qcow2"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, min(fields.HEADER_AREA, reader.size))
        if data[:4] != _MAGIC or big(data, 4, 4) == 1:  # version 1 is a format of its own, qcow
            return None
        header = Header(data.ljust(112, b"\0"))
        if header.version not in {2, 3}:
            why = f"It is a qcow image of version {header.version}, which nobody knows."
            return Image(self.name, 0, reader.size, hazards=(Hazard("qcow2-version", why, Verdict.REFUSE),))
        found = read_extensions(header)
        hazards = judge_numbers(header, reader.size)
        hazards = hazards or judge_extensions(header, found) or judge_bitmaps(reader, header, found)
        luks = _luks(reader, header, found.by_type)
        hazards += _dangers(header, found.by_type)
        hazards += _secrets(header, luks)
        return Image(
            self.name,
            header.virtual_size // 512 * 512,
            reader.size,
            backing=_backing(reader, header, found.by_type),
            features=_features(header, found.by_type, luks),
            hazards=tuple(hazards),
            needs_passphrase=header.encryption == _LUKS,
        )

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        header = Header(reader.pread(0, 112).ljust(112, b"\0"))
        place = Place(
            header.cluster_bits,
            header.virtual_size // 512 * 512,
            header.l1_offset,
            header.l1_entries,
            extended=bool(header.incompatible & fields.EXTENDED_L2),
            zstd=bool(header.compression),
        )
        ahead(reader, _first_places(header))
        return MappedReader(reader, ClusterMap(reader, place), backing)


def _first_places(header: Header) -> list[tuple[int, int]]:
    """Where QEMU puts the L1 table, the first L2 table and the start of the disk in an image that it converts: one
    after the other. To follow them would take three round trips; where they lie elsewhere, the guess costs a few bytes.
    """
    cluster = 1 << header.cluster_bits
    l2 = header.l1_offset + header.l1_entries * 8
    l2 += -l2 % cluster
    return [(header.l1_offset, 8), (l2, 8), (l2 + cluster, min(cluster, _FIRST))]


def _backing(reader: Reader, header: Header, extensions: dict[int, bytes]) -> Backing | None:
    if not header.backing_offset or not header.backing_length:
        return None
    name = read_name(reader, header.backing_offset, header.backing_length)
    driver = text(extensions.get(fields.BACKING_FORMAT, b""), 0, 64)
    return Backing(name, driver or None) if name else None


def _luks(reader: Reader, header: Header, extensions: dict[int, bytes]) -> LuksHeader | None:
    """Return the LUKS header inside: a read of its own, in an encrypted image."""
    data = extensions.get(fields.CRYPTO, b"")
    if header.encryption != _LUKS or len(data) != 16:
        return None
    offset, length = big(data, 0, 8), big(data, 8, 8)
    return LuksHeader(reader.pread(offset, min(LENGTH, length)))


def _dangers(header: Header, extensions: dict[int, bytes]) -> list[Hazard]:
    """Judge what the header asks of whoever opens the image."""
    hazards = []
    if header.incompatible & fields.DATA_FILE or fields.DATA_FILE_NAME in extensions:
        name = clean(text(extensions.get(fields.DATA_FILE_NAME, b""), 0, MAX_NAME), 200)
        where = f", {name}" if name else ""
        why = f"Its data lie in another file{where}: QEMU would open that one, wherever it is."
        hazards.append(Hazard("qcow2-data-file", why, Verdict.REFUSE))
    unknown = header.incompatible & ~fields.KNOWN
    if unknown:
        names = ", ".join(_feature_name(extensions, bit) for bit in range(64) if unknown >> bit & 1)
        why = f"It uses features that are not known here ({clean(names, 200)})."
        hazards.append(Hazard("qcow2-unknown-feature", why, Verdict.REFUSE))
    if header.incompatible & fields.CORRUPT:
        why = "It is marked as corrupt: QEMU found its tables wrong once. What it holds may be damaged."
        hazards.append(Hazard("corrupt", why, Verdict.OK))
    if header.incompatible & fields.DIRTY:
        why = "It was not closed cleanly, or is in use: its reference counts may be out of date."
        hazards.append(Hazard("dirty", why, Verdict.OK))
    if header.snapshots:
        count = "1 snapshot" if header.snapshots == 1 else f"{header.snapshots} snapshots"
        why = f"It holds {count} inside; what starts is its current state."
        hazards.append(Hazard("internal-snapshots", why, Verdict.OK))
    return hazards


def _secrets(header: Header, luks: LuksHeader | None) -> list[Hazard]:
    """Judge how it is encrypted, if it is."""
    if header.encryption == _AES:
        why = (
            "It is encrypted in a way (AES) that is broken, and that QEMU runs no guest from any more. Convert a copy: "
            "qemu-img convert knows the way."
        )
        return [Hazard("qcow2-aes", why, Verdict.REFUSE)]
    if header.encryption != _LUKS:
        return []
    why = "It is encrypted (LUKS): its passphrase is needed to start it."
    hazards = [Hazard("encrypted", why, Verdict.OK)]
    if luks is None:
        return hazards
    if luks.data[:6] != MAGIC or luks.version != 1 or len(luks.data) < LENGTH:
        return [*hazards, broken("what it was encrypted with is no LUKS header of version 1")]
    return [*hazards, *judge_luks(luks)]


def _feature_name(extensions: dict[int, bytes], bit: int) -> str:
    table = extensions.get(fields.FEATURE_NAMES, b"")
    for at in range(0, min(len(table), 64 * 48), 48):
        if table[at : at + 2] == bytes([0, bit]):
            name = text(table, at + 2, 46)
            return f"{name!r}, bit {bit}" if name else f"bit {bit}"
    return f"bit {bit}"


def _features(header: Header, extensions: dict[int, bytes], luks: LuksHeader | None) -> tuple[str, ...]:
    words = [f"version {header.version}"]
    if header.has_sane_clusters and header.cluster_bits != 16:
        size = 1 << header.cluster_bits
        unit, power = next((unit for unit in (("MiB", 20), ("KiB", 10)) if size >> unit[1]), ("bytes", 0))
        words.append(f"clusters of {size >> power} {unit}")
    words += ["zstd compression"] if header.incompatible & fields.COMPRESSION else []
    words += ["extended L2"] if header.incompatible & fields.EXTENDED_L2 else []
    words += ["lazy reference counts"] if header.compatible & fields.LAZY_REFCOUNTS else []
    words += ["bitmaps"] if fields.BITMAPS in extensions else []
    words += (
        ["encrypted (LUKS)", *(word for word in (luks.words if luks else ()) if word)]
        if header.encryption == _LUKS
        else []
    )
    words += ["encrypted (AES)"] if header.encryption == _AES else []
    words += ["internal snapshots"] if header.snapshots else []
    return tuple(words)
