"""What a server wants to know: every kind of credential, a host's key, and whether to keep what was told."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from textual.widgets import Input

from app.engine import Engine
from app.keychain import Keychain, Server
from app.saved_secrets import SavedSecrets
from app.screens.ask_credentials import AskCredentials
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.entry import Entry
from probes.errors import Denied
from probes.location import Location
from tests.screens.driving import Drive, driving
from tests.screens.fakes import FakeEngine, entry
from tests.servers.sshd import Sshd, SshHome

RBD = Location.parse("rbd:")[0]
NBDS = Location.parse("nbds://h/")[0]
SSH = Location.parse("ssh://alice@h/srv/")[0]


class Drawer(SavedSecrets):
    """A keyring that is a dictionary."""

    def __init__(self, why_not: str = "") -> None:
        super().__init__("/nonexistent")
        self.held: dict[Server, Credentials] = {}
        self._reason = why_not

    def why_not(self) -> str:
        return self._reason

    def load(self, server: Server) -> Credentials:
        return self.held.get(server, NO_CREDENTIALS)

    def save(self, server: Server, credentials: Credentials) -> None:
        self.held[server] = credentials


class Guarded(FakeEngine):
    """Lists one image for whoever gave what `wants` names; the password must be `right`."""

    def __init__(self, wants: tuple[str, ...], saved: SavedSecrets | None = None) -> None:
        super().__init__(self._list)
        self.keychain = Keychain(saved)
        self.wants = wants
        self.tried = threading.Event()

    def _list(self, location: Location) -> Iterator[Entry]:
        known = self.keychain.get(location)
        if any(getattr(known, field) is None for field in self.wants) or known.password == Secret("wrong"):
            raise Denied("list", location, "it lets only some in", "ask its administrator", wants=self.wants)
        yield entry("a.img", 1, where=location)


@pytest.fixture
def pem_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with files that look like certificates and keys."""
    for name in ("ca", "c", "k"):
        (tmp_path / f"{name}.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


async def asked(drive: Drive) -> None:
    await drive.until(lambda: isinstance(drive.app.screen, AskCredentials) and drive.app.screen.focused, "the question")


@pytest.mark.parametrize(
    ("location", "wants", "labels", "answers", "expected"),
    [
        (RBD, ("key",), ["Key (cephx, base64)"], ["QUJD"], Credentials(key=Secret("QUJD"))),
        (
            NBDS,
            ("username", "key"),
            ["User name", "Key (TLS pre-shared, hex)"],
            ["bob", "00ff"],
            Credentials(username="bob", key=Secret("00ff")),
        ),
        (
            NBDS,
            ("ca_file", "client_cert", "client_key"),
            ["CA file", "Certificate of your own", "Its private key"],
            ["~/ca.pem", "~/c.pem", "~/k.pem"],
            Credentials(ca_file="ca.pem", client_cert="c.pem", client_key="k.pem"),
        ),
        (SSH, ("passphrase",), ["Passphrase of the key file"], ["open"], Credentials(passphrase=Secret("open"))),
    ],
)
async def test_each_thing_that_a_server_wants_is_asked_for_by_its_name(
    location: Location,
    wants: tuple[str, ...],
    labels: list[str],
    answers: list[str],
    expected: Credentials,
    pem_files: Path,
) -> None:
    engine = Guarded(wants)
    async with driving(location, engine) as drive:
        await asked(drive)
        await drive.until_seen("it lets only some in", "ask its administrator", *labels)
        for answer in answers:
            await drive.type(answer + "\n")
        await drive.until_listed("a.img")
        files = [_in(pem_files, name) for name in (expected.ca_file, expected.client_cert, expected.client_key)]
        ca_file, client_cert, client_key = files
        wanted = replace(expected, ca_file=ca_file, client_cert=client_cert, client_key=client_key)
        assert engine.keychain.get(location) == wanted


def _in(folder: Path, name: str | None) -> str | None:
    return f"{folder}/{name}" if name else None


async def test_a_file_that_is_none_is_told_where_it_can_be_mended(pem_files: Path) -> None:
    (pem_files / "notes").write_text("buy milk")
    engine = Guarded(("ca_file",))
    async with driving(NBDS, engine) as drive:
        await asked(drive)
        await drive.type("~/nope\n")
        await drive.until_seen("nope: no such file")
        await drive.press("ctrl+u")
        await drive.type("~/notes\n")
        await drive.until_seen("no PEM file")
        assert engine.keychain.get(NBDS).ca_file is None
        await drive.press("ctrl+u")
        await drive.type("~/ca.pem\n")
        await drive.until_listed("a.img")
        assert engine.keychain.get(NBDS).ca_file == f"{pem_files}/ca.pem"


async def test_the_user_that_was_tried_is_filled_in_at_the_next_question() -> None:
    engine = Guarded(("username", "password"))
    async with driving(NBDS, engine) as drive:
        await asked(drive)
        await drive.type("carol\nwrong\n")
        await drive.until(lambda: engine.keychain.get(NBDS).username == "carol")
        await asked(drive)
        assert [line.value for line in drive.app.screen.query(Input)] == ["carol", ""]


async def test_the_user_of_the_address_is_filled_in_and_the_password_typed_at_once() -> None:
    engine = Guarded(("username", "password"))
    async with driving(SSH, engine) as drive:
        await asked(drive)
        assert [line.value for line in drive.app.screen.query(Input)] == ["alice", ""]
        await drive.type("right\n")
        await drive.until_listed("a.img")


# The keyring


async def test_what_was_right_is_saved_by_wish() -> None:
    drawer = Drawer()
    engine = Guarded(("password",), drawer)
    async with driving(SSH, engine) as drive:
        await asked(drive)
        await drive.until_seen("[ ] save in the system's keyring")
        await drive.type("wrong")
        await drive.press("tab", "space")
        await drive.until_seen("[x] save in the system's keyring")
        await drive.press("enter")
        await drive.until(lambda: drive.app.screen.query(Input) and not drive.app.screen.query_one(Input).value)
        assert drawer.held == {}
        await asked(drive)
        await drive.type("right\n")
        await drive.until_listed("a.img")
        await drive.until(lambda: drawer.held == {Server.of(SSH): Credentials(password=Secret("right"))})
        await drive.until_seen("saved in the system's keyring")


async def test_nothing_is_saved_without_the_wish() -> None:
    drawer = Drawer()
    async with driving(SSH, Guarded(("password",), drawer)) as drive:
        await asked(drive)
        await drive.type("right\n")
        await drive.until_listed("a.img")
        assert drawer.held == {}


async def test_what_is_saved_opens_the_server_without_a_question() -> None:
    drawer = Drawer()
    drawer.held[Server.of(SSH)] = Credentials(password=Secret("right"))
    async with driving(SSH, Guarded(("password",), drawer)) as drive:
        await drive.until_listed("a.img")


async def test_where_there_is_no_keyring_the_question_says_so() -> None:
    async with driving(SSH, Guarded(("password",), Drawer("this session has no keyring"))) as drive:
        await asked(drive)
        await drive.until_seen("It holds for this run: this session has no keyring.")
        assert "[ ]" not in drive.screen


# A host's key (a real sshd)


async def test_an_unknown_host_is_trusted_after_its_fingerprint_was_shown(sshd: Sshd, ssh_home: SshHome) -> None:
    sshd.authorize(ssh_home.key())
    async with driving(sshd.url("/usr/"), Engine(deadline=20)) as drive:
        await drive.until_seen("Is this really 127.0.0.1?", "SHA256:", "y trusts it this time", "a always")
        await drive.press("y")
        await drive.until_listed("share")
        assert not (ssh_home.ssh / "known_hosts").exists()


async def test_always_writes_it_into_known_hosts_and_nobody_is_asked_again(sshd: Sshd, ssh_home: SshHome) -> None:
    sshd.authorize(ssh_home.key())
    async with driving(sshd.url("/usr/"), Engine(deadline=20)) as drive:
        await drive.until_seen("Is this really 127.0.0.1?")
        await drive.press("a")
        await drive.until_listed("share")
        await drive.until((ssh_home.ssh / "known_hosts").exists)
        await drive.until_seen("The host key was written into")
    async with driving(sshd.url("/usr/"), Engine(deadline=20)) as drive:
        await drive.until_listed("share")


async def test_esc_does_not_trust_it(sshd: Sshd, ssh_home: SshHome) -> None:
    sshd.authorize(ssh_home.key())
    async with driving(sshd.url("/usr/"), Engine(deadline=20)) as drive:
        await drive.until_seen("Is this really 127.0.0.1?")
        await drive.press("escape")
        await drive.until_seen("is not known", "r tries again")
        assert drive.names == []
