"""The files that a VMDK names: those that hold its data, which nobody opens, and its parent."""

from functools import partial
from pathlib import Path

import pytest

from probes.identify import identify
from probes.image import Backing, Verdict
from probes.recording import RecordingReader
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, set_field
from tests.formats.judged import opens_as, refused_as, sound
from tests.formats.readers import MemoryReader
from tests.formats.vmdks import CAPACITY, DESCRIPTOR, TEXT_OFFSET, described

qemu_opens = partial(opens_as, "vmdk")
refused = partial(refused_as, "vmdk")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return qemu_img_create(tmp_path / "plain.vmdk", "64M", "vmdk")


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
