"""What QEMU is given for an image on a host, and why it is the bridge where it is."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probes.attachment import Attachment, Mode, QemuFacts, Route, RouteWish
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.errors import Denied, Unsupported
from probes.location import Location
from probes.sources.ssh import SshSource
from probes.ssh.sftp import Sftp
from tests.servers.faults import FaultyProxy
from tests.servers.sshd import USER, Agent, Sshd, SshHome, make_key, print_of, public, start_sshd

QEMU = QemuFacts((7, 2, 22), frozenset({"ssh", "nbd", "raw"}))


@pytest.fixture
def home(ssh_home: SshHome, sshd: Sshd) -> SshHome:
    """A person whom the server lets in, by a key in a file."""
    sshd.authorize(ssh_home.key())
    ssh_home.trust(sshd.known())
    return ssh_home


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "an image.img"
    path.write_bytes(bytes(4096))
    return path


def attached(
    server: Sshd,
    image: Path,
    qemu: QemuFacts = QEMU,
    mode: Mode = Mode.SNAPSHOT,
    credentials: Credentials = NO_CREDENTIALS,
    authority: str = "",
) -> Attachment:
    location = Location("ssh", authority or server.address, "/")
    for name in image.parts[1:]:
        location = location.child(name)
    with SshSource(credentials) as source:
        return source.attach(location, qemu, mode)


def sha256_of(key: Path) -> str:
    """The fingerprint of a key as QEMU takes it."""
    return base64.b64decode(print_of(key).removeprefix("SHA256:") + "=").hex()


def test_the_node_names_host_port_user_path_and_the_very_host_key(home: SshHome, sshd: Sshd, image: Path) -> None:
    found = attached(sshd, image)
    assert found.route is Route.DRIVER
    assert found.node == {
        "driver": "ssh",
        "server": {"host": "127.0.0.1", "port": str(sshd.port)},
        "user": USER,
        "path": str(image),
        "host-key-check": {"mode": "hash", "type": "sha256", "hash": sha256_of(sshd.host_keys["ed25519"])},
    }
    assert found.agent_key == print_of(home.ssh / "id_ed25519")
    assert (found.writable, found.trusted, found.secrets, found.reads) == (True, True, (), ())
    assert found.pin.size == 4096


def test_an_alias_is_resolved_for_qemu(home: SshHome, sshd: Sshd, image: Path) -> None:
    home.configure(f"Host alias\n HostName 127.0.0.1\n Port {sshd.port}\n User {USER}\n HostKeyAlias known\n")
    home.trust(sshd.known().replace(f"[127.0.0.1]:{sshd.port}", "known"))
    node = attached(sshd, image, authority="alias").node
    assert (node["server"], node["user"]) == ({"host": "127.0.0.1", "port": str(sshd.port)}, USER)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_qemu_is_given_the_key_that_it_will_be_shown_once_the_server_has_proven_it(
    home: SshHome, sshd: Sshd, image: Path, kind: str
) -> None:
    home.trust(sshd.known(kind))  # libssh will ask for ed25519 all the same
    check = attached(sshd, image).node["host-key-check"]
    assert isinstance(check, dict)
    assert check["hash"] == sha256_of(sshd.host_keys["ed25519"])


def test_a_server_that_proves_nothing_is_read_by_the_bridge(
    home: SshHome, sshd: Sshd, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every OpenSSH proves its keys; one that does not (dropbear) is had here by not asking."""
    monkeypatch.setattr("probes.ssh.line.Line.proves", lambda *_: False)
    home.trust(sshd.known("rsa"))
    found = attached(sshd, image)
    assert found.route is Route.BRIDGE
    assert "ssh-ed25519" in found.why


def test_a_home_folder_is_resolved_for_qemu(home: SshHome, sshd: Sshd) -> None:
    import pwd

    real = Path(pwd.getpwnam(USER).pw_dir)
    with SshSource() as source:
        place = Location("ssh", sshd.address, "/~/")
        assert str(source.stat(place).location).endswith(f"{real}/")
        for entry in source.entries(place):
            assert entry.location.parent == Location("ssh", sshd.address, f"{real}/")
    assert home.path != real


