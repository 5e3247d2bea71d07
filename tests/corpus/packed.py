"""luks, dmg, cloop, bochs, and what is compressed: work and memory that a few bytes would cost."""

import base64
import bz2
import functools
import gzip
import io
import lzma
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from probes.image import Verdict
from tests.corpus.recipe import ASK, OK, REFUSE, Outside, Recipe, hazards
from tests.formats.images import MiB, patch, run

_SECRET = ("--object", "secret,id=key,data=open-sesame")


def luks(*changes: tuple[int, str, int]) -> Callable[[Path, Outside], object]:
    """A LUKS 1 volume of 1 MiB by qemu-img, with other values at these offsets of its header."""

    def make(path: Path, _outside: Outside) -> object:
        path.write_bytes(_luks_volume())
        for offset, form, value in changes:
            patch(path, offset, struct.pack(form, value))
        return path

    return make


@functools.cache
def _luks_volume() -> bytes:
    """A volume by qemu-img, which takes seconds over it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "luks"
        run("qemu-img", "create", "-q", "-f", "luks", *_SECRET, "-o", "key-secret=key,iter-time=10", path, "1M")
        return path.read_bytes()


def luks2(path: Path, _outside: Outside) -> None:
    path.write_bytes(bytes(32 * MiB))
    cheap = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--disable-locks")
    done = subprocess.run(
        ["cryptsetup", "luksFormat", "--type", "luks2", "-q", *cheap, str(path), "-"],
        input=b"open-sesame", capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def cloop(block_size: int, blocks: int, data: bytes = b"") -> Callable[[Path, Outside], object]:
    """A cloop with that many blocks claimed; `data` are its offsets and what follows."""
    head = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n"
    return lambda path, _outside: path.write_bytes(
        head.ljust(128, b"\0") + struct.pack(">II", block_size, blocks) + data
    )


def cloop_of_zeros(blocks: int, size: int, claimed: int | None = None) -> Callable[[Path, Outside], object]:
    """A sound cloop of zeros, or one whose blocks claim to hold `claimed` bytes."""
    packed = zlib.compress(bytes(size))
    start = 136 + 8 * (blocks + 1)
    offsets = b"".join(struct.pack(">Q", start + index * len(packed)) for index in range(blocks + 1))
    return cloop(claimed or size, blocks, offsets + packed * blocks)


def bochs(catalog: int, disk: int, extent: int = 65536, bitmap: int = 512) -> Callable[[Path, Outside], object]:
    """A growing redolog, version 2, whose catalog has so many entries, all of them empty."""
    head = struct.pack(
        "<32s16s16sIIIIIIQ", b"Bochs Virtual HD Image", b"Redolog", b"Growing", 0x20000, 512, catalog, bitmap, extent,
        0, disk,
    )  # fmt: skip
    return lambda path, _outside: path.write_bytes(head.ljust(512, b"\0") + b"\xff" * 4 * min(catalog, 1024))


def dmg(
    chunks: int | None = None, sectors: int = 128, claimed: int | None = None, plist_length: int | None = None
) -> Callable[[Path, Outside], object]:
    """A DMG of one packed run of zeros: its table claims `chunks` runs, the run `claimed` sectors."""
    packed = zlib.compress(bytes(sectors * 512))
    told = claimed or sectors
    runs = [(0x80000005, 0, told, 0, len(packed)), (0xFFFFFFFF, told, 0, len(packed), 0)]
    return dmg_of(runs, chunks, b"", packed, told, plist_length)


def dmg_of(
    runs: Sequence[tuple[int, int, int, int, int]],
    chunks: int | None = None,
    tail: bytes = b"",
    packed: bytes = b"",
    sectors: int = 128,
    plist_length: int | None = None,
) -> Callable[[Path, Outside], object]:
    """A DMG whose table holds these runs (kind, sector, sectors, offset, bytes), and then `tail`."""
    table = struct.pack(">4sIQQQII24x136xI", b"mish", 1, 0, sectors, 0, 0, 0, len(runs) if chunks is None else chunks)
    table += b"".join(struct.pack(">IIQQQQ", run[0], 0, *run[1:]) for run in runs) + tail
    block = base64.b64encode(table).decode()
    plist = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict><key>resource-fork</key><dict>'
        f"<key>blkx</key><array><dict><key>Data</key><data>{block}</data></dict></array></dict></dict></plist>\n"
    ).encode()
    trailer = bytearray(512)
    struct.pack_into(">4sIIIQQQQQ", trailer, 0, b"koly", 4, 512, 1, 0, 0, len(packed), 0, 0)
    struct.pack_into(">QQ", trailer, 216, len(packed), plist_length or len(plist))
    struct.pack_into(">Q", trailer, 492, sectors)
    return lambda path, _outside: path.write_bytes(packed + plist + trailer)


def bomb(pack: Callable[[bytes], bytes]) -> Callable[[Path, Outside], object]:
    """16 MiB of zeros in some kilobytes."""
    return lambda path, _outside: path.write_bytes(pack(bytes(16 * MiB)))


def zipped(data: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.img", data)
    return held.getvalue()


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


def ova(path: Path, _outside: Outside) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in (("vm.ovf", b"<Envelope/>"), ("vm-disk1.vmdk", bytes(MiB))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def _bomb(name: str, pack: Callable[[bytes], bytes]) -> Recipe:
    return Recipe(f"{name}-bomb", bomb(pack), name, None, REFUSE, hazards("compressed"))


def _luks(case: str, verdict: Verdict, code: str, *changes: tuple[int, str, int]) -> Recipe:
    size = None if verdict is REFUSE else MiB
    return Recipe(f"luks-{case}" if case else "luks", luks(*changes), "luks", size, verdict, hazards(code))


RECIPES: tuple[Recipe, ...] = (
    _luks("iterations", ASK, "luks-iterations", (164, ">I", 1 << 31), (208 + 4, ">I", 1 << 31)),
    _luks("iterations-of-a-slot", ASK, "luks-iterations", (208 + 4, ">I", 1 << 31)),
    _luks("huge-stripes", REFUSE, "luks-invalid", (208 + 44, ">I", 0xFFFFFFFF)),
    _luks("huge-key", REFUSE, "luks-cipher", (108, ">I", 0xFFFFFFFF)),
    _luks("payload-outside", REFUSE, "empty", (104, ">I", 0xFFFFFFFF)),
    _luks("", OK, "encrypted"),
    Recipe("luks-2", luks2, "luks", None, REFUSE, hazards("luks2")),
    Recipe("cloop-huge-table", cloop(65536, 0xFFFFFFFF), "cloop", None, REFUSE, hazards("cloop-tables")),
    Recipe("cloop-huge-block", cloop(1 << 31, 1, bytes(16)), "cloop", None, REFUSE, hazards("cloop-invalid")),
    Recipe("cloop-absurd-ratio", cloop_of_zeros(2, 512, 32 * MiB), "cloop", 64 * MiB, ASK,
           hazards("decompression-ratio")),
    Recipe("cloop", cloop_of_zeros(4, 65536), "cloop", 262144),
    Recipe("bochs-huge-catalog", bochs(0x40000000, 1 << 45), "bochs", None, REFUSE, hazards("bochs-invalid")),
    Recipe("bochs-catalog-too-small", bochs(1, 1 << 40), "bochs", None, REFUSE, hazards("bochs-invalid")),
    Recipe("bochs", bochs(16, MiB), "bochs", MiB),
    Recipe("dmg-count-of-runs", dmg(chunks=0xFFFFFFF0), "dmg", 65536),  # which QEMU does not believe either
    Recipe("dmg-huge-run", dmg(claimed=1 << 40), "dmg", None, REFUSE, hazards("dmg-tables")),
    Recipe("dmg-huge-list", dmg(plist_length=1 << 40), "dmg", None, REFUSE, hazards("dmg-invalid")),
    Recipe("dmg", dmg(), "dmg", 65536),
    _bomb("gzip", gzip.compress),
    _bomb("xz", lzma.compress),
    _bomb("bzip2", bz2.compress),
    _bomb("zstd", zstd),
    Recipe("zip-bomb", bomb(zipped), "zip", None, REFUSE, hazards("archive")),
    Recipe("tar-ova", ova, "tar", None, REFUSE, hazards("archive")),
)  # fmt: skip
