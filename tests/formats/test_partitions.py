"""Partition tables made by the real tools are what sfdisk, parted and blkid say, and bent ones cost nothing."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from probes.identify import identify
from probes.image import Image, Verdict
from probes.recording import RecordingReader
from tests.formats.images import MiB, codes, copy_into, judge, patch, run, sparse
from tests.formats.partitioned import Disk
from tests.formats.readers import FileReader, MemoryReader


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
        data = bytearray(path.read_bytes())
        for header, entries in ((512, 1024), (100 * MiB - 512, 100 * MiB - 33 * 512)):
            data[header + 88 : header + 92] = struct.pack("<I", zlib.crc32(data[entries : entries + 128 * 128]))
            data[header + 16 : header + 20] = bytes(4)
            data[header + 16 : header + 20] = struct.pack("<I", zlib.crc32(data[header : header + 92]))
        name = identify(MemoryReader(bytes(data))).media.partitions[0].name
        assert name.isprintable()
        assert "owned" in name


class TestGpt:
    def test_whose_second_copy_is_damaged_is_told(self, disk: Disk) -> None:
        path = disk(SCRIPTS["gpt, two"])
        patch(path, 100 * MiB - 512, bytes(512))
        image = judge(path)
        assert len(image.media.partitions) == 2
        assert codes(image) == {"partition-table"}
        assert "second copy" in image.hazards[0].text

    def test_on_a_disk_that_became_smaller_is_told(self, disk: Disk) -> None:
        data = disk("label: gpt\nsize=10M\n").read_bytes()
        image = identify(MemoryReader(data[: 50 * MiB]))
        assert codes(image) == {"truncated"}
        assert f"{50 * MiB} bytes instead of {100 * MiB}" in image.hazards[0].text

    def test_on_a_disk_that_was_made_larger_is_fine(self, disk: Disk) -> None:
        path = disk("label: gpt\nsize=10M\n")
        with path.open("r+b") as file:
            file.truncate(200 * MiB)
        assert not judge(path).hazards

    def test_whose_protective_mbr_is_of_a_larger_disk_is_told(self, disk: Disk) -> None:
        path = patch(disk("label: gpt\nsize=10M\n"), 446 + 12, struct.pack("<I", 1 << 20))
        assert codes(judge(path)) == {"truncated"}

    def test_with_partitions_in_its_mbr_too_is_a_hybrid(self, disk: Disk) -> None:
        path = disk("label: gpt\nsize=10M, type=uefi\nsize=10M\n")
        run("sgdisk", "--hybrid", "1:2", path)
        image = judge(path)
        assert image.media.table == "gpt"
        assert "hybrid GPT and MBR" in image.features
        assert not image.hazards

    def test_of_sgdisk_and_parted_is_what_sfdisk_says(self, tmp_path: Path) -> None:
        path = sparse(tmp_path / "disk", 64 * MiB)
        run("sgdisk", "-n", "1:0:+10M", "-t", "1:ef00", "-c", "1:boot", "-n", "5:0:0", "-A", "5:set:2", path)
        assert as_we_say(judge(path)) == as_sfdisk_says(path)
        run(
            "parted",
            "-s",
            path,
            "mklabel",
            "gpt",
            "mkpart",
            "one",
            "ext4",
            "1MiB",
            "20MiB",
            "mkpart",
            "two",
            "20MiB",
            "100%",
        )
        assert as_we_say(judge(path)) == as_sfdisk_says(path)


class TestMbr:
    def test_of_4096_byte_sectors_is_read_so_where_only_that_makes_sense(self, tmp_path: Path) -> None:
        path = sparse(tmp_path / "disk.raw", 100 * MiB)
        run("fdisk", "-b", "4096", path, stdin="o\nn\np\n1\n\n+10M\nn\np\n2\n\n+30M\nw\n")
        assert judge(path).media.partitions[0].start == 128 * 1024  # without a filesystem nothing speaks against it
        run("mke2fs", "-q", "-t", "ext4", "-L", "lbl", tmp_path / "root", "20M")
        copy_into(path, 11 * MiB, tmp_path / "root")
        image = judge(path)
        assert [part.start for part in image.media.partitions] == [1 * MiB, 11 * MiB]
        assert image.media.partitions[1].filesystem is not None
        assert image.features == ("4096-byte sectors",)
        assert not image.hazards

    def test_of_parted_is_what_sfdisk_says(self, tmp_path: Path) -> None:
        path = sparse(tmp_path / "disk", 64 * MiB)
        logical = ("mkpart", "logical", "21MiB", "30MiB", "mkpart", "logical", "31MiB", "40MiB")
        extended = ("mkpart", "extended", "20MiB", "100%")
        first = ("mkpart", "primary", "1MiB", "20MiB")
        run("parted", "-s", path, "mklabel", "msdos", *first, *extended, *logical, "set", "1", "boot", "on")
        assert as_we_say(judge(path)) == as_sfdisk_says(path)

    def test_with_logical_partitions_takes_a_round_trip_for_each(self, disk: Disk, tmp_path: Path) -> None:
        run("mkfs.xfs", "-q", "-f", sparse(tmp_path / "part", 320 * MiB))
        path = disk(SCRIPTS["mbr, extended"])
        with (tmp_path / "part").open("rb") as part:
            head = part.read(8192)
        for found in judge(path).media.partitions:
            if found.type != "Extended":
                patch(path, found.start, head)
        with FileReader(path) as file:
            reader = RecordingReader(file)
            partitions = identify(reader).media.partitions
            assert [part.filesystem and part.filesystem.type for part in partitions] == [
                "xfs",
                None,
                "xfs",
                "xfs",
                "xfs",
            ]
            assert reader.trips == 5  # the head, the first superblock and record, two records more, the last superblock


class TestAppleMap:
    @pytest.mark.parametrize("many", [1, 5])
    def test_is_what_parted_says(self, tmp_path: Path, many: int) -> None:
        path = sparse(tmp_path / "disk", 100 * MiB)
        parts = [word for index in range(many) for word in
                 ("mkpart", f"part{index}", "hfs", f"{1 + 10 * index}MiB", f"{11 + 10 * index}MiB")]  # fmt: skip
        run("parted", "-s", path, "mklabel", "mac", *parts)
        image = judge(path)
        assert image.media.table == "apm"
        listed = [part for part in image.media.partitions if part.type != "Apple_Free"]  # which parted does not show
        assert [(part.number, part.start, part.size, part.name) for part in listed] == _parted(path)
        assert {part.type for part in listed[1:]} == {"Apple_HFS"}
        assert image.verdict is Verdict.OK
        assert "PTTYPE=mac" in run("blkid", "-p", "-o", "export", path)

    def test_with_a_filesystem_is_looked_into(self, tmp_path: Path) -> None:
        path = sparse(tmp_path / "disk", 30 * MiB)
        run("parted", "-s", path, "mklabel", "mac", "mkpart", "one", "hfs", "1MiB", "11MiB")
        run("mke2fs", "-q", "-t", "ext2", "-L", "lbl", sparse(tmp_path / "part", 8 * MiB))
        found = judge(copy_into(path, MiB, tmp_path / "part")).media.partitions[1].filesystem
        assert found is not None
        assert (found.type, found.label) == ("ext2", "lbl")

    @pytest.mark.parametrize("count", [0, 1 << 31, 0xFFFFFFFF])
    def test_that_counts_absurdly_costs_nothing(self, tmp_path: Path, count: int) -> None:
        path = sparse(tmp_path / "disk", 30 * MiB)
        run("parted", "-s", path, "mklabel", "mac", "mkpart", "one", "hfs", "1MiB", "11MiB")
        patch(path, 512 + 4, struct.pack(">I", count))
        with FileReader(path) as reader:
            assert len(identify(reader).media.partitions) <= 4
            assert reader.bytes_read < 200_000


def _parted(path: Path) -> list[tuple[int, int, int, str]]:
    rows = run("parted", "-s", "-m", path, "unit", "B", "print").splitlines()[2:]
    cells = sorted((row.rstrip(";").split(":") for row in rows), key=lambda row: int(row[0]))
    return [(int(one[0]), int(one[1][:-1]), int(one[3][:-1]), one[5]) for one in cells if one[0].isdigit()]


class TestDisklabel:
    def test_of_a_whole_disk_is_what_blkid_says(self, tmp_path: Path) -> None:
        parts = [(MiB, 10 * MiB, 7), (11 * MiB, 5 * MiB, 1), (0, 64 * MiB, 0), (20 * MiB, 8 * MiB, 7)]
        path = patch(sparse(tmp_path / "disk", 64 * MiB), 512, disklabel(parts))
        run("makefs", "-t", "ffs", "-s", "8m", path.with_name("ffs"), _empty(path.with_name("tree")))
        image = judge(copy_into(path, MiB, path.with_name("ffs")))
        assert image.media.table == "bsd"
        assert [(part.number, part.start // 512, part.size // 512) for part in image.media.partitions] == partx(path)
        assert [(part.name, part.start, part.size, part.type) for part in image.media.partitions] == [
            ("a", MiB, 10 * MiB, "BSD FFS"), ("b", 11 * MiB, 5 * MiB, "BSD swap"), ("d", 20 * MiB, 8 * MiB, "BSD FFS")
        ]  # fmt: skip
        assert image.media.partitions[0].filesystem is not None

    @pytest.mark.parametrize(("kind", "base"), [("a5", 0), ("a6", MiB), ("a9", MiB)])
    def test_in_a_slice_is_listed_after_the_others(self, disk: Disk, kind: str, base: int) -> None:
        path = disk(f"label: dos\nsize=60M, type={kind}, bootable\nsize=10M, type=c\n")
        size = 60 * MiB
        parts = [(base + 8192, 20 * MiB, 7), (base + 8192 + 20 * MiB, 10 * MiB, 1), (base, size, 0)]
        patch(path, MiB + 512, disklabel(parts))
        run(
            "makefs", "-t", "ffs", "-s", "16m", "-o", "version=2", path.with_name("ffs"), _empty(path.with_name("tree"))
        )
        copy_into(path, MiB + 8192, path.with_name("ffs"))
        listed = judge(path).media.partitions
        assert [(part.number, part.name) for part in listed] == [(1, ""), (2, ""), (5, "a"), (6, "b")]
        assert [(part.start, part.size) for part in listed[2:]] == [
            (MiB + 8192, 20 * MiB),
            (MiB + 8192 + 20 * MiB, 10 * MiB),
        ]
        assert listed[0].filesystem is None
        assert listed[2].filesystem is not None
        assert listed[2].filesystem.type == "ufs"

    def test_whose_check_sum_is_wrong_is_none(self, tmp_path: Path) -> None:
        data = bytearray(MiB)
        data[512:1024] = disklabel([(8192, 65536, 7)])
        assert identify(MemoryReader(bytes(data))).media.table == "bsd"
        data[512 + 150] ^= 1
        assert identify(MemoryReader(bytes(data))).media.table is None


def partx(path: Path) -> list[tuple[int, int, int]]:
    """What libblkid says is on it (blkid itself does not tell of disklabels)."""
    rows = run("partx", "-s", "-g", "-o", "NR,START,SECTORS", path).splitlines()
    return [(int(a), int(b), int(c)) for a, b, c in map(str.split, rows)]


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def disklabel(parts: list[tuple[int, int, int]]) -> bytes:
    """A label with these partitions, as (start, size, type)."""
    label = bytearray(512)
    label[:4] = label[132:136] = struct.pack("<I", 0x82564557)
    label[40:44] = struct.pack("<I", 512)
    label[138:140] = struct.pack("<H", len(parts))
    for index, (start, size, kind) in enumerate(parts):
        at = 148 + 16 * index
        label[at : at + 13] = struct.pack("<IIIB", size // 512, start // 512, 0, kind)
    sum_ = 0
    for word in struct.unpack(f"<{(148 + 16 * len(parts)) // 2}H", label[: 148 + 16 * len(parts)]):
        sum_ ^= word
    label[136:138] = struct.pack("<H", sum_)
    return bytes(label)


@pytest.mark.parametrize(
    ("script", "theirs"),
    [
        ("label: dos\ntype=83\n", "dos"),
        ("label: gpt\ntype=linux\n", "gpt"),
        ("label: dos\n", "dos"),
        ("label: gpt\n", "gpt"),
    ],
)
def test_the_kind_of_table_is_what_blkid_says(disk: Disk, script: str, theirs: str) -> None:
    path = disk(script)
    assert f"PTTYPE={theirs}" in run("blkid", "-p", "-o", "export", path)
    assert judge(path).media.table == {"dos": "mbr"}.get(theirs, theirs)
