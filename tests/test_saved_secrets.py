"""The system's keyring: a real Secret Service (gnome-keyring on a session bus of its own), and machines without one."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.keychain import Server
from app.saved_secrets import SavedSecrets, _bounded
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.errors import FarbootError, TimedOut, Unsupported
from probes.location import Location
from tests.conftest import ROOT, Farboot
from tests.servers.nginx import start_nginx

SERVER = Server.of(Location.parse("ftp://alice@ftp.example.org/")[0])
GIVEN = Credentials(username="alice", password=Secret("s3cret word"), ca_file="/etc/ca.pem")

_ON_A_BUS = """\
import sys
from app.keychain import Server
from app.saved_secrets import SavedSecrets
from probes.credentials import Credentials
from probes.location import Location
import json
saved = SavedSecrets(sys.argv[1])
server = Server.of(Location.parse(sys.argv[2])[0])
assert not saved.why_not(), saved.why_not()
if sys.argv[3] == "save":
    saved.save(server, Credentials.from_json(json.load(sys.stdin)))
elif sys.argv[3] == "load":
    print(json.dumps(saved.load(server).to_json()))
else:
    print(json.dumps(saved.forget(server)))
"""


class Desktop:
    """A session with an unlocked keyring, as a desktop has it; it ends when the test does."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {
            "HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(home),
            "PYTHONDONTWRITEBYTECODE": "1", "XDG_DATA_HOME": str(home / "data"),
        }  # fmt: skip
        # The bus ends with its own shell, the keyring's daemon with the bus.
        script = "printf pw | gnome-keyring-daemon --unlock --components=secrets >&2; env | grep ^DBUS_SESSION; cat"
        self._session = subprocess.Popen(
            ["dbus-run-session", "--", "sh", "-c", script], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert self._session.stdout is not None
        name, _, value = self._session.stdout.readline().strip().partition("=")
        self.environment[name] = value

    def run(self, *arguments: str, text: str = "") -> str:
        """Use the keyring in a process of its own, as each run of Farboot does."""
        argv = [sys.executable, "-c", _ON_A_BUS, str(self.home / "saved"), *arguments]
        done = subprocess.run(
            argv, env=self.environment, input=text, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def end(self) -> None:
        """Log out."""
        assert self._session.stdin is not None
        self._session.stdin.close()
        self._session.wait(30)


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Desktop]:
    session = Desktop(tmp_path)
    yield session
    session.end()


def test_what_one_run_saves_the_next_one_finds_and_forgets(desktop: Desktop) -> None:
    where = "ftp://alice@ftp.example.org/pub/"
    desktop.run(where, "save", text=json.dumps(GIVEN.to_json()))
    assert json.loads(desktop.run("ftp://alice@FTP.example.org/other", "load")) == GIVEN.to_json()
    assert json.loads(desktop.run("ftp://bob@ftp.example.org/", "load")) == {}
    assert json.loads(desktop.run(where, "forget")) is True
    assert json.loads(desktop.run(where, "forget")) is False
    assert json.loads(desktop.run(where, "load")) == {}


def test_no_file_holds_the_secret_in_the_clear(desktop: Desktop) -> None:
    desktop.run("ftp://alice@ftp.example.org/", "save", text=json.dumps(GIVEN.to_json()))
    files = [path for path in desktop.home.rglob("*") if path.is_file()]
    assert any(path.name == "saved" for path in files)
    assert not [path for path in files if b"s3cret" in path.read_bytes()]


def test_the_command_line_saves_by_wish_uses_and_forgets(desktop: Desktop, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "disk.img").write_bytes(bytes(4096))
    hashed = subprocess.run(["openssl", "passwd", "-apr1", "s3cret word"], capture_output=True, text=True, check=True)
    (tmp_path / "users").write_text(f"alice:{hashed.stdout.strip()}\n")
    server = start_nginx(tmp_path / "nginx", root, server=f'auth_basic "x"; auth_basic_user_file {tmp_path}/users;')
    try:
        farboot = Farboot(desktop.environment)
        assert farboot("ls", server.url).returncode == 1
        given = farboot("ls", server.url, "--user=alice", "--password-file=-", stdin="s3cret word\n")
        assert "disk.img" in given.stdout
        assert farboot("ls", server.url).returncode == 1, "nothing is saved but by wish"
        wrong = farboot("ls", server.url, "--user=alice", "--password-file=-", "--save-credentials", stdin="wrong\n")
        assert wrong.returncode == 1
        assert farboot("ls", server.url).returncode == 1, "what was wrong is not saved"
        saved = farboot(
            "ls", server.url, "--user=alice", "--password-file=-", "--save-credentials", stdin="s3cret word\n"
        )
        assert "were saved in the system's keyring" in saved.stderr
        again = farboot("ls", server.url)
        assert "disk.img" in again.stdout, again.stderr
        assert farboot("forget", server.url).returncode == 0
        assert farboot("ls", server.url).returncode == 1
    finally:
        server.server.stop()


# Without one


@pytest.fixture
def no_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose session has no keyring: what a hypervisor's console is."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")


@pytest.mark.usefixtures("no_keyring")
def test_a_machine_without_a_keyring_says_why_and_goes_on_without(tmp_path: Path) -> None:
    script = (
        "from app.saved_secrets import SavedSecrets\n"
        "print(SavedSecrets('/nonexistent').why_not())\n"
    )  # keyring looks for its backend once in a process
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "this session has no keyring" in done.stdout


def test_without_the_package_the_reason_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    saved = SavedSecrets(str(tmp_path / "saved"))
    assert "pip install keyring" in saved.why_not()
    with pytest.raises(Unsupported, match="python3-keyring"):
        saved.save(SERVER, GIVEN)


def test_a_server_that_nothing_is_saved_for_bothers_no_keyring(tmp_path: Path) -> None:
    saved = SavedSecrets(str(tmp_path / "saved"))
    saved.why_not = lambda: pytest.fail("it was asked")  # type: ignore[method-assign]  # nothing else could tell
    assert saved.load(SERVER) == NO_CREDENTIALS


def test_a_keyring_that_is_silent_is_given_up() -> None:
    silent = threading.Event()
    try:
        with pytest.raises(TimedOut, match="locked"):
            _bounded(silent.wait, 0.05)
    finally:
        silent.set()


def test_what_a_keyring_raises_is_told_as_one_of_ours() -> None:
    def broken() -> None:
        raise RuntimeError("dbus is on fire")

    with pytest.raises(FarbootError, match="dbus is on fire"):
        _bounded(broken, 5)
