"""qcow2, versions 2 and 3: QEMU's own format.

The specification is QEMU's docs/interop/qcow2.rst; the limits are those of block/qcow2.c, which refuses what passes
them, or of ours, which are said. All numbers are big-endian.

What the header names outside itself is the danger: a backing file or an external data file is opened by QEMU
wherever it lies, files of the host included. Neither is followed.
"""

from dataclasses import dataclass

from probes.fields import big, text
from probes.formats.qcow2_clusters import ClusterMap, Place
from probes.image import Backing, Format, Hazard, Image, Verdict
from probes.mapping import CannotMap, MappedReader
from probes.reader import Reader
from probes.text import clean

MAGIC = b"QFI\xfb"

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED_L2
_LAZY_REFCOUNTS = 1

_BACKING_FORMAT = 0xE2792ACA
_FEATURE_NAMES = 0x6803F857
_BITMAPS = 0x23852875
_DATA_FILE_NAME = 0x44415441

MAX_L1_BYTES = 32 << 20  # QCOW_MAX_L1_SIZE
MAX_REFCOUNT_BYTES = 8 << 20  # QCOW_MAX_REFTABLE_SIZE
MAX_SNAPSHOTS = 65536  # QCOW_MAX_SNAPSHOTS
MAX_VIRTUAL_SIZE = 1 << 61
_MAX_NAME = 1023
_MAX_FORMAT_NAME = 16
_HEADER_AREA = 64 << 10  # bytes in which all extensions must lie; real ones take some hundred
_MAX_EXTENSIONS = 64


@dataclass(frozen=True, slots=True)
class Header:
    """The header's fields, unjudged. Offsets and sizes in bytes, tables' sizes in their own units."""

    data: bytes

    @property
    def version(self) -> int:
        return big(self.data, 4, 4)

    @property
    def backing_offset(self) -> int:
        return big(self.data, 8, 8)

    @property
    def backing_length(self) -> int:
        return big(self.data, 16, 4)

    @property
    def cluster_bits(self) -> int:
        return big(self.data, 20, 4)

    @property
    def virtual_size(self) -> int:
        return big(self.data, 24, 8)

    @property
    def encryption(self) -> int:
        return big(self.data, 32, 4)

    @property
    def l1_entries(self) -> int:
        return big(self.data, 36, 4)

    @property
    def l1_offset(self) -> int:
        return big(self.data, 40, 8)

    @property
    def refcount_offset(self) -> int:
        return big(self.data, 48, 8)

    @property
    def refcount_clusters(self) -> int:
        return big(self.data, 56, 4)

    @property
    def snapshots(self) -> int:
        return big(self.data, 60, 4)

    @property
    def snapshots_offset(self) -> int:
        return big(self.data, 64, 8)

    @property
    def incompatible(self) -> int:
        return big(self.data, 72, 8) if self.version >= 3 else 0

    @property
    def compatible(self) -> int:
        return big(self.data, 80, 8) if self.version >= 3 else 0

    @property
    def refcount_order(self) -> int:
        return big(self.data, 96, 4) if self.version >= 3 else 4

    @property
    def length(self) -> int:
        return big(self.data, 100, 4) if self.version >= 3 else 72

    @property
    def compression(self) -> int:
        return self.data[104] if self.version >= 3 and self.length > 104 else 0


class Qcow2(Format):
    """A qcow2 image."""

    name = "qcow2"

    def probe(self, reader: Reader) -> Image | None:
        data = reader.pread(0, min(_HEADER_AREA, reader.size))
        if data[:4] != MAGIC or big(data, 4, 4) == 1:  # version 1 is a format of its own, qcow
            return None
        header = Header(data.ljust(112, b"\0"))
        if header.version not in {2, 3}:
            why = f"It is a qcow image of version {header.version}, which nobody knows."
            return Image(self.name, 0, reader.size, hazards=(Hazard("qcow2-version", why, Verdict.REFUSE),))
        hazards = [*_invalid(header, reader.size)]
        extensions, whole = _extensions(header)
        if not hazards and (not whole or len(extensions.get(_BACKING_FORMAT, b"")) >= _MAX_FORMAT_NAME):
            hazards.append(_broken("its header extensions run on beyond all sense"))
        backing = _backing(reader, header, extensions)
        hazards += _dangers(header, extensions)
        return Image(
            self.name,
            header.virtual_size // 512 * 512,
            reader.size,
            backing=backing,
            features=_features(header, extensions),
            hazards=tuple(hazards),
        )

    def guest(self, reader: Reader, backing: Reader | None = None) -> Reader:
        """See `probes.image.MapsGuest`."""
        header = Header(reader.pread(0, 112).ljust(112, b"\0"))
        if header.incompatible & _EXTENDED_L2:
            raise CannotMap("extended L2 entries")
        size = header.virtual_size // 512 * 512
        place = Place(header.cluster_bits, size, header.l1_offset, header.l1_entries)
        return MappedReader(reader, ClusterMap(reader, place), backing)


