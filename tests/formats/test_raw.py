"""raw disks: what firmware could start, filesystems in their places, sizes, and how few reads it takes."""

import struct
from pathlib import Path

import pytest

from probes.identify import identify
from probes.image import Firmware, MediaKind, Verdict
from probes.recording import RecordingReader
from tests.formats.images import MiB, codes, copy_into, judge, patch, qemu_img_info, run, sparse
from tests.formats.partitioned import BIOS_BOOT, BOOT_CODE, LOADER_CODE, Disk
from tests.formats.readers import FailingReader, FileReader, MemoryReader


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
        assert image.media.summary == "Linux · GPT, 3 partitions: vfat, ext4, swap · boots by UEFI"

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

        reader = RecordingReader(Vast(b""))
        assert identify(reader).virtual_size == (1 << 63) - 512
        assert reader.trips <= 2


class TestReading:
    @pytest.mark.parametrize(
        "script", ["label: dos\ntype=83\n", "label: gpt\ntype=linux\n", "label: dos\nsize=5M, type=c, bootable\n"]
    )
    def test_a_disk_with_a_filesystem_takes_two_round_trips(self, disk: Disk, tmp_path: Path, script: str) -> None:
        run("mkfs.btrfs", "-q", sparse(tmp_path / "root", 120 * MiB))
        path = copy_into(disk(script, size=130 * MiB), MiB, tmp_path / "root")
        with FileReader(path) as file:
            reader = RecordingReader(file)
            image = identify(reader)
            assert image.media.partitions[0].filesystem is not None
            assert image.media.partitions[0].filesystem.type == "btrfs"
            assert reader.trips == (2 if "type=c" not in script else 3)  # where nobody would look for it
            assert reader.bytes_read <= 100 << 10 if reader.trips == 2 else 200 << 10

    def test_six_partitions_take_no_more(self, disk: Disk, tmp_path: Path) -> None:
        path = disk("label: gpt\n" + "size=10M\n" * 6, size=100 * MiB)
        run("mkfs.xfs", "-q", "-f", sparse(tmp_path / "part", 320 * MiB))
        with (tmp_path / "part").open("rb") as part:
            head = part.read(8192)
        for index in range(6):
            patch(path, MiB + index * 10 * MiB, head)
        with FileReader(path) as file:
            reader = RecordingReader(file)
            found = [part.filesystem and part.filesystem.type for part in identify(reader).media.partitions]
            assert found == ["xfs"] * 6
            assert reader.trips == 2
            assert reader.bytes_read <= (64 + 20 + 6 * 12 + 8) << 10

    @pytest.mark.parametrize("command", [("mkfs.vfat",), ("mkfs.btrfs", "-q"), ("mkfs.ntfs", "-q", "-F", "-f")])
    def test_a_disk_without_partitions_takes_two_too(self, tmp_path: Path, command: tuple[str, ...]) -> None:
        run(*command, sparse(tmp_path / "disk", 120 * MiB))
        with FileReader(tmp_path / "disk") as file:
            reader = RecordingReader(file)
            assert identify(reader).media.filesystem is not None
            assert reader.trips <= (3 if "ntfs" in command[0] or "vfat" in command[0] else 2)  # the label

    def test_a_failed_read_is_an_error_whichever_it_is(self, disk: Disk) -> None:
        from probes.errors import Unreachable

        data = disk("label: gpt\nsize=20M\nsize=20M\nsize=20M\n").read_bytes()
        counted = MemoryReader(data)
        assert identify(counted).media.kind is MediaKind.DISK
        assert counted.trips >= 6
        for fails_at in range(counted.trips):
            with pytest.raises(Unreachable):
                identify(FailingReader(data, fails_at))
