"""What every storage system must do for a person, from its real server to a guest's first words.

    class TestNfs(Listed, HasDriver, SystemContract):
        @pytest.fixture
        def stored(self, ganesha, tiny_guest): return Stored(…)

`Stored` says where a copy of the tiny guest lies (`tiny_guest.iso` boots fastest). All else is tried here: the command
line lists, inspects and prints it and boots it to its marker by the way that this QEMU has, and by the bridge where
this QEMU lacks the driver; the printed script starts a QEMU that knows no secret and has the image open; and in the
TUI one key does it all. Whatever runs meanwhile, no secret shows in any process's argv, nor in a file.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.cli.secrets import from_environment
from app.demo.guest import MARKER
from app.engine import Engine
from app.keychain import Keychain
from app.screens.guest import GuestRoom
from probes.location import Location
from tests.conftest import Farboot
from tests.screens.driving import driving
from tests.systems.qmp import query
from tests.systems.watch import watching
from tests.test_boot import started

TIMEOUT = 240  # seconds, on a slow machine without KVM


@dataclass(frozen=True)
class Stored:
    """A copy of the tiny guest on a real server.

    `folder` lists it as `name`; without a folder (TFTP) nothing lists it. `route` is how this machine's QEMU gets at
    it: "driver", "bridge" or "fetch". `module` is the QEMU module ("nfs", "curl") whose lack makes it "bridge"; None
    where the driver is built in, or never used. `environment` holds what Farboot needs to be told beyond the location
    (FARBOOT_PASSWORD, HOME, SSH_AUTH_SOCK), `secrets` the texts in it that may show nowhere.
    """

    image: str
    folder: str
    name: str
    route: str = "driver"
    module: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()


@pytest.mark.boots
class SystemContract:
    """What a person can do with an image on this storage system."""

    @pytest.fixture
    def told(self, farboot: Farboot, stored: Stored) -> Farboot:
        """Farboot's command line, with what this storage needs to be told."""
        farboot.environment |= stored.environment
        return farboot

    def test_it_is_inspected(self, told: Farboot, stored: Stored) -> None:
        asked = told("inspect", stored.image, "--json")
        assert asked.returncode == 0, asked.stderr
        found = json.loads(asked.stdout)
        assert found["verdict"] == "ok"
        assert found["media"]["firmware"] == ["bios", "uefi"]

    def test_the_command_tells_the_route_and_no_secret(self, told: Farboot, stored: Stored) -> None:
        shown = told("command", stored.image, "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["route"] == stored.route
        script = told("command", stored.image).stdout
        assert script.startswith("#!/bin/sh\n")
        for secret in stored.secrets:
            assert secret not in shown.stdout + script

    def test_it_boots_to_the_marker_and_no_secret_shows(self, told: Farboot, stored: Stored) -> None:
        with watching(stored.secrets, told.environment["HOME"]) as seen:
            boots(told, stored)
        assert seen.in_argv == []
        assert seen.in_files == []

    def test_the_printed_script_opens_it_and_qemu_tells_no_secret(self, told: Farboot, stored: Stored) -> None:
        shown = told("command", stored.image)
        script = Path(told.environment["HOME"]) / "boot.sh"
        script.write_text(shown.stdout)
        with watching(stored.secrets, told.environment["HOME"]) as seen, started(told, ["sh", str(script)]) as process:
            said = query(process.pid, "query-block", "query-named-block-nodes", "query-command-line-options")
        assert '"inserted"' in said, "QEMU has a drive with a medium"
        for secret in stored.secrets:
            assert secret not in said
        assert seen.in_argv == []

    async def test_one_key_boots_it_in_the_tui(self, stored: Stored, at_home: None) -> None:
        keychain = Keychain()
        location = Location.parse(stored.folder or stored.image)[0]
        keychain.add(location, from_environment(stored.environment))
        async with driving(location, Engine(keychain)) as drive:
            if stored.folder:
                await drive.until_listed(stored.name)
                for _ in drive.names:
                    if drive.current != stored.name:
                        await drive.press("down")
                assert drive.current == stored.name
            else:
                await drive.until(lambda: drive.current == stored.name, "the image under the cursor")
            await drive.press("b")

            def said() -> str:
                room = drive.app.screen
                return room.console.serial.text() if isinstance(room, GuestRoom) and room.is_furnished else ""

            await drive.until(lambda: MARKER in said(), "the marker", TIMEOUT)
            assert not any(secret in drive.screen for secret in stored.secrets)

    @pytest.fixture
    def at_home(
        self, stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[None]:
        """This very process has the person's environment, and folders of its own; its guests end with the test."""
        from app.qemu.sessions import session

        home = tmp_path_factory.mktemp("home")
        monkeypatch.setenv("HOME", str(home))
        for name in ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR", "FARBOOT_CACHE_DIR"):
            (home / name.lower()).mkdir(mode=0o700)
            monkeypatch.setenv(name, str(home / name.lower()))
        for name, value in stored.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TERM", "xterm-256color")
        yield
        for guest in session.sessions():
            with contextlib.suppress(Exception):  # it ended by itself meanwhile
                session.stop(guest.id, force=True)


class Listed:
    """Where a listing leads to the image: everywhere but at TFTP."""

    def test_it_is_listed(self, told: Farboot, stored: Stored) -> None:
        listed = told("ls", stored.folder, "--json")
        assert listed.returncode == 0, listed.stderr
        rows = {row["name"]: row for row in json.loads(listed.stdout)}
        assert rows[stored.name]["location"] == stored.image
        assert rows[stored.name]["kind"] == "image"
        plain = told("ls", stored.folder)
        assert stored.image in plain.stdout


class HasDriver:
    """Where the way is a driver of QEMU's that may be missing."""

    def test_without_the_driver_it_boots_over_the_bridge(
        self, told: Farboot, stored: Stored, qemu_without: Callable[[str], str]
    ) -> None:
        assert stored.module is not None
        told.environment["PATH"] = f"{qemu_without(stored.module)}:{told.environment['PATH']}"
        shown = told("command", stored.image, "--json")
        assert json.loads(shown.stdout)["route"] == "bridge", shown.stderr
        refused = told("command", stored.image, "--route", "direct")
        assert refused.returncode != 0
        assert re.search(r"driver", refused.stderr), refused.stderr
        boots(told, stored)


def boots(farboot: Farboot, stored: Stored, *options: str) -> str:
    """Boot to the marker; return the session's id."""
    wait = ("--wait", MARKER, "--timeout", str(TIMEOUT))
    done = farboot("boot", stored.image, *wait, *options, timeout=TIMEOUT + 60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
