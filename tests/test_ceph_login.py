"""How a location's options, the credentials and the configuration together say how to log in to Ceph."""

from pathlib import Path

import pytest

from probes.ceph.login import Login, addresses, checked_key, key_in, login
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.errors import BadLocation, Denied, NotFound
from probes.location import Location

KEY = "AQCqKARrqVD2FBAAZ8H9bYUS3uKq1u4VXzTYdg=="


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CEPH_CONF", raising=False)
    monkeypatch.setattr("probes.ceph.login.CONF_PLACES", ("/nonexistent/ceph.conf",))


def login_at(text: str, credentials: Credentials = NO_CREDENTIALS) -> Login:
    location, found = Location.parse(text)
    return login(location, credentials.over(found), "list")


class TestLogin:
    def test_options_are_read_as_qemu_reads_them(self) -> None:
        text = r"rbd:pool/image:id=cinder:mon_host=192.0.2.1\:6789;[2001\:db8\:\:1]\:3300:auth_supported=cephx\;none"
        assert login_at(text) == Login(
            "cinder",
            None,
            (("auth_supported", "cephx;none"), ("mon_host", "192.0.2.1:6789;[2001:db8::1]:3300")),
        )

    def test_an_option_may_be_spelt_as_in_ceph_conf(self) -> None:
        assert login_at("rbd:pool:mon host=h").settings == login_at("rbd:pool:Mon-Host=h").settings

    def test_the_user_is_the_option_then_the_credentials_then_admin(self) -> None:
        alice = Credentials(username="alice")
        assert login_at("rbd:pool:id=bob:mon_host=h", alice).user == "bob"
        assert login_at("rbd:pool:mon_host=h", alice).user == "alice"
        assert login_at("rbd:pool:mon_host=h").user == "admin"

    def test_the_configuration_is_the_option_then_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CEPH_CONF", "/env.conf")
        assert login_at("rbd:pool:conf=/given.conf").conf == "/given.conf"
        assert login_at("rbd:pool").conf == "/env.conf"

    def test_the_configuration_is_the_first_that_exists(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        conf = tmp_path / "ceph.conf"
        conf.touch()
        monkeypatch.setattr("probes.ceph.login.CONF_PLACES", ("/nonexistent/ceph.conf", str(conf)))
        assert login_at("rbd:pool").conf == str(conf)

    def test_monitors_in_the_location_need_no_configuration(self) -> None:
        assert login_at("rbd:pool:mon_host=h").conf is None

    def test_with_neither_it_says_how_to_name_one(self) -> None:
        with pytest.raises(NotFound, match=r"conf=.*CEPH_CONF.*mon_host="):
            login_at("rbd:pool")

    @pytest.mark.parametrize("name", ["../../etc/passwd", "a\x1b[31m", "a\nb"])
    def test_a_user_whose_name_is_a_path_or_a_trick_is_refused(self, name: str) -> None:
        with pytest.raises(BadLocation):
            login(Location("rbd", query=f"mon_host=h:id={name}"), NO_CREDENTIALS, "list")

    @pytest.mark.parametrize(
        "option",
        ["plugin_dir=/tmp", "rbd_plugins=x", "run_dir=/", "admin_socket=/x", "crypto_plugin=x", "nonsense", "=x"],
    )
    def test_an_option_that_is_not_on_the_list_is_refused(self, option: str) -> None:
        with pytest.raises(BadLocation):
            login_at(f"rbd:pool:mon_host=h:{option}")

    @pytest.mark.parametrize(
        "option", ["rbd_cache=true", "rbd_cache_writethrough_until_flush=1", "debug_rbd=20", "log_file=/x"]
    )
    def test_tuning_is_left_out(self, option: str) -> None:
        assert login_at(f"rbd:pool:mon_host=h:{option}") == login_at("rbd:pool:mon_host=h")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("192.0.2.1", [("192.0.2.1", 0)]),
        ("192.0.2.1:6789, mon-b.example.org ,h:1234/0", [("192.0.2.1", 6789), ("mon-b.example.org", 0), ("h", 1234)]),
        ("192.0.2.1;192.0.2.2", [("192.0.2.1", 0), ("192.0.2.2", 0)]),
        ("[v2:192.0.2.1:3300/0,v1:192.0.2.1:6789/0]", [("192.0.2.1", 3300), ("192.0.2.1", 6789)]),
        ("[v2:192.0.2.1:3300,v1:192.0.2.1:6789] [v2:192.0.2.2:3300,v1:192.0.2.2:6789]",
         [("192.0.2.1", 3300), ("192.0.2.1", 6789), ("192.0.2.2", 3300), ("192.0.2.2", 6789)]),
        ("[2001:db8::1]:3300,[2001:db8::2]", [("2001:db8::1", 3300), ("2001:db8::2", 0)]),
        ("[v2:[2001:db8::1]:3300/0,v1:[2001:db8::1]:6789/0]", [("2001:db8::1", 3300), ("2001:db8::1", 6789)]),
        ("v1:192.0.2.1:0/3486919267", [("192.0.2.1", 0)]),
        ("192.0.2.7:0/3486919267", [("192.0.2.7", 0)]),
        (":::/", []),
    ],
)  # fmt: skip
def test_addresses_of_monitors_and_clients_are_understood(text: str, found: list[tuple[str, int]]) -> None:
    assert addresses(text) == found


class TestKeys:
    def test_the_key_of_the_user_is_found_in_a_keyring(self, tmp_path: Path) -> None:
        keyring = tmp_path / "keyring"
        keyring.write_text(f'[client.admin]\n\tkey = {KEY}\n\tcaps mon = "allow *"\n[client.other]\nkey={KEY[::-1]}\n')
        assert key_in(str(keyring), "admin") == KEY
        assert key_in(str(keyring), "other") == KEY[::-1]
        assert key_in(str(keyring), "nobody") is None

    @pytest.mark.parametrize("text", [b"", b"key = x", b"[client.admin", b"\xff\x00", b"[client.admin]\ncaps"])
    def test_what_is_no_keyring_holds_no_key(self, tmp_path: Path, text: bytes) -> None:
        keyring = tmp_path / "keyring"
        keyring.write_bytes(text)
        assert key_in(str(keyring), "admin") is None
        assert key_in(str(tmp_path), "admin") is None
        assert key_in("/nonexistent", "admin") is None

    def test_a_key_keeps_its_text_without_the_blanks_around_it(self) -> None:
        assert checked_key(Secret(f" {KEY}\n"), "admin", "list", Location("rbd")) == KEY

    @pytest.mark.parametrize("text", ["", "hunter2", "AAAA", KEY + "x", "ключ"])
    def test_what_cannot_be_a_key_is_denied_and_not_repeated(self, text: str) -> None:
        with pytest.raises(Denied) as caught:
            checked_key(Secret(text), "admin", "list", Location("rbd"))
        assert caught.value.wants == ("key",)
        assert not text or text not in str(caught.value)
