"""The short `-drive` form: exact, tried with the real QEMU, or withheld with its reason."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from app.qemu.boot.drive import short_drive
from app.qemu.host.binary import find_qemu
from app.qemu.options import DiskWish, Options
from app.qemu.steps import Layer
from probes.attachment import HostFile, Mode, QemuFacts, Route, RouteWish, SecretSlot, Tls
from probes.credentials import Secret
from probes.image import Backing, Hazard, MediaKind, Verdict
from probes.location import Location
from probes.registry import open_source
from tests.qemu.layers import by_bridge, image, of_file, of_rbd, of_web
from tests.servers.ceph import Ceph
from tests.servers.ganesha import Ganesha
from tests.servers.nbdkit import start_nbdkit
from tests.servers.nginx import Nginx
from tests.servers.sshd import Agent, Sshd, SshHome
from tests.servers.tgt import Tgt

SIZE = 1 << 20
NOTHING = Options()
KEY = SecretSlot("key-secret", Secret("QUJD"), "key", "key", "base64")


def drive(layer: Layer, options: Options = NOTHING) -> str:
    value, withheld = short_drive([layer], options)
    assert not withheld
    return value


def withheld(*chain: Layer) -> str:
    value, why = short_drive(chain, NOTHING)
    assert not value
    return why


def opened(value: str) -> dict[str, object]:
    """Let QEMU open the drive; return what it says is in it."""
    argv = [find_qemu(), "-machine", "q35", "-S", "-nodefaults", "-display", "none", "-qmp", "stdio", "-drive", value]
    requests = '{"execute":"qmp_capabilities"}{"execute":"query-block"}{"execute":"quit"}'
    done = subprocess.run(argv, input=requests, capture_output=True, text=True, timeout=60, check=False, cwd="/var/tmp")
    assert done.returncode == 0, done.stderr
    assert not re.sub(r".*backing.*deprecated.*\n?", "", done.stderr)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    (block,) = next(answer["return"] for answer in answers if isinstance(answer.get("return"), list))
    inserted: dict[str, object] = block["inserted"]
    return inserted


# Its words


@pytest.mark.parametrize(
    ("layer", "value"),
    [
        (of_web(), "file=http://h:8000/test1.qcow2,format=qcow2,backing=,snapshot=on,if=virtio"),
        (of_web("https://h/a.img", image()), "file=https://h/a.img,format=raw,snapshot=on,if=virtio"),
        (of_web("http://h/a,b", image()), "file=http://h/a,,b,format=raw,snapshot=on,if=virtio"),
        (of_web("http://h/a.iso", image(kind=MediaKind.CD)), "file=http://h/a.iso,format=raw,media=cdrom,readonly=on"),
        (of_file("/srv/a,b.img"), "file=/srv/a,,b.img,format=raw,snapshot=on,if=virtio"),
        (of_rbd("rbd:rbd/qemu"), "file=rbd:rbd/qemu:id=admin,format=raw,snapshot=on,if=virtio"),
        (of_rbd("rbd:rbd/qemu:id=me"), "file=rbd:rbd/qemu:id=me,format=raw,snapshot=on,if=virtio"),
        (
            of_rbd("rbd:p/n/i@s:conf=/x", secrets=(replace(KEY, found=True),)),
            "file=rbd:p/n/i@s:conf=/x:id=admin,format=raw,snapshot=on,if=virtio",
        ),
    ],
)
def test_it_is_what_a_person_would_type(layer: Layer, value: str) -> None:
    assert drive(layer) == value


def by(driver: str, **node: object) -> Layer:
    """A raw image of one's own by a driver of QEMU's."""
    return of_rbd(node={"driver": driver, **node})


INET = {"type": "inet", "host": "h", "port": "10809"}


@pytest.mark.parametrize(
    ("layer", "url"),
    [
        (by("nfs", server={"type": "inet", "host": "h"}, path="/e/a b,100%.img", user=0, group=7),
         "nfs://h/e/a%20b%2C100%25.img?uid=0&gid=7"),
        (by("iscsi", transport="tcp", portal="[::1]:3261", target="iqn.2001-04.org:x", lun=3, timeout=20),
         "iscsi://[::1]:3261/iqn.2001-04.org:x/3"),
        (by("iscsi", transport="tcp", portal="h:3260", target="iqn.1-2:x", lun=3, **{"initiator-name": "iqn.a:b,c"}),
         "iscsi://h:3260/iqn.1-2:x/3,file.initiator-name=iqn.a:b,,c"),
        (by("ssh", server={"host": "h", "port": "22"}, user="me", path="/a?b",
            **{"host-key-check": {"mode": "hash", "type": "sha256", "hash": "00ff"}}),
         "ssh://me@h/a%3Fb?host_key_check=sha256:00ff"),
        (by("ssh", server={"host": "::1", "port": "2222"}, path="/a"), "ssh://[::1]:2222/a"),
        (by("nbd", server=INET, export="a/b c", **{"reconnect-delay": 30}), "nbd://h/a/b%20c"),
        (by("nbd", server=INET | {"port": "99"}, export=""), "nbd://h:99/"),
        (by("nbd", server={"type": "unix", "path": "/run/a b"}, export="e"), "nbd+unix:///e?socket=/run/a%20b"),
        (by("gluster", server=[INET | {"port": "24007"}], volume="v", path="/d/a#b"), "gluster://h/v/d/a%23b"),
    ],
)  # fmt: skip
def test_network_storage_has_the_urls_that_qemu_takes(layer: Layer, url: str) -> None:
    assert drive(layer) == f"file={url},format=raw,snapshot=on,if=virtio"


def test_a_boot_that_writes_has_no_snapshot_and_the_drive_is_what_was_wished() -> None:
    assert drive(of_file("/srv/a.img"), Options(mode=Mode.WRITE)) == "file=/srv/a.img,format=raw,if=virtio"
    assert drive(of_file("/srv/a.img"), Options(disk=DiskWish.SATA)) == "file=/srv/a.img,format=raw,snapshot=on,if=ide"
    value, why = short_drive([of_file("/srv/a.img")], Options(disk=DiskWish.LSI))
    assert (value, why) == ("", "a drive of the kind lsi takes a -device beside the -drive")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (by("nbd", server=INET, export="/odd"), "no exact short form for nbd"),
        (by("nbd", server={"type": "vsock"}, export="x"), "no exact short form for nbd"),
        (
            by("ssh", server={"host": "h"}, path="/a", **{"host-key-check": {"mode": "none"}}),
            "no exact short form for ssh",
        ),
        (by("iscsi", transport="iser", portal="h", target="iqn.x", lun=0), "no exact short form for iscsi"),
        (by("iscsi", transport="tcp", portal="h", target="a/../b?", lun=0), "no exact short form for iscsi"),
        (of_rbd(tls=Tls()), "TLS"),
        (of_web(judged=image(hazards=(Hazard("x", "it is odd", Verdict.ASK),))), "not judged ok: it is odd"),
        (of_web(judged=image("qcow2", backing=Backing("b"))), "backing image"),
        (by_bridge(of_web(), why="the driver hangs"), "the driver hangs"),
        (of_web(route=Route.FETCH), "Farboot reads it for QEMU"),
        (of_web(secrets=(replace(KEY, option="password-secret"),)), "credential"),
        (of_rbd(secrets=(KEY,)), "credential"),
        (of_web(node={"driver": "https", "url": "https://h/x", "sslverify": False}), "sslverify"),
        (of_web(node={"driver": "http", "url": "http://h/x", "cookie": "a=b"}), "cookie"),
        (of_web(node={"driver": "gluster", "volume": "v"}), "gluster"),
        (of_file("/srv/a\x1b[31m.img"), "cannot be typed"),
        (of_file("/srv/caf\udce9.img"), "cannot be typed"),
        (of_rbd("rbd:pool/odd\x1b[31m"), "cannot be typed"),
    ],
)
def test_it_is_withheld_with_its_reason(layer: Layer, words: str) -> None:
    assert words in withheld(layer)


def test_a_chain_has_no_short_form() -> None:
    assert "backing" in withheld(of_web(judged=image("qcow2")), of_web(judged=image()))


# What QEMU makes of them


ODD = [
    "a b",
    "a,b",
    "a=b",
    "100%",
    "it's",
    'q"',
    "#1",
    "what?",
    "a:b",
    "nbd:x:1",
    "json:{}",
    "ünï",
    "\\x",
    "[bold]",
    "-f",
]


@pytest.mark.parametrize("name", ODD)
def test_files_with_odd_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(SIZE))
    seen = opened(drive(of_file(str(path), image(size=SIZE))))
    assert seen["drv"] == "qcow2"  # the throwaway overlay
    assert _base(seen) == ("raw", SIZE)


@pytest.mark.parametrize("name", ODD)
def test_web_images_with_odd_names(nginx: Nginx, tmp_path: Path, name: str) -> None:
    folder = Path(nginx.root) / tmp_path.name
    folder.mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "image", str(SIZE)], check=True, cwd=folder)
    (folder / "image").rename(folder / name)
    location = Location.parse(nginx.url)[0].child(tmp_path.name, container=True).child(name)
    seen = opened(drive(of_web(str(location), image("qcow2", size=SIZE))))
    assert _base(seen) == ("qcow2", SIZE)


def test_a_cd(tmp_path: Path) -> None:
    path = tmp_path / "a.iso"
    path.write_bytes(bytes(SIZE))
    seen = opened(drive(of_file(str(path), image(size=SIZE, kind=MediaKind.CD))))
    assert (seen["drv"], seen["ro"]) == ("raw", True)


@pytest.mark.parametrize("name", ["plain", "a b", "a,b", "a=b", "a:b", "a\\b", "ünï"])
def test_rbd_images_with_odd_names(ceph: Ceph, name: str) -> None:
    pool = ceph.fresh_pool()
    ceph.image(pool, name, bytes(SIZE))
    escaped = re.sub(r"([\\/@:=])", r"\\\1", name)
    location, _ = Location.parse(f"rbd:{pool}/{escaped}:conf={ceph.conf}")
    with open_source(location) as source:
        attachment = source.attach(location, QemuFacts((10, 0), frozenset({"rbd", "nbd"})), Mode.SNAPSHOT)
    seen = opened(drive(Layer(attachment, image(size=SIZE))))
    assert _base(seen) == ("raw", SIZE)


def test_a_backing_file_in_the_image_is_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "hostile.qcow2"
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/hostname", "-F", "raw", str(path), str(SIZE)]
    subprocess.run(argv, check=True)
    value = drive(of_file(str(path), image("qcow2", size=SIZE)))
    assert "backing-image" not in _under_overlay(opened(value))
    assert "backing-image" in _under_overlay(opened(value.replace("backing=,", "")))  # as it would be


def test_a_device_is_named_by_its_path() -> None:
    files = (HostFile("filename", "/dev/sdb"),)
    layer = of_file("/dev/sdb", node={"driver": "host_device"}, files=files)
    assert drive(layer) == "file=/dev/sdb,format=raw,snapshot=on,if=virtio"


def _under_overlay(seen: dict[str, object]) -> dict[str, object]:
    outer = seen["image"]
    assert isinstance(outer, dict)
    base: dict[str, object] = outer["backing-image"]
    return base


def _base(seen: dict[str, object]) -> tuple[object, object]:
    """The format and size of what lies under the overlay."""
    base = _under_overlay(seen)
    return base["format"], base["virtual-size"]


# Network storage, by the sources' own attachments


def over(place: str) -> Layer:
    """The raw image of SIZE bytes at `place`, as its source attaches it."""
    location, credentials = Location.parse(place)
    drivers = frozenset({"nbd", "iscsi", "nfs", "ssh"})
    with open_source(location, credentials) as source:
        attachment = source.attach(location, QemuFacts((7, 2), drivers, RouteWish.DIRECT), Mode.SNAPSHOT)
    return Layer(attachment, image(size=SIZE))


@pytest.mark.parametrize("name", ["plain", "a b", "a,b", "100%", "what?", "#1", "a:b"])
def test_nbd_exports_with_odd_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / name).write_bytes(bytes(SIZE))
    served = start_nbdkit(tmp_path / "log", "file", f"dir={tmp_path}/dir")
    try:
        place = Location.parse(f"nbd://{served.authority}/")[0].child(name)
        assert _base(opened(drive(over(str(place))))) == ("raw", SIZE)
    finally:
        served.server.stop()


def test_a_lun(tgt: Tgt) -> None:
    target = tgt.target("iqn.2001-04.org.example:short-form")
    target.lun(1, SIZE)
    place = f"iscsi://127.0.0.1:{tgt.port}/{target.name}/1"
    assert _base(opened(drive(over(place)))) == ("raw", SIZE)


@pytest.mark.parametrize("name", ["plain", "a b", "a,b", "100%", "what?", "#1", "ünï"])
def test_nfs_files_with_odd_names(ganesha: Ganesha, name: str) -> None:
    share = ganesha.folder("images")
    (share / name).write_bytes(bytes(SIZE))
    place = Location.parse(ganesha.location("images"))[0].child(name)
    assert _base(opened(drive(over(str(place))))) == ("raw", SIZE)


@pytest.mark.parametrize("name", ["plain", "a b", "a,b", "100%", "what?", "#1", "ünï"])
def test_ssh_files_with_odd_names(
    sshd: Sshd, ssh_home: SshHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    key = ssh_home.key()
    sshd.authorize(key)
    ssh_home.trust(sshd.known())
    (tmp_path / name).write_bytes(bytes(SIZE))
    with Agent(tmp_path) as agent:
        agent.add(key)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
        place = Location.parse(sshd.url("/"))[0]
        for part in (*tmp_path.parts[1:], name):
            place = place.child(part)
        assert _base(opened(drive(over(str(place))))) == ("raw", SIZE)
