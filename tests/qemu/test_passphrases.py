"""Encrypted images: asked for their passphrase until it opens them, which shows nowhere and goes to no server."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.demo.guest import MARKER, GuestImages
from app.engine import Engine
from app.keychain import Keychain
from app.qemu.options import Options
from app.qemu.sessions.session import sessions, stop
from app.qemu.sessions.start import wrong_passphrase
from app.qemu.steps import UNLOCKS, BootPlan, LaySecret
from app.screens.guest import GuestRoom
from probes.attachment import Mode
from probes.credentials import Credentials, Secret
from probes.errors import Locked
from probes.image import Verdict
from probes.location import Location
from tests.conftest import Farboot
from tests.formats.images import qemu_img_create, run
from tests.screens.driving import driving
from tests.screens.terminal import Terminal, plain
from tests.servers.nginx import Nginx
from tests.systems.watch import watching
from tests.test_boot import TIMEOUT, read_until, started

PASSPHRASE = "pässphrase 4711"
ANOTHER = "quite another 4712"
WAIT = ("--wait", MARKER, "--timeout", str(TIMEOUT))


def encrypted(path: Path, content: Path, passphrase: str = PASSPHRASE) -> Path:
    """A copy of the raw disk `content`, as the ending of `path` says: `.luks` or `.qcow2`."""
    key = path.with_suffix(".key")
    key.write_text(passphrase)
    secret = ("--object", f"secret,id=s,file={key}")
    if path.suffix == ".luks":
        size = str(content.stat().st_size)
        run("qemu-img", "create", "-q", *secret, "-f", "luks", "-o", "key-secret=s,iter-time=10", path, size)
        target = f"driver=luks,file.filename={path},key-secret=s"
        run("qemu-img", "convert", "-n", *secret, "-f", "raw", content, "--target-image-opts", target)
    else:
        options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
        run("qemu-img", "convert", *secret, "-f", "raw", "-O", "qcow2", "-o", options, content, path)
    key.unlink()
    return path


@pytest.fixture
def folder(open_folder: Callable[[str], Path]) -> Path:
    return open_folder("encrypted")


@pytest.fixture
def told(farboot: Farboot) -> Farboot:
    """Farboot with the passphrase in its environment."""
    farboot.environment["FARBOOT_IMAGE_PASSPHRASE"] = PASSPHRASE
    return farboot


@pytest.fixture(params=["luks", "qcow2", "overlay"])
def image(request: pytest.FixtureRequest, folder: Path, quick_guest: GuestImages) -> Path:
    """The quick guest encrypted; or a plain overlay over such a one."""
    if request.param != "overlay":
        return encrypted(folder / f"guest.{request.param}", quick_guest.raw)
    encrypted(folder / "base.luks", quick_guest.raw)
    size = str(quick_guest.raw.stat().st_size)
    return qemu_img_create(folder / "top.qcow2", size, "qcow2", "-u", "-b", "base.luks", "-F", "luks")


@pytest.mark.boots
def test_with_its_passphrase_it_boots_and_that_shows_nowhere(told: Farboot, image: Path) -> None:
    with watching((PASSPHRASE,), told.environment["HOME"], str(image.parent)) as seen:
        booted = told("boot", str(image), "--accept", "backing-file", *WAIT, timeout=TIMEOUT + 60)
        assert booted.returncode == 0, booted.stderr
    assert seen.in_argv == []
    assert seen.in_files == []
    assert PASSPHRASE not in booted.stdout + booted.stderr


@pytest.mark.boots
def test_the_printed_script_asks_for_it_and_holds_it_not(told: Farboot, image: Path) -> None:
    shown = told("command", str(image), "--accept", "backing-file")
    assert shown.returncode == 0, shown.stderr
    assert PASSPHRASE not in shown.stdout
    script = Path(told.environment["HOME"]) / "boot.sh"
    script.write_text(shown.stdout)
    with started(told, ["sh", str(script)]) as process:
        said = read_until(process, MARKER)
    assert MARKER in said, said[-4000:]


@pytest.mark.boots
def test_a_web_server_s_encrypted_image_boots_over_the_bridge(
    told: Farboot, nginx: Nginx, tmp_path: Path, quick_guest: GuestImages
) -> None:
    site = Path(nginx.root) / tmp_path.name
    site.mkdir()
    encrypted(site / "guest.luks", quick_guest.raw)
    booted = told("boot", f"{nginx.url}{tmp_path.name}/guest.luks", "--route", "bridge", *WAIT, timeout=TIMEOUT + 60)
    assert booted.returncode == 0, booted.stderr


@pytest.mark.boots
def test_what_a_guest_writes_into_a_luks_image_is_written_encrypted(
    told: Farboot, folder: Path, tiny_guest: GuestImages
) -> None:
    image = encrypted(folder / "guest.luks", tiny_guest.raw)
    booted = told("boot", str(image), "--write", "--yes", *WAIT, timeout=TIMEOUT + 60)
    assert booted.returncode == 0, booted.stderr
    told("stop", "--force", booted.stdout.strip())
    assert b"written by the guest" not in image.read_bytes()
    key = folder / "key"
    key.write_text(PASSPHRASE)
    opened = f"driver=luks,file.filename={image},key-secret=s"
    secret = ("--object", f"secret,id=s,file={key}")
    run("qemu-img", "convert", *secret, "--image-opts", opened, "-O", "raw", folder / "plain")
    assert b"written by the guest" in (folder / "plain").read_bytes()


def test_without_a_terminal_a_missing_and_a_wrong_one_are_told(
    farboot: Farboot, folder: Path, quick_guest: GuestImages
) -> None:
    image = encrypted(folder / "guest.luks", quick_guest.raw)
    missing = farboot("boot", str(image))
    assert missing.returncode == 1
    assert "its passphrase is not known" in missing.stderr
    assert "FARBOOT_IMAGE_PASSPHRASE" in missing.stderr
    (folder / "wrong").write_text(ANOTHER + "\n")
    wrong = farboot("boot", str(image), "--image-passphrase-file", str(folder / "wrong"))
    assert wrong.returncode == 1
    assert "the passphrase is wrong" in wrong.stderr
    assert ANOTHER not in wrong.stderr
    assert farboot("ps", "--json").stdout.strip() == "[]"


@pytest.mark.boots
def test_at_a_terminal_a_wrong_one_is_asked_for_again(farboot: Farboot, folder: Path, quick_guest: GuestImages) -> None:
    image = encrypted(folder / "guest.qcow2", quick_guest.raw)
    terminal = Terminal([sys.executable, "-m", "app", "boot", str(image), *WAIT], farboot.environment)
    terminal.until(b"Passphrase of the image guest.qcow2: ")
    terminal.type(b"wrong\n")
    terminal.until(b"the passphrase is wrong")
    terminal.until(b"Passphrase of the image guest.qcow2: ")
    terminal.type(PASSPHRASE.encode() + b"\n")
    assert terminal.end() == 0, plain(terminal.said)
    assert PASSPHRASE.encode() not in terminal.said


def test_of_a_chain_the_image_is_named_whose_passphrase_is_wrong(
    farboot: Farboot, folder: Path, quick_guest: GuestImages
) -> None:
    encrypted(folder / "base.qcow2", quick_guest.raw, ANOTHER)
    key = f"secret,id=s,data={PASSPHRASE}"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    over = ("-u", "-b", "base.qcow2", "-F", "qcow2")
    top = qemu_img_create(folder / "top.qcow2", "64M", "qcow2", "--object", key, "-o", options, *over)
    farboot.environment["FARBOOT_IMAGE_PASSPHRASE"] = PASSPHRASE
    done = farboot("boot", str(top), "--accept", "backing-file")
    assert done.returncode == 1
    assert f"cannot boot {folder / 'base.qcow2'}: the passphrase is wrong" in done.stderr
    keychain = Keychain()
    for name, passphrase in (("base", ANOTHER), ("top", PASSPHRASE)):
        place = Location("file", path=str(folder / f"{name}.qcow2"))
        keychain.add(place, Credentials(image_passphrase=Secret(passphrase)))
    engine = Engine(keychain)
    location = Location("file", path=str(top))
    inspection = engine.inspect(location)
    assert inspection.image.verdict is Verdict.ASK
    prepared = engine.prepare(location, inspection.accepted(Options()), inspection)
    assert {path: secret.reveal() for path, secret in prepared.secrets.items()} == {
        "passphrase0": PASSPHRASE,
        "passphrase1": ANOTHER,
    }


def test_no_storage_and_no_helper_is_told_the_passphrase(folder: Path, quick_guest: GuestImages) -> None:
    image = encrypted(folder / "guest.luks", quick_guest.raw)
    keychain = Keychain()
    location = Location("file", path=str(image))
    keychain.add(location, Credentials(password=Secret("of the server"), image_passphrase=Secret(PASSPHRASE)))
    engine = Engine(keychain)
    prepared = engine.prepare(location, Options(mode=Mode.SNAPSHOT))
    assert prepared.secrets == {"passphrase0": Secret(PASSPHRASE)}
    assert prepared.credentials == Credentials(password=Secret("of the server"))
    with engine.open_source(location) as source:
        assert source.credentials == Credentials(password=Secret("of the server"))


@pytest.mark.parametrize(
    ("said", "opened"),
    [
        ('-blockdev {"node-name": "format1", "key-secret": "passphrase1"}: Invalid password, cannot unlock any', "b"),
        ('-blockdev {"node-name": "format0", "key-secret": "passphrase0"}: Invalid password, cannot unlock any', "a"),
        ("Invalid password, cannot unlock any keyslot", None),
        ('-blockdev {"node-name": "format1"}: Could not open it', None),
    ],
)
def test_qemu_tells_which_image_was_not_opened(said: str, opened: str | None) -> None:
    places = {name: Location("http", "h", f"/{name}") for name in "ab"}
    steps = tuple(LaySecret(f"passphrase{n}", place, UNLOCKS, "it") for n, place in enumerate(places.values()))
    error = wrong_passphrase(BootPlan(places["a"], "driver", steps=steps), f"qemu-system-x86_64: {said}\n")
    assert (error and error.image) == (opened and str(places[opened]))
    if opened:
        assert isinstance(error, Locked)
        assert error.wants == (UNLOCKS,)


@pytest.mark.boots
async def test_the_tui_asks_until_it_opens(
    folder: Path, quick_guest: GuestImages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = encrypted(folder / "guest.luks", quick_guest.raw)
    for name in ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR", "FARBOOT_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    try:
        async with driving(image) as drive:
            await drive.until(lambda: drive.current == image.name, "the image under the cursor")
            await drive.press("b")
            await drive.until_seen("Passphrase of the image")
            await drive.type("wrong\n")
            await drive.until_seen("the passphrase is wrong")
            await drive.until_seen("Passphrase of the image")
            await drive.type(PASSPHRASE)
            assert PASSPHRASE not in drive.screen
            await drive.press("enter")

            def said() -> str:
                room = drive.app.screen
                return room.console.serial.text() if isinstance(room, GuestRoom) and room.is_furnished else ""

            await drive.until(lambda: MARKER in said(), "the marker", TIMEOUT)
            assert PASSPHRASE not in drive.screen
    finally:
        for guest in sessions():
            stop(guest.id, force=True)


def test_the_environment_of_a_guest_holds_no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.qemu.sessions.session import _environment

    monkeypatch.setenv("FARBOOT_IMAGE_PASSPHRASE", PASSPHRASE)
    assert PASSPHRASE not in "".join(_environment().values())
    assert os.environ["FARBOOT_IMAGE_PASSPHRASE"] == PASSPHRASE
