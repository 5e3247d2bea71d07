"""UDF: discs without ISO 9660, both over the same files, and volumes on disks; blkid says what their names are."""

import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probes.identify import identify
from probes.image import Firmware, Image, MediaKind, Verdict
from probes.media.udf import find_volume
from probes.recording import RecordingReader
from tests.formats.images import MiB, codes, judge, patch, qemu_img_create, qemu_img_info, run, sparse
from tests.formats.judged import sound
from tests.formats.readers import FileReader, MemoryReader


def mkudffs(path: Path, *options: str, size: int = 4 * MiB) -> Path:
    run("mkudffs", "--utf8", *options, sparse(path, size))
    return path


def bridge(path: Path, *options: str) -> Path:
    folder = path.with_name("tree")
    folder.mkdir(exist_ok=True)
    (folder / "boot.bin").write_bytes(b"\xfa\xeb\xfe" + bytes(2045))
    run("genisoimage", "-quiet", "-udf", "-o", path, *options, folder)
    return path


def blkid(path: Path) -> tuple[str, str, str]:
    """The type, label and UUID that blkid tells."""
    told = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", path).splitlines())
    label = told["ID_FS_LABEL_ENC"].replace("\\x20", " ")
    return told["ID_FS_TYPE"], label, told.get("ID_FS_UUID", "")


def judged(path: Path) -> tuple[Image, RecordingReader]:
    recorder = RecordingReader(FileReader(path))
    image = identify(recorder)
    sound(image, recorder)
    return image, recorder


@pytest.mark.parametrize("media", ["dvd", "dvdram", "dvdrw", "dvdr", "cdrw", "cdr", "bdr"])
def test_a_udf_volume_with_the_blocks_of_discs_is_a_disc(tmp_path: Path, media: str) -> None:
    path = mkudffs(tmp_path / "image", "-m", media, "-b", "2048", "-l", "Grüße 光", size=16 * MiB)
    image, recorder = judged(path)
    assert image.format == "raw"
    assert image.virtual_size == qemu_img_info(path, "-f", "raw")["virtual-size"]
    assert image.media.kind is MediaKind.CD
    assert image.media.firmware == frozenset()
    assert image.features == ("UDF",)
    assert image.verdict is Verdict.OK
    assert not image.hazards
    filesystem = image.media.filesystem
    assert filesystem is not None
    assert (filesystem.type, filesystem.label, filesystem.uuid) == blkid(path)
    assert filesystem.label == "Grüße 光"
    assert recorder.trips <= 4


@pytest.mark.parametrize("revision", ["1.02", "1.50", "2.00", "2.01"])
@pytest.mark.parametrize("block", [512, 1024, 2048, 4096])
def test_volumes_of_every_revision_and_block_are_found(tmp_path: Path, revision: str, block: int) -> None:
    path = mkudffs(tmp_path / "image", "-m", "hd", "-b", str(block), "-r", revision, "-l", "LABEL", size=8 * MiB)
    with FileReader(path) as reader:
        volume = find_volume(reader)
    assert volume is not None
    assert (volume.block, volume.filesystem.label) == (block, "LABEL")
    assert ("udf", "LABEL", volume.filesystem.uuid) == blkid(path)
    assert 7 * MiB < volume.end <= 8 * MiB


@pytest.mark.parametrize(
    "set_name",
    ["0123456789abcdefREST", "01234567 not hex", "0123456789xyz name", "x name of its own", "ünïcode name", "short"],
)
def test_the_uuid_is_made_of_the_sets_name_as_blkid_makes_it(tmp_path: Path, set_name: str) -> None:
    path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048", f"--fullvsid={set_name}")
    with FileReader(path) as reader:
        volume = find_volume(reader)
    assert volume is not None
    assert volume.filesystem.uuid == blkid(path)[2]


def test_a_udf_volume_with_the_blocks_of_disks_is_a_disk(tmp_path: Path) -> None:
    image, _ = judged(mkudffs(tmp_path / "image", "-m", "hd", "-b", "512"))
    assert image.media.kind is MediaKind.DISK
    assert image.media.filesystem is not None or image.media.partitions
    assert "UDF" not in image.features


def test_a_volume_in_a_partition_makes_no_disc_of_a_disk(tmp_path: Path) -> None:
    path = sparse(tmp_path / "disk", 20 * MiB)
    run("sfdisk", "-q", path, stdin="label: dos\ntype=7\n")
    patch(path, MiB, mkudffs(tmp_path / "volume", "-m", "dvd", "-b", "2048").read_bytes())
    media = judge(path).media
    assert media.kind is MediaKind.DISK
    assert [part.filesystem and part.filesystem.type for part in media.partitions] == ["udf"]


