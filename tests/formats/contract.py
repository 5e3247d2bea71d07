"""What every image format owes, tested on real images. A format's test file inherits `FormatContract` and says how
images of it are made. One whose guest's bytes are followed inherits `GuestContract` as well, one that lies over a
backing file `BackingContract`; `CreatedContract` is the first with the empty images that qemu-img makes.
The format's own hazards are tested in its own file.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.errors import Unreachable
from probes.formats import magics
from probes.identify import FOREIGN_FORMATS, HEAD_FORMATS, TAIL_FORMATS, identify
from probes.image import Verdict
from probes.recording import RecordingReader
from tests.formats.disks import everything
from tests.formats.fuzzing import FUZZ, KINDS, Mutated, judge_within_bounds, mutations
from tests.formats.images import codes, judge, qemu_img_create, qemu_img_info, run
from tests.formats.judged import judge_bytes, refused_as
from tests.formats.readers import FailingReader, FileReader, MemoryReader

Pack = Callable[[Path, Path], object]
"""Make an image of the raw disk at the first path, at the second."""

_LARGEST_WRITTEN = 1 << 43
"""Bytes of the largest (sparse) file that is made to ask QEMU about."""


def converted(driver: str, *options: str) -> Pack:
    """Return what has qemu-img convert a disk."""
    return lambda disk, path: run("qemu-img", "convert", "-f", "raw", "-O", driver, *options, disk, path)


def built(build: Callable[[bytes], bytes]) -> Pack:
    """Return what writes the image that `build` makes of a disk's bytes."""
    return lambda disk, path: path.write_bytes(build(disk.read_bytes()))


@dataclass(frozen=True)
class Packed:
    """An image at `path` that holds the raw disk at `disk`."""

    path: Path
    disk: Path
    data: bytes


class FormatContract:
    """What is promised of images of one format."""

    name: ClassVar[str]
    """QEMU's driver."""

    variants: ClassVar[Mapping[str, Pack]]
    """The ways to make images of it."""

    trips: ClassVar[int] = 1
    """Round trips that its verdict takes at most."""

    most_bytes: ClassVar[int] = 64 << 10
    """Bytes that it takes at most."""

    cuts: ClassVar[tuple[int, ...]]
    """Bytes of an image's start that show what it is, and that the rest is missing; negative from its end."""

    told: ClassVar[frozenset[str]] = frozenset()
    """Hazards that are told of every image of it."""

    qemu_looks_further: ClassVar[bool] = False
    """Whether QEMU may refuse for tables that no verdict is drawn from."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """A test of `packed` is one for each variant."""
        if "packed" in metafunc.fixturenames:
            metafunc.parametrize("packed", self.variants, indirect=True, scope="class")

    @pytest.fixture(scope="class")
    def packed(
        self, request: pytest.FixtureRequest, raw_disk: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Packed]:
        """An image of a partitioned disk."""
        path = tmp_path_factory.mktemp("packed") / "image"
        self.variants[request.param](raw_disk, path)
        yield Packed(path, raw_disk, path.read_bytes())
        path.unlink()

    def test_it_is_to_us_what_it_is_to_qemu(self, packed: Packed) -> None:
        ours, theirs = judge(packed.path), qemu_img_info(packed.path, "-f", self.name)
        assert (ours.format, ours.virtual_size) == (self.name, theirs["virtual-size"])
        assert ours.file_size == len(packed.data)
        assert ours.verdict is Verdict.OK
        assert codes(ours) == self.told

    def test_no_other_format_takes_it_for_its_own(self, packed: Packed) -> None:
        reader = RecordingReader(MemoryReader(packed.data))
        takers = {form.name for form in (*HEAD_FORMATS, *FOREIGN_FORMATS, *TAIL_FORMATS) if form.probe(reader)}
        assert takers == {self.name}
        assert not [image for image in magics.recognise(reader) if not magics.is_tame(image)]

    def test_its_verdict_takes_few_reads_of_few_bytes(self, packed: Packed) -> None:
        recorder = RecordingReader(MemoryReader(packed.data))
        assert identify(recorder, look_inside=False).verdict is Verdict.OK
        assert recorder.trips <= self.trips
        assert recorder.bytes_read <= self.most_bytes

    def test_one_that_was_cut_short_is_refused(self, packed: Packed) -> None:
        for size in self.cuts:
            image = judge_bytes(packed.data[:size])
            assert (image.format, image.verdict) == (self.name, Verdict.REFUSE), size

    def test_cut_anywhere_it_is_judged(self, packed: Packed) -> None:
        length = len(packed.data)
        for size in (*range(0, 600, 37), 1024, 4095, 32769, 65535, 65537, 200_000, *range(0, length, length // 15)):
            judge_bytes(packed.data[:size])

    def test_a_failed_read_is_an_error_whichever_it_is(self, packed: Packed) -> None:
        counted = MemoryReader(packed.data)
        identify(counted)
        for fails_at in range(counted.trips):
            with pytest.raises(Unreachable):
                identify(FailingReader(packed.data, fails_at))

    def test_changed_anywhere_it_is_judged_within_bounds_and_qemu_opens_what_is_let_through(
        self, tmp_path: Path
    ) -> None:
        """With the same size, and no other file."""
        kind = next(kind for kind in KINDS if kind.name == self.name)
        path = tmp_path / "image"

        @FUZZ
        @given(reader=mutations(kind), weigh=st.sampled_from([False, False, False, True]))
        def check(reader: Mutated, weigh: bool) -> None:
            image = judge_within_bounds(reader, weigh)
            passes = image.verdict is not Verdict.REFUSE and image.backing is None
            if image.format != self.name or not passes or reader.size > _LARGEST_WRITTEN:
                return
            reader.write(path)
            try:
                told = qemu_img_info(path, "-U", "-f", self.name)
            except AssertionError:
                assert self.qemu_looks_further
                return
            assert told["virtual-size"] == image.virtual_size
            assert "backing-filename" not in told
            details = told.get("format-specific", {}).get("data", {})
            assert "data-file" not in details
            assert {extent["filename"] for extent in details.get("extents", ())} <= {str(path)}

        check()


class CreatedContract(FormatContract):
    """What is promised of empty disks as `qemu-img create` makes them."""

    empty: ClassVar[tuple[str | int, ...]]
    """Sizes of empty disks that qemu-img makes of it, small and vast."""

    create: ClassVar[tuple[str, ...]] = ()
    """Options for them."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        super().pytest_generate_tests(metafunc)
        if "empty_size" in metafunc.fixturenames:
            metafunc.parametrize("empty_size", self.empty)

    def test_an_empty_disk_of_any_size_is_to_us_what_it_is_to_qemu(self, tmp_path: Path, empty_size: str | int) -> None:
        path = qemu_img_create(tmp_path / "image", empty_size, self.name, *self.create)
        with FileReader(path) as reader:
            recorder = RecordingReader(reader)
            ours = identify(recorder, look_inside=False)
            assert recorder.trips <= self.trips
            assert recorder.bytes_read <= self.most_bytes
        assert (ours.format, ours.virtual_size) == (self.name, qemu_img_info(path, "-f", self.name)["virtual-size"])
        assert not judge(path).hazards


