"""Inside a qcow2: what the guest would find, by every kind of map that qemu-img makes."""

import struct
from pathlib import Path

import pytest

from probes.identify import identify
from probes.image import MediaKind, Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats import images
from tests.formats.disks import everything
from tests.formats.images import MiB, judge, run
from tests.formats.readers import FileReader, MemoryReader


class TestLooksInside:
    def test_and_finds_a_disc(self, tmp_path: Path) -> None:
        iso = Path("/usr/lib/memtest86+/memtest86+x64.iso")
        for options in ((), ("-o", "cluster_size=4k"), ("-o", "cluster_size=512"), ("-c",)):
            path = tmp_path / "image"
            run("qemu-img", "convert", "-O", "qcow2", *options, iso, path)
            image = judge(path)
            assert image.format == "qcow2"
            assert image.media.kind is MediaKind.CD
            assert image.media == judge(iso).media
            assert image.verdict is Verdict.OK

    @pytest.mark.parametrize("value", [1 << 50, 0x30200, (1 << 63) | (1 << 55), 0xFFFFFFFFFFFFFFFF])
    def test_and_survives_a_map_that_leads_nowhere(self, tmp_path: Path, raw_disk: Path, value: int) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "qcow2", raw_disk, path)
        l1 = struct.unpack(">Q", path.read_bytes()[40:48])[0]
        l2 = struct.unpack(">Q", path.read_bytes()[l1 : l1 + 8])[0] & 0x00FFFFFFFFFFFE00
        for table in (l1, l2):
            broken = bytearray(path.read_bytes())
            broken[table : table + 8] = struct.pack(">Q", value)
            assert identify(MemoryReader(bytes(broken))).media.firmware is None

    def test_but_not_where_it_would_take_too_many_reads(self, tmp_path: Path, raw_disk: Path) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "qcow2", raw_disk, path)
        with FileReader(path) as reader:
            image = identify(RecordingReader(reader, max_reads=3))
        assert image.media.firmware is None
        assert image.verdict is Verdict.OK


class TestMapsEveryByte:
    @pytest.mark.parametrize("options", ["cluster_size=16k", "cluster_size=128k", "cluster_size=2M"])
    def test_of_subclusters_written_zeroed_and_left_out(self, tmp_path: Path, options: str) -> None:
        base = tmp_path / "base"
        base.write_bytes(bytes(range(1, 251)) * (4 * MiB // 250))
        path = tmp_path / "image"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", "-o", f"extended_l2=on,{options}", path)
        commands = [
            "write -P 17 0 512", "write -P 18 70000 3000", "write -z 65536 4096", "write -P 19 200k 130k",
            "write -z 1M 512k", "write -P 20 1100k 3k", "discard 2M 1M", "write -P 21 3000k 1k",
        ]  # fmt: skip
        run("qemu-io", *(word for command in commands for word in ("-c", command)), path)
        run("qemu-img", "convert", "-O", "raw", path, tmp_path / "raw")
        assert everything(path, base) == (tmp_path / "raw").read_bytes()

    @pytest.mark.parametrize("packed", ["zlib", "zstd"])
    @pytest.mark.parametrize("extended", ["on", "off"])
    def test_of_packed_clusters(self, tmp_path: Path, packed: str, extended: str) -> None:
        raw = tmp_path / "raw"
        raw.write_bytes(b"".join(bytes([n % 7]) * (n * 37) for n in range(300)) + Path("/bin/true").read_bytes())
        path = tmp_path / "image"
        options = f"compression_type={packed},extended_l2={extended}"
        run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", options, raw, path)
        assert everything(path).rstrip(b"\0") == raw.read_bytes().rstrip(b"\0")

    def test_but_not_of_a_zstd_frame_that_asks_for_much_memory(self, tmp_path: Path) -> None:
        import zstandard

        raw = tmp_path / "raw"
        raw.write_bytes(b"x" * 65536)
        path = tmp_path / "image"
        run("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", raw, path)
        assert everything(path) == raw.read_bytes()
        data = path.read_bytes()
        at = data.index(b"\x28\xb5\x2f\xfd")
        settings = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
        packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
        frame = packer.compress(raw.read_bytes()) + packer.flush()
        images.patch(path, at, frame)
        with pytest.raises(CannotMap):
            everything(path)

    def test_but_not_of_a_subcluster_that_is_there_and_zeros_at_once(self, tmp_path: Path) -> None:
        path = images.qemu_img_create(tmp_path / "image", "1M", "qcow2", "-o", "extended_l2=on")
        run("qemu-io", "-c", "write -P 1 0 64k", path)
        data = path.read_bytes()
        l1 = struct.unpack(">Q", data[40:48])[0]
        l2 = struct.unpack(">Q", data[l1 : l1 + 8])[0] & 0x00FFFFFFFFFFFE00
        images.patch(path, l2 + 8, b"\xff" * 8)
        with pytest.raises(CannotMap):
            everything(path)
