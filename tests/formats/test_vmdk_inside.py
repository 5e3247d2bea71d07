"""Inside a VMDK: how little of it is read, and that its guest's bytes are found, by every kind of map."""

import struct
import zlib
from pathlib import Path

import pytest

from probes.identify import guest_disk, identify
from probes.image import Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats.disks import everything
from tests.formats.images import MiB, judge, patch, qemu_img_create, qemu_img_info, run
from tests.formats.readers import FileReader
from tests.formats.streams import stream
from tests.formats.vmdks import DESCRIPTOR, VARIANTS

GiB = 1 << 30


class TestReadsLittle:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("size", [MiB, 2048 * GiB])
    def test_one_read_settles_it(self, tmp_path: Path, variant: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vmdk", "-o", VARIANTS[variant])
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            assert identify(recorder, look_inside=False).verdict is Verdict.OK
            assert (recorder.trips, recorder.bytes_read) == (1, min(path.stat().st_size, 64 << 10))
            identify(recorder)
            assert recorder.trips <= 2  # both ends of the map at once


class TestLooksInside:
    @pytest.mark.parametrize("options", ["subformat=monolithicSparse", "subformat=streamOptimized"])
    def test_of_a_disk_that_ends_within_a_grain(self, tmp_path: Path, options: str) -> None:
        raw = tmp_path / "raw"
        raw.write_bytes((b"".join(bytes([n % 251]) * n for n in range(1700)) + Path("/bin/true").read_bytes())[:-100])
        path = tmp_path / "image"
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, path)
        size = judge(path).virtual_size
        assert size == qemu_img_info(path)["virtual-size"]
        assert everything(path) == raw.read_bytes()[:size].ljust(size, b"\0")

    def test_over_a_parent_and_zeroed_grains(self, tmp_path: Path, raw_disk: Path) -> None:
        base, path = tmp_path / "base.vmdk", tmp_path / "image"
        run("qemu-img", "convert", "-O", "vmdk", raw_disk, base)
        run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-b", base, "-F", "vmdk", path)
        commands = ("write -P 7 300k 3k", "write -z 9M 128k", "write -P 8 20M 100k")
        run("qemu-io", *(word for command in commands for word in ("-c", command)), path)
        run("qemu-img", "convert", "-O", "raw", path, tmp_path / "raw")
        patch(path, DESCRIPTOR, path.read_bytes()[DESCRIPTOR:10752].replace(str(base).encode(), b"base.vmdk"))
        assert everything(path, raw_disk) == (tmp_path / "raw").read_bytes()

    @pytest.mark.parametrize("value", [0xFFFFFFFF, 1 << 20])
    def test_but_not_what_leads_nowhere(self, tmp_path: Path, value: int) -> None:
        path = qemu_img_create(tmp_path / "image", "60G", "vmdk")
        directory = struct.unpack("<Q", path.read_bytes()[56:64])[0] * 512
        patch(path, directory, struct.pack("<I", value))
        image = judge(path)
        assert image.media.firmware is None
        with FileReader(path) as reader, pytest.raises(CannotMap):
            guest_disk(image, reader).pread(0, 512)

    @pytest.mark.parametrize("size", [0, 1, 20, 131073, 0xFFFFFFFF])
    def test_nor_packed_grains_of_odd_sizes(self, tmp_path: Path, raw_disk: Path, size: int) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw_disk, path)
        first = struct.unpack("<Q", path.read_bytes()[64:72])[0] * 512
        patch(path, first + 8, struct.pack("<I", size))
        assert judge(path).verdict is Verdict.OK
        with pytest.raises(CannotMap):
            everything(path)

    def test_and_takes_no_more_of_a_grain_than_belongs_there(self, tmp_path: Path) -> None:
        disk = bytes(MiB) + b"x" * 512
        data = bytearray(stream(disk))
        bomb = zlib.compress(b"x" * (32 * MiB), 9)
        at = len(data)
        data += struct.pack("<QI", 2048, len(bomb)) + bomb + bytes(-(len(bomb) + 12) % 512)
        table = struct.unpack_from("<I", data, struct.unpack_from("<Q", data, at - 1024 + 56)[0] * 512)[0] * 512
        struct.pack_into("<I", data, table + 16 * 4, at // 512)
        path = tmp_path / "image"
        path.write_bytes(bytes(data) + bytes(data[at - 1536 : at]))
        assert everything(path) == disk
