"""NBD, from the listing to the guest: in plain all of it; by TLS and over a Unix socket that it boots, and how."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.servers.nbdkit import Pki, start_nbdkit, start_nbdkit_on_socket
from tests.systems.contract import Listed, Stored, SystemContract, boots
from tests.systems.watch import watching

USER, KEY = "alice", "5ec2e70f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3"


@pytest.fixture(scope="module")
def images(quick_guest: GuestImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny guest in it."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "tiny.iso").write_bytes(quick_guest.iso.read_bytes())
    return folder


class TestNbd(Listed, SystemContract):
    @pytest.fixture
    def stored(self, images: Path, tmp_path: Path) -> Iterator[Stored]:
        running = start_nbdkit(tmp_path / "nbdkit", "file", f"dir={images}")
        yield Stored(f"nbd://{running.authority}/tiny.iso", f"nbd://{running.authority}/", "tiny.iso")
        running.server.stop()


@pytest.mark.boots
class TestNbdOtherwise:
    def test_by_a_shared_key_it_boots_and_the_key_shows_nowhere(
        self, farboot: Farboot, images: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        home = tmp_path_factory.mktemp("nbdkit")  # not where Farboot's own files are searched for the key
        (home / "keys.psk").write_text(f"{USER}:{KEY}\n")
        running = start_nbdkit(home, "--tls=require", f"--tls-psk={home / 'keys.psk'}", "file", f"dir={images}")
        try:
            told = {"FARBOOT_USERNAME": USER, "FARBOOT_KEY": KEY}
            self.boots(farboot, f"nbds://{running.authority}/", "driver", told, (KEY,))
        finally:
            running.server.stop()

    def test_by_certificates_it_boots(self, farboot: Farboot, images: Path, pki: Pki, tmp_path: Path) -> None:
        options = ("--tls=require", f"--tls-certificates={pki.server}", "--tls-verify-peer")
        running = start_nbdkit(tmp_path / "nbdkit", *options, "file", f"dir={images}")
        told = {"FARBOOT_CA_FILE": pki.ca, "FARBOOT_CLIENT_CERT": pki.client_cert, "FARBOOT_CLIENT_KEY": pki.client_key}
        key = "".join(Path(pki.client_key).read_text().splitlines()[2:4])
        try:
            self.boots(farboot, f"nbds://localhost:{running.port}/", "driver", told, (key,))
        finally:
            running.server.stop()

    @pytest.mark.parametrize(("mode", "route"), [(0o600, "bridge"), (0o777, "driver")], ids=["roots", "everybodys"])
    def test_over_a_unix_socket_it_boots_by_the_driver_only_if_qemus_account_may_use_it(
        self, farboot: Farboot, images: Path, tmp_path: Path, mode: int, route: str
    ) -> None:
        path = tmp_path / "nbd.sock"
        server = start_nbdkit_on_socket(tmp_path / "nbdkit", str(path), "file", f"dir={images}")
        path.chmod(mode)
        try:
            self.boots(farboot, f"nbd+unix:///?socket={path}", route, {}, ())
        finally:
            server.stop()

    @staticmethod
    def boots(
        farboot: Farboot,
        folder: str,
        route: str,
        told: Mapping[str, str],
        secrets: tuple[str, ...],
    ) -> None:
        """Boot tiny.iso in `folder` to its marker, by that route, without a secret showing."""
        farboot.environment |= told
        address, mark, query = folder.partition("?")
        image = f"{address}tiny.iso{mark}{query}"
        shown = farboot("command", image, "--json")
        assert shown.returncode == 0, shown.stderr
        assert json.loads(shown.stdout)["route"] == route
        with watching(secrets, farboot.environment["HOME"]) as seen:
            boots(farboot, Stored(image, folder, "tiny.iso", route, environment=told, secrets=secrets))
        assert (seen.in_argv, seen.in_files) == ([], [])
