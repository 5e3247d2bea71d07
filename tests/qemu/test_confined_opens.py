"""The judgement switched off: every image that it refuses or asks about is given to QEMU, started as Farboot starts it.

What QEMU then opens and whom it calls is watched by strace: nothing of the host, and nobody but the image's server.
Each layer by itself, and none of them, is tried as well, so that it is known what each is good for.
"""

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.qemu.boot.plan import plan
from app.qemu.host.find import find_host
from app.qemu.options import Host, Network, Options
from app.qemu.steps import BootPlan, Layer
from probes.image import Image, MediaKind, Verdict
from tests.corpus import RECIPES, Outside, Reach, Recipe
from tests.formats.images import judge, qemu_img_create, run
from tests.qemu.layers import of_file, of_web
from tests.qemu.traced import Seen, watch, without_backing_option
from tests.servers.faults import Listener
from tests.servers.nginx import Nginx
from tests.unprivileged import NOBODY

SECRET = b"canary-4711-of-the-host "
OPTIONS = Options(memory=64 << 20, cpus=1, network=Network.RESTRICTED)
LEAST = 1 << 20

# What QEMU opens for any image: itself, the kernel's words about itself, what every program may read, its own folder.
ALLOWED = re.compile(
    r"/(?:usr/)?lib(?:32|64|x32)?/.*"
    r"|/usr/(?:share|libexec)/.*"
    r"|/usr/bin/qemu-system-x86_64"
    r"|/etc/(?:ld\.so\.cache|ssl/.*|resolv\.conf|hosts|host\.conf|nsswitch\.conf|gai\.conf|gnutls/.*|services|localtime)"
    r"|/proc/(?:filesystems|stat|meminfo|cpuinfo|\d+/(?:status|stat|cmdline|maps|task.*)|sys/.*)"
    r"|/dev/(?:null|zero|urandom|random)"
    r"|/guest(?:/overlay\.qcow2|/qmp\.sock|/vnc\.sock|/vl\.[A-Za-z0-9]+)?"
)

_NO_DRIVERS = {"gzip", "xz", "bzip2", "zstd", "zip", "tar"}
REFUSED = [recipe for recipe in RECIPES if recipe.verdict is not Verdict.OK and recipe.format not in _NO_DRIVERS]
GREEDY = [recipe for recipe in REFUSED if recipe.reach is not Reach.NOTHING]
"""Those that go after something if they are let."""
NAMING = [
    recipe
    for recipe in REFUSED
    if recipe.codes & {"backing-outside", "backing-file", "qcow2-data-file", "vmdk-external-extent"}
]
"""Those that name something, whatever this QEMU makes of it."""


def named(recipe: Recipe) -> str:
    return recipe.name


class Other(Listener):
    """Somebody else's server: it counts who calls, and hangs up."""

    def serve(self, client: socket.socket) -> None:
        pass


class Scene:
    """A folder of hostile images, a file of the host that they name, and somebody else's server that they name."""

    def __init__(self, folder: Path, nginx: Nginx, host: Host) -> None:
        self.folder = folder
        self.nginx = nginx
        self.host = replace(host, accelerator="tcg")
        self.secret = folder / "host" / "canary"
        self.secret.parent.mkdir()
        self.secret.write_bytes(SECRET * 4096)
        self.other = Other()
        self.images = folder / "images"
        self.images.mkdir()
        self._runs = 0

    def path(self, recipe: Recipe) -> Path:
        """The recipe's image, made when it is first wanted."""
        path = self.images / f"{recipe.name}.img"
        if not path.exists():
            recipe.make(path, Outside(str(self.secret), str(self.secret.parent), self.other.port))
        return path

    def unjudged(self, recipe: Recipe) -> Image:
        """What the judgement says, without a word about dangers."""
        image = judge(self.path(recipe))
        size = min(max(image.virtual_size, LEAST), 1 << 40)
        told = [hazard for hazard in image.hazards if hazard.verdict is Verdict.OK]
        media = replace(image.media, kind=MediaKind.DISK)
        return replace(image, virtual_size=size, backing=None, hazards=tuple(told), media=media, needs_passphrase=False)

    def run(self, made: BootPlan, user: bool = False, confined: bool = True, nulled: bool = True) -> Seen:
        self._runs += 1
        return watch(
            made,
            self.folder / f"run{self._runs}",
            NOBODY if user else None,
            confined,
            (lambda argv: argv) if nulled else without_backing_option,
        )

    def plan_of(self, layer: Layer, user: bool = False) -> BootPlan:
        host = replace(self.host, root=False, setpriv=None, guest_uid=None) if user else self.host
        return plan((layer,), OPTIONS, host)

    def close(self) -> None:
        self.other.close()


