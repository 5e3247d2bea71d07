"""Discs: those that Debian packages ship, those that xorriso makes, and those that somebody bent."""

import struct
from pathlib import Path

import pytest

from probes.identify import identify
from probes.image import Firmware, Image, MediaKind, Verdict
from tests.formats.images import MiB, codes, judge, patch, qemu_img_info, run, sparse
from tests.formats.readers import FailingReader, FileReader, MemoryReader

MEMTEST = Path("/usr/lib/memtest86+/memtest86+x64.iso")
PACKAGED = {
    "/usr/lib/memtest86+/memtest86+x64.iso": ("MT86PLUS_64", "bios uefi"),
    "/usr/lib/memtest86+/memtest86+ia32.iso": ("MT86PLUS_32", "bios uefi"),
    "/usr/lib/grub-rescue/grub-rescue-cdrom.iso": ("ISOIMAGE", "bios"),
    "/usr/lib/grub-rescue/grub-rescue-floppy.img": ("ISOIMAGE", "bios"),
    "/usr/lib/ipxe/ipxe.iso": ("ISOIMAGE", "bios uefi"),
}


def mkisofs(path: Path, *options: str) -> Path:
    """Make a small disc of a folder that holds something to boot."""
    folder = path.with_name("tree")
    if not folder.exists():
        folder.mkdir()
        (folder / "boot.bin").write_bytes(b"\xfa\xeb\xfe" + bytes(2045))
        run("mkfs.vfat", "-C", folder / "efi.img", "1000")
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "LBL", "-o", path, *options, folder)
    return path


def firmware(image: Image) -> set[str]:
    assert image.media.firmware is not None
    return {str(one) for one in image.media.firmware}


@pytest.mark.parametrize("name", PACKAGED)
def test_the_packaged_discs_are_known(name: str) -> None:
    label, boots = PACKAGED[name]
    with FileReader(name) as reader:
        image = identify(reader)
        assert reader.trips <= 2
        assert reader.bytes_read <= 72 << 10
    assert image.format == "raw"
    assert image.virtual_size == qemu_img_info(Path(name))["virtual-size"]
    assert image.media.kind is MediaKind.CD
    assert image.media.filesystem is not None
    assert (image.media.filesystem.type, image.media.filesystem.label) == ("iso9660", label)
    assert firmware(image) == set(boots.split())
    assert "ISO 9660" in image.features
    assert "hybrid with MBR" in image.features
    assert image.verdict is Verdict.OK
    assert not image.hazards


@pytest.mark.parametrize(
    ("options", "boots"),
    [
        ((), ""),
        (("-b", "boot.bin", "-no-emul-boot"), "bios"),
        (("-e", "efi.img", "-no-emul-boot"), "uefi"),
        (("-b", "boot.bin", "-no-emul-boot", "-eltorito-alt-boot", "-e", "efi.img", "-no-emul-boot"), "bios uefi"),
        (("-e", "efi.img", "-no-emul-boot", "-eltorito-alt-boot", "-b", "boot.bin", "-no-emul-boot"), "bios uefi"),
    ],
)
def test_a_disc_boots_by_what_its_catalog_says(tmp_path: Path, options: tuple[str, ...], boots: str) -> None:
    image = judge(mkisofs(tmp_path / "image", *options))
    assert image.media.kind is MediaKind.CD
    assert firmware(image) == set(boots.split())
    assert ("El Torito" in image.features) == bool(boots)


def test_joliet_and_a_gpt_beside_it_are_told(tmp_path: Path) -> None:
    appended = ("-append_partition", "2", "0xef", str(tmp_path / "tree" / "efi.img"), "-appended_part_as_gpt")
    mkisofs(tmp_path / "first")
    features = judge(mkisofs(tmp_path / "image", "-J", *appended)).features
    assert "Joliet" in features
    assert "hybrid with GPT" in features


