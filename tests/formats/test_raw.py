"""raw disks: partition tables and filesystems made by the real tools, and what firmware could start."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probes.identify import identify
from probes.image import Firmware, Image, MediaKind, Verdict
from tests.formats.images import MiB, codes, copy_into, judge, patch, qemu_img_info, run, sparse
from tests.formats.readers import FailingReader, FileReader, MemoryReader

BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
BOOT_CODE = b"\xfa\x31\xc0\x8e\xd8" + b"\x90" * 60
LOADER_CODE = b"\xeb\x63\x90" + bytes(380) + b"GRUB \0Geom\0"

Disk = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Make a disk with what `script` tells sfdisk, and this code in its boot sector."""

    def make(script: str, code: bytes = b"", size: int = 100 * MiB) -> Path:
        path = sparse(tmp_path / "disk.raw", size)
        run("sfdisk", "-q", path, stdin=script)
        return patch(path, 0, code)

    return make


def sfdisk(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(run("sfdisk", "-J", path))["partitiontable"]
    return table


def as_sfdisk_says(path: Path) -> list[tuple[int, int, int, str, bool]]:
    table = sfdisk(path)
    sector = table.get("sectorsize", 512)
    return [
        (
            int(part["node"].removeprefix(str(path))),
            part["start"] * sector,
            part["size"] * sector,
            part.get("name", ""),
            part.get("bootable", False) or "LegacyBIOSBootable" in part.get("attrs", ""),
        )
        for part in table.get("partitions", [])
    ]


def as_we_say(image: Image) -> list[tuple[int, int, int, str, bool]]:
    return [(part.number, part.start, part.size, part.name, part.bootable) for part in image.media.partitions]


SCRIPTS: dict[str, str] = {
    "mbr, one": "label: dos\ntype=83, bootable\n",
    "mbr, four": "label: dos\nsize=10M, type=c\nsize=10M, type=7\nsize=10M, type=82\ntype=83\n",
    "mbr, a gap in the numbers": "label: dos\n2: start=4096, size=10M, type=83\n4: size=10M, type=da\n",
    "mbr, none": "label: dos\n",
    "mbr, extended": "label: dos\nsize=10M, type=83\ntype=5\nsize=10M\nsize=10M, type=82\nsize=5M, bootable\n",
    "mbr, extended first": "label: dos\nsize=60M, type=f\nsize=10M, type=83\nsize=10M, type=82\nsize=5M\n",
    "gpt, one": "label: gpt\ntype=linux, name=root\n",
    "gpt, two": "label: gpt\nsize=10M, type=uefi, name=\"EFI system\"\ntype=linux, name=\"ünïcode ☃\"\n",
    "gpt, none": "label: gpt\n",
    "gpt, a gap in the numbers": "label: gpt\n3: size=10M\n7: size=10M, name=seven\n",
    "gpt, legacy boot": "label: gpt\nsize=10M, attrs=LegacyBIOSBootable\nsize=10M\n",
    "gpt, many": "label: gpt\n" + "size=1M\n" * 60,
    "gpt, few entries": "label: gpt\ntable-length: 4\nsize=10M\nsize=10M\n",
}  # fmt: skip


class TestPartitionTables:
    @pytest.mark.parametrize("script", SCRIPTS)
    def test_are_what_sfdisk_says(self, disk: Disk, script: str) -> None:
        path = disk(SCRIPTS[script])
        image = judge(path)
        assert image.media.table == {"dos": "mbr", "gpt": "gpt"}[sfdisk(path)["label"]]
        assert as_we_say(image) == as_sfdisk_says(path)
        assert image.verdict is Verdict.OK
        assert not image.hazards

    def test_of_4096_byte_sectors_are_read_and_told(self, tmp_path: Path) -> None:
        path = sparse(tmp_path / "disk.raw", 100 * MiB)
        run("fdisk", "-b", "4096", path, stdin="g\nn\n1\n\n+10M\nn\n2\n\n\nw\n")
        image = judge(path)
        assert [part.start for part in image.media.partitions] == [1 * MiB, 11 * MiB]
        assert image.features == ("4096-byte sectors",)

    def test_a_damaged_gpt_is_read_from_its_second_copy(self, disk: Disk) -> None:
        path = disk(SCRIPTS["gpt, two"])
        before = as_we_say(judge(path))
        for offset in (512 + 40, 1024 + 60):  # the header, the entries
            damaged = bytearray(path.read_bytes())
            damaged[offset] ^= 0xFF
            image = identify(MemoryReader(bytes(damaged)))
            assert as_we_say(image) == before
            assert codes(image) == {"partition-table"}
            assert image.verdict is Verdict.OK

    def test_a_gpt_damaged_in_both_copies_is_told(self, disk: Disk) -> None:
        path = disk(SCRIPTS["gpt, two"])
        patch(path, 512, b"EFI PARX")
        patch(path, 100 * MiB - 512, b"EFI PARX")
        image = judge(path)
        assert (image.media.table, image.media.partitions) == ("gpt", ())
        assert codes(image) == {"partition-table"}

    def test_a_gpt_that_an_earlier_use_left_behind_does_not_count(self, disk: Disk) -> None:
        path = disk(SCRIPTS["gpt, two"])
        run("sfdisk", "-q", "--wipe=never", path, stdin="label: dos\ntype=83\n")
        assert judge(path).media.table == "mbr"
        patch(path, 0, bytes(512))
        assert judge(path).media.table is None

    @pytest.mark.parametrize("field", [12, 24, 72, 80, 84])
    def test_a_gpt_with_absurd_numbers_and_right_check_sums_costs_nothing(self, disk: Disk, field: int) -> None:
        import zlib

        data = bytearray(disk(SCRIPTS["gpt, two"]).read_bytes())
        for start in (512, 100 * MiB - 512):
            data[start + field : start + field + 4] = b"\xff\xff\xff\xff"
            data[start + 16 : start + 20] = bytes(4)
            data[start + 16 : start + 20] = struct.pack("<I", zlib.crc32(data[start : start + 92]))
        reader = MemoryReader(bytes(data))
        image = identify(reader)
        assert image.media.partitions == ()
        assert reader.bytes_read < 300_000

    def test_a_chain_of_extended_partitions_that_bites_its_tail_ends(self, disk: Disk) -> None:
        path = disk(SCRIPTS["mbr, extended"])
        extended = next(part for part in judge(path).media.partitions if part.type == "Extended")
        patch(path, extended.start + 446 + 16 + 4, b"\x05" + bytes(3) + struct.pack("<II", 0, 2048))
        assert 3 <= len(judge(path).media.partitions) <= 5

    def test_a_chain_of_extended_partitions_without_end_is_cut_off_and_told(self, disk: Disk) -> None:
        path = disk("label: dos\ntype=5\n", size=600 * MiB)
        extended = judge(path).media.partitions[0].start
        for index in range(500):
            record = bytearray(512)
            record[446:462] = bytes(4) + b"\x83" + bytes(3) + struct.pack("<II", 1, 1)
            record[462:478] = bytes(4) + b"\x05" + bytes(3) + struct.pack("<II", (index + 1) * 2048, 2048)
            record[510:] = b"\x55\xaa"
            patch(path, extended + index * MiB, bytes(record))
        image = judge(path)
        assert len(image.media.partitions) == 25
        assert "more than 24 logical partitions" in image.features
        assert image.verdict is Verdict.OK

    def test_a_disk_that_is_smaller_than_its_table_says_is_told(self, disk: Disk) -> None:
        data = disk(SCRIPTS["mbr, four"]).read_bytes()
        image = identify(MemoryReader(data[: 50 * MiB]))
        assert codes(image) == {"truncated"}
        assert image.verdict is Verdict.OK
        assert len(image.media.partitions) == 4

    def test_names_of_partitions_are_made_harmless(self, disk: Disk) -> None:
        path = disk('label: gpt\nsize=10M, name="before"\n')
        for start in (1024, 100 * MiB - 33 * 512):
            patch(path, start + 56, "\x1b]0;owned\x07\u202e".encode("utf-16-le"))
        import zlib

        data = bytearray(path.read_bytes())
        for header, entries in ((512, 1024), (100 * MiB - 512, 100 * MiB - 33 * 512)):
            data[header + 88 : header + 92] = struct.pack("<I", zlib.crc32(data[entries : entries + 128 * 128]))
            data[header + 16 : header + 20] = bytes(4)
            data[header + 16 : header + 20] = struct.pack("<I", zlib.crc32(data[header : header + 92]))
        name = identify(MemoryReader(bytes(data))).media.partitions[0].name
        assert name.isprintable()
        assert "owned" in name


class TestFirmware:
    def firmware(self, path: Path) -> set[Firmware]:
        found = judge(path).media.firmware
        assert found is not None
        return set(found)

    def test_an_empty_disk_starts_by_nothing(self, tmp_path: Path) -> None:
        assert self.firmware(sparse(tmp_path / "disk", MiB)) == set()

    def test_a_boot_sector_starts_by_bios(self, tmp_path: Path) -> None:
        path = patch(patch(sparse(tmp_path / "disk", MiB), 0, BOOT_CODE), 510, b"\x55\xaa")
        assert self.firmware(path) == {Firmware.BIOS}
        assert judge(path).media.table is None

    def test_code_without_the_mark_of_a_boot_sector_starts_by_nothing(self, tmp_path: Path) -> None:
        assert self.firmware(patch(sparse(tmp_path / "disk", MiB), 0, BOOT_CODE)) == set()

    @pytest.mark.parametrize(
        ("script", "code", "expected"),
        [
            ("label: dos\ntype=83, bootable\n", b"", ""),
            ("label: dos\ntype=83, bootable\n", BOOT_CODE, "bios"),
            ("label: dos\ntype=83\n", LOADER_CODE, "bios"),
            ("label: dos\ntype=ef\n", b"", "uefi"),
            ("label: dos\ntype=ef\n", BOOT_CODE, "uefi"),
            ("label: dos\ntype=ef\n", LOADER_CODE, "bios uefi"),
            ("label: gpt\ntype=linux\n", b"", ""),
            ("label: gpt\nsize=10M, type=uefi\ntype=linux\n", b"", "uefi"),
            ("label: gpt\nsize=10M, type=uefi\ntype=linux\n", BOOT_CODE, "uefi"),
            ("label: gpt\nsize=10M, type=uefi\ntype=linux\n", LOADER_CODE, "bios uefi"),
            (f"label: gpt\nsize=1M, type={BIOS_BOOT}\ntype=linux\n", BOOT_CODE, "bios"),
            (f"label: gpt\nsize=9M, type=uefi\nsize=1M, type={BIOS_BOOT}\n", BOOT_CODE, "bios uefi"),
            ("label: gpt\nsize=9M, type=uefi\nattrs=LegacyBIOSBootable\n", BOOT_CODE, "bios uefi"),
        ],
    )  # fmt: skip
    def test_of_partitioned_disks(self, disk: Disk, script: str, code: bytes, expected: str) -> None:
        assert self.firmware(disk(script, code)) == {Firmware(word) for word in expected.split()}

    def test_a_fat_that_only_apologises_starts_by_nothing(self, tmp_path: Path) -> None:
        run("mkfs.vfat", "-C", tmp_path / "fat", "2000")
        assert self.firmware(tmp_path / "fat") == set()

    @pytest.mark.parametrize(("bits", "blocks"), [("12", "2000"), ("16", "20000"), ("32", "70000")])
    def test_a_fat_with_a_folder_efi_starts_by_uefi(self, tmp_path: Path, bits: str, blocks: str) -> None:
        run("mkfs.vfat", "-F", bits, "-C", tmp_path / "fat", blocks)
        run("mmd", "-i", tmp_path / "fat", "::/EFI", "::/EFI/BOOT")
        assert self.firmware(tmp_path / "fat") == {Firmware.UEFI}

    def test_a_fat_partition_with_a_folder_efi_starts_by_uefi(self, disk: Disk, tmp_path: Path) -> None:
        run("mkfs.vfat", "-C", tmp_path / "fat", "20000")
        run("mmd", "-i", tmp_path / "fat", "::/EFI")
        path = copy_into(disk("label: dos\ntype=c\n"), MiB, tmp_path / "fat")
        assert self.firmware(path) == {Firmware.UEFI}

    def test_grubs_own_boot_sector_starts_by_bios(self, disk: Disk) -> None:
        boot = Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()[:440]
        assert self.firmware(disk("label: dos\ntype=83\n", boot)) == {Firmware.BIOS}

    def test_memtests_kernel_starts_as_a_disk_and_is_told_to_be_a_kernel(self) -> None:
        image = judge(Path("/boot/memtest86+x64.bin"))
        assert image.media.firmware == frozenset({Firmware.BIOS})
        assert "linux-kernel" in codes(image)
        assert image.verdict is Verdict.OK


class TestFilesystems:
    def test_lie_in_their_partitions(self, disk: Disk, tmp_path: Path) -> None:
        path = disk("label: gpt\nsize=20M, type=uefi\nsize=40M\nsize=10M\n")
        run("mkfs.vfat", "-n", "ESP", "-C", tmp_path / "esp", "10000")
        run("mke2fs", "-q", "-t", "ext4", "-L", "root", tmp_path / "root", "30M")
        run("mkswap", "-L", "swap", sparse(tmp_path / "swap", 4 * MiB))
        for start, part in ((1, "esp"), (21, "root"), (61, "swap")):
            copy_into(path, start * MiB, tmp_path / part)
        image = judge(path)
        found = [part.filesystem and (part.filesystem.type, part.filesystem.label) for part in image.media.partitions]
        assert found == [("vfat", "ESP"), ("ext4", "root"), ("swap", "swap")]
        assert image.media.filesystem is None
        assert image.media.summary == "GPT, 3 partitions: vfat, ext4, swap · boots by UEFI"

    def test_on_a_whole_disk_may_have_a_boot_sector_before_it(self, tmp_path: Path) -> None:
        run("mke2fs", "-q", "-t", "ext4", tmp_path / "image", "8M")
        patch(tmp_path / "image", 0, LOADER_CODE.ljust(440, b"\x90") + b"\x12\x34\x56\x78" + bytes(66) + b"\x55\xaa")
        media = judge(tmp_path / "image").media
        assert media.filesystem is not None
        assert (media.table, media.filesystem.type, media.firmware) == (None, "ext4", frozenset({Firmware.BIOS}))

    def test_labels_are_made_harmless(self, tmp_path: Path) -> None:
        run("mke2fs", "-q", "-t", "ext4", "-L", "\x1b[31mred\x07", tmp_path / "image", "8M")
        found = judge(tmp_path / "image").media.filesystem
        assert found is not None
        assert found.label == "\\x1b[31mred\\x07"

    def test_a_partition_beyond_the_end_is_not_looked_into(self) -> None:
        sector = bytearray(1024 * 1024)
        sector[446:462] = bytes(4) + b"\x83" + bytes(3) + struct.pack("<II", 0xFFFFFFF0, 0xFFFFFFFF)
        sector[510:512] = b"\x55\xaa"
        image = identify(MemoryReader(bytes(sector)))
        assert [part.filesystem for part in image.media.partitions] == [None]


class TestSizes:
    @pytest.mark.parametrize("size", [512, 1000, 65535, 65536, 65537, 1_000_001])
    def test_are_those_of_qemu(self, tmp_path: Path, size: int) -> None:
        path = sparse(tmp_path / "image", size)
        image = judge(path)
        told = qemu_img_info(path, "-f", "raw")
        assert (image.format, image.virtual_size) == ("raw", told["virtual-size"])
        assert image.file_size == size
        assert codes(image) == ({"odd-size"} if size % 512 else set())
        assert image.verdict is Verdict.OK

    def test_nothing_at_all_is_refused(self) -> None:
        image = identify(MemoryReader(b""))
        assert (image.format, image.virtual_size, codes(image)) == ("raw", 0, {"empty"})
        assert image.verdict is Verdict.REFUSE

    @pytest.mark.parametrize("size", [1, 2, 36, 511])
    def test_less_than_a_sector_is_refused(self, size: int) -> None:
        image = identify(MemoryReader(bytes(size)))
        assert codes(image) == {"too-small"}
        assert image.verdict is Verdict.REFUSE

    def test_of_absurd_devices_are_no_matter(self) -> None:
        class Vast(MemoryReader):
            @property
            def size(self) -> int:
                return (1 << 63) - 512

            def pread(self, offset: int, length: int) -> bytes:
                super().pread(offset, length)
                return bytes(max(min(length, self.size - offset), 0))

        reader = Vast(b"")
        assert identify(reader).virtual_size == (1 << 63) - 512
        assert reader.trips <= 4


class TestReading:
    @pytest.mark.parametrize(
        "script", ["label: dos\ntype=83\n", "label: gpt\ntype=linux\n", "label: dos\nsize=5M, type=c, bootable\n"]
    )
    def test_a_disk_with_a_filesystem_takes_three_reads(self, disk: Disk, tmp_path: Path, script: str) -> None:
        run("mke2fs", "-q", "-t", "ext4", tmp_path / "root", "4M")
        path = copy_into(disk(script), MiB, tmp_path / "root")
        with FileReader(path) as reader:
            image = identify(reader)
            assert image.media.partitions[0].filesystem is not None
            assert reader.trips <= 4
            assert reader.bytes_read <= 100_000

    def test_a_disk_without_partitions_takes_two(self, tmp_path: Path) -> None:
        run("mke2fs", "-q", "-t", "ext4", tmp_path / "root", "4M")
        with FileReader(tmp_path / "root") as reader:
            assert identify(reader).media.filesystem is not None
            assert reader.trips == 2

    def test_a_failed_read_is_an_error_whichever_it_is(self, disk: Disk) -> None:
        from probes.errors import Unreachable

        data = disk("label: gpt\nsize=20M\nsize=20M\nsize=20M\n").read_bytes()
        counted = MemoryReader(data)
        assert identify(counted).media.kind is MediaKind.DISK
        assert counted.trips >= 4
        for fails_at in range(counted.trips):
            with pytest.raises(Unreachable):
                identify(FailingReader(data, fails_at))