@pytest.fixture(scope="module")
def scene(nginx: Nginx) -> Iterator[Scene]:
    folder = Path(tempfile.mkdtemp(prefix="farboot-hostile-", dir="/var/tmp"))
    folder.chmod(0o777)
    host = find_host()
    assert host.bwrap, "these tests need bubblewrap to work"
    made = Scene(folder, nginx, host)
    yield made
    made.close()
    shutil.rmtree(folder, ignore_errors=True)


as_who = pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
hostile = pytest.mark.parametrize("recipe", REFUSED, ids=named)
greedy = pytest.mark.parametrize("recipe", GREEDY, ids=named)


def layer_of(scene: Scene, recipe: Recipe, by_web: bool = False) -> Layer:
    image = scene.unjudged(recipe)
    path = scene.path(recipe)
    if not by_web:
        return of_file(str(path), image)
    served = Path(scene.nginx.root) / f"hostile-{os.path.basename(scene.folder)}"
    served.mkdir(exist_ok=True)
    if not (served / path.name).exists():
        shutil.copy(path, served)
    return of_web(f"{scene.nginx.url}{served.name}/{path.name}", image)


def nothing_outside(seen: Seen, server: str = "") -> None:
    strange = {path for path in seen.opened if not ALLOWED.fullmatch(path) and not path.startswith("/dev/fdset/")}
    assert not strange
    assert seen.called <= ({server} if server else set())
    assert not seen.started
    assert SECRET[:12] not in seen.guest


@as_who
@hostile
def test_it_opens_nothing_of_the_host(scene: Scene, recipe: Recipe, user: bool) -> None:
    seen = scene.run(scene.plan_of(layer_of(scene, recipe), user), user)
    nothing_outside(seen)
    assert "/guest/overlay.qcow2" in seen.opened or not seen.came_up


@pytest.mark.parametrize("recipe", NAMING, ids=named)
def test_nor_does_it_by_its_own_driver_over_http(scene: Scene, recipe: Recipe) -> None:
    seen = scene.run(scene.plan_of(layer_of(scene, recipe, by_web=True)))
    server = scene.nginx.url.removeprefix("http://").rstrip("/")
    nothing_outside(seen, server)
    assert server in seen.called


@as_who
@greedy
def test_confinement_alone_stops_it(scene: Scene, recipe: Recipe, user: bool) -> None:
    """The image's word about its backing file counts, as if the plan had not said that there is none."""
    before = scene.other.connections
    seen = scene.run(scene.plan_of(layer_of(scene, recipe), user), user, nulled=False)
    own = {path for path in seen.opened if re.fullmatch(r"/proc/\d+/environ", path)}  # with nothing of ours in it
    seen.opened -= own
    if recipe.reach is Reach.NETWORK:
        assert f"127.0.0.1:{scene.other.port}" in seen.called  # in vain: in a network of its own
        seen.called.clear()
    nothing_outside(seen)
    assert scene.other.connections == before


