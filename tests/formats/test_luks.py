"""LUKS volumes: made by qemu-img and cryptsetup, changed by hand, judged by us and by QEMU."""

import shutil
import struct
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from probes.formats.luks_header import MAX_WORK, LuksHeader
from probes.identify import identify
from probes.image import Verdict
from tests.formats.contract import FormatContract, Pack
from tests.formats.encryption import create_encrypted
from tests.formats.images import MiB, codes, judge, patch, qemu_img_info, run, sparse
from tests.formats.judged import opens_as, refused_as
from tests.formats.readers import MemoryReader

SLOT, SLOT_LENGTH = 208, 48


opens = partial(opens_as, "luks")
refused = partial(refused_as, "luks", alone=False)


def created(*options: str) -> Pack:
    """Return what has qemu-img make a volume, which takes seconds: it measures how fast it is. It holds nothing."""
    return lambda _disk, path: create_encrypted(path, "1000001", "luks", *options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_encrypted(tmp_path_factory.mktemp("luks") / "image", "1M", "luks")


@pytest.fixture
def volume(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copy(made, tmp_path / "image"))


class TestContract(FormatContract):
    name = "luks"
    variants: ClassVar[Mapping[str, Pack]] = {
        "plain": created(),
        "aes-192, sha512": created("cipher-alg=aes-192", "hash-alg=sha512"),
        "aes-128, essiv, sha1": created(
            "cipher-alg=aes-128", "cipher-mode=cbc", "ivgen-alg=essiv", "ivgen-hash-alg=sha256", "hash-alg=sha1"
        ),
        "serpent, ripemd160": created("cipher-alg=serpent-256", "hash-alg=ripemd160"),
        "twofish": created("cipher-alg=twofish-128", "cipher-mode=cbc", "ivgen-alg=plain64"),
        "cast5": created("cipher-alg=cast5-128", "cipher-mode=cbc", "ivgen-alg=plain"),
    }
    told = frozenset({"encrypted"})
    cuts = (6, 8, 100, 591, 600)


class TestAgreesWithQemu:
    def test_on_what_it_takes_to_open_it(self, volume: Path) -> None:
        assert judge(volume).needs_passphrase
        assert [slot.iterations for slot in LuksHeader(volume.read_bytes()[:592]).slots if slot.is_active] == [
            slot["iters"] for slot in qemu_img_info(volume)["format-specific"]["data"]["slots"] if slot["active"]
        ]

    @pytest.mark.parametrize("size", [8 * MiB, 8 * MiB + 100])
    def test_on_what_cryptsetup_makes(self, tmp_path: Path, size: int) -> None:
        path = sparse(tmp_path / "image", 8 * MiB)
        (tmp_path / "key").write_text("abc")
        words = ("--type", "luks1", "--pbkdf-force-iterations", "1000")
        run("cryptsetup", "-q", "luksFormat", *words, path, tmp_path / "key")
        with path.open("r+b") as file:
            file.truncate(size)
        ours, theirs = judge(path), qemu_img_info(path)
        assert (ours.format, ours.virtual_size) == ("luks", theirs["virtual-size"])
        assert ours.features == ("version 1", "aes-xts-plain64", "sha256")
        assert ours.verdict is Verdict.OK


class TestAsks:
    @pytest.mark.parametrize("place", [164, SLOT + 4])
    def test_before_iterations_that_take_minutes(self, volume: Path, place: int) -> None:
        image = judge(patch(volume, place, struct.pack(">I", 1 << 31)))
        assert codes(image) == {"encrypted", "luks-iterations"}
        assert image.verdict is Verdict.ASK
        assert "million rounds" in image.hazards[-1].text

    def test_not_before_those_of_a_key_slot_that_is_not_in_use(self, volume: Path) -> None:
        assert judge(patch(volume, SLOT + SLOT_LENGTH + 4, struct.pack(">I", 1 << 31))).verdict is Verdict.OK

    def test_not_before_eight_slots_of_what_cryptsetup_takes_two_seconds_for(self, volume: Path) -> None:
        for number in range(8):
            patch(volume, SLOT + number * SLOT_LENGTH, struct.pack(">II", 0x00AC71F3, 2_500_000))
        assert LuksHeader(volume.read_bytes()[:592]).work < MAX_WORK
        assert judge(volume).verdict is Verdict.OK
        patch(volume, SLOT + 4, struct.pack(">I", 50_000_000))
        assert judge(volume).verdict is Verdict.ASK


class TestRefuses:
    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (8, b"rot13\0"),
            (8, b"cast5\0"),  # of a key of another length
            (8, b"x" * 32),  # no end
            (40, b"xts\0"),
            (40, b"wide-plain64\0"),
            (40, b"xts-benbi\0"),
            (40, b"xts-essiv\0"),
            (40, b"xts-essiv:sha1\0"),
            (40, b"xts-plain64:sha3\0"),
            (72, b"whirlpool\0"),
            (72, b"SHA256\0"),
            (108, struct.pack(">I", 0)),
            (108, struct.pack(">I", 1 << 31)),
        ],
    )
    def test_what_qemu_cannot_decrypt(self, volume: Path, offset: int, value: bytes) -> None:
        refused(judge(patch(volume, offset, value)), "luks-cipher")
        assert not opens(volume)

    @pytest.mark.parametrize(
        ("offset", "value"),
        [
            (104, 7),  # the payload in the header
            (104, 100),  # the payload in the key slots
            (164, 0),  # the master key's iterations
            (SLOT, 1),  # a state that is none
            (SLOT + 4, 0),  # iterations
            (SLOT + 40, 7),  # the material in the header
            (SLOT + 40, 0xFFFFFFF8),
            (SLOT + 44, 3999),  # stripes
            (SLOT + SLOT_LENGTH + 40, 16),  # over the first slot
        ],
    )
    def test_headers_that_make_no_sense(self, volume: Path, offset: int, value: int) -> None:
        refused(judge(patch(volume, offset, struct.pack(">I", value))), "luks-invalid")
        assert not opens(volume) or value == 0xFFFFFFF8  # which QEMU adds to in 32 bits

    def test_a_key_of_a_length_that_qemu_dies_of(self, tmp_path: Path) -> None:
        """Unlocking it fails an assertion in QEMU's crypto/block.c: the guest would end with SIGABRT."""
        path = sparse(tmp_path / "image", 8 * MiB)
        (tmp_path / "key").write_text("abc")
        words = ("--type", "luks1", "--pbkdf-force-iterations", "1000", "-c", "aes-cbc-plain64", "-s", "192")
        run("cryptsetup", "-q", "luksFormat", *words, path, tmp_path / "key")
        refused(judge(path), "luks-cipher")
        options = f"driver=luks,key-secret=key,file.driver=file,file.filename={path}"
        secret = f"secret,id=key,file={tmp_path / 'key'}"
        command = ["qemu-io", "-r", "-c", "quit", "--object", secret, "--image-opts", options]
        assert subprocess.run(command, capture_output=True, check=False).returncode < 0

    def test_one_that_no_passphrase_opens(self, volume: Path) -> None:
        refused(judge(patch(volume, SLOT, struct.pack(">I", 0xDEAD))), "luks-invalid")

    def test_a_detached_header(self, tmp_path: Path) -> None:
        disk, header = sparse(tmp_path / "disk", 8 * MiB), tmp_path / "header"
        (tmp_path / "key").write_text("abc")
        words = ("--type", "luks1", "--pbkdf-force-iterations", "1000", "--header", header)
        run("cryptsetup", "-q", "luksFormat", *words, disk, tmp_path / "key")
        refused(judge(header), "luks-detached")
        assert not opens(header)

    def test_one_cut_before_its_disk(self, volume: Path) -> None:
        refused(identify(MemoryReader(volume.read_bytes()[:600])), "empty")

    def test_version_2_and_says_what_to_do(self, tmp_path: Path) -> None:
        path = sparse(tmp_path / "image", 32 * MiB)
        (tmp_path / "key").write_text("abc")
        words = ("--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
        run("cryptsetup", "-q", "luksFormat", *words, path, tmp_path / "key")
        refused(judge(path), "luks2")
        assert "cryptsetup" in judge(path).hazards[0].text
        assert not opens(path)

    @pytest.mark.parametrize("version", [0, 3, 0xFFFF])
    def test_unknown_versions(self, volume: Path, version: int) -> None:
        refused(judge(patch(volume, 6, struct.pack(">H", version))), "luks-version")
