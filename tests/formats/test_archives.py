"""Archives, made by the real programs: their disk images named, with what to do; an OVA's with their sizes."""

import io
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.formats.ovf import read_disks
from probes.identify import identify
from probes.image import Image, Verdict
from probes.recording import RecordingReader
from tests.formats.images import MiB, codes, qemu_img_create, run, sparse
from tests.formats.judged import sound
from tests.formats.readers import FileReader, MemoryReader

OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
  <References>
    <File ovf:href="machine-disk1.vmdk" ovf:id="file1" ovf:size="1000"/>
    <File ovf:id='file2' ovf:href='data'/>
    <File ovf:href="readme.txt" ovf:id="file3"/>
  </References>
  <DiskSection><Info>The disks</Info>
    <Disk ovf:capacity="20" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1"/>
    <Disk ovf:capacity="5368709120" ovf:diskId="vmdisk2" ovf:fileRef="file2"/>
    <Disk ovf:capacity="1" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="empty"/>
  </DiskSection>
</Envelope>
"""


def judged(source: bytes | Path) -> tuple[Image, RecordingReader]:
    recorder = RecordingReader(FileReader(source) if isinstance(source, Path) else MemoryReader(source))
    image = identify(recorder)
    sound(image, recorder)
    assert image.verdict is Verdict.REFUSE
    assert codes(image) == {"archive"}
    assert image.virtual_size == 0
    return image, recorder


def told(source: bytes | Path) -> str:
    return judged(source)[0].hazards[0].text


def tar_of(*members: tuple[str, int | bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=form) as tar:
        for name, content in members:
            data = bytes(content) if isinstance(content, int) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def zip_of(*members: tuple[str, int]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in members:
            archive.writestr(name, bytes(size))
    return packed.getvalue()


class TestTar:
    @pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "oldgnu", "posix"])
    def test_the_disks_in_an_archive_of_gnu_tars_are_named(self, tmp_path: Path, form: str) -> None:
        qemu_img_create(tmp_path / "debian 12.qcow2", "1M")
        sparse(tmp_path / "notes.txt", 3000)
        run("tar", f"--format={form}", "-cf", tmp_path / "tar", "-C", tmp_path, "notes.txt", "debian 12.qcow2")
        image, recorder = judged(tmp_path / "tar")
        assert image.format == "tar"
        assert image.features == ('"debian 12.qcow2" (192 KiB)',)
        assert image.hazards[0].text == (
            'This is a tar archive holding "debian 12.qcow2" (192 KiB), and 1 other file.'
            " Unpack it first: tar -xf NAME."
        )
        assert recorder.trips <= 2

    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_long_and_odd_names_are_read_in_every_dialect(self, form: int) -> None:
        name = "folder" * 15 + "/" + "name" * 20 + ".qcow2"
        assert judged(tar_of((name, 5), form=form))[0].features == (f'"{name[:59]}…" (5 B)',)
        if form != tarfile.USTAR_FORMAT:
            name = "ünïcode" * 30 + ".img"
            assert judged(tar_of((name, 5), form=form))[0].features == (f'"{name[:59]}…" (5 B)',)

    def test_the_command_unpacks_the_one_disk_where_its_name_is_plain(self, tmp_path: Path) -> None:
        file = tmp_path / "archive"
        file.write_bytes(tar_of(("images/disk-1.img", 5000), ("big", 100_000)))
        command = told(file).rpartition("first: ")[2].removesuffix(".").split()
        assert command == ["tar", "-xf", "NAME", "images/disk-1.img"]
        subprocess.run([str(file) if word == "NAME" else word for word in command], cwd=tmp_path, check=True)
        assert (tmp_path / "images" / "disk-1.img").stat().st_size == 5000

    @pytest.mark.parametrize(
        "name", ["-I sh.img", "$(id).img", "../../x.img", "/etc/x.img", "a b.img", "a\x1b.img", "ü.img"]
    )
    def test_a_name_that_is_not_plain_stands_in_no_command(self, name: str) -> None:
        assert told(tar_of((name, 5))).endswith("first: tar -xf NAME.")

    def test_sizes_of_eight_gib_and_more_are_read(self, tmp_path: Path) -> None:
        for form in ("gnu", "posix"):
            sparse(tmp_path / "disk.raw", 9 << 30)
            path = sparse(tmp_path / "tar", 0)
            process = subprocess.run(
                f"tar --format={form} -cf - -C '{tmp_path}' disk.raw | head -c 70000",
                shell=True, capture_output=True, check=True,
            )  # fmt: skip
            path.write_bytes(process.stdout)
            with path.open("r+b") as file:
                file.truncate((9 << 30) + 10240)
            assert judged(path)[0].features == ('"disk.raw" (9 GiB)',)

    def test_large_members_cost_a_small_read_each(self) -> None:
        data = tar_of(*((f"disk{number}.img", 200_000) for number in range(12)))
        image, recorder = judged(data)
        assert len(image.features) == 8
        assert '"disk7.img" (195 KiB), and 4 more.' in image.hazards[0].text
        assert recorder.reads <= 13
        assert recorder.bytes_read <= 150 << 10

    def test_of_too_many_members_the_first_are_told(self) -> None:
        text = told(tar_of(*((f"disk{number}.img", 70_000) for number in range(60))))
        assert "more and what lies behind them. Unpack" in text
        text = told(tar_of(*((f"text{number}", 10) for number in range(300))))
        assert text.startswith("This is a tar archive: none of its first 144 files is a disk image by its name.")

    def test_one_without_a_disk_says_so(self) -> None:
        assert "of 1 file, none of them a disk image by its name." in told(tar_of(("readme", 5)))

    def test_an_archive_that_is_cut_short_is_one_all_the_same(self) -> None:
        data = tar_of(("disk.img", 300_000))
        for size in (512, 600, 5000, 70_000, len(data) - 5000):
            assert '"disk.img" (293 KiB)' in told(data[:size])

    @pytest.mark.parametrize(
        "size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"-0000000001\0", b"\x80" + bytes(11)]
    )
    def test_absurd_sizes_lead_nowhere(self, size: bytes) -> None:
        block = bytearray(tar_of(("disk.img", 5)))
        block[124:136] = size
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 0x20 + sum(block[156:512]))
        image, recorder = judged(bytes(block))
        assert recorder.reads <= 3
        assert image.features

    @pytest.mark.parametrize(
        "record",
        [
            b"9999999 path=x\n",
            b"0 path=x\n",
            b"-1 path=x\n",
            b"path=x\n",
            b"4 =\n",
            b"\xff",
            b"12 size=-1\n",
            b"30 size=99999999999999999999\n",
        ],
    )
    def test_absurd_extended_headers_lead_nowhere(self, record: bytes) -> None:
        data = bytearray(tar_of(("header", record), ("disk.img", 5)))
        data[156:157] = b"x"
        data[148:156] = b"%06o\0 " % (sum(data[:148]) + 8 * 0x20 + sum(data[156:512]))
        assert judged(bytes(data))[0].features == ('"disk.img" (5 B)',)


class TestOva:
    def ova(self, ovf: str = OVF) -> bytes:
        return tar_of(
            ("machine.ovf", ovf.encode()), ("machine.mf", 100), ("machine-disk1.vmdk", 300_000), ("data", 200_000),
            form=tarfile.USTAR_FORMAT,
        )  # fmt: skip

    def test_its_disks_are_named_with_the_sizes_that_they_will_have(self) -> None:
        image, recorder = judged(self.ova())
        assert image.format == "tar"
        assert image.features == (
            '"machine-disk1.vmdk" (293 KiB, a disk of 20 GiB)',
            '"data" (195 KiB, a disk of 5 GiB)',
        )
        text = image.hazards[0].text
        assert text.startswith(
            'This is an OVA, a virtual appliance in a tar archive, holding "machine-disk1.vmdk" (293'
        )
        assert text.endswith("and 2 other files. Unpack it first: tar -xf NAME machine-disk1.vmdk.")
        assert recorder.trips <= 4

    def test_a_description_that_is_no_xml_still_leaves_the_disks_by_name(self) -> None:
        image, _ = judged(self.ova("\0\xff<<File ovf:href=>"))
        assert image.features == ('"machine-disk1.vmdk" (293 KiB)',)
        assert "an OVA" in image.hazards[0].text

    def test_units_of_both_versions_are_known(self) -> None:
        def capacity(number: str, units: str) -> int:
            return read_disks(
                f'<File ovf:href="d" ovf:id="f"/><ovf:Disk ovf:fileRef="f" ovf:capacity="{number}" {units}/>'.encode()
            )["d"]

        assert capacity("3", "") == 3
        assert capacity("3", 'ovf:capacityAllocationUnits="byte * 2^20"') == 3 * MiB
        assert capacity("3", 'ovf:capacityAllocationUnits="byte*10^9"') == 3_000_000_000
        assert capacity("3", 'ovf:capacityAllocationUnits="GigaBytes"') == 3 << 30
        assert capacity("3", 'ovf:capacityAllocationUnits="furlongs"') == 0
        assert capacity("${size}", "") == 0

    def test_entities_are_not_expanded_and_nothing_is_fetched(self) -> None:
        bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
        text = bomb + '<File ovf:id="f" ovf:href="&b;.vmdk"/><Disk ovf:fileRef="f" ovf:capacity="9"/>'
        assert read_disks(text.encode()) == {"&b;.vmdk": 9}

    def test_a_hostile_description_takes_no_time(self) -> None:
        for text in (
            "<File " * 50_000,
            '<File id="' * 30_000,
            "<File" + " " * 250_000,
            "<Disk " + "a:" * 120_000,
            "<a:" * 90_000,
        ):
            assert read_disks(text.encode()) == {}

    def test_a_xen_appliance_is_known(self) -> None:
        assert "XVA" in told(tar_of(("ova.xml", 100), ("Ref:1/00000000", 5000)))


class TestZip:
    def test_its_disks_are_named(self) -> None:
        image, recorder = judged(zip_of(("readme.txt", 5), ("a/windows.vhdx", 4 * MiB), ("a/", 0)))
        assert image.format == "zip"
        assert image.features == ('"a/windows.vhdx" (4 MiB)',)
        assert image.hazards[0].text == (
            'This is a ZIP archive holding "a/windows.vhdx" (4 MiB), and 1 other file.'
            " Unpack it first: unzip NAME a/windows.vhdx."
        )
        assert recorder.trips == 1

    def test_what_zip_itself_makes_is_read_from_a_pipe_too(self, tmp_path: Path) -> None:
        sparse(tmp_path / "disk.img", 3 * MiB)
        run("zip", "-q", "-j", tmp_path / "a.zip", tmp_path / "disk.img")
        assert '"disk.img" (3 MiB)' in told(tmp_path / "a.zip")
        piped = subprocess.run(
            f"cd {tmp_path} && cat disk.img | zip -q -P secret - - && printf x",
            shell=True,
            capture_output=True,
            check=True,
        ).stdout[:-1]
        assert told(piped).startswith("This is a ZIP archive of 1 file, none of them")

    def test_an_encrypted_disk_is_said_to_be(self, tmp_path: Path) -> None:
        sparse(tmp_path / "disk.img", MiB)
        run("zip", "-q", "-j", "-P", "secret", tmp_path / "a.zip", tmp_path / "disk.img")
        assert '"disk.img" (1 MiB, encrypted)' in told(tmp_path / "a.zip")

    def test_a_far_directory_takes_one_read_more(self, tmp_path: Path) -> None:
        path = tmp_path / "zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(3000):
                archive.writestr(f"some/folder/of/many/file{number}.txt", b"x")
            archive.writestr("disk.qcow2", b"x" * 100)
        image, recorder = judged(path)
        assert '"disk.qcow2" (100 B), and 3,000 other files.' in image.hazards[0].text
        assert recorder.trips <= 3

    def test_zip64_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "zip"
        with zipfile.ZipFile(path, "w") as archive, archive.open("disk.raw", "w", force_zip64=True) as member:
            member.write(bytes(1000))
        data = bytearray(path.read_bytes())
        entry = data.rindex(b"PK\1\2")
        extra = struct.pack("<HHQQ", 1, 16, 9 << 30, 1000)
        data[entry + 20 : entry + 28] = b"\xff" * 8
        data[entry + 30 : entry + 32] = struct.pack("<H", len(extra))
        end = data.rindex(b"PK\5\6")
        head, last = bytes(data[:end]) + extra, data[end:]
        length = len(head) - entry
        record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, length, entry)
        locator = b"PK\6\7" + struct.pack("<IQI", 0, len(head), 1)
        last[8:20] = b"\xff" * 12
        whole = head + record + locator + bytes(last)
        (tmp_path / "whole").write_bytes(whole)
        assert zipfile.ZipFile(tmp_path / "whole").infolist()[0].file_size == 9 << 30
        assert judged(whole)[0].features == ('"disk.raw" (9 GiB)',)

    def test_one_without_its_directory_is_an_archive_all_the_same(self) -> None:
        text = told(zip_of(("disk.img", 5000))[:60])
        assert text == (
            "This is a ZIP archive: a disk image may be inside, but cannot be read where it lies."
            " Unpack it first: unzip NAME."
        )


SIMPLE = {
    "7z": b"7z\xbc\xaf\x27\x1c\0\4" + bytes(60),
    "rar": b"Rar!\x1a\7\1\0" + bytes(60),
    "cpio": b"070701" + b"0" * 100,
    "ar": b"!<arch>\ndebian-binary   ",
    "rpm": b"\xed\xab\xee\xdb\3\0" + bytes(100),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_the_others_are_told_by_their_marks(name: str) -> None:
    image, recorder = judged(SIMPLE[name])
    assert image.format == name
    assert recorder.trips == 1


def test_real_cpio_and_ar_archives_are_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    made = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"], input=b"/etc/hostname\n", capture_output=True, check=True
    )
    assert judged(made.stdout)[0].format == "cpio"
    run("ar", "q", tmp_path / "archive", tmp_path / "file")
    assert judged(tmp_path / "archive")[0].format == "ar"


SEEDS = (
    TestOva().ova()[:90_000],
    tar_of(("a" * 200 + ".img", 5000), ("b.iso", 5), form=tarfile.PAX_FORMAT),
    tar_of(("a" * 200 + ".img", 5000), ("b.iso", 5)),
    zip_of(("disk.img", 50_000), ("other.qcow2", 5)),
)
VALUES = st.one_of(
    st.binary(min_size=1, max_size=12), st.sampled_from([b"\xff" * 8, bytes(8), b"\x1b]0;x\7", b"\x80\xff\xff"])
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.large_base_example])
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(-200, 2000), VALUES), max_size=5),
    mend=st.booleans(),
    cut=st.integers(0, 300),
)
def test_bent_archives_are_judged(seed: bytes, changes: list[tuple[int, bytes]], mend: bool, cut: int) -> None:
    data = bytearray(seed)
    for offset, value in changes:
        at = offset % len(data)
        data[at : at + len(value)] = value
    if mend and seed[257:262] == b"ustar":
        for at in range(0, min(len(data) - 512, 5120), 512):
            data[at + 148 : at + 156] = b"%06o\0 " % (
                sum(data[at : at + 148]) + 8 * 0x20 + sum(data[at + 156 : at + 512])
            )
    recorder = RecordingReader(MemoryReader(bytes(data[: len(data) - cut])))
    sound(identify(recorder), recorder)
