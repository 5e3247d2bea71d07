"""What the command line asks at a terminal, and what settings it follows."""

import os
import sys
from pathlib import Path

import pytest

from app.cli import secrets
from app.cli.secrets import ask_secret
from app.engine import Engine
from probes.attachment import Attachment, Mode, QemuFacts, Route, SecretSlot, Tls
from probes.credentials import Secret
from probes.errors import Denied
from probes.location import Location
from probes.reader import Pin
from tests.conftest import Farboot
from tests.screens.terminal import Terminal
from tests.servers.sshd import Sshd, SshHome


def listing(sshd: Sshd, home: SshHome) -> Terminal:
    """`farboot ls` of a folder behind the sshd, in a terminal."""
    environment = {**os.environ, "HOME": str(home.path)}
    return Terminal([sys.executable, "-m", "app", "--deadline=30", "ls", sshd.url("/usr/")], environment)


def test_an_unknown_host_is_asked_about_and_a_yes_holds_for_this_time(sshd: Sshd, ssh_home: SshHome) -> None:
    sshd.authorize(ssh_home.key())
    terminal = listing(sshd, ssh_home)
    terminal.until(b"or no: ")
    assert b"SHA256:" in terminal.said
    terminal.type(b"yes\n")
    assert terminal.end() == 0
    assert b"/usr/share/" in terminal.said
    assert not (ssh_home.ssh / "known_hosts").exists()


def test_always_writes_the_hosts_key_down(sshd: Sshd, ssh_home: SshHome) -> None:
    sshd.authorize(ssh_home.key())
    terminal = listing(sshd, ssh_home)
    terminal.until(b"or no: ")
    terminal.type(b"always\n")
    assert terminal.end() == 0
    assert b"The host key was written into" in terminal.said
    assert (ssh_home.ssh / "known_hosts").exists()
    assert listing(sshd, ssh_home).end() == 0


def test_anything_else_is_a_no(sshd: Sshd, ssh_home: SshHome) -> None:
    sshd.authorize(ssh_home.key())
    terminal = listing(sshd, ssh_home)
    terminal.until(b"or no: ")
    terminal.type(b"\n")
    assert terminal.end() == 1
    assert b"/usr/share/" not in terminal.said


def test_a_broken_settings_file_is_told_and_does_not_stand_in_the_way(farboot: Farboot, tmp_path: Path) -> None:
    settings = Path(farboot.environment["HOME"]) / ".config/farboot/settings.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text("cpus = 0\n")
    done = farboot("ls", "/usr/")
    assert done.returncode == 0
    assert f"{settings}: line 1: cpus is a whole number from 1" in done.stderr


def test_a_boot_follows_the_settings_unless_told_otherwise(farboot: Farboot, tmp_path: Path) -> None:
    settings = Path(farboot.environment["HOME"]) / ".config/farboot/settings.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('memory = "333M"\ncpus = 1\nnetwork = "none"\n')
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    script = farboot("command", str(image)).stdout
    assert "333" in script
    assert "333" not in farboot("command", "--memory=444M", str(image)).stdout


class OwnKey:
    """Stands for a storage whose key its library has from elsewhere, or that lets nobody look without one."""

    def __init__(self, key: str = "") -> None:
        self.key = key

    def __enter__(self) -> "OwnKey":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def attach(self, location: Location, _qemu: QemuFacts, _mode: Mode) -> Attachment:
        if not self.key:
            raise Denied("open", location, "a shared key is needed", wants=("username", "key"))
        slot = SecretSlot("tls-creds", Secret(self.key), "shared key", "key")
        return Attachment(location, Route.DRIVER, Pin(512), {"driver": "nbd"}, tls=Tls(psk=slot, username="alice"))


def test_a_shared_key_that_its_storage_knows_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "open_source", lambda _engine, _location: OwnKey("5ec2e7"))
    location = Location.parse("nbds://h/disk")[0]
    assert ask_secret(Engine(), location, "key").reveal() == "5ec2e7"


def test_a_secret_is_asked_for_though_nobody_is_let_in_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "open_source", lambda _engine, _location: OwnKey())
    monkeypatch.setattr(secrets, "_can_ask", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: f"typed at {prompt.strip()}")
    location = Location.parse("nbds://h/disk")[0]
    assert ask_secret(Engine(), location, "key").reveal() == "typed at Key:"
