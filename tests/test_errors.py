"""The errors that a person sees: whole after a journey, clean whatever a server put into them."""

import copy
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes import errors
from probes.errors import Denied, FarbootError, Unreachable
from probes.text import is_clean

FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarbootError)]
anything = st.text(alphabet=st.characters(codec=None))


@pytest.mark.parametrize("kind", FAMILY)
def test_each_travels_whole(kind: type[FarbootError]) -> None:
    error = kind("list", "http://h/", "it is down.", "start it", "at length")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert again.as_json() == error.as_json()
        assert (again.detail, str(again)) == ("at length", "cannot list http://h/: it is down (start it)")


def test_a_denial_keeps_what_it_wants() -> None:
    error = Denied("list", "http://h/", "who are you", wants=("username", "password"))
    assert pickle.loads(pickle.dumps(error)).wants == ("username", "password")


def test_each_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in FAMILY]
    assert len(set(codes)) == len(codes)


def test_the_exit_status_tells_usage_and_refusal_from_failure() -> None:
    told = {kind.__name__: kind.exit_status for kind in FAMILY if kind.exit_status != 1}
    assert told == {"BadLocation": 2, "Refused": 3}


@settings(deadline=None)
@given(anything, anything, anything, anything, anything)
def test_it_is_one_clean_line_whatever_is_in_it(tried: str, on: str, why: str, hint: str, detail: str) -> None:
    error = Unreachable(tried, on, why, hint, detail)
    assert is_clean(str(error))
    assert is_clean(error.detail)
    assert is_clean("".join(json.loads(json.dumps(error.as_json())).values()))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_servers_long_words_are_cut() -> None:
    error = Unreachable("list", "x" * 10**6, "no\n" * 10**6, "hint" * 10**6, "detail" * 10**6)
    assert len(str(error)) < 10_000
    assert len(error.detail) <= 20_000


def test_several_lines_become_one() -> None:
    error = Unreachable("list", "h", "first\r\n\n  second.\n")
    assert error.why == "first; second"


def test_the_object_for_scripts() -> None:
    assert Unreachable("list", "http://h/", "it is down", "start it").as_json() == {
        "error": "unreachable",
        "message": "cannot list http://h/: it is down (start it)",
        "tried": "list",
        "on": "http://h/",
        "why": "it is down",
        "hint": "start it",
    }
