"""known_hosts files, as ssh-keygen writes and searches them."""

import base64
import os
import stat
import subprocess
from pathlib import Path

import pytest

from probes.errors import FarbootError
from probes.ssh.known_hosts import Verdict, fingerprint, host_names, judge, lines_for, remember_host_key
from tests.servers.sshd import make_key, print_of, public


class Key:
    """A public key, in its several spellings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kind, self.text = public(path).split()[:2]
        self.blob = base64.b64decode(self.text)

    def line(self, names: str, marker: str = "") -> str:
        return f"{marker}{names} {self.kind} {self.text} a comment\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    kinds = {"one": "ed25519", "other": "ed25519", "rsa": "rsa"}
    return {name: Key(make_key(folder / name, kind)) for name, kind in kinds.items()}


def verdict(file: Path, key: Key, host: str = "h.example.org", port: int = 22, known_as: str = "") -> Verdict:
    return judge(key.kind, key.blob, lines_for(host_names(host, port, known_as), [str(file)]))[0]


def test_fingerprints_are_those_of_openssh(keys: dict[str, Key]) -> None:
    for key in keys.values():
        assert fingerprint(key.blob) == print_of(key.path)


@pytest.mark.parametrize(
    ("names", "host", "port"),
    [
        ("h.example.org", "h.example.org", 22),
        ("h.example.org", "H.Example.ORG", 22),
        ("other,h.example.org", "h.example.org", 22),
        ("*.example.org", "h.example.org", 22),
        ("h?example.org", "h.example.org", 22),
        ("[h.example.org]:2222", "h.example.org", 2222),
        ("h.example.org", "h.example.org", 2222),
        ("[2001:db8::1]:2222", "2001:db8::1", 2222),
        ("2001:db8::1", "2001:db8::1", 22),
    ],
)
def test_a_line_for_the_host_vouches_for_its_key(
    tmp_path: Path, keys: dict[str, Key], names: str, host: str, port: int
) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("# a comment\n\nnonsense\n" + keys["one"].line(names))
    assert verdict(file, keys["one"], host, port) is Verdict.KNOWN


@pytest.mark.parametrize(
    ("names", "port"),
    [("else.example.org", 22), ("*,!h.example.org", 22), ("[h.example.org]:2222", 22), ("[h.example.org]:1", 2222)],
)
def test_a_line_for_another_host_does_not(tmp_path: Path, keys: dict[str, Key], names: str, port: int) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["one"].line(names))
    assert verdict(file, keys["one"], port=port) is Verdict.UNKNOWN


def test_hashed_names_are_found(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["one"].line("h.example.org") + keys["rsa"].line("[h.example.org]:2222"))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert "example" not in file.read_text().replace("a comment", "")
    assert verdict(file, keys["one"]) is Verdict.KNOWN
    assert verdict(file, keys["rsa"], port=2222) is Verdict.KNOWN
    assert verdict(file, keys["one"], host="else.example.org") is Verdict.UNKNOWN


def test_another_key_of_the_same_kind_has_changed(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("\n" + keys["other"].line("h.example.org"))
    found, line = judge(keys["one"].kind, keys["one"].blob, lines_for(("h.example.org",), [str(file)]))
    assert found is Verdict.CHANGED
    assert line is not None
    assert line.place == f"{file}:2"


def test_one_of_several_keys_of_a_kind_will_do(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["other"].line("h.example.org") + keys["one"].line("h.example.org"))
    assert verdict(file, keys["one"]) is Verdict.KNOWN


def test_a_key_of_another_kind_is_unknown(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["rsa"].line("h.example.org"))
    assert verdict(file, keys["one"]) is Verdict.UNKNOWN


def test_a_key_without_the_port_does_not_make_that_port_look_changed(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["other"].line("h.example.org"))
    assert verdict(file, keys["one"], port=2222) is Verdict.UNKNOWN


def test_a_revoked_key_is_revoked_whoever_else_vouches(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["one"].line("h.example.org") + keys["one"].line("*", "@revoked "))
    assert verdict(file, keys["one"]) is Verdict.REVOKED


def test_an_authority_vouches_for_nobody_here(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["one"].line("h.example.org", "@cert-authority "))
    assert verdict(file, keys["one"]) is Verdict.UNKNOWN


def test_an_alias_stands_for_the_host_and_its_port(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["one"].line("Alias"))
    assert verdict(file, keys["one"], port=2222, known_as="alias") is Verdict.KNOWN


def test_missing_files_and_devices_have_no_lines(tmp_path: Path) -> None:
    assert lines_for(("h",), [str(tmp_path / "none"), os.devnull]) == ()


def test_a_file_that_cannot_be_read_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(FarbootError, match="which servers to trust"):
        lines_for(("h",), [str(tmp_path)])


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("port", [22, 2222])
def test_a_remembered_key_is_found_by_us_and_by_ssh(
    tmp_path: Path, keys: dict[str, Key], hashed: bool, port: int
) -> None:
    file, key = tmp_path / "new" / "known_hosts", keys["one"]
    names = host_names("h.example.org", port)
    remember_host_key(names, key.kind, key.blob, str(file), hashed)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert ("example" in file.read_text()) is not hashed
    assert verdict(file, key, port=port) is Verdict.KNOWN
    found = subprocess.run(["ssh-keygen", "-F", names[0], "-f", file], check=False, capture_output=True, text=True)
    assert key.text in found.stdout


def test_what_stood_there_before_stays_on_lines_of_its_own(tmp_path: Path, keys: dict[str, Key]) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(keys["rsa"].line("other.example.org").rstrip("\n"))
    remember_host_key(("h.example.org",), keys["one"].kind, keys["one"].blob, str(file))
    assert len(file.read_text().splitlines()) == 2
    assert verdict(file, keys["rsa"], host="other.example.org") is Verdict.KNOWN
