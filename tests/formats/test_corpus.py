"""Every image of the corpus gets the right format, size and verdict; within the budget, and in little memory."""

import functools
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.errors import TimedOut
from probes.identify import identify
from probes.image import Image, Verdict
from probes.recording import MAX_BYTES, MAX_READS, RecordingReader
from tests.corpus import RECIPES, Outside, Reach, Recipe
from tests.formats.images import codes
from tests.formats.judged import sound
from tests.formats.readers import FileReader, MemoryReader

MOST_MEMORY = 64 << 20
"""Bytes that judging one image may take at its peak."""


class Corpus:
    """The images, each made when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019  there is one for the whole run
    def path(self, recipe: Recipe) -> Path:
        path = self.folder / f"{recipe.name}.img"
        recipe.make(path, Outside())
        return path


@pytest.fixture(scope="module")
def corpus() -> Iterator[Corpus]:
    with tempfile.TemporaryDirectory(prefix="farboot-corpus-") as folder:
        yield Corpus(Path(folder))


def judged(path: Path, look_inside: bool = True) -> tuple[Image, RecordingReader]:
    with FileReader(path) as reader:
        recorder = RecordingReader(reader)
        return identify(recorder, look_inside), recorder


every = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


@every
def test_it_is_known_for_what_it_is(corpus: Corpus, recipe: Recipe) -> None:
    image, recorder = judged(corpus.path(recipe))
    sound(image, recorder)
    assert image.format == recipe.format
    assert image.verdict is recipe.verdict, image.hazards
    assert recipe.codes <= codes(image)
    assert image.virtual_size == recipe.size or recipe.size is None


@every
def test_the_verdict_needs_no_look_inside(corpus: Corpus, recipe: Recipe) -> None:
    image, recorder = judged(corpus.path(recipe), look_inside=False)
    sound(image, recorder)
    assert image.format == recipe.format
    assert image.verdict is recipe.verdict


@every
def test_judging_it_takes_little_memory(corpus: Corpus, recipe: Recipe) -> None:
    path = corpus.path(recipe)
    tracemalloc.start()
    try:
        judged(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@every
def test_a_server_that_drips_ends_at_the_deadline(corpus: Corpus, recipe: Recipe) -> None:
    """After the first answer no other is waited for, however much there is to read."""
    reader = Dripping(corpus.path(recipe).read_bytes())
    recorder = RecordingReader(reader, max_seconds=0)
    try:
        image = identify(recorder)
    except TimedOut:
        image = None
    assert reader.trips <= 1
    assert image is None or image.format == recipe.format


class Dripping(MemoryReader):
    """Answers, but never within the same tick of the clock as it was asked."""

    def pread(self, offset: int, length: int) -> bytes:
        threading.Event().wait(0.001)
        return super().pread(offset, length)


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if recipe.reach is not Reach.NOTHING], ids=lambda recipe: recipe.name
)
def test_what_reaches_outside_is_never_let_through(recipe: Recipe) -> None:
    """The corpus's own promise, for the tests that switch the judgement off."""
    assert recipe.verdict is Verdict.REFUSE


def test_every_name_stands_once() -> None:
    assert len({recipe.name for recipe in RECIPES}) == len(RECIPES)


def test_the_corpus_holds_every_format_in_a_harmless_and_in_a_hostile_form() -> None:
    formats = {
        "raw",
        "qcow2",
        "qcow",
        "qed",
        "vmdk",
        "vdi",
        "vpc",
        "vhdx",
        "parallels",
        "luks",
        "bochs",
        "cloop",
        "dmg",
    }
    assert {recipe.format for recipe in RECIPES if recipe.verdict is Verdict.OK} == formats
    assert {recipe.format for recipe in RECIPES if recipe.verdict is Verdict.REFUSE} >= formats - {"raw"}


def test_the_budget_is_what_the_documents_say() -> None:
    assert (MAX_BYTES, MAX_READS) == (4 << 20, 64)
