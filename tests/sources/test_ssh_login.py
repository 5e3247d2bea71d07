"""Being let in by a real sshd, or not: keys, agents, passwords, host keys."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probes.credentials import Credentials, Secret
from probes.entry import Kind
from probes.errors import UnknownHostKey
from probes.location import Location
from probes.sources.ssh import SshSource
from tests.servers.sshd import USER, Agent, Sshd, SshHome, make_key, print_of, public, start_sshd
from tests.sources.contract import CredentialContract, Lock, Storage
from tests.sources.ssh_logins import PASSPHRASE, PASSWORD, lets_in, place, refusal


@pytest.fixture
def home(ssh_home: SshHome, sshd: Sshd) -> SshHome:
    """A person who knows the server's keys, and whom it does not let in yet."""
    sshd.authorize()
    ssh_home.trust(sshd.known())
    return ssh_home


@pytest.fixture
def agent(home: SshHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Agent]:
    with Agent(tmp_path) as running:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(running.socket))
        yield running


# Keys


@pytest.mark.parametrize(
    ("name", "kind", "pem"),
    [("id_ed25519", "ed25519", False), ("id_ecdsa", "ecdsa", False), ("id_rsa", "rsa", False), ("id_rsa", "rsa", True)],
)
def test_a_default_key_lets_us_in(sshd: Sshd, home: SshHome, name: str, kind: str, pem: bool) -> None:
    key = home.key(name, kind, pem=pem)
    sshd.authorize(key)
    Path(f"{key}.pub").unlink()  # nobody needs the public half as a file
    assert lets_in(place(sshd))


def test_the_configuration_names_the_key_and_what_the_host_is(sshd: Sshd, home: SshHome) -> None:
    sshd.authorize(home.key("special"))
    home.configure(f"Host alias\n HostName 127.0.0.1\n Port {sshd.port}\n User {USER}\n IdentityFile ~/.ssh/special\n")
    assert lets_in(Location("ssh", "alias", "/"))


def test_a_key_in_an_agent_lets_us_in(sshd: Sshd, agent: Agent, tmp_path: Path) -> None:
    key = make_key(tmp_path / "elsewhere", "rsa")
    agent.add(key)
    sshd.authorize(key)
    assert lets_in(place(sshd))


def test_with_too_many_keys_the_one_that_is_named_is_tried_first(
    sshd: Sshd, home: SshHome, agent: Agent, tmp_path: Path
) -> None:
    keys = [make_key(tmp_path / f"key{number}") for number in range(9)]
    for key in keys:
        agent.add(key)
    sshd.authorize(keys[-1])
    denied = refusal(place(sshd))
    assert "IdentityFile" in str(denied)
    home.configure(f"IdentityFile {keys[-1]}.pub\nIdentitiesOnly yes\n")
    assert lets_in(place(sshd))


