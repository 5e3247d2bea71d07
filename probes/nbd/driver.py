"""One connection to an NBD server, driven by a thread of its own: the only one that touches libnbd's handle.

Others hand it work and wait, within the deadline; `close` from any thread ends that wait. libnbd's calls that block
have no time-out, so only those are used that do not, around a `poll` of ours. (A host name is still looked up in one of
them; it is this thread alone that waits for it.)
"""

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, TypeVar

from probes.credentials import Credentials
from probes.errors import Cancelled, FarbootError, MissingClient
from probes.location import Location
from probes.nbd import failures
from probes.nbd.library import READ, WRITE, Completed, CompletionCallback, Failed, Handle, Library
from probes.nbd.server import Server
from probes.nbd.tls import prepared

PATIENCE = 6
"""How many deadlines one request may take in all, however steadily bytes drip in."""

T = TypeVar("T")


@dataclass(slots=True)
class Task:
    """A piece of work: `begin` starts it, `finish` makes its result when libnbd is done with it."""

    begin: Callable[[Handle], int]
    finish: Callable[[Handle], Any]
    is_option: bool = False
    future: "Future[Any]" = field(default_factory=Future)


class Driver:
    """A connection, and whoever waits for it. `deadline` is in seconds.

    `tried` and `on` are the words of the errors while it is made. Raises Unreachable, TimedOut, Denied, BadAnswer.
    """

    def __init__(self, server: Server, credentials: Credentials, deadline: float, tried: str, on: Location) -> None:
        self._server = server
        self._credentials = credentials
        self._deadline = deadline
        self._tried, self._on = tried, on
        self._wake = -1
        self._lock = threading.Lock()
        self._queue: deque[Task] = deque()
        self._option: Task | None = None
        self._requests: dict[int, Task] = {}
        self._option_error: int | None = None
        self._failure: FarbootError | None = None
        self._closing = self._ended = False
        self._heard = time.monotonic()
        self._ready: Future[None] = Future()
        # libnbd calls it; it must live as long as the handle does.
        self._completed = CompletionCallback(Completed(self._on_option))
        self._on_end: Callable[[], None] = _no_matter
        self._thread = threading.Thread(target=self._run, name="nbd", daemon=True)

    def start(self) -> None:
        """Connect and shake hands."""
        with self._lock:
            if self._closing:
                raise Cancelled(self._tried, self._on, "it was closed")
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._thread.start()
        self._result(self._ready, self._tried, self._on)

    def on_end(self, call: Callable[[], None]) -> None:
        """Have `call` called once, when the connection has ended; from any thread, and holding no lock."""
        self._on_end = call

    def close(self) -> None:
        """Take leave of the server; calls that wait end with Cancelled. May be called twice."""
        self._end(Cancelled(self._tried, self._on, "it was closed"))

    # Waiting

    def _submit(self, task: Task, tried: str, on: Location) -> Task:
        with self._lock:
            if self._failure is not None or self._ended:
                raise self._why(tried, on)
            self._queue.append(task)
            self._knock()
        return task

    def _result(self, future: "Future[T]", tried: str, on: Location) -> T:
        started = time.monotonic()
        while True:
            try:
                return future.result(max(0.0, self._left(started)))
            except TimeoutError:
                if self._left(started) <= 0:
                    raise self._give_up(tried, on) from None
            except Failed as error:
                raise failures.told(error, self._server, tried, on) from None
            except FarbootError as error:
                raise failures.again(error, tried, on) from None

    def _left(self, started: float) -> float:
        """Seconds until a call that began at `started` has waited long enough."""
        end = min(max(started, self._heard) + self._deadline, started + self._deadline * PATIENCE)
        return end - time.monotonic()

    def _give_up(self, tried: str, on: Location) -> FarbootError:
        error = failures.silence(self._server, self._ready.done(), self._deadline, tried, on)
        self._end(error)
        return error

    def _end(self, why: FarbootError) -> None:
        """Let nobody in any more, and have the thread leave; whoever waits is told `why`."""
        with self._lock:
            if self._ended or self._closing:
                return
            self._closing = True
            self._failure = self._failure or why
            waiting = [*self._queue, *self._requests.values(), *([self._option] if self._option else [])]
            self._knock()
        _settle(self._ready, error=why)
        for task in waiting:
            _settle(task.future, error=why)

    def _why(self, tried: str, on: Location) -> FarbootError:
        return failures.again(self._failure or Cancelled(tried, on, "it was closed"), tried, on)

    def _knock(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    # The thread

    def _run(self) -> None:
        handle: Handle | None = None
        failure: Exception | None = None
        try:
            handle = _library(self._tried, self._on).create()
            with contextlib.ExitStack() as while_connecting:
                self._connect(handle, while_connecting)
                self._drive(handle, until=lambda: bool(handle("aio_is_negotiating") or handle("aio_is_ready")))
            if not self._closing:
                _settle(self._ready, None)
                self._drive(handle, until=lambda: False)
            self._take_leave(handle)
        except (Failed, FarbootError, OSError) as error:
            failure = error
        finally:
            self._bury(handle, failure)

    def _connect(self, handle: Handle, while_connecting: contextlib.ExitStack) -> None:
        handle("set_opt_mode", True)
        if self._server.tls:
            while_connecting.enter_context(prepared(handle, self._credentials, self._tried, self._on))
        if self._server.socket:
            handle("aio_connect_unix", os.fsencode(self._server.socket))
        else:
            host = failures.host_name(self._server, self._tried, self._on)
            handle("aio_connect_tcp", host, b"%d" % self._server.port)

    def _drive(self, handle: Handle, until: Callable[[], bool]) -> None:
        """Let the connection have its events, until that is so or it is to be closed. Raises Failed when it breaks."""
        while not self._closing and not until():
            if self._ready.done():
                self._begin(handle)
                self._finish(handle)
            if handle("aio_is_dead") or handle("aio_is_closed"):
                raise Failed(0, "the server closed the connection") if self._ready.done() else handle.failure()
            self._wait(handle)

    def _wait(self, handle: Handle) -> None:
        direction = handle("aio_get_direction")
        wanted = (select.POLLIN if direction & READ else 0) | (select.POLLOUT if direction & WRITE else 0)
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        descriptor = handle("aio_get_fd")
        waiting.register(descriptor, wanted)
        events = dict(waiting.poll())
        if self._wake in events:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        event = events.get(descriptor, 0)
        if direction & READ and event & ~select.POLLOUT:  # an end or an error is something to read as well
            self._heard = time.monotonic()
            handle("aio_notify_read")
        elif direction & WRITE and event:
            self._heard = time.monotonic()
            handle("aio_notify_write")

    def _begin(self, handle: Handle) -> None:
        held: list[Task] = []
        while self._queue and not self._closing:
            with self._lock:
                task = self._queue.popleft()
            if task.is_option and self._option is not None:
                held.append(task)  # one at a time
                continue
            try:
                cookie = task.begin(handle)
            except Failed as error:
                _settle(task.future, error=error)
                continue
            with self._lock:
                if task.is_option:
                    self._option = task
                else:
                    self._requests[cookie] = task
        with self._lock:
            self._queue.extendleft(reversed(held))

    def _finish(self, handle: Handle) -> None:
        if self._option is not None and self._option_error is not None:
            with self._lock:
                task, self._option = self._option, None
            self._conclude(handle, task)
            if self._queue:
                self._knock()
        while self._requests and (cookie := _completed(handle)):
            with self._lock:
                request = self._requests.pop(cookie)
            try:
                handle("aio_command_completed", cookie)
            except Failed as error:
                _settle(request.future, error=error)
            else:
                self._conclude(handle, request)

    def _conclude(self, handle: Handle, task: Task) -> None:
        try:
            _settle(task.future, task.finish(handle))
        except (Failed, FarbootError) as error:
            _settle(task.future, error=error)

    def _take_leave(self, handle: Handle) -> None:
        """Tell the server that we go, as far as that can be done without waiting."""
        with contextlib.suppress(Failed):
            if handle("aio_is_negotiating"):
                handle("aio_opt_abort")
            elif handle("aio_is_ready"):
                handle("aio_disconnect", 0)

    def _bury(self, handle: Handle | None, failure: Exception | None) -> None:
        with self._lock:
            self._ended = True
            os.close(self._wake)
            self._wake = -1
            told = self._failure
            if told is None and isinstance(failure, Failed | OSError):
                told = failures.broken(failure, self._server, self._credentials, self._tried, self._on)
            elif told is None and isinstance(failure, FarbootError):
                told = failure
            self._failure = told
            waiting = [*self._queue, *self._requests.values(), *([self._option] if self._option else [])]
        if handle is not None:
            handle.close()  # the buffers of the requests were the server's to fill until now
        self._on_end()
        error = told or Cancelled(self._tried, self._on, "it was closed")
        _settle(self._ready, error=error)
        for task in waiting:
            _settle(task.future, error=error)

    def _on_option(self, _: object, error: Any) -> int:
        self._option_error = error[0]
        return 1


def _library(tried: str, on: Location) -> Library:
    try:
        return Library()
    except OSError:
        raise MissingClient(tried, on, "the library libnbd is not installed", failures.REMEDY) from None
    except AttributeError:
        raise MissingClient(tried, on, "this libnbd is too old: 1.6 is wanted", failures.REMEDY) from None


def _completed(handle: Handle) -> int:
    try:
        return handle("aio_peek_command_completed")
    except Failed:
        return 0  # nothing is on its way


def _no_matter() -> None:
    return None


def _settle(future: "Future[Any]", value: object = None, error: Exception | None = None) -> None:
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
