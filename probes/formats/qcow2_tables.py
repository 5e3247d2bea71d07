"""What QEMU takes into memory when it opens a qcow2: numbers and tables, judged before it does.

The limits are those of block/qcow2.c and block/qcow2-bitmap.c, which refuse what passes them, or are ours where those
are no protection: which is said.
"""

from probes.backing import MAX_NAME
from probes.fields import big
from probes.formats import qcow2_header as fields
from probes.formats.qcow2_header import Extensions, Header
from probes.image import Hazard, Verdict
from probes.reader import Reader

MAX_L1_BYTES = 32 << 20  # QCOW_MAX_L1_SIZE
MAX_REFCOUNT_BYTES = 8 << 20  # QCOW_MAX_REFTABLE_SIZE
MAX_SNAPSHOTS = 65536  # QCOW_MAX_SNAPSHOTS
MAX_VIRTUAL_SIZE = 1 << 61
MAX_FORMAT_NAME = 16

MAX_BITMAPS_BYTES = 256 << 20
"""Bytes of memory for all bitmaps: ours. QEMU bounds each, to 512 MiB, and would hold 65,535."""

MAX_DIRECTORY = 64 << 10
"""Bytes of the bitmaps' directory: ours, too. QEMU would take 64 MiB."""

_ENTRY = 24  # bytes of a bitmap's entry in the directory, before its name
_IN_USE, _RESERVED = 1, 0xFFFFFFFC
_MAX_PHYSICAL = 512 << 20  # BME_MAX_PHYS_SIZE


def broken(why: str) -> Hazard:
    """Return the hazard of a header that makes no sense."""
    return Hazard("qcow2-invalid", f"Its qcow2 header makes no sense: {why}.", Verdict.REFUSE)


def judge_numbers(header: Header, file_size: int) -> list[Hazard]:
    """Judge every size and place that QEMU would act upon when it opens the image."""
    if not header.has_sane_clusters:
        return [broken(f"clusters of 2^{header.cluster_bits} bytes")]
    hazards = [broken(why) for why in _wrong_numbers(header)]
    if not hazards:
        hazards += _tables(header, file_size)
    if header.virtual_size < 512:
        hazards.append(Hazard("empty", "The disk in it has a size of 0 bytes.", Verdict.REFUSE))
    return hazards


def judge_extensions(header: Header, extensions: Extensions) -> list[Hazard]:
    """Judge the row of header extensions, without what they point at."""
    wrong = [extensions.wrong] if extensions.wrong else []
    if len(extensions.by_type.get(fields.BACKING_FORMAT, b"")) >= MAX_FORMAT_NAME:
        wrong.append("its backing file's format has too long a name")
    crypto = extensions.by_type.get(fields.CRYPTO)
    if crypto is not None and (header.encryption != 2 or len(crypto) != 16 or _off_cluster(header, big(crypto, 0, 8))):
        wrong.append("it holds an encryption header where none can be")
    if crypto is None and header.encryption == 2:
        wrong.append("it is encrypted without an encryption header")
    bitmaps = extensions.by_type.get(fields.BITMAPS)
    if bitmaps is not None and len(bitmaps) != 24:
        wrong.append("its bitmaps' extension has a length that none has")
    return [broken(why) for why in wrong]


def judge_bitmaps(reader: Reader, header: Header, extensions: Extensions) -> list[Hazard]:
    """Judge the bitmaps, which QEMU loads whole; it ignores them where the autoclear bit is not set. One read, if there
    are any.
    """
    data = extensions.by_type.get(fields.BITMAPS)
    if data is None or not header.autoclear & fields.BITMAPS_VALID:
        return []
    count, size, offset = big(data, 0, 4), big(data, 8, 8), big(data, 16, 8)
    if not count or big(data, 4, 4) or not size or not offset or _off_cluster(header, offset):
        return [broken("its bitmaps lie nowhere")]
    if size > MAX_DIRECTORY or count > size // _ENTRY:
        return [_too_large(f"It claims {count} bitmaps")]
    directory = reader.pread(offset, size).ljust(size, b"\0")
    memory, at = 0, 0
    for _ in range(count):
        entry = directory[at : at + _ENTRY]
        length = _ENTRY + big(entry, 18, 2) + big(entry, 20, 4)
        if at + length > size or not _is_bitmap(header, entry, reader.size):
            return [broken("its bitmaps' directory is damaged")]
        if not big(entry, 12, 4) & _IN_USE:
            memory += header.virtual_size >> entry[17] >> 3
        at += length + -length % 8
    if at != size:
        return [broken("its bitmaps' directory is damaged")]
    return [_too_large(f"Its bitmaps take {memory >> 20} MiB of memory")] if memory > MAX_BITMAPS_BYTES else []


