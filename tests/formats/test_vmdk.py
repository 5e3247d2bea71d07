"""VMDK: made by qemu-img or as VMware streams it, changed by hand, judged by us and by QEMU."""

import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.identify import guest_disk, identify
from probes.image import Backing, Firmware, Image, Verdict
from probes.mapping import CannotMap
from probes.recording import RecordingReader
from tests.formats.disks import everything, small_disk
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run, set_field
from tests.formats.readers import FileReader, MemoryReader
from tests.formats.streams import stream
from tests.formats.test_hostile import sound

GiB = 1 << 30

VARIANTS: dict[str, str] = {
    "plain": "subformat=monolithicSparse",
    "stream": "subformat=streamOptimized",
    "lsilogic": "adapter_type=lsilogic",
    "buslogic": "adapter_type=buslogic",
    "legacyESX": "adapter_type=legacyESX",
    "compat6": "compat6=on",
    "hwversion": "hwversion=17",
    "toolsversion": "toolsversion=1",
    "zeroed": "zeroed_grain=on",
    "zeroed stream": "subformat=streamOptimized,zeroed_grain=on",
}
PARTED = ("monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat")
SIZES = (512, MiB, MiB + 512, 1_000_001, 64 * MiB, 3 * GiB + 512, 2048 * GiB, 60_000 * GiB)

# The header's fields, as (offset, struct format)
VERSION, FLAGS, CAPACITY, GRAIN, TEXT_OFFSET, TEXT_SIZE = (
    (4, "<I"),
    (8, "<I"),
    (12, "<Q"),
    (20, "<Q"),
    (28, "<Q"),
    (36, "<Q"),
)
ENTRIES, SECOND, DIRECTORY, DATA, UNCLEAN, COMPRESSION = (
    (44, "<I"),
    (48, "<Q"),
    (56, "<Q"),
    (64, "<Q"),
    (72, "<B"),
    (77, "<H"),
)
DESCRIPTOR = 512


def qemu_opens(path: Path) -> bool:
    return subprocess.run(["qemu-img", "info", "-f", "vmdk", path], capture_output=True, check=False).returncode == 0


def described(path: Path, *changes: tuple[str, str]) -> Path:
    """Change words of the descriptor inside `path`."""
    text = path.read_bytes()[DESCRIPTOR : DESCRIPTOR + 10240].rstrip(b"\0").decode()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return patch(path, DESCRIPTOR, text.encode().ljust(10240, b"\0"))


def refused(image: Image, code: str) -> None:
    assert image.format == "vmdk"
    assert codes(image) == {code}, image.hazards
    assert image.verdict is Verdict.REFUSE
    assert all(hazard.text.isprintable() for hazard in image.hazards)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain.vmdk", "64M", "vmdk")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "packed.vmdk", "64M", "vmdk", "-o", "subformat=streamOptimized")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture
def streamed(tmp_path: Path, disk: Path) -> Path:
    path = tmp_path / "streamed.vmdk"
    path.write_bytes(stream(disk.read_bytes()))
    return path