def test_an_agent_that_is_gone_is_no_reason_not_to_try_files(
    sshd: Sshd, home: SshHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere/agent")
    sshd.authorize(home.key())
    assert lets_in(place(sshd))


def test_an_agent_that_is_gone_is_told_and_a_password_asked_for(
    home: SshHome, monkeypatch: pytest.MonkeyPatch, open_folder: Callable[[str], Path]
) -> None:
    server = start_sshd(open_folder("sshd"), "PasswordAuthentication yes", passwords={"alice": PASSWORD})
    with server.server:
        home.trust(server.known())
        monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere/agent")
        denied = refusal(place(server, user="alice"))
        assert "/nowhere/agent" in denied.why
        assert denied.wants == ("password",)


def test_without_any_key_it_says_so(sshd: Sshd, home: SshHome) -> None:
    assert home.ssh.is_dir()
    denied = refusal(place(sshd))
    assert denied.wants == ()
    assert "no key to try" in denied.why
    assert "ssh-copy-id" in denied.hint


def test_a_key_that_the_server_does_not_take_is_named(sshd: Sshd, home: SshHome) -> None:
    key = home.key()
    denied = refusal(place(sshd))
    assert str(key) in denied.why


@pytest.mark.parametrize("pem", [False, True])
def test_a_locked_key_is_asked_for_its_passphrase_only_if_the_server_would_take_it(
    sshd: Sshd, home: SshHome, pem: bool
) -> None:
    key = home.key("id_rsa", "rsa", PASSPHRASE, pem=pem)
    assert refusal(place(sshd)).wants == ()
    sshd.authorize(key)
    denied = refusal(place(sshd))
    assert denied.wants == ("passphrase",)
    assert str(key) in denied.why
    assert lets_in(place(sshd), Credentials(passphrase=Secret(PASSPHRASE)))


def test_a_certificate_lets_us_in(home: SshHome, tmp_path: Path) -> None:
    authority, key = make_key(tmp_path / "authority"), home.key()
    argv = ["ssh-keygen", "-q", "-s", str(authority), "-I", "someone", "-n", USER, f"{key}.pub"]
    subprocess.run(argv, check=True, capture_output=True)
    server = start_sshd(tmp_path / "sshd", f"TrustedUserCAKeys {authority}.pub")
    with server.server:
        home.trust(server.known())
        with SshSource() as source:
            assert source.stat(place(server)).kind is Kind.CONTAINER


class TestPassphrase(CredentialContract):
    @pytest.fixture
    def storage(self, sshd: Sshd) -> Storage:
        return storage_of(sshd)

    @pytest.fixture
    def lock(self, sshd: Sshd, home: SshHome) -> Lock:
        sshd.authorize(home.key(passphrase=PASSPHRASE))
        return lock_of(sshd, Credentials(passphrase=Secret(PASSPHRASE)), USER, "passphrase")


# Passwords


@pytest.fixture(scope="module")
def by_password(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that takes passwords only."""
    lines = "PasswordAuthentication yes\nPubkeyAuthentication no"
    server = start_sshd(tmp_path_factory.mktemp("password"), lines, passwords={"alice": PASSWORD})
    yield server
    server.server.stop()


@pytest.fixture(scope="module")
def by_question(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """An sshd that has PAM ask for the password (keyboard-interactive)."""
    lines = "UsePAM yes\nKbdInteractiveAuthentication yes\nPubkeyAuthentication no"
    server = start_sshd(tmp_path_factory.mktemp("question"), lines, passwords={"alice": PASSWORD})
    yield server
    server.server.stop()


def storage_of(server: Sshd) -> Storage:
    return Storage(make=SshSource, container=place(server), files={}, image="", missing=place(server))


def lock_of(server: Sshd, right: Credentials, user: str, field: str) -> Lock:
    secret = {field: Secret("wrong-and-unique-4711")}
    return Lock(
        place(server, user=user),
        place(server, "/etc/hostname", user),
        right=right,
        wrong=Credentials(**secret),  # type: ignore[arg-type]  # a field that holds a secret
        wants=(field,),
    )


class TestPassword(CredentialContract):
    @pytest.fixture
    def storage(self, by_password: Sshd) -> Storage:
        return storage_of(by_password)

    @pytest.fixture
    def lock(self, by_password: Sshd, home: SshHome) -> Lock:
        home.trust(by_password.known())
        return lock_of(by_password, Credentials(password=Secret(PASSWORD)), "alice", "password")


def test_a_password_that_pam_asks_for_is_given(by_question: Sshd, home: SshHome) -> None:
    home.trust(by_question.known())
    where = place(by_question, user="alice")
    assert refusal(where).wants == ("password",)
    assert lets_in(where, Credentials(password=Secret(PASSWORD)))
    denied = refusal(where, Credentials(password=Secret("wrong-and-unique-4711")))
    assert denied.wants == ("password",)
    assert "4711" not in str(denied)


def test_the_user_may_come_with_the_password(by_password: Sshd, home: SshHome) -> None:
    home.trust(by_password.known())
    where = Location("ssh", f"127.0.0.1:{by_password.port}", "/")
    assert lets_in(where, Credentials(username="alice", password=Secret(PASSWORD)))


def test_a_server_that_wants_both_a_key_and_a_password_gets_both(
    home: SshHome, open_folder: Callable[[str], Path]
) -> None:
    lines = "AuthenticationMethods publickey,password\nPasswordAuthentication yes"
    server = start_sshd(open_folder("sshd"), lines, passwords={"alice": PASSWORD})
    with server.server:
        server.authorize(home.key())
        home.trust(server.known())
        where = place(server, user="alice")
        assert refusal(where).wants == ("password",)
        assert lets_in(where, Credentials(password=Secret(PASSWORD)))


# Host keys


def test_an_unknown_host_key_is_asked_about_with_its_fingerprint(sshd: Sshd, home: SshHome) -> None:
    sshd.authorize(home.key())
    home.trust()
    denied = refusal(place(sshd))
    assert isinstance(denied, UnknownHostKey)
    assert denied.wants == ("host_key",)
    assert denied.fingerprint == print_of(sshd.host_keys["ed25519"])
    assert denied.fingerprint in denied.why
    assert denied.key_type == "ssh-ed25519"
    assert lets_in(place(sshd), Credentials(host_key=denied.fingerprint))


def test_a_key_that_was_said_yes_to_can_be_remembered(sshd: Sshd, home: SshHome) -> None:
    sshd.authorize(home.key())
    home.trust()
    home.configure("HashKnownHosts no\n")
    with SshSource(Credentials(host_key=print_of(sshd.host_keys["ed25519"]))) as source:
        source.stat(place(sshd))
        assert source.remember_host_key(place(sshd)) == str(home.ssh / "known_hosts")
    kind, key = public(sshd.host_keys["ed25519"]).split()[:2]
    assert (home.ssh / "known_hosts").read_text() == f"[127.0.0.1]:{sshd.port} {kind} {key}\n"
    assert lets_in(place(sshd))


def test_a_yes_to_one_key_is_not_a_yes_to_another(sshd: Sshd, home: SshHome) -> None:
    home.trust()
    denied = refusal(place(sshd), Credentials(host_key=print_of(sshd.host_keys["rsa"])))
    assert not isinstance(denied, UnknownHostKey)
    assert denied.wants == ()


def test_a_changed_host_key_is_never_asked_about(sshd: Sshd, home: SshHome, tmp_path: Path) -> None:
    sshd.authorize(home.key())
    other = public(make_key(tmp_path / "other"))
    home.trust("# a comment\n", f"[127.0.0.1]:{sshd.port} {other}\n")
    denied = refusal(place(sshd), Credentials(host_key=print_of(sshd.host_keys["ed25519"])))
    assert denied.wants == ()
    assert "CHANGED" in denied.why
    assert f"{home.ssh}/known_hosts:2" in denied.why
    assert f"ssh-keygen -f {home.ssh}/known_hosts -R '[127.0.0.1]:{sshd.port}'" in denied.hint


def test_a_revoked_host_key_is_refused(sshd: Sshd, home: SshHome) -> None:
    home.trust(sshd.known(), "".join(f"@revoked {line}\n" for line in sshd.known().splitlines()))
    denied = refusal(place(sshd), Credentials(host_key=print_of(sshd.host_keys["ed25519"])))
    assert denied.wants == ()
    assert "revoked" in denied.why


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_server_with_several_keys_is_asked_for_the_one_that_is_known(sshd: Sshd, home: SshHome, kind: str) -> None:
    sshd.authorize(home.key())
    home.trust(sshd.known(kind))
    assert lets_in(place(sshd))


def test_a_strict_configuration_lets_nobody_say_yes(sshd: Sshd, home: SshHome) -> None:
    home.trust()
    home.configure("StrictHostKeyChecking yes\n")
    denied = refusal(place(sshd))
    assert not isinstance(denied, UnknownHostKey)
    assert denied.wants == ()


def test_a_lenient_configuration_remembers_new_keys_and_refuses_changed_ones(
    sshd: Sshd, home: SshHome, tmp_path: Path
) -> None:
    sshd.authorize(home.key())
    home.trust()
    home.configure("StrictHostKeyChecking accept-new\nHashKnownHosts yes\n")
    assert lets_in(place(sshd))
    assert (home.ssh / "known_hosts").read_text().startswith("|1|")
    home.configure("StrictHostKeyChecking no\n")
    home.trust(f"[127.0.0.1]:{sshd.port} {public(make_key(tmp_path / 'other'))}\n")
    assert "CHANGED" in refusal(place(sshd)).why
