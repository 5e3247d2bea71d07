"""How QEMU gets at an image of the web."""

import subprocess
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.credentials import Credentials, Secret
from probes.errors import (
    Refused,
    Unsupported,
)
from probes.location import Location
from probes.sources.http import HttpSource
from tests.servers.nginx import Nginx
from tests.sources.contract import content

DATA = content(200_000)
QEMU_7 = QemuFacts((7, 2, 22), frozenset({"http", "https"}))
DIRECT = QemuFacts((10, 0, 13), frozenset({"http", "https"}), RouteWish.DIRECT)
AUTO = QemuFacts(DIRECT.version, DIRECT.drivers)


def at(text: str) -> Location:
    return Location.parse(text)[0]


@pytest.fixture
def folder(nginx: Nginx, tmp_path: Path) -> tuple[Path, str]:
    """A folder of this test's own under a real nginx, and its URL."""
    path = Path(nginx.root) / tmp_path.name
    path.mkdir()
    return path, f"{nginx.url}{tmp_path.name}/"


# -- how QEMU gets at it -------------------------------------------------------------------------------------------


@pytest.fixture
def image(folder: tuple[Path, str]) -> Location:
    path, url = folder
    (path / "a,b=c #1.img").write_bytes(DATA)
    return at(url).child("a,b=c #1.img")


@pytest.mark.parametrize(
    ("qemu", "wish", "route"),
    [
        (DIRECT, RouteWish.AUTO, Route.BRIDGE),
        (QEMU_7, RouteWish.AUTO, Route.BRIDGE),
        (QEMU_7, RouteWish.DIRECT, Route.DRIVER),
        (DIRECT, RouteWish.BRIDGE, Route.BRIDGE),
        (QemuFacts((10,), frozenset({"file"})), RouteWish.AUTO, Route.BRIDGE),
    ],
)
def test_the_route_is_the_bridge_unless_the_driver_is_asked_for(
    image: Location, qemu: QemuFacts, wish: RouteWish, route: Route
) -> None:
    asked = QemuFacts(qemu.version, qemu.drivers, wish)
    with HttpSource() as source:
        found = source.attach(image, asked, Mode.SNAPSHOT)
    assert found.route is route
    assert bool(found.why) == (route is Route.BRIDGE)
    assert (found.trusted, found.writable, found.pin.size) == (False, False, len(DATA))
    assert bool(found.node) == (route is Route.DRIVER)


def test_a_direct_route_where_there_is_none_is_refused_with_the_reason(image: Location) -> None:
    qemu = QemuFacts((10,), frozenset({"file"}), RouteWish.DIRECT)
    with HttpSource() as source, pytest.raises(Unsupported, match="no http driver"):
        source.attach(image, qemu, Mode.SNAPSHOT)


def test_an_image_of_the_web_is_never_written(image: Location) -> None:
    with HttpSource() as source, pytest.raises(Refused):
        source.attach(image, DIRECT, Mode.WRITE)


def test_credentials_become_secrets_beside_the_node(image: Location) -> None:
    credentials = Credentials("alice", Secret("s3cret"), cookie=Secret("session=1"))
    with HttpSource(credentials) as source:
        found = source.attach(image, DIRECT, Mode.SNAPSHOT)
    assert found.node["username"] == "alice"
    assert {slot.option: slot.secret.reveal() for slot in found.secrets} == {
        "password-secret": "s3cret",
        "cookie-secret": "session=1",
    }
    assert "s3cret" not in repr(found)


def test_a_real_qemu_opens_the_node(image: Location, tmp_path: Path) -> None:
    import json

    credentials = Credentials("alice", Secret("s3cret"), cookie=Secret("session=1"))
    with HttpSource(credentials) as source:
        found = source.attach(image, DIRECT, Mode.SNAPSHOT)
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none", "-S", "-qmp", "stdio"]
    node = {**found.node, "node-name": "disk", "read-only": True}
    for number, slot in enumerate(found.secrets):
        (tmp_path / str(number)).write_text(slot.secret.reveal())
        argv += ["-object", f"secret,id=secret{number},file={tmp_path / str(number)}"]
        node[slot.option] = f"secret{number}"
    talk = "".join(json.dumps({"execute": word}) for word in ("qmp_capabilities", "query-named-block-nodes", "quit"))
    ended = subprocess.run(
        [*argv, "-blockdev", json.dumps(node)], input=talk, capture_output=True, text=True, timeout=60, check=False
    )
    assert '"node-name": "disk"' in ended.stdout, ended.stderr


def test_the_international_name_of_a_host_is_sent_in_ascii() -> None:
    from probes.web.client import url_of

    assert url_of(Location("http", "grün.example:8000", "/x")) == "http://xn--grn-ioa.example:8000/x"
