"""How soon a key shows on the screen, whatever servers do: while 100,000 rows arrive from NFS, SSH and FTP, while the
images under the cursor are looked at and those around it are probed, while a server hangs, and while it dies.

Keys come at a steady pace from a thread, as a keyboard's do; the time is from there to the screen painted anew, so that
it counts a loop that is busy with something else. Beside it stands the same with nothing else going on.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from textual import events

from app.engine import Engine
from app.screens.browse import Browse
from app.tui import FarbootApp, calm_collector
from probes.location import Location
from tests.screens.fakes import FakeGuests
from tests.servers.faults import FaultyProxy
from tests.servers.ganesha import Export, Ganesha
from tests.servers.netns import Netns
from tests.servers.sshd import make_home, start_sshd
from tests.servers.vsftpd import start_vsftpd

COUNT = 100_000
IMAGES = 60
PACE = 0.030
"""Seconds between two keys: what a keyboard repeats at."""
LIMIT = 60.0
"""Seconds that a scenario may take."""


class Keyboard:
    """Somebody who holds down a key: `down` so many times, then `up`, and so on."""

    def __init__(self, app: FarbootApp) -> None:
        self._app = app
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._keys = itertools.cycle(["down"] * 40 + ["up"] * 40)
        self.seconds: list[float] = []
        self._thread = threading.Thread(target=self._type, daemon=True)
        self._thread.start()

    async def leave(self) -> None:
        """Stop typing, and wait until the last key is answered."""
        self._stop.set()
        await asyncio.sleep(0.3)

    def _type(self) -> None:
        while not self._stop.wait(PACE):
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._press, time.perf_counter())

    def _press(self, pressed: float) -> None:
        self._app.post_message(events.Key(next(self._keys), None))
        self._app.call_after_refresh(lambda: self.seconds.append(time.perf_counter() - pressed))


def main() -> None:
    """Print the figures."""
    calm_collector()
    print(f"{'':52} keys    median      99 of 100       worst")
    with servers() as places:
        for what, scenario in places.items():
            asyncio.run(_scenario(what, scenario))


Scenario = Callable[[Browse], Awaitable[None]]


@contextlib.contextmanager
def servers() -> Iterator[dict[str, Scenario]]:
    """The real servers, and what is done to each."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        ganesha = stack.enter_context(Ganesha(stack.enter_context(Netns()), (Export("images"),)))
        root = ganesha.folder("images")
        many, few = root / "many", root / "few"
        many.mkdir()
        few.mkdir()
        for number in range(COUNT):
            (many / f"image-{number:06}.qcow2").touch()
        image = folder / "image.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "10G"], check=True)
        for number in range(IMAGES):
            shutil.copy(image, few / f"image-{number:03}.qcow2")
        home = make_home(folder / "home")
        environment = dict(os.environ)
        stack.callback(os.environ.update, environment)
        os.environ["HOME"] = str(home.path)
        os.environ.pop("SSH_AUTH_SOCK", None)
        sshd = start_sshd(folder / "sshd")
        stack.enter_context(sshd.server)
        vsftpd = start_vsftpd(folder / "vsftpd", root)
        stack.enter_context(vsftpd.server)
        proxy = stack.enter_context(FaultyProxy(sshd.port))
        sshd.authorize(home.key())
        home.trust(sshd.known(), sshd.known(port=proxy.port))
        far = sshd.url(f"{many}/").replace(f":{sshd.port}/", f":{proxy.port}/")
        nfs = ganesha.location("images")
        yield {
            "nothing else going on": _still(f"{nfs}few/"),
            f"{COUNT:,} rows arrive from NFS": _arrive(f"{nfs}many/"),
            f"{COUNT:,} rows arrive by SSH": _arrive(sshd.url(f"{many}/")),
            f"{COUNT:,} rows arrive by FTP": _arrive(f"ftp://127.0.0.1:{vsftpd.port}/many/"),
            "images are looked at, NFS": _look(f"{nfs}few/"),
            "images are looked at, SSH": _look(sshd.url(f"{few}/")),
            "rows are probed over and over, NFS": _probe(f"{nfs}few/"),
            "rows are probed over and over, SSH": _probe(sshd.url(f"{few}/")),
            "a server hangs in the middle of a listing": _hang(far, proxy, dies=False),
            "a server dies in the middle of a listing": _hang(far, proxy, dies=True),
        }


async def _scenario(what: str, scenario: Scenario) -> None:
    app = FarbootApp(Engine(), None, FakeGuests())
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.pause(0.5)
        browse = app.screen_stack[0]
        assert isinstance(browse, Browse)
        keyboard = Keyboard(app)
        await scenario(browse)
        await keyboard.leave()
    times = sorted(keyboard.seconds)
    shown = [statistics.median(times), times[len(times) * 99 // 100], times[-1]]
    print(f"{what:52} {len(times):4} " + " ".join(f"{each * 1000:9.1f} ms" for each in shown), flush=True)


def _still(place: str) -> Scenario:
    async def scenario(browse: Browse) -> None:
        await asyncio.sleep(3)

    return scenario


def _arrive(place: str) -> Scenario:
    async def scenario(browse: Browse) -> None:
        browse.open(Location.parse(place)[0])
        await _until(lambda: bool(browse.folder and browse.folder.done))
        assert browse.folder is not None
        assert len(browse.folder.rows) == COUNT, browse.folder.error

    return scenario


def _look(place: str) -> Scenario:
    async def scenario(browse: Browse) -> None:
        browse.open(Location.parse(place)[0])
        await asyncio.sleep(6)

    return scenario


def _probe(place: str) -> Scenario:
    """All that is seen, and the page after it, is found out again and again."""

    async def scenario(browse: Browse) -> None:
        browse.open(Location.parse(place)[0])
        await _until(lambda: bool(browse.folder and browse.folder.done))
        listing, probing = browse.listing, browse._probing
        end = time.monotonic() + 6
        while time.monotonic() < end:
            await _until(lambda: all(row.image for row in (*listing.seen, *listing.following)))
            probing._memory.forget()
            for row in listing.rows.visible:
                row.image = None
            probing._leave(listing.rows)
            probing.look()

    return scenario


def _hang(place: str, proxy: FaultyProxy, dies: bool) -> Scenario:
    async def scenario(browse: Browse) -> None:
        proxy.heal()
        proxy.hold_after = 2 << 20
        browse.open(Location.parse(place)[0])
        await _until(lambda: proxy.passed > 1 << 20)
        await asyncio.sleep(2)
        if dies:
            proxy.hang_up()
        await asyncio.sleep(3)
        proxy.hang_up()

    return scenario


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110  # nothing tells of it but the screen
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    main()