class TestAgreesWithQemu:
    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("size", SIZES)
    def test_on_what_qemu_img_makes(self, tmp_path: Path, variant: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image", size, "vmdk", "-o", VARIANTS[variant])
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == (theirs["format"], theirs["virtual-size"])
        assert not ours.hazards
        kind = theirs["format-specific"]["data"]["create-type"]
        assert ours.features[0] == kind.replace("monolithicSparse", "sparse")

    def test_on_what_the_guest_is_to_find(self, tmp_path: Path) -> None:
        options = "adapter_type=lsilogic,hwversion=17,zeroed_grain=on"
        path = qemu_img_create(tmp_path / "image", "64M", "vmdk", "-o", options)
        words = ("sparse", "version 2", "zeroed grains", "adapter lsilogic", "hardware version 17")
        assert judge(path).features == words

    @pytest.mark.parametrize("subformat", PARTED)
    @pytest.mark.parametrize("size", [MiB, 1_000_001, 5 * GiB])
    def test_on_the_size_of_a_disk_in_several_files(self, tmp_path: Path, subformat: str, size: int) -> None:
        path = qemu_img_create(tmp_path / "image.vmdk", size, "vmdk", "-o", f"subformat={subformat}")
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == ("vmdk", theirs["virtual-size"])
        assert ours.features[0] == theirs["format-specific"]["data"]["create-type"]

    def test_on_a_stream_with_a_footer(self, streamed: Path, disk: Path) -> None:
        ours, theirs = judge(streamed), qemu_img_info(streamed, "-f", "vmdk")
        assert ours.virtual_size == theirs["virtual-size"] == disk.stat().st_size
        assert not ours.hazards
        assert ours.features == ("streamOptimized", "version 3", "adapter lsilogic", "hardware version 17")

    @pytest.mark.parametrize("entries", [1, 100, 511, 512])
    @pytest.mark.parametrize("grain", [1, 8, 4096, 1 << 17])
    def test_on_other_grains_and_tables(self, plain: Path, entries: int, grain: int) -> None:
        capacity = min(300 * entries * grain - 7, 1 << 32)
        for field, value in ((ENTRIES, entries), (GRAIN, grain), (CAPACITY, capacity)):
            set_field(plain, field, value)
        patch(plain, struct.unpack("<Q", plain.read_bytes()[56:64])[0] * 512, bytes(2048))
        ours = judge(plain)
        assert ours.verdict is Verdict.OK, ours.hazards
        assert ours.virtual_size == qemu_img_info(plain, "-f", "vmdk")["virtual-size"]

    def test_on_a_parent(self, tmp_path: Path) -> None:
        qemu_img_create(tmp_path / "base.vmdk", "64M", "vmdk")
        options = ("-b", "base.vmdk", "-F", "vmdk")
        for kind in ("monolithicSparse", "streamOptimized"):
            path = tmp_path / f"{kind}.vmdk"
            run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={kind}", *options, path)
            ours, theirs = judge(path), qemu_img_info(path)
            assert ours.backing == Backing(theirs["backing-filename"], "vmdk")
            assert ours.virtual_size == theirs["virtual-size"]
            assert codes(ours) == {"backing-file"}
            assert ours.verdict is Verdict.ASK


class TestKnowsADescriptor:
    @pytest.mark.parametrize(
        "text",
        [
            b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\n",
            b" \r\n\n# Disk DescriptorFile\r\nversion=1\r\n",
            b"\xef\xbb\xbf# disk descriptorfile\nversion=9\n",
            b"#anything\n# more\n\nversion=3\nCID=1\n",
            b"# a line\rthat goes on\nversion=2\n",
            b"   \n  \r\nversion=1\r\n",
            b"version=1\n",
        ],
    )
    def test_by_its_title_or_as_qemu_does(self, text: bytes) -> None:
        refused(identify(MemoryReader(text)), "vmdk-external-extent")

    @pytest.mark.parametrize(
        "text", [b"version=1", b"version=4\n", b"versions=1\n", b"Disk DescriptorFile\nversion=1\n"]
    )
    def test_and_leaves_other_texts_alone(self, text: bytes) -> None:
        assert identify(MemoryReader(text)).format == "text"


class TestRefusesOtherFiles:
    @pytest.mark.parametrize(
        ("line", "named"),
        [
            ('RW 1 FLAT "/etc/shadow" 0', "/etc/shadow"),
            ('RW 1 VMFS "x-flat.vmdk"', "x-flat.vmdk"),
            ('RW 1 SPARSE "x-s001.vmdk"', "x-s001.vmdk"),
            ('RW 1 VMFSSPARSE "x-delta.vmdk"', "x-delta.vmdk"),
            ('RW 1 SESPARSE "x-sesparse.vmdk"', "x-sesparse.vmdk"),
            ('RW 1 VMFSRDM "x-rdm.vmdk"', "x-rdm.vmdk"),
            ('RW 1 FLAT "\\\\.\\PhysicalDrive0" 0', "PhysicalDrive0"),
            ('RW 1 FLAT "nbd://192.0.2.1/x" 0', "nbd://192.0.2.1/x"),
            ('RW\n1\nFLAT\n"/etc/shadow"\n0', "/etc/shadow"),
            ("RW 1 ZERO", ""),
            ("", ""),
        ],
    )
    def test_that_hold_its_data_and_names_them(self, line: str, named: str) -> None:
        text = f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="custom"\n{line}\n'
        image = identify(MemoryReader(text.encode()))
        refused(image, "vmdk-external-extent")
        assert named in image.hazards[0].text

    def test_and_names_a_few_of_many(self) -> None:
        lines = "".join(f'RW 4192256 FLAT "disk-f{n:03}.vmdk" 0\n' for n in range(1, 500))
        image = identify(MemoryReader(f"# Disk DescriptorFile\nversion=1\n{lines}".encode()))
        assert "disk-f001.vmdk, disk-f002.vmdk, disk-f003.vmdk and 496 more" in image.hazards[0].text

    def test_shown_without_harm_to_a_terminal(self) -> None:
        text = b'# Disk DescriptorFile\nversion=1\ncreateType="\x1b[2J"\nRW 1 FLAT "\x1b]0;x\x07\xff" 0\n'
        recorder = RecordingReader(MemoryReader(text))
        image = identify(recorder)
        sound(image, recorder)
        refused(image, "vmdk-external-extent")

    @pytest.mark.parametrize("sectors", ["9" * 18, "9" * 19, "9" * 5000, "-1", "0x10"])
    def test_of_absurd_sizes(self, sectors: str) -> None:
        line = f'RW {sectors} FLAT "a" 0\n'
        image = identify(MemoryReader(f"# Disk DescriptorFile\nversion=1\n{line * 20}".encode()))
        refused(image, "vmdk-external-extent")
        assert image.virtual_size == 0

    def test_that_a_header_of_no_disk_leads_to(self, plain: Path) -> None:
        described(plain, ("monolithicSparse", "monolithicFlat"), ("SPARSE", "FLAT"), ('plain.vmdk"', 'x-flat.vmdk" 0'))
        set_field(plain, CAPACITY, 0)
        image = judge(plain)
        refused(image, "vmdk-external-extent")
        assert "x-flat.vmdk" in image.hazards[0].text
        set_field(plain, TEXT_OFFSET, 1 << 62)
        refused(judge(plain), "vmdk-external-extent")

    @pytest.mark.parametrize(
        "line", ['RW 131072 FLAT "x-flat.vmdk" 0', 'RW 1 SPARSE "a"\nRW 1 SPARSE "b"', "RW 1 ZERO", 'rw 1 vmfs "x"']
    )
    def test_that_its_own_descriptor_tells_of_and_qemu_would_leave_out(self, plain: Path, line: str) -> None:
        described(plain, ('RW 131072 SPARSE "plain.vmdk"', line))
        refused(judge(plain), "vmdk-external-extent")
        assert qemu_opens(plain)

    def test_and_the_parts_of_a_disk(self, tmp_path: Path) -> None:
        qemu_img_create(tmp_path / "a.vmdk", "1M", "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
        refused(judge(tmp_path / "a-s001.vmdk"), "vmdk-part")
        assert not qemu_opens(tmp_path / "a-s001.vmdk")

    @pytest.mark.parametrize("mark", [b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0"])
    def test_and_those_of_esx(self, tmp_path: Path, mark: bytes) -> None:
        path = tmp_path / "part"
        path.write_bytes(mark + bytes(MiB))
        refused(judge(path), "vmdk-part")
        assert not qemu_opens(path)


class TestParents:
    @pytest.mark.parametrize(
        "name", ["/etc/hostname", "json:{}", "nbd://192.0.2.1/x", "../base.vmdk", "C:\\base.vmdk", "a\x1b[2Jb"]
    )
    def test_anywhere_but_beside_it_are_refused(self, plain: Path, name: str) -> None:
        described(plain, ("parentCID=ffffffff", f'parentCID=1\nparentFileNameHint="{name}"'))
        image = judge(plain)
        refused(image, "backing-outside")
        assert image.backing == Backing(name, "vmdk")

    def test_in_a_descriptor_alone_are_told(self) -> None:
        text = b'# Disk DescriptorFile\nversion=1\nparentCID=1\nparentFileNameHint="base.vmdk"\nRW 1 SPARSE "x.vmdk"\n'
        image = identify(MemoryReader(text))
        assert image.backing == Backing("base.vmdk", "vmdk")
        assert codes(image) == {"vmdk-external-extent", "backing-file"}

    @pytest.mark.parametrize("told", ['# parentFileNameHint--/etc/hostname"', 'xparentFileNameHint\0"/etc/hostname"'])
    def test_are_found_wherever_qemu_finds_them(self, plain: Path, told: str) -> None:
        described(plain, ("parentCID=ffffffff", "parentCID=1"), ('ddb.adapterType = "ide"', told))
        image = judge(plain)
        assert image.backing == Backing("/etc/hostname", "vmdk")
        assert image.verdict is Verdict.REFUSE
        assert qemu_img_info(plain, "-f", "vmdk")["backing-filename"] == "/etc/hostname"

    def test_beyond_what_qemu_looks_at_are_none(self, plain: Path) -> None:
        text = described(plain).read_bytes()[DESCRIPTOR : DESCRIPTOR + 10240].rstrip(b"\0")
        hint = b'\nparentFileNameHint="/etc/hostname"\n'
        patch(plain, DESCRIPTOR, text.ljust(10240, b"\n") + hint)
        refused(judge(plain), "vmdk-invalid")

    def test_that_are_said_not_to_be_are_refused(self, plain: Path) -> None:
        described(plain, ("parentCID=ffffffff", 'parentCID=ffffffff\nparentFileNameHint="base.vmdk"'))
        assert "vmdk-parent" in codes(judge(plain))

    @pytest.mark.parametrize("hint", ["", '\nparentFileNameHint=""'])
    def test_without_a_name_are_refused(self, plain: Path, hint: str) -> None:
        refused(judge(described(plain, ("parentCID=ffffffff", f"parentCID=12345678{hint}"))), "vmdk-parent")
        assert qemu_opens(plain)  # with the parent left out

    def test_whose_name_does_not_end_are_refused(self, plain: Path) -> None:
        described(
            plain, ("parentCID=ffffffff", "parentCID=1"), ('ddb.toolsVersion = "2147483647"', 'parentFileNameHint="x')
        )
        refused(judge(plain), "vmdk-invalid")
        assert not qemu_opens(plain)


class TestTells:
    def test_that_it_was_not_closed(self, plain: Path) -> None:
        image = judge(set_field(plain, UNCLEAN, 1))
        assert codes(image) == {"dirty"}
        assert image.verdict is Verdict.OK

    def test_that_it_was_taken_for_a_text(self, plain: Path) -> None:
        image = judge(patch(plain, 73, b"\n \n\n"))
        assert codes(image) == {"vmdk-newlines"}
        assert image.verdict is Verdict.OK

    def test_grains_of_another_size(self, plain: Path) -> None:
        assert "grains of 4 KiB" in judge(set_field(plain, GRAIN, 8)).features


class TestRefuses:
    @pytest.mark.parametrize("version", [0, 4, 0xFFFFFFFF])
    def test_versions_that_nobody_knows(self, plain: Path, version: int) -> None:
        refused(judge(set_field(plain, VERSION, version)), "vmdk-version")
        assert qemu_opens(plain) == (version == 0)

    @pytest.mark.parametrize(
        ("change", "opens"),
        [
            ((ENTRIES, 0), False),
            ((ENTRIES, 513), False),
            ((ENTRIES, 0xFFFFFFFF), False),
            ((GRAIN, 0), False),
            ((GRAIN, 100), True),
            ((GRAIN, (1 << 32) + 128), False),
            ((GRAIN, (1 << 64) - 1), False),
            ((DIRECTORY, 0), True),
            ((TEXT_OFFSET, 2), True),
            ((TEXT_OFFSET, 1 << 62), True),
        ],
    )
    def test_headers_that_make_no_sense(self, plain: Path, change: tuple[tuple[int, str], int], opens: bool) -> None:
        refused(judge(set_field(plain, *change)), "vmdk-invalid")
        assert qemu_opens(plain) == opens

    @pytest.mark.parametrize("change", [("CID=", "CDI="), ("parentCID=ffffffff", "parentCID=none"), ("CID=", "CID =")])
    def test_a_descriptor_without_numbers(self, plain: Path, change: tuple[str, str]) -> None:
        refused(judge(described(plain, change)), "vmdk-invalid")
        assert not qemu_opens(plain)

    def test_an_image_without_a_descriptor(self, plain: Path) -> None:
        refused(judge(patch(plain, DESCRIPTOR, bytes(10240))), "vmdk-part")
        refused(judge(set_field(plain, TEXT_OFFSET, 0)), "vmdk-part")
        assert not qemu_opens(plain)

    @pytest.mark.parametrize(
        "change",
        [
            (DIRECTORY, 1 << 30),
            (DIRECTORY, 1 << 54),
            (DIRECTORY, (1 << 55) + 26),
            (SECOND, 1 << 40),
            (DATA, 1 << 30),
            (DATA, (1 << 64) - 1),
        ],
    )
    def test_what_lies_beyond_its_end(self, plain: Path, change: tuple[tuple[int, str], int]) -> None:
        refused(judge(set_field(plain, *change)), "vmdk-truncated")

    @pytest.mark.parametrize("change", [(CAPACITY, 1 << 54), (CAPACITY, (1 << 64) - 1), (CAPACITY, (1 << 48) + 1)])
    def test_a_directory_that_would_eat_memory(self, plain: Path, change: tuple[tuple[int, str], int]) -> None:
        refused(judge(set_field(plain, *change)), "vmdk-tables")

    def test_grains_that_would_eat_memory(self, plain: Path, packed: Path) -> None:
        refused(judge(set_field(plain, GRAIN, 1 << 18)), "vmdk-tables")
        assert qemu_opens(plain)
        refused(judge(set_field(packed, GRAIN, 1 << 13)), "vmdk-tables")
        assert judge(set_field(packed, GRAIN, 1 << 12)).verdict is Verdict.OK

    def test_a_disk_of_nothing(self, plain: Path) -> None:
        set_field(plain, CAPACITY, 0)
        image = judge(set_field(plain, TEXT_OFFSET, 0))
        assert codes(image) == {"empty", "vmdk-part"}
        assert image.verdict is Verdict.REFUSE

    @pytest.mark.parametrize(("flags", "method"), [(0x30003, 0), (0x30003, 2), (3, 1), (0x10003, 1), (3, 2)])
    def test_packing_that_nobody_knows(self, packed: Path, flags: int, method: int) -> None:
        set_field(packed, FLAGS, flags)
        refused(judge(set_field(packed, COMPRESSION, method)), "vmdk-compression")

    def test_one_that_was_cut_short(self, tmp_path: Path, disk: Path) -> None:
        for options in ("subformat=monolithicSparse", "subformat=streamOptimized"):
            path = tmp_path / "image"
            run("qemu-img", "convert", "-O", "vmdk", "-o", options, disk, path)
            data = path.read_bytes()
            for size in (4, 79, 512, 600, 12000, 20000, 60000, 65536, len(data) // 2):
                image = identify(MemoryReader(data[:size]))
                assert (image.format, image.verdict) == ("vmdk", Verdict.REFUSE), (options, size)
            assert identify(MemoryReader(data)).verdict is Verdict.OK


class TestFooter:
    """The end of a stream, whose header says nothing of where the grain directory lies."""

    def test_that_is_not_there_shows_that_it_was_cut_short(self, streamed: Path, tmp_path: Path) -> None:
        data = streamed.read_bytes()
        for size in (512, 1000, 1535, 1536, 65536, len(data) - 1536, len(data) - 1024, len(data) - 512):
            refused(identify(MemoryReader(data[:size])), "vmdk-truncated")
            (tmp_path / "cut").write_bytes(data[:size])
            assert not qemu_opens(tmp_path / "cut"), size

    @pytest.mark.parametrize(
        ("at", "value"),
        [(-1536 + 8, b"\1"), (-1536 + 12, b"\2"), (-1024, b"COWD"), (-512, b"\1"), (-504, b"\1"), (-500, b"\3")],
    )
    def test_of_another_kind_is_none(self, streamed: Path, at: int, value: bytes) -> None:
        refused(judge(patch(streamed, streamed.stat().st_size + at, value)), "vmdk-truncated")
        assert not qemu_opens(streamed)

    def test_counts_before_the_header(self, streamed: Path) -> None:
        footer = streamed.stat().st_size - 1024
        patch(streamed, CAPACITY[0], b"\1")
        assert judge(streamed).virtual_size == qemu_img_info(streamed, "-f", "vmdk")["virtual-size"]
        refused(judge(set_field(streamed, (footer + VERSION[0], "<I"), 4)), "vmdk-version")
        assert not qemu_opens(streamed)

    def test_that_sends_back_to_a_footer_is_refused(self, streamed: Path) -> None:
        footer = streamed.stat().st_size - 1024
        refused(judge(set_field(streamed, (footer + DIRECTORY[0], "<Q"), (1 << 64) - 1)), "vmdk-truncated")
        assert not qemu_opens(streamed)

    def test_that_lost_its_last_bytes_is_read_as_qemu_does(self, streamed: Path) -> None:
        with streamed.open("r+b") as file:
            file.truncate(streamed.stat().st_size - 500)
        assert judge(streamed).verdict is Verdict.OK
        assert qemu_opens(streamed)


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

    def test_and_two_where_there_is_a_footer(self, streamed: Path) -> None:
        with FileReader(streamed) as reader:
            recorder = RecordingReader(reader)
            assert identify(recorder, look_inside=False).verdict is Verdict.OK
            assert (recorder.trips, recorder.reads) == (2, 2)
            assert recorder.bytes_read <= 88 << 10


class TestLooksInside:
    OPTIONS = ("subformat=monolithicSparse", "subformat=streamOptimized", "zeroed_grain=on")

    @pytest.mark.parametrize("options", OPTIONS)
    def test_and_sees_what_a_raw_disk_would_show(self, tmp_path: Path, disk: Path, options: str) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "vmdk", "-o", options, disk, path)
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            image = identify(recorder)
            assert recorder.trips <= 8
        assert image.media == judge(disk).media
        assert image.media.firmware == frozenset({Firmware.UEFI})
        assert everything(path) == disk.read_bytes()

    def test_of_a_stream_with_a_footer(self, streamed: Path, disk: Path, tmp_path: Path) -> None:
        assert judge(streamed).media == judge(disk).media
        run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", streamed, tmp_path / "raw")
        assert everything(streamed) == (tmp_path / "raw").read_bytes() == disk.read_bytes()

    @pytest.mark.parametrize("options", OPTIONS[:2])
    def test_of_a_disk_that_ends_within_a_grain(self, tmp_path: Path, options: str) -> None:
        raw = tmp_path / "raw"
        raw.write_bytes((b"".join(bytes([n % 251]) * n for n in range(1700)) + Path("/bin/true").read_bytes())[:-100])
        path = tmp_path / "image"
        run("qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", options, raw, path)
        size = judge(path).virtual_size
        assert size == qemu_img_info(path)["virtual-size"]
        assert everything(path) == raw.read_bytes()[:size].ljust(size, b"\0")

    def test_over_a_parent_and_zeroed_grains(self, tmp_path: Path, disk: Path) -> None:
        base, path = tmp_path / "base.vmdk", tmp_path / "image"
        run("qemu-img", "convert", "-O", "vmdk", disk, base)
        run("qemu-img", "create", "-q", "-f", "vmdk", "-o", "zeroed_grain=on", "-b", base, "-F", "vmdk", path)
        commands = ("write -P 7 300k 3k", "write -z 9M 128k", "write -P 8 20M 100k")
        run("qemu-io", *(word for command in commands for word in ("-c", command)), path)
        run("qemu-img", "convert", "-O", "raw", path, tmp_path / "raw")
        patch(path, DESCRIPTOR, path.read_bytes()[DESCRIPTOR:10752].replace(str(base).encode(), b"base.vmdk"))
        assert everything(path, disk) == (tmp_path / "raw").read_bytes()

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
    def test_nor_packed_grains_of_odd_sizes(self, tmp_path: Path, disk: Path, size: int) -> None:
        path = tmp_path / "image"
        run("qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", disk, path)
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


FIELDS = st.sampled_from([4, 8, 12, 16, 20, 24, 28, 44, 48, 52, 56, 60, 64, 72, 76])
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 3, 7, 8, 20, 26, 128, 512, 513, 1 << 16, 0x30003, 1 << 21, 1 << 31, 0xFFFFFFFF]),
    st.integers(0, 0xFFFFFFFF),
)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    folder = tmp_path_factory.mktemp("seeds")
    run("mkfs.vfat", "-C", folder / "fat", "1000")
    for name, options in (("plain", "zeroed_grain=on"), ("packed", "subformat=streamOptimized")):
        run("qemu-img", "convert", "-O", "vmdk", "-o", options, folder / "fat", folder / name)
    files = [(folder / name).read_bytes() for name in ("plain", "packed")]
    return (*files, stream((folder / "fat").read_bytes()))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.integers(0, 2),
    changes=st.lists(st.tuples(FIELDS, NUMBERS), max_size=3),
    words=st.lists(st.tuples(st.integers(512, 1100), st.binary(min_size=1, max_size=4)), max_size=2),
    cut=st.integers(0, 12),
)
def test_what_is_judged_sound_after_any_change_opens_in_qemu_with_that_size(
    tmp_path: Path,
    seeds: tuple[bytes, ...],
    which: int,
    changes: list[tuple[int, int]],
    words: list[tuple[int, bytes]],
    cut: int,
) -> None:
    data = bytearray(seeds[which])
    start = len(data) - 1024 if which == 2 else 0
    for offset, value in changes:
        data[start + offset : start + offset + 4] = struct.pack("<I", value)
    for offset, raw in words:
        data[offset : offset + len(raw)] = raw
    whole = bytes(data[: len(data) * (20 - cut) // 20] if cut > 8 else data)
    recorder = RecordingReader(MemoryReader(whole))
    image = identify(recorder)
    sound(image, recorder)
    if image.format != "vmdk" or image.verdict is not Verdict.OK:
        return
    path = tmp_path / "image"
    path.write_bytes(whole)
    told = qemu_img_info(path, "-f", "vmdk")
    assert told["virtual-size"] == image.virtual_size
    assert "backing-filename" not in told
    assert [extent["filename"] for extent in told["format-specific"]["data"]["extents"]] == [str(path)]
