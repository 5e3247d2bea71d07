"""The tiny guest on a host reached by SSH: by QEMU's own driver with an agent of its own, and by the bridge."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.servers.faults import FaultyProxy
from tests.servers.server import wait_until
from tests.servers.sshd import Agent, Sshd, SshHome, make_home, start_sshd
from tests.systems.contract import HasDriver, Listed, Stored, SystemContract, boots
from tests.systems.watch import watching
from tests.test_boot import read_until
from tests.unprivileged import NOBODY


@pytest.fixture
def person(sshd: Sshd, tmp_path: Path) -> SshHome:
    """A person whose key the server takes, and who knows the server's key."""
    home = make_home(tmp_path / "person")
    sshd.authorize(home.key())
    home.trust(sshd.known())
    return home


@pytest.fixture
def folder(quick_guest: GuestImages, tmp_path: Path) -> Path:
    """A folder of the server's that holds the tiny guest."""
    folder = tmp_path / "images of guests"
    folder.mkdir()
    (folder / "tiny.iso").symlink_to(quick_guest.iso)
    return folder


def stored_at(sshd: Sshd, folder: Path, home: SshHome, **more: str) -> Stored:
    place = sshd.url(str(folder).replace(" ", "%20"))
    return Stored(
        image=f"{place}/tiny.iso",
        folder=f"{place}/",
        name="tiny.iso",
        route="driver",
        module="ssh",
        environment={"HOME": str(home.path), **more},
    )


class TestSsh(Listed, HasDriver, SystemContract):
    """By a key in a file, which QEMU itself could not read."""

    @pytest.fixture
    def stored(self, sshd: Sshd, person: SshHome, folder: Path) -> Stored:
        return stored_at(sshd, folder, person)


PASSPHRASE = "a pässphrase 4711"
PASSWORD = "a pässword 4711"


@pytest.mark.boots
def test_a_locked_key_boots_by_the_driver_and_its_passphrase_shows_nowhere(
    farboot: Farboot, sshd: Sshd, folder: Path, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "person")
    sshd.authorize(home.key(passphrase=PASSPHRASE))
    home.trust(sshd.known())
    stored = stored_at(sshd, folder, home, FARBOOT_PASSPHRASE=PASSPHRASE)
    farboot.environment |= stored.environment
    assert json.loads(farboot("command", stored.image, "--json").stdout)["route"] == "driver"
    with watching((PASSPHRASE,), str(tmp_path)) as seen:
        boots(farboot, stored)
    assert seen.in_argv == []
    assert seen.in_files == []


@pytest.mark.boots
def test_the_key_of_an_agent_boots_by_the_driver(
    farboot: Farboot, sshd: Sshd, folder: Path, tmp_path: Path, person: SshHome
) -> None:
    with Agent(tmp_path) as agent:
        agent.add(person.ssh / "id_ed25519")
        (person.ssh / "id_ed25519").unlink()
        (person.ssh / "id_ed25519.pub").unlink()
        stored = stored_at(sshd, folder, person, SSH_AUTH_SOCK=str(agent.socket))
        farboot.environment |= stored.environment
        assert json.loads(farboot("command", stored.image, "--json").stdout)["route"] == "driver"
        boots(farboot, stored)


