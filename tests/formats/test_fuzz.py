"""What no contract of a format covers, changed where parsers look: a judgement, never an exception, within every bound.

See `tests.formats.fuzzing` for how to run many; the formats' own are run by `-k changed_anywhere`.
"""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.identify import identify
from probes.image import Verdict
from probes.recording import RecordingReader
from tests.corpus import packed
from tests.corpus.recipe import Outside
from tests.formats.fuzzing import FUZZ, KINDS, Kind, Mutated, judge_within_bounds, mutations, seeds
from tests.formats.readers import MemoryReader


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name in {"raw", "packed"}], ids=lambda kind: kind.name)
def test_changed_images_of_no_format_are_judged_within_every_bound(kind: Kind) -> None:
    """Those of each format are by its `FormatContract`."""

    @FUZZ
    @given(reader=mutations(kind), weigh=st.sampled_from([False, False, False, True]))
    def check(reader: Mutated, weigh: bool) -> None:
        judge_within_bounds(reader, weigh)

    check()


def test_there_are_seeds_of_every_kind_and_of_every_sort_of_verdict() -> None:
    for kind in KINDS:
        verdicts = {identify(RecordingReader(MemoryReader(data))).verdict for data in seeds(kind.name)}
        assert Verdict.REFUSE in verdicts or kind.name == "raw"
        assert Verdict.OK in verdicts or kind.name == "packed"


_LINES = st.sampled_from(
    [
        "version=1",
        "version=4",
        "CID=ffffffff",
        "parentCID=00000001",
        "parentCID=ffffffff",
        "CID=",
        'createType="monolithicSparse"',
        'createType="streamOptimized"',
        'createType="custom"',
        "createType=",
        'RW 2048 SPARSE "x.vmdk"',
        'RW 18446744073709551615 SPARSE "x"',
        'RW -1 SPARSE "x"',
        'RW 1 FLAT "/etc/x" 0',
        'RW 99999999999999999999 FLAT "x" 99999999999999999999',
        "RW 1 ZERO",
        'NOACCESS 1 VMFS "x"',
        'RW  1\tSESPARSE "x"',
        'parentFileNameHint="/etc/passwd"',
        'parentFileNameHint="',
        "parentFileNameHint=x",
        "#",
        "",
        "\0",
        "\x1b]0;x\x07",
        'RW 1 FLAT "' + "x" * 3000 + '" 0',
        "é\ud7ff",
        "# Disk DescriptorFile",
        'ddb.adapterType = ""',
    ]
)


@FUZZ
@given(lines=st.lists(_LINES, max_size=30), inside=st.booleans(), capacity=st.sampled_from([None, 0, 2048, 1 << 63]))
def test_descriptors_of_any_lines_are_judged(lines: list[str], inside: bool, capacity: int | None) -> None:
    text = "\n".join(["# Disk DescriptorFile", "version=1", *lines]).encode("utf-8", "surrogatepass")
    if not inside:
        judge_within_bounds(Mutated(text, (), len(text)))
        return
    base = seeds("vmdk")[-2]
    changes = [(512, text[: 20 * 512].ljust(20 * 512, b"\0"))]
    if capacity is not None:
        changes.append((12, capacity.to_bytes(8, "little")))
    judge_within_bounds(Mutated(base, changes, len(base)))


_RUN = st.tuples(
    st.sampled_from([0, 1, 2, 0x80000004, 0x80000005, 0x80000006, 0x80000007, 0x7FFFFFFE, 0xFFFFFFFF, 0x12345678]),
    st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1)),
    st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1)),
    st.one_of(st.integers(0, 5000), st.integers(0, (1 << 64) - 1)),
    st.one_of(st.integers(0, 5000), st.integers(0, (1 << 64) - 1)),
)


@FUZZ
@given(
    runs=st.lists(_RUN, max_size=8),
    claimed=st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)),
    tail=st.binary(max_size=64),
)
def test_tables_of_any_runs_in_a_dmg_are_judged(
    tmp_path_factory: pytest.TempPathFactory,
    runs: list[tuple[int, int, int, int, int]],
    claimed: int | None,
    tail: bytes,
) -> None:
    path = tmp_path_factory.getbasetemp() / f"runs-{os.getpid()}.dmg"
    packed.dmg_of(runs, claimed, tail)(path, Outside())
    data = path.read_bytes()
    judge_within_bounds(Mutated(data, (), len(data)))