class TestBridges:
    """ISO 9660 and UDF over the same files, as on Windows' discs."""

    def test_both_are_told_and_the_volume_is_the_one_that_blkid_tells(self, tmp_path: Path) -> None:
        path = bridge(tmp_path / "image", "-J", "-R", "-V", "CCCOMA_X64FRE")
        image, recorder = judged(path)
        assert image.features == ("ISO 9660", "Joliet", "Rock Ridge", "UDF")
        assert image.media.kind is MediaKind.CD
        filesystem = image.media.filesystem
        assert filesystem is not None
        assert (filesystem.type, filesystem.label, filesystem.uuid) == blkid(path)
        assert filesystem.type == "udf"
        assert recorder.trips <= 2

    def test_it_boots_by_its_catalog(self, tmp_path: Path) -> None:
        image, recorder = judged(bridge(tmp_path / "image", "-b", "boot.bin", "-no-emul-boot"))
        assert image.media.firmware == frozenset({Firmware.BIOS})
        assert "El Torito" in image.features
        assert recorder.trips <= 2

    def test_one_whose_udf_part_is_damaged_is_an_iso(self, tmp_path: Path) -> None:
        path = bridge(tmp_path / "image", "-V", "LBL")
        blocks = path.stat().st_size // 2048
        for anchor in (256, blocks - 257, blocks - 1):
            patch(path, anchor * 2048, bytes(2048))
        image = judge(path)
        assert image.features == ("ISO 9660", "UDF")
        assert image.media.filesystem is not None
        assert (image.media.filesystem.type, image.media.filesystem.label) == ("iso9660", "LBL")

    def test_one_that_lost_its_iso_part_is_a_udf_disc_that_boots_all_the_same(self, tmp_path: Path) -> None:
        path = bridge(tmp_path / "image", "-b", "boot.bin", "-no-emul-boot")
        patch(path, 16 * 2048, b"\xff")
        image = judge(path)
        assert image.features == ("UDF", "El Torito")
        assert image.media.firmware == frozenset({Firmware.BIOS})


class TestBent:
    """What is cut short, damaged, or made to mislead."""

    def test_a_disc_that_is_cut_short_is_told(self, tmp_path: Path) -> None:
        path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048")
        data = path.read_bytes()[: 2 * MiB]
        image = identify(MemoryReader(data))
        assert codes(image) == {"truncated"}
        assert image.media.kind is MediaKind.CD

    def test_the_anchors_at_the_end_do_where_the_first_is_lost(self, tmp_path: Path) -> None:
        path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048", "-l", "LBL")
        patch(path, 256 * 2048, bytes(2048))
        image = judge(path)
        assert image.media.filesystem is not None
        assert image.media.filesystem.label == "LBL"

    def test_the_reserve_does_where_the_descriptors_are_lost(self, tmp_path: Path) -> None:
        path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048", "-l", "LBL")
        place = struct.unpack_from("<I", path.read_bytes(), 256 * 2048 + 20)[0]
        patch(path, place * 2048, bytes(16 * 2048))
        image = judge(path)
        assert image.media.filesystem is not None
        assert image.media.filesystem.label == "LBL"

    def test_without_any_anchor_it_is_no_disc(self, tmp_path: Path) -> None:
        path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048")
        data = bytearray(path.read_bytes())
        for block in (256, len(data) // 2048 - 1, len(data) // 2048 - 257):
            data[block * 2048 : block * 2048 + 2048] = bytes(2048)
        image = identify(MemoryReader(bytes(data)))
        assert image.media.kind is MediaKind.DISK
        assert image.verdict is Verdict.OK

    def test_a_disc_that_is_a_qcow2_as_well_is_refused(self, tmp_path: Path) -> None:
        path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048")
        patch(path, 0, qemu_img_create(tmp_path / "qcow2", "64M").read_bytes()[:512])
        image = judge(path)
        assert "two-formats" in codes(image)
        assert "qcow2 and UDF" in image.hazards[0].text

    def test_a_label_cannot_speak_to_the_terminal(self, tmp_path: Path) -> None:
        path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048", "-l", "LABEL")
        data = path.read_bytes().replace(b"\x08LABEL", b"\x08\x1b]0;x")
        filesystem = identify(MemoryReader(data)).media.filesystem
        assert filesystem is not None
        assert filesystem.label.startswith("\\x1b]0;x")

    @pytest.mark.parametrize("value", [0, 1, 0x7FFFFFFF, 0xFFFFFFFF])
    @pytest.mark.parametrize("field", [16, 20, 24, 28])
    def test_places_and_lengths_lead_nowhere(self, tmp_path: Path, field: int, value: int) -> None:
        path = mkudffs(tmp_path / "image", "-m", "dvd", "-b", "2048")
        patch(path, 256 * 2048 + field, struct.pack("<I", value))
        image, recorder = judged(path)
        assert image.media.kind is MediaKind.CD
        assert recorder.bytes_read < 300 << 10

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        changes=st.lists(
            st.tuples(
                st.sampled_from([16, 17, 18, 19, 32, 33, 34, 35, 96, 97, 98, 99, 256]), st.integers(0, 300),
                st.binary(min_size=1, max_size=9),
            ),
            max_size=6,
        ),
        cut=st.integers(0, 300),
    )  # fmt: skip
    def test_bent_volumes_are_judged(self, tmp_path: Path, changes: list[tuple[int, int, bytes]], cut: int) -> None:
        for made in ("dvd", "bridge"):
            path = tmp_path / made
            if not path.exists():
                _ = mkudffs(path, "-m", "dvd", "-b", "2048", size=2 * MiB) if made == "dvd" else bridge(path)
            data = bytearray(path.read_bytes())
            for sector, offset, value in changes:
                at = sector * 2048 + offset
                data[at : at + len(value)] = value
            recorder = RecordingReader(MemoryReader(bytes(data[: len(data) - cut * 1024])))
            sound(identify(recorder), recorder)
