"""Plans and errors travel to the supervisor and back as JSON, and arrive as they were."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.qemu.sessions import qmp
from app.qemu.sessions.start import qemu_error
from app.qemu.sessions.wire import error_from_json, error_to_json, from_line, plan_from_json, plan_to_json, to_line
from app.qemu.steps import (
    BootPlan,
    CheckUnchanged,
    CheckUnused,
    CopyFile,
    CreateOverlay,
    LaySecret,
    OpenFile,
    StartAgent,
    StartBridge,
    StartQemu,
)
from probes import errors
from probes.credentials import Credentials, Secret
from probes.errors import Crashed, Denied, FarbootError, UnknownHostKey
from probes.evidence import Evidence
from probes.location import Location
from probes.reader import Pin

TEXT = st.text(st.characters(codec=None), max_size=20)  # lone surrogates too: undecodable names hold them
WORDS = st.lists(TEXT, max_size=4).map(tuple)
LOCATIONS = st.builds(Location, TEXT, TEXT, TEXT, TEXT)
PINS = st.builds(Pin, st.integers(0, 1 << 62), TEXT, st.booleans())
EVIDENCE = st.builds(Evidence, st.lists(st.tuples(st.integers(), st.integers())).map(tuple), TEXT)
STEPS = st.one_of(
    st.builds(CreateOverlay, TEXT, st.integers(), WORDS),
    st.builds(CopyFile, TEXT, TEXT, st.booleans()),
    st.builds(LaySecret, TEXT, LOCATIONS, TEXT, TEXT, WORDS, TEXT),
    st.builds(StartAgent, TEXT, LOCATIONS, TEXT, WORDS),
    st.builds(CheckUnused, LOCATIONS, st.integers(0, 9)),
    st.builds(StartBridge, TEXT, LOCATIONS, WORDS),
    st.builds(OpenFile, TEXT, st.integers(3, 9), st.booleans(), st.booleans()),
    st.builds(StartQemu, WORDS, WORDS, st.none() | st.integers()),
    st.builds(CheckUnchanged, LOCATIONS, PINS, EVIDENCE, TEXT, st.integers()),
)
PLANS = st.builds(BootPlan, LOCATIONS, TEXT, st.lists(STEPS, max_size=5).map(tuple), WORDS, WORDS, TEXT, TEXT, TEXT)


@given(PLANS)
def test_a_plan_arrives_as_it_was(plan: BootPlan) -> None:
    assert plan_from_json(json.loads(to_line({"plan": plan_to_json(plan)}))["plan"]) == plan


@pytest.mark.parametrize(
    "values",
    [None, [], {}, "x", {"=": "BootPlan"}, {"=": "Popen", "args": "sh"}, {"=": "Pin", "size": 1}, {"=": "Pin", "x": 1}],
)
def test_what_is_no_plan_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="not"):
        plan_from_json(values)


def test_a_secret_can_not_slip_into_a_plan() -> None:
    place = Location("file")
    with pytest.raises(TypeError, match="not part of a plan"):
        plan_to_json(BootPlan(place, Secret("x")))  # type: ignore[arg-type]  # that is the point


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarbootError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_arrives_as_it_was(kind: type[FarbootError]) -> None:
    error = kind("boot", "rbd:a/b", "it is gone", "look again", "more")
    back = error_from_json(json.loads(to_line(error_to_json(error))))
    assert type(back) is kind
    assert vars(back) == vars(error)


def test_an_unknown_host_key_still_shows_its_fingerprint() -> None:
    error = UnknownHostKey("log in to", "ssh://h/", "nobody vouches for it", "", "", "SHA256:abc", "ssh-ed25519")
    back = error_from_json(json.loads(to_line(error_to_json(error))))
    assert isinstance(back, UnknownHostKey)
    assert (back.fingerprint, back.key_type, back.wants) == ("SHA256:abc", "ssh-ed25519", ("host_key",))


def test_a_denial_still_says_what_it_wants() -> None:
    back = error_from_json(error_to_json(Denied("open", "x", "no", wants=("password", "key"))))
    assert isinstance(back, Denied)
    assert back.wants == ("password", "key")


def test_an_answer_that_is_an_error_is_raised_and_one_that_is_nothing_is_a_crash() -> None:
    with pytest.raises(Denied):
        from_line(to_line({"error": error_to_json(Denied("open", "x", "no"))}), "x")
    for line in (b"", b"[]\n", b"{", b"\xff"):
        with pytest.raises(Crashed):
            from_line(line, "x")


@given(st.builds(Credentials, *(st.none() | part for part in (TEXT, *[TEXT.map(Secret)] * 4, TEXT))))
def test_credentials_arrive_as_they_were(credentials: Credentials) -> None:
    assert Credentials.from_json(json.loads(to_line({"c": credentials.to_json()}))["c"]) == credentials


@pytest.mark.parametrize("values", [{"pass": "x"}, {"password": 7}, {"username": None}])
def test_what_are_no_credentials_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not credentials"):
        Credentials.from_json(values)


PLANNED = {"proto": "file", "base": "raw"}


def opened(**drivers: str) -> list[dict[str, object]]:
    return [{"node-name": name, "drv": driver, "file": f"/{name}"} for name, driver in drivers.items()]


@pytest.mark.parametrize(
    ("nodes", "difference"),
    [
        (opened(proto="file", base="raw"), ""),
        (opened(base="raw", proto="file"), ""),
        (opened(proto="file", base="qcow2"), "QEMU opened base as qcow2, not as raw"),
        (opened(proto="file"), "QEMU did not open base"),
        (opened(proto="file", base="raw", x="nbd"), "QEMU opened something that was not planned: nbd /x"),
        ([], "QEMU did not open base, proto"),
    ],
)
def test_qemu_must_have_opened_what_was_planned(nodes: list[dict[str, object]], difference: str) -> None:
    assert qmp.compare_nodes(PLANNED, nodes) == difference


def test_the_planned_nodes_are_those_of_the_arguments() -> None:
    argv = ("qemu", "-m", "1", "-blockdev", '{"node-name": "proto", "driver": "file"}', "-blockdev")
    assert qmp.planned_nodes(argv) == {"proto": "file"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("qemu-system-x86_64: -blockdev {\"driver\": \"raw\"}: Could not open 'x'", "Could not open 'x'"),
        ("qemu-system-x86_64: -m: invalid option\n", "-m: invalid option"),
        ("bwrap: setting up uid map: Permission denied", "bwrap: setting up uid map: Permission denied"),
        ("qemu-system-x86_64: it is bad\nqemu-system-x86_64: warning: it is old\n", "it is bad"),
        ("qemu-system-x86_64: -blockdev {\"a\": \"}: \"}: URL returned error: 404", "URL returned error: 404"),
    ],
)  # fmt: skip
def test_qemus_words_are_told_without_the_option_that_it_quotes(words: str, why: str) -> None:
    error = qemu_error(Location("file", path="/x"), words, 1)
    assert error.why == f"QEMU says: {why}"