def test_the_key_of_an_agent_is_named_by_its_fingerprint(
    home: SshHome, sshd: Sshd, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.ssh.is_dir()
    with Agent(tmp_path) as agent:
        key = make_key(tmp_path / "held", "rsa")
        agent.add(key)
        sshd.authorize(key)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
        assert attached(sshd, image).agent_key == print_of(key)


def only_bridge(server: Sshd, image: Path, word: str, **more: object) -> None:
    """By itself it is the bridge, which says why; asked for directly it is refused, with the same reason."""
    found = attached(server, image, **more)  # type: ignore[arg-type]  # passed through
    assert found.route is Route.BRIDGE
    assert word in found.why
    assert (found.node, found.agent_key) == ({}, "")
    assert found.writable
    qemu = QemuFacts(QEMU.version, more.pop("qemu", QEMU).drivers, RouteWish.DIRECT)  # type: ignore[attr-defined]  # QemuFacts
    with pytest.raises(Unsupported, match=word):
        attached(server, image, qemu, **more)  # type: ignore[arg-type]  # passed through


def test_a_qemu_without_the_driver_takes_the_bridge(home: SshHome, sshd: Sshd, image: Path) -> None:
    only_bridge(sshd, image, "qemu-block-extra", qemu=QemuFacts((7, 2, 22), frozenset({"nbd"})))
    assert home.ssh.is_dir()


def test_the_bridge_can_be_asked_for(home: SshHome, sshd: Sshd, image: Path) -> None:
    found = attached(sshd, image, QemuFacts(QEMU.version, QEMU.drivers, RouteWish.BRIDGE))
    assert (found.route, found.node) == (Route.BRIDGE, {})
    assert home.ssh.is_dir()


def test_a_server_far_away_takes_the_bridge_unless_the_driver_is_asked_for_or_it_is_written(
    home: SshHome, sshd: Sshd, image: Path
) -> None:
    with FaultyProxy(sshd.port) as proxy:
        home.trust(sshd.known(port=proxy.port))
        proxy.latency = 0.02
        address = f"{USER}@127.0.0.1:{proxy.port}"
        found = attached(sshd, image, authority=address)
        assert found.route is Route.BRIDGE
        assert "ms away" in found.why
        direct = QemuFacts(QEMU.version, QEMU.drivers, RouteWish.DIRECT)
        assert attached(sshd, image, direct, authority=address).route is Route.DRIVER
        assert attached(sshd, image, mode=Mode.WRITE, authority=address).route is Route.DRIVER


def test_a_jump_host_takes_the_bridge(home: SshHome, sshd: Sshd, image: Path, tmp_path: Path) -> None:
    jump = start_sshd(tmp_path / "jump", "AllowTcpForwarding yes")
    with jump.server:
        jump.authorize(home.ssh / "id_ed25519")
        home.trust(sshd.known(), jump.known())
        home.configure(f"Host behind\n HostName 127.0.0.1\n Port {sshd.port}\n ProxyJump {jump.address}\n")
        only_bridge(sshd, image, "jump hosts", authority=f"{USER}@behind")


@pytest.fixture
def by_password(tmp_path: Path) -> Iterator[Sshd]:
    server = start_sshd(tmp_path / "password", "PasswordAuthentication yes", passwords={"alice": "s3cret"})
    with server.server:
        yield server


def test_a_password_takes_the_bridge(home: SshHome, by_password: Sshd, open_folder: Callable[[str], Path]) -> None:
    home.trust(by_password.known())
    image = open_folder("images") / "image.img"
    image.write_bytes(bytes(512))
    image.chmod(0o644)
    alice = f"alice@127.0.0.1:{by_password.port}"
    known = Credentials(password=Secret("s3cret"))
    only_bridge(by_password, image, "password", authority=alice, credentials=known)
    with pytest.raises(Denied, match="permission"):
        attached(by_password, image, mode=Mode.WRITE, authority=alice, credentials=known)


def test_a_name_that_is_not_utf_8_takes_the_bridge(home: SshHome, sshd: Sshd, tmp_path: Path) -> None:
    image = tmp_path / "gr\udcfcn.img"
    image.write_bytes(bytes(512))
    only_bridge(sshd, image, "UTF-8")
    assert home.ssh.is_dir()


def test_a_certificate_takes_the_bridge(home: SshHome, image: Path, tmp_path: Path) -> None:
    import subprocess

    authority = make_key(tmp_path / "authority")
    argv = ["ssh-keygen", "-q", "-s", str(authority), "-I", "someone", "-n", USER, f"{home.ssh}/id_ed25519.pub"]
    subprocess.run(argv, check=True, capture_output=True)
    server = start_sshd(tmp_path / "sshd", f"TrustedUserCAKeys {authority}.pub")
    with server.server:
        home.trust(server.known())
        only_bridge(server, image, "certificate")


def test_the_key_that_was_said_yes_to_is_the_one_that_is_pinned(home: SshHome, sshd: Sshd, image: Path) -> None:
    home.trust()
    key = sshd.host_keys["ed25519"]
    found = attached(sshd, image, credentials=Credentials(host_key=print_of(key)))
    assert found.node["host-key-check"] == {"mode": "hash", "type": "sha256", "hash": sha256_of(key)}
    assert public(key)


def test_the_short_form_of_qemu_pins_the_host_key_too(home: SshHome, sshd: Sshd, image: Path) -> None:
    home.trust()
    pinned = f"{sshd.url(image)}?host_key_check=sha256:{sha256_of(sshd.host_keys['ed25519'])}"
    location, credentials = Location.parse(pinned)
    with SshSource(credentials) as source:
        assert source.stat(location).size == 4096
    wrong, credentials = Location.parse(pinned[:-2] + "00")
    with SshSource(credentials) as source, pytest.raises(Denied):
        source.stat(wrong)


def test_a_server_that_cannot_flush_is_told_of_before_it_is_written(
    home: SshHome, sshd: Sshd, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As servers other than OpenSSH are, of which there is none here."""
    assert home.ssh.is_dir()
    assert attached(sshd, image, mode=Mode.WRITE).notes == ()
    monkeypatch.setattr(Sftp, "can_sync", False)
    assert "lacks fsync" in attached(sshd, image, mode=Mode.WRITE).notes[0]
    assert attached(sshd, image).notes == ()
