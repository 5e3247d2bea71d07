"""~/.ssh/config, read as ssh itself reads it: `ssh -G` is the judge."""

import getpass
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from probes.errors import BadLocation, FarbootError
from probes.ssh.config import parse_jump, resolve
from tests.servers.sshd import SshHome

CONFIGURATION = """
# a comment
Host short s?ort !shirt   # and one behind a value
    HostName long.example.org
    Port=2222
    User  alice
    IdentityFile "~/.ssh/with space"
    IdentityFile ~/.ssh/second

Match host long.example.org user alice
    HostKeyAlias behind-the-alias

Host inner
    HostName 192.0.2.7
    ProxyJump bob@jump.example.org:2200,[2001:db8::1]:22,last

Host direct
    ProxyJump none
    ProxyCommand none

Host program
    ProxyCommand nc -X 5 %h %p %r

Host *.example.com
    HostName %h
    StrictHostKeyChecking accept-new
    UserKnownHostsFile ~/.ssh/a ~/.ssh/b
    IdentitiesOnly yes
    HashKnownHosts yes

Include more.conf
Match originalhost late
    Port 1
Host *
    User everyone
    Port 2022
    HashKnownHosts no
"""
INCLUDED = """
Host included
    User from-included
Host late
    Port 99
"""
NAMES = ("short", "shirt", "sport", "inner", "direct", "program", "web.example.com", "included", "late", "192.0.2.1")


@pytest.fixture
def home(ssh_home: SshHome) -> SshHome:
    ssh_home.configure(CONFIGURATION.replace("more.conf", f"{ssh_home.ssh}/more*.conf"))
    (ssh_home.ssh / "more1.conf").write_text(INCLUDED)
    return ssh_home


def by_ssh(home: SshHome, name: str, *options: str) -> dict[str, list[str]]:
    """What ssh makes of it."""
    argv = ["ssh", "-G", "-F", str(home.ssh / "config"), *options, name]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_means_what_it_means_to_ssh(home: SshHome, name: str) -> None:
    theirs, ours = by_ssh(home, name), resolve(name)
    assert ours.host == theirs["hostname"][0]
    assert ours.port == int(theirs["port"][0])
    assert ours.user == theirs["user"][0]
    assert ours.known_as == theirs.get("hostkeyalias", [""])[0]
    assert ours.jumps == tuple(theirs["proxyjump"][0].split(",") if "proxyjump" in theirs else ())
    command = theirs.get("proxycommand", [""])[0]  # which ssh prints before it fills it in
    assert ours.command == command.replace("%h", ours.host).replace("%p", str(ours.port)).replace("%r", ours.user)
    assert ours.only_keys == (theirs["identitiesonly"][0] == "yes")
    assert ours.hash_names == (theirs["hashknownhosts"][0] == "yes")
    assert ours.strict == theirs["stricthostkeychecking"][0].replace("true", "yes")
    # ssh asks the system for the home folder, and not $HOME.
    real_home = pwd.getpwuid(os.getuid()).pw_dir
    told = theirs["userknownhostsfile"][0].replace(real_home, str(home.path))
    assert " ".join(ours.known_hosts) == told
    if ours.keys_given:
        assert list(ours.keys) == [path.replace("~", str(home.path)) for path in theirs["identityfile"]]


def test_what_is_typed_goes_before_what_is_configured(home: SshHome) -> None:
    theirs, ours = by_ssh(home, "short", "-p", "77", "-l", "root"), resolve("short", 77, "root")
    assert (ours.host, ours.port, ours.user) == ("long.example.org", 77, "root")
    assert theirs["user"] == ["root"]
    assert ours.known_as == theirs.get("hostkeyalias", [""])[0]  # the Match is for alice


def test_without_a_configuration_a_host_is_itself(ssh_home: SshHome) -> None:
    target = resolve("nowhere.example.org")
    assert (target.host, target.port, target.user) == ("nowhere.example.org", 22, getpass.getuser())
    assert target.keys == tuple(f"{ssh_home.ssh}/{name}" for name in ("id_ed25519", "id_ecdsa", "id_rsa"))
    assert target.agent == ""
    assert target.strict == "ask"


