"""Text from elsewhere: harmless to a terminal, harmless to a shell."""

import os
import subprocess
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.text import clean, is_clean, shell_word

anything = st.text(alphabet=st.characters(codec=None))  # surrogates included


class TestClean:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("plain", "plain"),
            ("with space, ü and 日本", "with space, ü and 日本"),
            ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
            ("a\nb\tc\r", r"a\x0ab\x09c\x0d"),
            ("\x9b31m", r"\x9b31m"),
            (os.fsdecode(b"\xff\xfe"), r"\xff\xfe"),
            ("\u202etxt.exe", r"\u202etxt.exe"),
            ("a\u200bb", r"a\u200bb"),
            ("\ud800", r"\ud800"),
            ("\U000e0041", r"\U000e0041"),
            ("[bold]", "[bold]"),
            ("back\\slash", "back\\slash"),
            ("no\u00a0break", "no\u00a0break"),
            ("e\u0301", "e\u0301"),
        ],
    )
    def test_examples(self, text: str, shown: str) -> None:
        assert clean(text) == shown

    @settings(deadline=None)
    @given(anything)
    def test_nothing_survives_that_a_terminal_could_act_on(self, text: str) -> None:
        shown = clean(text)
        assert {unicodedata.category(character)[0] for character in shown} <= set("LMNPSZ")
        assert not {unicodedata.category(character) for character in shown} & {"Zl", "Zp"}
        shown.encode()

    @settings(deadline=None)
    @given(anything)
    def test_it_changes_nothing_twice(self, text: str) -> None:
        assert is_clean(clean(text))

    @settings(deadline=None)
    @given(anything, st.integers(min_value=1, max_value=20))
    def test_a_limit_holds(self, text: str, limit: int) -> None:
        shown = clean(text, limit)
        assert len(shown) <= limit
        assert shown == clean(text) or shown.endswith("…")


class TestShellWord:
    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("plain", "plain"),
            ("/srv/a-b_c.img", "/srv/a-b_c.img"),
            ("http://h:80/a%20b", "http://h:80/a%20b"),
            ("", "''"),
            ("a b", "'a b'"),
            ("~root", "'~root'"),
            ("it's", "'it'\"'\"'s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("\x1b[31m", "\"$(printf -- '\\033[31m')\""),
            ("a\n\n", "\"$(printf -- 'a')\"'\n\n'"),
        ],
    )
    def test_examples(self, text: str, word: str) -> None:
        assert shell_word(text) == word

    @settings(deadline=None)
    @given(st.lists(st.binary(max_size=20).filter(lambda raw: 0 not in raw), max_size=5))
    @pytest.mark.parametrize("shell", ["dash", "bash"])
    def test_a_real_shell_gets_exactly_the_text(self, shell: str, raw: list[bytes]) -> None:
        words = " ".join(shell_word(os.fsdecode(word)) for word in raw)
        script = f"for word in {words}; do printf '%s\\0' \"$word\"; done"
        done = subprocess.run([shell, "-c", os.fsencode(script)], stdout=subprocess.PIPE, check=True)
        assert done.stdout.split(b"\0")[:-1] == raw

    @pytest.mark.parametrize(
        "text",
        [
            "-n",
            "--",
            "%s%d%%",
            "\\",
            "\\\\033",
            "a\x1b\n",
            "\n",
            "\n\x1b",
            "\x7f",
            "'\x01'",
            "é\x1b",
            "-\x1b",
            "\x1b%s\\'",
        ],
    )
    @pytest.mark.parametrize("shell", ["dash", "bash"])
    def test_the_awkward_ones(self, shell: str, text: str) -> None:
        done = subprocess.run([shell, "-c", f"printf '%s' {shell_word(text)}"], stdout=subprocess.PIPE, check=True)
        assert done.stdout == os.fsencode(text)

    @settings(deadline=None)
    @given(anything)
    def test_a_word_can_be_seen(self, text: str) -> None:
        assert is_clean(shell_word(text).replace("\n", ""))
