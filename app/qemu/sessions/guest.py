"""One guest's life: started by its plan, followed through QEMU's events, stopped, cleared away."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace

from app.qemu.bridge.patience import WAITS
from app.qemu.sessions import folders, start
from app.qemu.sessions.child import Child
from app.qemu.sessions.folders import Folder
from app.qemu.sessions.renewal import Renewal
from app.qemu.sessions.serial import SerialLine, SerialLog
from app.qemu.sessions.start import Helper, Machinery, Order
from app.qemu.sessions.wire import SessionInfo, SessionState, to_line
from app.qemu.steps import StartBridge
from probes.errors import Cancelled, FarbootError, TimedOut
from probes.text import clean

POWERDOWN_PATIENCE, POWERDOWN_AGAIN = 20.0, 4.0
"""Seconds that a guest has to shut itself down before QEMU is told to quit, and when it is asked again."""
QUIT_PATIENCE = 5.0
RETRY_FIRST, RETRY_LONGEST, RETRY_FORGOTTEN = 1.0, 10.0, 60.0
"""Seconds: how soon a guest that stopped on an I/O error goes on, at least, at most, and when that is past."""
PULSE = 5.0
"""Seconds between two looks at whether QEMU still answers, and its bridge reads."""
SILENT = "QEMU does not answer: a server that it reads from may be away"
"""What is told where a driver stops all of QEMU until its server answers, as libssh does."""
_ERROR_LENGTH = 500
_PICTURE_LIMIT = 64 << 20
_PNG = b"\x89PNG\r\n\x1a\n"

log = logging.getLogger("farboot.supervisor")


class Guest:
    """One guest, from its folders to its end."""

    def __init__(self, order: Order, session: Folder, folder: Folder, info: SessionInfo) -> None:
        self.order = order
        self.session = session
        self.info = info
        self.line = SerialLine(SerialLog(session))
        self.over = asyncio.Event()
        self._machinery = Machinery(folder, self.line)
        self._running = False
        self._wanted = False  # its end
        self._starting: asyncio.Task[None] | None = None
        self._retry: asyncio.Task[None] | None = None
        self._delay, self._retried = RETRY_FIRST, 0.0
        self._renewal = Renewal(order.plan.qemu.argv if order.plan.qemu else ())
        self._screens = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, state: SessionState, error: str = "") -> None:
        """Let everybody know the state, by the state file."""
        self.info = replace(self.info, state=state, error=clean(error, _ERROR_LENGTH))
        log.info("%s %s", state, self.info.error)
        try:
            self.session.write(folders.STATE, to_line(self.info.to_json()))
        except OSError as problem:
            log.warning("the state cannot be written: %s", problem)

    async def start(self, cancelled: asyncio.Event) -> None:
        """Carry out the plan and let the guest run. Raises FarbootError, Cancelled after `cancelled` or `stop`."""
        self.tell(SessionState.STARTING)
        self._starting = asyncio.create_task(self._start())
        watch = asyncio.create_task(cancelled.wait())
        await asyncio.wait((self._starting, watch), return_when=asyncio.FIRST_COMPLETED)
        watch.cancel()
        self._starting.cancel()
        try:
            await self._starting
        except asyncio.CancelledError:
            raise Cancelled("boot", self.order.plan.location, "it was stopped while it started") from None
        except OSError as error:
            why = error.strerror or str(error)
            raise FarbootError(
                "boot", self.order.plan.location, f"{error.filename or 'the guest folder'}: {why}"
            ) from None

    async def _start(self) -> None:
        await start.carry_out(self.order, self._machinery, lambda: self.tell(SessionState.CHECKING))
        assert self._machinery.monitor is not None
        self.info = replace(self.info, pid=self._machinery.monitor.pid)
        await self._machinery.monitor.execute("cont")
        self._running = True
        self.tell(SessionState.RUNNING)
        self._begin(self._follow_events())
        self._begin(self._feel_pulse())
        for step, helper in self._machinery.helpers.items():
            self._begin(self._keep_helper(step, helper))

    async def live(self) -> None:
        """Return when QEMU has ended and the state tells how."""
        qemu = self._machinery.qemu
        assert qemu is not None
        status = await qemu.wait()
        self._running = False
        await self.clear()
        state, error = SessionState.ENDED, ""
        if not self._wanted and status != 0:
            state, error = SessionState.FAILED, how_it_ended(status, qemu.words)
        self.info = replace(self.info, pid=None, ended=time.time())
        self.tell(state, error)
        self.over.set()

    async def clear(self) -> None:
        """Take everything down and remove the guest's folder; the session's own stays, to tell the story."""
        for task in (tasks := tuple(self._tasks)):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=QUIT_PATIENCE)
        await self._machinery.clear()
        folder = self._machinery.folder
        with suppress(FarbootError), folders.state_root() as root:
            folders.remove_tree(root, os.path.basename(folder.path))
        folder.close()

    async def stop(self, force: bool) -> None:
        """End the guest: by its power button, then by QEMU's `quit`, then by a signal; `force` leaves out the first."""
        self._wanted = True
        if not self._running:
            if self._starting is not None:
                self._starting.cancel()
            await self.over.wait()
            return
        can_listen = self.info.state in {SessionState.RUNNING, SessionState.STOPPING}
        self.tell(SessionState.STOPPING)
        if not force and can_listen and await self._press_power_button():
            return
        if await self._quit():
            return
        if self._machinery.qemu is not None:
            self._machinery.qemu.kill()
        await self.over.wait()

    async def _quit(self) -> bool:
        """Tell QEMU to quit; whether it did. It first waits for all I/O, and while a server is away that means ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIT_PATIENCE):
                if await self._ask("quit"):
                    await self.over.wait()
        return self.over.is_set()

    async def _press_power_button(self) -> bool:
        """Press it, and again now and then: a guest that is still coming up does not hear it. Whether it went off."""
        deadline = time.monotonic() + POWERDOWN_PATIENCE
        while time.monotonic() < deadline and await self._ask("system_powerdown"):
            if await self._is_over(POWERDOWN_AGAIN):
                return True
        return self.over.is_set()

    async def screen(self) -> bytes:
        """Give the guest's screen as PNG."""
        monitor, folder = self._machinery.monitor, self._machinery.folder
        if monitor is None or not self._running:
            raise FarbootError("look at", self.info.id, "the guest does not run")
        async with self._screens:
            name = "screen.png"
            try:
                await monitor.execute("screendump", {"filename": name, "format": "png"})
                picture = folder.read(name, _PICTURE_LIMIT)
            except OSError as error:
                raise FarbootError("look at", self.info.id, error.strerror or "it failed") from None
            finally:
                with suppress(OSError):
                    folder.remove(name)
        if not picture.startswith(_PNG):
            raise FarbootError("look at", self.info.id, "QEMU gave no picture")
        return picture

    async def _follow_events(self) -> None:
        assert self._machinery.monitor is not None
        async for event in self._machinery.monitor.events():
            name, data = event["event"], event.get("data")
            log.info("QEMU: %s %s", name, data)
            stopping = self.info.state is SessionState.STOPPING
            if name == "RESUME" and self.info.state is SessionState.PAUSED:
                self.tell(SessionState.RUNNING)
            elif name == "STOP" and not stopping and self._retry is None:
                self.tell(SessionState.PAUSED)
            elif name == "BLOCK_IO_ERROR" and isinstance(data, Mapping) and data.get("action") == "stop":
                if self._retry is None:
                    self._retry = self._begin(self._go_on_later(data))
            elif name == "GUEST_PANICKED":
                self.tell(self.info.state, "the guest panicked")

    async def _feel_pulse(self) -> None:
        """Tell what no event says: that QEMU does not answer, or that the bridge waits for its server."""
        assert self._machinery.monitor is not None
        told = ""
        while True:
            await asyncio.sleep(PULSE)  # the pulse itself
            try:
                await self._machinery.monitor.execute("query-status")
                trouble = self._bridge_waits_for()
            except TimedOut:
                trouble = SILENT
            except FarbootError:  # it is gone
                return
            if trouble != self.info.error and self.info.error in {"", told}:
                self.tell(self.info.state, trouble)
            told = trouble

    def _bridge_waits_for(self) -> str:
        """What the bridge says that it waits for; empty if for nothing."""
        said = [helper.last_words for step, helper in self._machinery.helpers.items() if isinstance(step, StartBridge)]
        return next((words.removeprefix("farboot bridge: ") for words in said if words.endswith(WAITS)), "")

    async def _go_on_later(self, data: Mapping[str, object]) -> None:
        """After an I/O error: let the guest go on, again and again, ever less often."""
        recent = bool(self._retried) and time.monotonic() - self._retried < RETRY_FORGOTTEN
        self._delay = min(self._delay * 2, RETRY_LONGEST) if recent else RETRY_FIRST
        what = f"{data.get('operation', 'I/O')} error on {data.get('node-name') or data.get('device')}"
        why = "the disk with the overlay is full" if data.get("nospace") else f"{what}: {data.get('reason')}"
        self.tell(SessionState.PAUSED, f"{why}; the guest waits, next try in {self._delay:g} s")
        await asyncio.sleep(self._delay)  # the back-off itself
        self._retry, self._retried = None, time.monotonic()
        if self.info.state is SessionState.PAUSED and await self._renew(data):
            await self._ask("cont")

    async def _renew(self, data: Mapping[str, object]) -> bool:
        """Open anew what does not find back by itself; False if its server is still away, and the next try is set."""
        monitor = self._machinery.monitor
        if monitor is None or not self._renewal.needed:
            return True
        try:
            await self._renewal.renew(monitor)
        except FarbootError as error:
            log.info("%s", error)
            if self._retry is None and self._running:
                self._retry = self._begin(self._go_on_later(data))
            return False
        return True

    async def _keep_helper(self, step: Helper, helper: Child) -> None:
        """Should the bridge or the agent end, start it again: QEMU reconnects, and meanwhile the guest waits."""
        delay = RETRY_FIRST
        while True:
            await helper.wait()
            problem = start.helper_error(step, helper)
            self.tell(self.info.state, f"the {start.name_of(step)} ended ({problem.why}); next try in {delay:g} s")
            await asyncio.sleep(delay)  # the back-off itself
            delay = min(delay * 2, RETRY_LONGEST)
            self._machinery.folder.remove(step.socket)
            try:
                credentials = self.order.credentials_for(step.location)
                helper = await start.start_helper(start.in_its_place(step), credentials, self._machinery.folder)
            except FarbootError as error:
                self.tell(self.info.state, error.why)
                continue
            self._machinery.helpers[step] = helper
            self.tell(self.info.state)

    async def _ask(self, command: str) -> bool:
        """Run a command that may come too late; whether QEMU took it."""
        try:
            if self._machinery.monitor is not None:
                await self._machinery.monitor.execute(command)
        except FarbootError as error:
            log.info("%s", error)
            return False
        return True

    async def _is_over(self, patience: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.over.wait()
        return self.over.is_set()

    def _begin(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def how_it_ended(status: int, words: str) -> str:
    """Tell an end that nobody asked for. A status above 128 is how bubblewrap passes a signal on."""
    number = -status if status < 0 else status - 128
    last = next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "")
    said = f": {last}" if last else ""
    try:
        return f"QEMU was killed by {signal.Signals(number).name}{said}"
    except ValueError:
        return f"QEMU ended with status {status}{said}"