def _wrong_numbers(header: Header) -> list[str]:
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
    elif header.backing_offset and header.backing_length > min(MAX_NAME, cluster - header.backing_offset):
        wrong.append(f"a backing file's name of {header.backing_length} bytes")
    if header.encryption > 2:
        wrong.append(f"an encryption method {header.encryption}")
    if bool(header.incompatible & fields.COMPRESSION) != bool(header.compression) or header.compression > 1:
        wrong.append(f"a compression method {header.compression}")
    if header.incompatible & fields.EXTENDED_L2 and header.cluster_bits < 14:
        wrong.append("extended L2 entries with clusters too small for them")
    if header.autoclear & fields.RAW_DATA_FILE and not header.incompatible & fields.DATA_FILE:
        wrong.append("a raw data file and none at once")
    return wrong


def _tables(header: Header, file_size: int) -> list[Hazard]:
    cluster = 1 << header.cluster_bits
    hazards = []
    if header.l1_entries * 8 > MAX_L1_BYTES or header.refcount_clusters * cluster > MAX_REFCOUNT_BYTES:
        hazards.append(_too_large("Its tables are larger than any real image needs"))
    if header.snapshots > MAX_SNAPSHOTS:
        hazards.append(_too_large(f"It claims {header.snapshots} snapshots"))
    per_entry = (cluster // header.l2_entry_size) * cluster
    if header.l1_entries < -(-header.virtual_size // per_entry):
        hazards.append(broken("its L1 table is too small for its disk"))
    if not header.refcount_clusters:
        hazards.append(broken("it has no reference counts"))
    if hazards:
        return hazards
    tables = [
        ("L1 table", header.l1_offset, header.l1_entries * 8),
        ("reference count table", header.refcount_offset, header.refcount_clusters * cluster),
        # A snapshot's entry takes 40 bytes and its names.
        ("snapshot table", header.snapshots_offset, header.snapshots * 40),
    ]
    for title, offset, length in tables:
        if offset % cluster or offset >> 63:
            hazards.append(broken(f"its {title} starts at no cluster"))
        elif length and offset + length > file_size:
            text = f"It is cut short: its {title} would end at byte {offset + length}, and it has {file_size}."
            hazards.append(Hazard("qcow2-truncated", text, Verdict.REFUSE))
    return hazards


def _is_bitmap(header: Header, entry: bytes, file_size: int) -> bool:
    """Whether QEMU takes a directory's entry: see check_dir_entry and load_bitmap_data in block/qcow2-bitmap.c. It does
    not load a bitmap in use.
    """
    table, entries, flags, granularity = big(entry, 0, 8), big(entry, 8, 4), big(entry, 12, 4), entry[17]
    physical = entries << header.cluster_bits
    bits = -(-header.virtual_size >> granularity)
    needed = (bits + 63) // 64 * 8 + (1 << header.cluster_bits) - 1 >> header.cluster_bits  # clusters, for whole words
    return (
        table > 0
        and not _off_cluster(header, table)
        and 0 < physical <= _MAX_PHYSICAL
        and not flags & _RESERVED
        and entry[16] == 1  # the only type there is
        and 9 <= granularity <= 31
        and 0 < big(entry, 18, 2) <= MAX_NAME
        and not big(entry, 20, 4)  # extra data that nobody knows
        and (bool(flags & _IN_USE) or (entries == needed and table + entries * 8 <= file_size))
    )


def _off_cluster(header: Header, offset: int) -> bool:
    return header.has_sane_clusters and offset % (1 << header.cluster_bits) != 0


def _too_large(what: str) -> Hazard:
    return Hazard("qcow2-tables", f"{what}: opening it would eat memory.", Verdict.REFUSE)