def test_an_included_file_holds_only_where_its_block_does(ssh_home: SshHome) -> None:
    (ssh_home.ssh / "inner").write_text("Port 4000\nHost a b\n  User inner\n")
    ssh_home.configure(f"Host a\n  Include {ssh_home.ssh}/inner\n  HostName a.example.org\nHost *\n  Port 5000\n")
    for name in ("a", "b"):
        theirs, ours = by_ssh(ssh_home, name), resolve(name)
        assert (ours.host, ours.port) == (theirs["hostname"][0], int(theirs["port"][0]))
        assert ours.user == theirs["user"][0]


def test_files_that_include_each_other_end(ssh_home: SshHome) -> None:
    ssh_home.configure(f"Include {ssh_home.ssh}/config\nPort 3000\n")
    assert resolve("host").port == 3000


def test_the_agent_is_the_one_that_is_configured(ssh_home: SshHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/usual")
    monkeypatch.setenv("OTHER", "/run/other")
    ssh_home.configure(
        "Host none\n IdentityAgent none\nHost other\n IdentityAgent $OTHER\nHost file\n IdentityAgent ~/sock\n"
    )
    agents = [resolve(name).agent for name in ("usual", "none", "other", "file")]
    assert agents == ["/run/usual", "", "/run/other", f"{ssh_home.path}/sock"]


@pytest.mark.parametrize("text", ["Port many", "Port 70000", "Host", 'Host "a', "Match exec"])
def test_a_configuration_that_makes_no_sense_is_an_error_of_ours(ssh_home: SshHome, text: str) -> None:
    ssh_home.configure(f"{text}\n Port 22\n" if text.startswith(("Host", "Match")) else text)
    with pytest.raises(FarbootError, match="config"):
        resolve("host")


@pytest.mark.parametrize("name", ["far", "farther", "near"])
def test_a_match_that_runs_a_program_is_decided_by_it(ssh_home: SshHome, name: str) -> None:
    ssh_home.configure(
        'Match originalhost far* exec "test %n = far"\n  Port 3000\n'
        'Match !exec "read line"\n  User nothing-to-read\n'
        'Match originalhost near exec "exit 1"\n  Port 4000\n'
    )
    theirs, ours = by_ssh(ssh_home, name), resolve(name)
    assert (ours.port, ours.user) == (int(theirs["port"][0]), theirs["user"][0])
    assert ours.user == "nothing-to-read"


@pytest.mark.parametrize(
    ("jump", "found"),
    [
        ("h", ("h", None, None)),
        ("a@h:22", ("h", 22, "a")),
        ("a@b@[2001:db8::1]:2200", ("2001:db8::1", 2200, "a@b")),
        ("ssh://a@h:22", ("h", 22, "a")),
    ],
)
def test_jump_hosts_are_taken_apart(jump: str, found: tuple[str, int | None, str | None]) -> None:
    assert parse_jump(jump) == found


@pytest.mark.parametrize("jump", ["-oProxyCommand=id", "h:port", "h:1:2", ""])
def test_what_is_no_jump_host_is_refused(jump: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  which one it is matters to nobody
        parse_jump(jump)


def test_a_configuration_that_cannot_be_read_is_told(ssh_home: SshHome) -> None:
    (ssh_home.ssh / "config").mkdir()
    with pytest.raises(FarbootError, match="config"):
        resolve("host")
    assert Path(ssh_home.ssh / "config").is_dir()


@pytest.mark.parametrize(
    "user",
    ["$(id)", "a;id", "`id`", "-oProxyCommand=id", "a\nPort 1", "", 'a"b', "a|b", "a\\", "a -oProxyCommand=id",
     "a \\-oProxyCommand=id"],
)  # fmt: skip
def test_a_user_that_a_shell_would_act_on_is_refused(ssh_home: SshHome, user: str) -> None:
    ssh_home.configure("ProxyCommand echo %r\n")
    with pytest.raises(BadLocation):
        resolve("host", user=user)


@pytest.mark.parametrize("user", ["alice", "alice@example.org", "DOMAIN\\alice", "grün", "a.b-c_d+e", "Ann Other"])
def test_other_users_are_not(ssh_home: SshHome, user: str) -> None:
    assert ssh_home.ssh.is_dir()
    assert resolve("host", user=user).user == user