@pytest.mark.boots
def test_a_host_behind_a_jump_host_boots_over_the_bridge(
    farboot: Farboot, sshd: Sshd, folder: Path, tmp_path: Path, person: SshHome
) -> None:
    jump = start_sshd(tmp_path / "jump", "AllowTcpForwarding yes")
    with jump.server:
        jump.authorize(person.ssh / "id_ed25519")
        person.trust(sshd.known(), jump.known())
        person.configure(f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyJump {jump.address}\n")
        here = stored_at(sshd, folder, person)
        stored = replace(here, image=here.image.replace(f"127.0.0.1:{sshd.port}", "behind"))
        farboot.environment |= stored.environment
        assert json.loads(farboot("command", stored.image, "--json").stdout)["route"] == "bridge"
        boots(farboot, stored)


@pytest.mark.boots
def test_a_password_boots_over_the_bridge_and_shows_nowhere(
    farboot: Farboot, tiny_guest: GuestImages, tmp_path: Path, open_folder: Callable[[str], Path]
) -> None:
    images = open_folder("images")
    shutil.copy(tiny_guest.iso, images / "tiny.iso")
    home = make_home(tmp_path / "person")
    server = start_sshd(tmp_path / "sshd", "PasswordAuthentication yes", passwords={"alice": PASSWORD})
    with server.server:
        home.trust(server.known())
        image = f"ssh://alice@127.0.0.1:{server.port}{images}/tiny.iso"
        farboot.environment |= {"HOME": str(home.path), "FARBOOT_PASSWORD": PASSWORD}
        with watching((PASSWORD,), str(tmp_path)) as seen:
            boots(farboot, Stored(image=image, folder="", name="tiny.iso"))
        assert seen.in_argv == []
        assert seen.in_files == []


@pytest.mark.boots
def test_a_user_who_is_not_root_boots_it_as_well(farboot_of_a_user: Farboot, sshd: Sshd, folder: Path) -> None:
    home = SshHome(Path(farboot_of_a_user.environment["HOME"]))
    home.ssh.mkdir(mode=0o700)
    sshd.authorize(home.key())
    home.trust(sshd.known())
    for path in (home.ssh, *home.ssh.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    stored = stored_at(sshd, folder, home)
    assert json.loads(farboot_of_a_user("command", stored.image, "--json").stdout)["route"] == "driver"
    boots(farboot_of_a_user, stored)


@pytest.mark.boots
def test_an_image_can_be_booted_for_writing(
    farboot: Farboot, sshd: Sshd, tiny_guest: GuestImages, tmp_path: Path, person: SshHome
) -> None:
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "tiny.img"
    shutil.copy(tiny_guest.raw, image)
    before = image.read_bytes()
    farboot.environment["HOME"] = str(person.path)
    stored = Stored(image=sshd.url(image), folder="", name="tiny.img")
    for route in ("direct", "bridge"):
        session = boots(farboot, stored, "--write", "--yes", "--route", route)
        stopped = farboot("stop", "--force", session)
        assert stopped.returncode == 0, stopped.stderr
        assert image.read_bytes() != before, route
        shutil.copy(tiny_guest.raw, image)


@pytest.mark.boots
def test_a_guest_waits_for_a_server_that_is_away_and_goes_on(
    farboot: Farboot, sshd: Sshd, tiny_guest: GuestImages, tmp_path: Path, person: SshHome
) -> None:
    """QEMU's driver never finds back by itself: its node is opened anew, the same key pinned, by the same agent."""
    (tmp_path / "tiny.img").symlink_to(tiny_guest.raw)
    farboot.environment["HOME"] = str(person.path)
    with FaultyProxy(sshd.port) as proxy:
        person.trust(sshd.known(), sshd.known(port=proxy.port))
        image = sshd.url(tmp_path / "tiny.img").replace(f":{sshd.port}", f":{proxy.port}")
        session = boots(farboot, Stored(image=image, folder="", name="tiny.img"))
        proxy.refuse = True
        proxy.hang_up()
        before = proxy.connections
        console = subprocess.Popen(
            [farboot.python, "-m", "app", "console", session],
            env=farboot.environment,
            cwd=farboot.environment["HOME"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with console:
            assert console.stdin is not None
            read = "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=1M count=4 && echo $((4000+711))"
            console.stdin.write(f"{read}\n".encode())
            console.stdin.flush()
            wait_until(lambda: proxy.connections > before + 1, "QEMU's tries to come back", 120)
            proxy.heal()
            assert "4711" in read_until(console, "4711")
            console.kill()
        (listed,) = json.loads(farboot("ps", "--json").stdout)
        assert (listed["state"], listed["route"]) == ("running", "driver")