def _broken(why: str) -> Hazard:
    return Hazard("qcow2-invalid", f"Its qcow2 header makes no sense: {why}.", Verdict.REFUSE)


def _invalid(header: Header, file_size: int) -> list[Hazard]:
    """Judge the numbers: every size and place that QEMU would act upon when it opens the image."""
    if not 9 <= header.cluster_bits <= 21:
        return [_broken(f"clusters of 2^{header.cluster_bits} bytes")]
    cluster = 1 << header.cluster_bits
    wrong = []
    if header.version >= 3 and (header.length < 104 or header.length > cluster or header.length % 8):
        wrong.append(f"a header of {header.length} bytes")
    if header.refcount_order > 6:
        wrong.append(f"reference counts of 2^{header.refcount_order} bits")
    if header.virtual_size > MAX_VIRTUAL_SIZE:
        wrong.append(f"a disk of {header.virtual_size} bytes")
    if header.backing_offset > cluster:
        wrong.append("the name of its backing file lies outside the header")
    elif header.backing_offset and header.backing_length > min(_MAX_NAME, cluster - header.backing_offset):
        wrong.append(f"a backing file's name of {header.backing_length} bytes")
    if header.encryption > 2:
        wrong.append(f"an encryption method {header.encryption}")
    if bool(header.incompatible & _COMPRESSION) != bool(header.compression) or header.compression > 1:
        wrong.append(f"a compression method {header.compression}")
    if header.incompatible & _EXTENDED_L2 and header.cluster_bits < 14:
        wrong.append("extended L2 entries with clusters too small for them")
    hazards = [_broken(why) for why in wrong]
    if not wrong:
        hazards += _tables(header, file_size)
    if header.virtual_size < 512:
        hazards.append(Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE))
    return hazards