@greedy
def test_without_any_of_it_the_host_is_read_or_somebody_called(scene: Scene, recipe: Recipe) -> None:
    """So that the tests above can fail."""
    before = scene.other.connections
    seen = scene.run(scene.plan_of(layer_of(scene, recipe)), confined=False, nulled=False)
    match recipe.reach:
        case Reach.FILE:
            assert str(scene.secret) in seen.opened or "/environ" in " ".join(seen.opened)
        case Reach.FOLDER:
            assert str(scene.secret.parent) in seen.opened
        case _:
            assert scene.other.connections > before


@pytest.mark.parametrize("name", ["qcow2-backing-absolute", "vmdk-flat-absolute"])
def test_and_the_guest_would_read_the_secret(scene: Scene, name: str) -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    layer = layer_of(scene, recipe)
    assert SECRET in scene.run(scene.plan_of(layer), confined=False, nulled=False).guest
    assert SECRET not in scene.run(scene.plan_of(layer), nulled=False).guest


@pytest.mark.parametrize("name", [recipe.name for recipe in GREEDY if recipe.neutralised])
def test_the_plan_alone_stops_what_names_a_backing_file(scene: Scene, name: str) -> None:
    """`"backing": null`, where the format takes it."""
    recipe = next(recipe for recipe in RECIPES if recipe.name == name)
    before = scene.other.connections
    seen = scene.run(scene.plan_of(layer_of(scene, recipe)), confined=False)
    assert str(scene.secret) not in seen.opened
    assert str(scene.secret.parent) not in seen.opened
    assert scene.other.connections == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives guests another account")
def test_without_bubblewrap_the_account_keeps_closed_what_is_not_for_everybody(scene: Scene) -> None:
    recipe = next(recipe for recipe in RECIPES if recipe.name == "qcow2-backing-absolute")
    scene.host, whole = replace(scene.host, bwrap=None, netns=False), scene.host
    try:
        made = scene.plan_of(layer_of(scene, recipe))
        scene.secret.chmod(0o600)
        closed = scene.run(made, nulled=False)
        scene.secret.chmod(0o644)
        opened = scene.run(made, nulled=False)
    finally:
        scene.host = whole
    assert str(scene.secret) not in closed.opened
    assert SECRET not in closed.guest
    assert SECRET in opened.guest  # what everybody may read it reads as well: hence the note of such a boot


@pytest.mark.parametrize("driver", ["qcow2", "qcow", "qed", "vmdk"])
@as_who
def test_a_chain_that_was_allowed_is_opened_by_descriptors_and_never_by_name(
    scene: Scene, driver: str, user: bool
) -> None:
    folder = Path(tempfile.mkdtemp(dir=scene.folder))
    folder.chmod(0o755)
    base_driver = "vmdk" if driver == "vmdk" else "raw"
    base = qemu_img_create(folder / "base.img", "1M", base_driver)
    run("qemu-io", "-f", base_driver, "-c", "write -P 77 0 512", base)
    options = ("-F", base_driver, "-b", "base.img")
    top = qemu_img_create(folder / "top.img", "1M", driver, *options)
    judged = judge(top)
    assert judged.backing is not None
    assert judged.backing.name == "base.img"
    assert judged.verdict is Verdict.ASK
    asked = frozenset(hazard.code for hazard in judged.hazards if hazard.verdict is Verdict.ASK)
    host = replace(scene.host, root=False, setpriv=None, guest_uid=None) if user else scene.host
    layers = (of_file(str(top), judged), of_file(str(base), judge(base)))
    seen = scene.run(plan(layers, replace(OPTIONS, accept=asked), host), user)
    nothing_outside(seen)
    assert seen.came_up, seen.words
    assert seen.guest == b"\x4d" * 512
    assert not [path for path in seen.tried if "base.img" in path]


def test_the_same_images_are_refused_when_they_are_judged(scene: Scene) -> None:
    for recipe in GREEDY:
        image = judge(scene.path(recipe))
        made = scene.plan_of(of_file(str(scene.path(recipe)), image))
        assert made.refusals, recipe.name
        assert made.image_refused
        assert not made.steps
