"""Takes the README's pictures: the real application on the demonstration's real server, with a real guest.

    PYTHONPATH=. python screenshots/make.py

Guests run in session folders of the pictures' own, and end with them.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from app.demo.show import demonstration
from app.engine import Engine
from app.qemu.sessions import session
from app.screens.browse import Browse
from app.screens.guest import GuestRoom
from app.tui import FarbootApp
from probes.location import Location

HERE = Path(__file__).parent
CONSOLE, DESK = (80, 24), (120, 36)
_DEADLINE = 180.0


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory(prefix="farboot-pictures-", dir="/var/tmp") as name:
        for variable in ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR"):
            folder = Path(name) / variable.lower()
            folder.mkdir(mode=0o700)
            os.environ[variable] = str(folder)
        os.environ["TERM"] = "xterm-256color"
        with demonstration() as location:
            try:
                for theme, size in (("farboot", DESK), ("farboot-ansi", CONSOLE)):
                    asyncio.run(_tour(str(location), theme, size))
                    _stop_guests()
            finally:
                _stop_guests()


def _stop_guests() -> None:
    """End them, and then take them off the list."""
    for _ in range(2):
        for guest in session.sessions():
            session.stop(guest.id, force=True)


async def _tour(url: str, theme: str, size: tuple[int, int]) -> None:
    app = FarbootApp(Engine(), Location.parse(url)[0])
    app.theme = theme
    where = "console" if size == CONSOLE else "desk"

    def take(name: str) -> None:
        app.save_screenshot(f"{name}-{where}.svg", str(HERE))
        print(f"{name}-{where}.svg")

    async with app.run_test(size=size) as pilot:
        browse = app.screen_stack[0]
        assert isinstance(browse, Browse)
        await _until(pilot, lambda: browse.folder and browse.folder.done)
        while browse.listing.entry and not browse.listing.entry.name.endswith(".qcow2"):
            await pilot.press("down")
        await _until(pilot, lambda: browse.details.facts.command)
        take("browse")
        await pilot.press("v")
        await _until(pilot, lambda: "qemu-system" in str(getattr(app.screen, "script", "")))
        take("command")
        await pilot.press("escape", "b")
        await _until(pilot, lambda: isinstance(app.screen, GuestRoom))
        room = app.screen
        assert isinstance(room, GuestRoom)
        await _until(pilot, lambda: "FARBOOT-GUEST-READY" in room.console.serial.text())
        await _until(pilot, lambda: room.console.serial.text().rstrip().endswith("#"))
        await pilot.press("enter", *("space" if key == " " else key for key in "uname -a"), "enter")
        await _until(pilot, lambda: "x86_64 GNU/Linux" in room.console.serial.text())
        await pilot.press("ctrl+right_square_bracket")
        await pilot.pause()
        take("guest")
        await pilot.press("g")
        await _until(pilot, lambda: any(guest.state == "running" for guest in app.guests))
        await pilot.pause(0.2)
        take("guests")


async def _until(pilot: Pilot[None], happened: Callable[[], object]) -> None:
    end = time.monotonic() + _DEADLINE
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("the picture's moment did not come")
        await pilot.pause(0.05)


if __name__ == "__main__":
    main()
