"""Driving the real application: press keys, wait for what is seen."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual import events
from textual.pilot import Pilot

from app.engine import Engine as RealEngine
from app.memory import Memory
from app.screens.browse import Browse
from app.screens.contract import Engine, Guests
from app.tui import FarbootApp
from probes.entry import Kind
from probes.known.root import Root
from probes.location import Location

DEADLINE = 30.0


class Drive:
    """One running application."""

    def __init__(self, app: FarbootApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    @property
    def browse(self) -> Browse:
        """The room one comes in by, wherever one is now."""
        room = self.app.screen_stack[0]
        assert isinstance(room, Browse)
        return room

    @property
    def names(self) -> list[str]:
        """The names in the listing, as shown."""
        return [row.shown for row in self.browse.listing.rows.visible]

    @property
    def current(self) -> str:
        """The name under the cursor."""
        row = self.browse.listing.row
        return row.shown if row else ""

    @property
    def screen(self) -> str:
        """Everything that is on the screen, as text."""
        lines = self.app.screen._compositor.render_strips(self.app.size)
        return "\n".join(strip.text for strip in lines)

    async def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        await self.pilot.press(*keys)

    def burst(self, *keys: str) -> None:
        """Have keys arrive all at once, as a slow line or a fast hand brings them: nothing happens in between."""
        for key in keys:
            character = key if len(key) == 1 else None
            event = events.Key(key, character)
            event.set_sender(self.app)
            self.app._driver.send_message(event)  # type: ignore[union-attr] # a running application has one

    async def type(self, text: str) -> None:
        """Type a text."""
        for character in text:
            await self.pilot.press(_KEYS.get(character, character))

    async def until(self, happened: Callable[[], object], what: str = "", deadline: float = DEADLINE) -> None:
        """Wait until something is so."""
        end = time.monotonic() + deadline
        while not happened():
            assert time.monotonic() < end, f"waited in vain for {what or 'it'}:\n{self.screen}"
            await self.pilot.pause(0.02)

    async def until_seen(self, *texts: str, deadline: float = DEADLINE) -> None:
        """Wait until all these texts are on the screen."""
        await self.until(lambda: all(text in self.screen for text in texts), f"{texts}", deadline)

    async def until_probed(self) -> None:
        """Wait until it is known what the images are that are seen."""

        def is_known() -> bool:
            return all(row.image or row.entry.kind is not Kind.IMAGE for row in self.browse.listing.seen)

        await self.until(is_known, "the formats")

    async def until_listed(self, *names: str) -> None:
        """Wait until the listing is complete, and holds these names."""
        await self.until(lambda: self.browse.folder and self.browse.folder.done, "the listing")
        assert set(names) <= set(self.names), self.names


_KEYS = {" ": "space", "\n": "enter"}


@asynccontextmanager
async def driving(
    start: Location | Path | str | None = None,
    engine: Engine | None = None,
    guests: Guests | None = None,
    size: tuple[int, int] = (80, 24),
    memory: Memory | None = None,
) -> AsyncIterator[Drive]:
    """Run the application, with the real engine unless another is given, and with a memory of its own."""
    with tempfile.TemporaryDirectory(prefix="farboot-memory-") as folder:
        async with _driving(start, engine, guests, size, memory or memory_in(folder)) as drive:
            yield drive


def memory_in(folder: str | Path) -> Memory:
    """A memory whose files are in a folder, on a machine that knows nothing."""
    return Memory(f"{folder}/settings.toml", f"{folder}/history", Root(f"{folder}/root", "/home"))


@asynccontextmanager
async def _driving(
    start: Location | Path | str | None,
    engine: Engine | None,
    guests: Guests | None,
    size: tuple[int, int],
    memory: Memory,
) -> AsyncIterator[Drive]:
    location = start if isinstance(start, Location) or start is None else Location.parse(str(start))[0]
    app = FarbootApp(engine or RealEngine(deadline=5.0), location, guests, memory)
    app.theme = "farboot"
    async with app.run_test(size=size, notifications=True) as pilot:
        yield Drive(app, pilot)