def _tables(header: Header, file_size: int) -> list[Hazard]:
    """Judge the tables: QEMU takes them into memory when it opens the image."""
    cluster = 1 << header.cluster_bits
    hazards = []
    if header.l1_entries * 8 > MAX_L1_BYTES or header.refcount_clusters * cluster > MAX_REFCOUNT_BYTES:
        text = "Its tables are larger than any real image needs: opening it would eat memory."
        hazards.append(Hazard("qcow2-tables", text, Verdict.REFUSE))
    if header.snapshots > MAX_SNAPSHOTS:
        text = f"It claims {header.snapshots} snapshots: opening it would eat memory."
        hazards.append(Hazard("qcow2-tables", text, Verdict.REFUSE))
    per_entry = (cluster // (16 if header.incompatible & _EXTENDED_L2 else 8)) * cluster
    if header.l1_entries < -(-header.virtual_size // per_entry):
        hazards.append(_broken("its L1 table is too small for its disk"))
    if not header.refcount_clusters:
        hazards.append(_broken("it has no reference counts"))
    if hazards:
        return hazards
    tables = [
        ("L1 table", header.l1_offset, header.l1_entries * 8),
        ("reference count table", header.refcount_offset, header.refcount_clusters * cluster),
        # A snapshot's entry takes 40 bytes and its names.
        ("snapshot table", header.snapshots_offset, header.snapshots * 40),
    ]
    for title, offset, length in tables:
        if offset % cluster:
            hazards.append(_broken(f"its {title} does not start at a cluster"))
        elif length and offset + length > file_size:
            text = f"It is cut short: its {title} would end at byte {offset + length}, and it has {file_size}."
            hazards.append(Hazard("qcow2-truncated", text, Verdict.REFUSE))
    return hazards


def _extensions(header: Header) -> tuple[dict[int, bytes], bool]:
    """Return the header extensions by type, the first of each; and whether all were found within bounds."""
    end = min(header.backing_offset or _HEADER_AREA, _HEADER_AREA, len(header.data))
    if 9 <= header.cluster_bits <= 21:
        end = min(end, 1 << header.cluster_bits)
    found: dict[int, bytes] = {}
    at = header.length
    for _ in range(_MAX_EXTENSIONS):
        if at + 8 > end:
            return found, True
        kind, length = big(header.data, at, 4), big(header.data, at + 4, 4)
        if length > end - at - 8:
            return found, False
        if kind == 0:
            return found, True
        found.setdefault(kind, header.data[at + 8 : at + 8 + length])
        at += 8 + length + -length % 8
    return found, False


def _backing(reader: Reader, header: Header, extensions: dict[int, bytes]) -> Backing | None:
    if not header.backing_offset or not header.backing_length:
        return None
    raw = reader.pread(header.backing_offset, min(header.backing_length, _MAX_NAME))
    name = raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")  # a C string to QEMU
    driver = text(extensions.get(_BACKING_FORMAT, b""), 0, 64)
    return Backing(name, driver or None) if name else None


def _dangers(header: Header, extensions: dict[int, bytes]) -> list[Hazard]:
    """Judge what the header asks of whoever opens the image."""
    hazards = []
    if header.incompatible & _DATA_FILE or _DATA_FILE_NAME in extensions:
        name = clean(text(extensions.get(_DATA_FILE_NAME, b""), 0, _MAX_NAME), 200)
        where = f", {name}" if name else ""
        why = f"Its data lie in another file{where}: QEMU would open that one, wherever it is."
        hazards.append(Hazard("qcow2-data-file", why, Verdict.REFUSE))
    unknown = header.incompatible & ~_KNOWN
    if unknown:
        names = ", ".join(_feature_name(extensions, bit) for bit in range(64) if unknown >> bit & 1)
        why = f"It uses features that are not known here ({clean(names, 200)})."
        hazards.append(Hazard("qcow2-unknown-feature", why, Verdict.REFUSE))
    if header.encryption == 1:
        why = "It is encrypted in a way (AES) that is broken, and that QEMU runs no guest from any more."
        hazards.append(Hazard("qcow2-aes", why, Verdict.REFUSE))
    elif header.encryption == 2:
        why = "It is encrypted (LUKS), and passphrases are not supported yet."
        hazards.append(Hazard("encrypted", why, Verdict.REFUSE))
    if header.incompatible & _CORRUPT:
        why = "It is marked as corrupt: QEMU found its tables wrong once. What it holds may be damaged."
        hazards.append(Hazard("corrupt", why, Verdict.OK))
    if header.incompatible & _DIRTY:
        why = "It was not closed cleanly, or is in use: its reference counts may be out of date."
        hazards.append(Hazard("dirty", why, Verdict.OK))
    if header.snapshots:
        count = "1 snapshot" if header.snapshots == 1 else f"{header.snapshots} snapshots"
        why = f"It holds {count} inside; what starts is its current state."
        hazards.append(Hazard("internal-snapshots", why, Verdict.OK))
    return hazards


def _feature_name(extensions: dict[int, bytes], bit: int) -> str:
    table = extensions.get(_FEATURE_NAMES, b"")
    for at in range(0, min(len(table), 64 * 48), 48):
        if table[at : at + 2] == bytes([0, bit]):
            name = text(table, at + 2, 46)
            return f"{name!r}, bit {bit}" if name else f"bit {bit}"
    return f"bit {bit}"


def _features(header: Header, extensions: dict[int, bytes]) -> tuple[str, ...]:
    words = [f"version {header.version}"]
    if 9 <= header.cluster_bits <= 21 and header.cluster_bits != 16:
        size = 1 << header.cluster_bits
        unit, power = next((unit for unit in (("MiB", 20), ("KiB", 10)) if size >> unit[1]), ("bytes", 0))
        words.append(f"clusters of {size >> power} {unit}")
    words += ["zstd compression"] if header.incompatible & _COMPRESSION else []
    words += ["extended L2"] if header.incompatible & _EXTENDED_L2 else []
    words += ["lazy reference counts"] if header.compatible & _LAZY_REFCOUNTS else []
    words += ["bitmaps"] if _BITMAPS in extensions else []
    words += ["encrypted"] if header.encryption else []
    words += ["internal snapshots"] if header.snapshots else []
    return tuple(words)
