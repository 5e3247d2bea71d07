"""What the command line asks at a terminal, and what settings it follows."""

import os
import sys
from pathlib import Path

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
