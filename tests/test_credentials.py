"""Secrets: nothing shows them but `reveal`."""

import json
import logging
import pickle
from collections import Counter
from dataclasses import fields

import pytest

from probes.credentials import NO_CREDENTIALS, Credentials, Secret

TEXT = "s3cr3t"
FULL = Credentials("alice", Secret(TEXT), Secret(TEXT + "1"), Secret(TEXT + "2"), Secret(TEXT + "3"), "/ca.pem")


def test_no_way_of_printing_shows_a_secret(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(TEXT)
    shown = [
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!s:>20}",
        f"{secret}",
        repr([secret]),
        repr(FULL),
        str(FULL),
    ]
    logging.getLogger("test").warning("%s %r", secret, FULL)
    assert TEXT not in "".join(shown) + caplog.text
    assert secret.reveal() == TEXT


def test_a_secret_cannot_be_written_as_json_by_accident() -> None:
    with pytest.raises(TypeError):
        json.dumps({"password": Secret(TEXT)})


def test_an_error_about_credentials_shows_none() -> None:
    with pytest.raises(ValueError, match="not credentials") as caught:
        Credentials.from_json({"password": TEXT, "nonsense": TEXT})
    assert TEXT not in str(caught.value)


def test_equal_secrets_are_equal_and_not_their_text() -> None:
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret("other")
    assert Secret(TEXT) != TEXT
    assert Counter([Secret(TEXT), Secret(TEXT)]) == {Secret(TEXT): 2}


def test_they_travel_to_a_child() -> None:
    again = pickle.loads(pickle.dumps(FULL))
    assert again == FULL
    assert again.password.reveal() == TEXT


def test_they_travel_to_a_helper_as_json() -> None:
    assert Credentials.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL
    assert Credentials.from_json(NO_CREDENTIALS.to_json()) == NO_CREDENTIALS


@pytest.mark.parametrize("values", [{"password": 3}, {"password": None}, {"password": {"a": "b"}}, {"nonsense": "x"}])
def test_a_helper_takes_nothing_else(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not credentials"):
        Credentials.from_json(values)


def test_none_at_all_are_false_and_an_empty_password_is_one() -> None:
    assert not NO_CREDENTIALS
    assert Credentials(password=Secret(""))


def test_each_field_counts() -> None:
    for field in fields(Credentials):
        value = "x" if field.name in {"username", "ca_file"} else Secret("x")
        assert Credentials(**{field.name: value}), field.name  # type: ignore[arg-type]  # one of them at a time


def test_those_at_hand_come_before_those_remembered() -> None:
    typed = Credentials(password=Secret("typed"))
    remembered = Credentials("alice", Secret("old"), ca_file="/ca.pem")
    assert typed.over(remembered) == Credentials("alice", Secret("typed"), ca_file="/ca.pem")
    assert NO_CREDENTIALS.over(remembered) == remembered
    assert remembered.over(NO_CREDENTIALS) == remembered


def test_all_secrets_can_be_had_for_keeping_them_out_of_a_text() -> None:
    assert {secret.reveal() for secret in FULL.secrets()} == {TEXT, TEXT + "1", TEXT + "2", TEXT + "3"}
    assert NO_CREDENTIALS.secrets() == ()