@pytest.mark.parametrize("options", [(), ("-J",)])
@pytest.mark.parametrize(
    "label", ["LBL", "Größe 光", "TEST_A_", "A_LABEL_OF_OVER_16_CHARACTERS", "Ubuntu 22.04.1 LTS amd64"]
)
def test_a_label_is_blkids(tmp_path: Path, label: str, options: tuple[str, ...]) -> None:
    path = tmp_path / "image"
    (tmp_path / "folder").mkdir()
    run("genisoimage", "-quiet", "-input-charset", "utf-8", "-o", path, "-V", label, *options, tmp_path / "folder")
    filesystem = judge(path).media.filesystem
    assert filesystem is not None
    told = dict(line.split("=", 1) for line in run("blkid", "-p", "-o", "udev", path).splitlines())
    assert filesystem.label == label == told["ID_FS_LABEL_ENC"].replace("\\x20", " ")


@pytest.mark.parametrize("options", [(), ("-R",), ("-r",), ("-J",)])
def test_rock_ridge_is_told_where_it_is(tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    run("genisoimage", "-quiet", "-o", tmp_path / "image", *options, folder)
    features = judge(tmp_path / "image").features
    assert ("Rock Ridge" in features) == (options in {("-R",), ("-r",)})
    assert ("Joliet" in features) == (options == ("-J",))


@pytest.mark.parametrize(
    ("size", "options", "told"),
    [
        (1440 << 10, (), "floppy emulation"),
        (1200 << 10, (), "floppy emulation"),
        (2880 << 10, (), "floppy emulation"),
        (4 << 20, ("-hard-disk-boot",), "hard disk emulation"),
        (1440 << 10, ("-no-emul-boot",), ""),
    ],
)
def test_what_its_boot_image_is_shown_as_is_told(
    tmp_path: Path, size: int, options: tuple[str, ...], told: str
) -> None:
    (tmp_path / "folder").mkdir()
    boot = sparse(tmp_path / "folder" / "boot.img", size)
    run("sfdisk", "-q", boot, stdin="label: dos\ntype=c\n")
    run("genisoimage", "-quiet", "-o", tmp_path / "image", "-b", "boot.img", *options, tmp_path / "folder")
    image = judge(tmp_path / "image")
    assert firmware(image) == {"bios"}
    assert [word for word in image.features if "emulation" in word] == ([told] if told else [])


@pytest.mark.parametrize(
    ("platform", "told"), [(1, "El Torito for PowerPC"), (2, "El Torito for Mac"), (77, "El Torito")]
)
def test_other_machines_that_it_starts_are_told(platform: int, told: str) -> None:
    data = bytearray(MEMTEST.read_bytes())
    at = data.index(b"EL TORITO SPECIFICATION") - 7
    catalog = struct.unpack("<I", data[at + 71 : at + 75])[0] * 2048
    data[catalog + 1] = platform
    total = sum(struct.unpack("<16H", data[catalog : catalog + 32])) - int.from_bytes(
        data[catalog + 28 : catalog + 30], "little"
    )
    data[catalog + 28 : catalog + 30] = struct.pack("<H", -total & 0xFFFF)
    image = identify(MemoryReader(bytes(data)))
    assert firmware(image) == {"uefi"}
    assert told in image.features
    assert image.verdict is Verdict.OK


@pytest.mark.parametrize("place", [0, 5, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_root_directory_that_is_not_there_leads_nowhere(place: int) -> None:
    data = bytearray(MEMTEST.read_bytes())
    data[32768 + 158 : 32768 + 162] = struct.pack("<I", place)
    image = identify(MemoryReader(bytes(data)))
    assert "Rock Ridge" not in image.features
    assert firmware(image) == {"bios", "uefi"}


def test_a_hybrid_of_grubs_boots_by_both(tmp_path: Path) -> None:
    run("grub-mkrescue", "-o", tmp_path / "image")
    image = judge(tmp_path / "image")
    assert image.media.kind is MediaKind.CD
    assert firmware(image) == {"bios", "uefi"}
    assert image.verdict is Verdict.OK


def test_a_disk_that_holds_a_volume_but_no_catalog_stays_a_disk(tmp_path: Path) -> None:
    path = mkisofs(tmp_path / "image")
    sector = bytearray(512)
    sector[:400] = b"\xeb\x63\x90 GRUB ".ljust(400, b"\x90")
    sector[446:462] = b"\x80\0\0\0\x83\0\0\0" + struct.pack("<II", 1, 100)
    sector[510:] = b"\x55\xaa"
    image = judge(patch(path, 0, bytes(sector)))
    assert image.media.kind is MediaKind.DISK
    assert firmware(image) == {"bios"}
    assert image.media.table == "mbr"


def test_a_disc_that_is_cut_short_is_told() -> None:
    image = identify(MemoryReader(MEMTEST.read_bytes()[:MiB]))
    assert codes(image) == {"truncated"}
    assert image.verdict is Verdict.OK


@pytest.mark.parametrize("place", [0, 0xFFFFFFFF])
def test_a_catalog_that_is_not_there_is_told(place: int) -> None:
    data = bytearray(MEMTEST.read_bytes())
    at = data.index(b"EL TORITO SPECIFICATION") - 7
    data[at + 71 : at + 75] = struct.pack("<I", place)
    image = identify(MemoryReader(bytes(data)))
    assert firmware(image) == set()
    assert codes(image) == {"boot-catalog"}


def test_a_catalog_of_endless_sections_ends() -> None:
    data = bytearray(MEMTEST.read_bytes())
    at = data.index(b"EL TORITO SPECIFICATION") - 7
    catalog = struct.unpack("<I", data[at + 71 : at + 75])[0] * 2048
    data[catalog + 64 : catalog + 2048] = (b"\x90\xef\xff\xff" + bytes(28)) * 62
    assert firmware(identify(MemoryReader(bytes(data)))) == {"bios"}


def test_entries_that_are_marked_not_bootable_do_not_count() -> None:
    data = bytearray(MEMTEST.read_bytes())
    at = data.index(b"EL TORITO SPECIFICATION") - 7
    catalog = struct.unpack("<I", data[at + 71 : at + 75])[0] * 2048
    data[catalog + 32] = 0
    assert firmware(identify(MemoryReader(bytes(data)))) == {"uefi"}


def test_a_label_cannot_speak_to_the_terminal() -> None:
    data = bytearray(MEMTEST.read_bytes())
    data[36864 + 40 : 36864 + 72] = "\x1b]0;owned\x07\x9b31m".encode("utf-16-be").ljust(32, b"\0")  # Joliet's
    filesystem = identify(MemoryReader(bytes(data))).media.filesystem
    assert filesystem is not None
    assert filesystem.label == "\\x1b]0;owned\\x07\\x9b31m"
    data[36864 + 40 : 36864 + 72] = bytes(32)
    data[32768 + 40 : 32768 + 72] = b"\x1b]0;owned\x07\x9b31m".ljust(32)
    filesystem = identify(MemoryReader(bytes(data))).media.filesystem
    assert filesystem is not None
    assert filesystem.label == "\\x1b]0;owned\\x07\\x9b31m"


def test_a_failed_read_is_an_error_whichever_it_is() -> None:
    from probes.errors import Unreachable

    data = MEMTEST.read_bytes()
    for fails_at in range(2):
        with pytest.raises(Unreachable):
            identify(FailingReader(data, fails_at))


def test_a_disk_with_a_disc_in_a_partition_is_a_disk(tmp_path: Path) -> None:
    path = sparse(tmp_path / "disk", 20 * MiB)
    run("sfdisk", "-q", path, stdin="label: dos\ntype=cd\n")
    patch(path, MiB, MEMTEST.read_bytes())
    media = judge(path).media
    assert media.kind is MediaKind.DISK
    assert [part.filesystem and part.filesystem.type for part in media.partitions] == ["iso9660"]
    assert Firmware.UEFI not in (media.firmware or ())


@pytest.mark.parametrize("label", ["dos", "gpt"])
def test_a_disk_that_a_disc_was_once_written_to_is_a_disk_again(tmp_path: Path, label: str) -> None:
    path = sparse(tmp_path / "disk", 40 * MiB)
    patch(path, 0, MEMTEST.read_bytes())
    assert judge(path).media.kind is MediaKind.CD
    patch(path, 0, bytes(512))
    run("sfdisk", "-q", "--wipe=never", path, stdin=f"label: {label}\ntype=linux\n")
    run("mke2fs", "-q", "-t", "ext4", tmp_path / "root", "20M")
    patch(path, MiB, (tmp_path / "root").read_bytes())
    image = judge(path)
    assert image.media.kind is MediaKind.DISK
    assert [part.filesystem and part.filesystem.type for part in image.media.partitions] == ["ext4"]
    assert "ISO 9660" not in image.features