class GuestContract:
    """What is promised where the guest's bytes are followed."""

    name: ClassVar[str]
    trips_inside: ClassVar[int] = 8
    """Round trips that a look inside takes at most, those of the verdict included."""

    def test_inside_there_is_what_a_raw_disk_would_show(self, packed: Packed) -> None:
        recorder = RecordingReader(MemoryReader(packed.data))
        image = identify(recorder)
        assert recorder.trips <= self.trips_inside
        assert image.media == judge(packed.disk).media
        assert [part.filesystem and part.filesystem.type for part in image.media.partitions] == ["vfat", "ext4"]

    def test_every_byte_of_its_guest_is_qemus(self, packed: Packed) -> None:
        run("qemu-img", "compare", "-f", self.name, "-F", "raw", packed.path, packed.disk)
        guest = everything(packed.path)
        assert guest == packed.disk.read_bytes().ljust(len(guest), b"\0")


class BackingContract:
    """What is promised of images over a backing file."""

    name: ClassVar[str]
    writes: ClassVar[tuple[str, ...]]
    """What qemu-io writes into one over a backing file."""

    @pytest.mark.parametrize(
        "name",
        ["/etc/hostname", "json:{}", "nbd://192.0.2.1/x", "fat:/etc", "../base", "\x1b[31mred\x07", "\u202eevil"],
    )
    def test_any_backing_file_but_one_beside_it_is_refused(self, tmp_path: Path, name: str) -> None:
        image = judge(qemu_img_create(tmp_path / "image", "1M", self.name, "-u", "-b", name, "-F", "raw"))
        assert image.backing is not None
        assert image.backing.name == name
        refused_as(self.name, image, "backing-outside")

    @pytest.mark.parametrize("format_", ["raw", "qcow2"])
    def test_one_beside_it_is_asked_about(self, tmp_path: Path, format_: str) -> None:
        path = qemu_img_create(tmp_path / "image", "1M", self.name, "-u", "-b", "base", "-F", format_)
        ours, theirs = judge(path), qemu_img_info(path)
        assert ours.backing is not None
        assert (ours.backing.name, ours.backing.format) == ("base", theirs.get("backing-filename-format"))
        assert codes(ours) == {"backing-file"}
        assert ours.verdict is Verdict.ASK
        assert ours.media.firmware is None  # nobody has seen the backing image yet

    def test_every_byte_over_a_backing_file_is_qemus(self, tmp_path: Path, raw_disk: Path) -> None:
        path = qemu_img_create(tmp_path / "image", "24M", self.name, "-b", str(raw_disk), "-F", "raw")
        run("qemu-io", *(word for write in self.writes for word in ("-c", write)), path)
        run("qemu-img", "convert", "-O", "raw", path, tmp_path / "raw")
        assert everything(path, raw_disk) == (tmp_path / "raw").read_bytes()
