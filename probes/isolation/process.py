"""The process of an isolated source, as its parent holds it: started, asked, watched, killed and buried.

`probes.isolation.source` tells what it is for and why it is made like this; `probes.isolation.child` is what runs in
it.
"""

import contextlib
import copy
import functools
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import IO, cast

from probes.errors import BadAnswer, Cancelled, Crashed, FarbootError, TimedOut
from probes.isolation.wire import CALLS, Answer, Call, Setup, Unexpected, Wire, answer_of
from probes.location import Location

START = 20.0
"""Seconds that a child may take to start and to import its client library."""

_WORDS = 8 << 10  # bytes kept of the child's stderr
_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from probes.isolation.child import main; main()"


@dataclass(frozen=True, slots=True)
class _End:
    """Why a child is no more: what every call to it raises."""

    kind: type[FarbootError]
    why: str
    hint: str = ""
    detail: str = ""

    def error(self, tried: str, location: Location) -> FarbootError:
        return self.kind(tried, location, self.why, self.hint, self.detail)


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that is under way: `future` is done when there is an answer, and `outcome` waits for it."""

    future: "Future[object]"
    outcome: Callable[[], object]


class _Ended(Exception):
    """The child ended while a call was waiting for its answer; the `Child` knows why."""


class _Dropped(Exception):
    """The reader was closed while a call was waiting for its answer."""


class Child:
    """One child process, and the calls that wait for its answers."""

    def __init__(self, setup: Setup, limit: float) -> None:
        self._limit = limit
        self._waiting: dict[int, tuple[Future[object], object]] = {}
        self._dropped: set[object] = set()
        self._lock = threading.RLock()  # a generator's clean-up may take it where it is held already
        self._numbers = itertools.count(1)
        self._slots = threading.BoundedSemaphore(CALLS)
        self._end: _End | None = None
        self._farewell: _End | None = None  # what an end by itself means once it was asked for
        self._is_reaped = False
        self._words = b""
        self._ready: Future[object] = Future()
        self._waiting[0] = (self._ready, None)
        ours, self._process, self._lifeline = _start()
        self._wire = Wire(ours, limit)
        self._listener = threading.Thread(target=self._keep_words, name="isolation-stderr", daemon=True)
        self._listener.start()
        self._receiver = threading.Thread(target=self._receive, name="isolation", daemon=True)
        self._receiver.start()
        self._send(setup)

    @property
    def has_ended(self) -> bool:
        return self._end is not None

    def wait_until_ready(self, tried: str, location: Location) -> None:
        self._outcome(self._ready, START, tried, location)

    def ask(
        self,
        verb: str,
        arguments: tuple[object, ...],
        tried: str,
        location: Location,
        handle: object = None,
        payload: bytes = b"",
    ) -> object:
        """Have the child do `verb`, and return what it gives. Raises what it raises, or why there is no answer."""
        with self._slots:
            future = self._sent(verb, arguments, tried, location, handle, payload)
            return self._outcome(future, self._limit, tried, location)

    def begin(
        self, verb: str, arguments: tuple[object, ...], tried: str, location: Location, handle: object = None
    ) -> "Asked | None":
        """The same, without waiting for what it gives; None where as many calls are running already as may."""
        if not self._slots.acquire(blocking=False):
            return None
        try:
            future = self._sent(verb, arguments, tried, location, handle)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return Asked(future, functools.partial(self._outcome, future, self._limit, tried, location))

    def drop(self, handle: object) -> None:
        """Let go of a listing or a reader; calls that read from it now fail. Nothing is waited for."""
        with self._lock:
            if handle in self._dropped or self._end:
                return
            self._dropped.add(handle)
            waiting = [future for future, of in self._waiting.values() if of == handle]
        for future in waiting:
            _settle(future, error=_Dropped())
        with contextlib.suppress(OSError):  # then the child is gone, and the listing with it
            self._wire.post(Call(0, "drop", (handle,)))

    def close(self) -> None:
        """End the child: kindly when it is idle, at once when calls are running, which then raise Cancelled."""
        closed = _End(Cancelled, "it was closed")
        with self._lock:
            self._farewell = closed
            busy = bool(self._waiting)
        if not busy:
            self._wire.end_of_sending()
            self._receiver.join(0.5)
        self._kill(closed)
        self._receiver.join(2)

    def _sent(
        self,
        verb: str,
        arguments: tuple[object, ...],
        tried: str,
        location: Location,
        handle: object,
        payload: bytes = b"",
    ) -> "Future[object]":
        future: Future[object] = Future()
        with self._lock:
            if handle is not None and handle in self._dropped:
                raise Cancelled(tried, location, "it was closed")
            number = next(self._numbers)
            self._waiting[number] = (future, handle)
            if self._end:
                del self._waiting[number]
                raise self._end.error(tried, location)
        self._send(Call(number, verb, arguments), payload)
        return future

    def _outcome(self, future: Future[object], limit: float, tried: str, location: Location) -> object:
        try:
            return future.result(limit)
        except TimeoutError:
            seconds = f"{limit:.0f} s" if limit >= 1 else f"{limit:.1f} s"
            what = f"no answer within {seconds}; its helper process was stopped"
            self._kill(_End(TimedOut, what, "try again"))
        except _Ended:
            pass
        except _Dropped:
            raise Cancelled(tried, location, "it was closed") from None
        except FarbootError as error:
            raise copy.copy(error) from None  # several threads may wait for one error
        except _Raised as raised:
            text, where = raised.what.text, raised.what.where
            raise Crashed(tried, location, f"unexpected {text}", "this is a fault in Farboot", where) from None
        end = self._end or _End(Crashed, "its helper process ended")
        raise end.error(tried, location) from None

    def _send(self, message: object, payload: bytes = b"") -> None:
        try:
            self._wire.send(message, payload)
        except TimeoutError:
            self._kill(_End(TimedOut, "its helper process took no more data and was stopped", "try again"))
        except OSError:
            return  # the receiver sees the end too, and tells why

    def _receive(self) -> None:
        """Hand out the answers until the child ends; then tell all who wait."""
        try:
            while frame := self._wire.receive():
                self._hand_out(answer_of(frame[0]), frame[1])
        except Exception as bad:  # noqa: BLE001  # unpickling nonsense may raise anything
            self._kill(_End(BadAnswer, f"its helper process answered nonsense: {bad}"))
        self._wire.end()
        with contextlib.suppress(ChildProcessError):  # where SIGCHLD is ignored
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                self._kill_all()  # the child is dead, but what it started may not be
        with self._lock:
            status = self._process.wait()
            self._is_reaped = True
        self._listener.join(1)
        self._wire.close()
        os.close(self._lifeline)
        with self._lock:
            self._end = self._end or self._farewell or _end_of(status, self._words)
            waiting = [future for future, _ in self._waiting.values()]
            self._waiting.clear()
        for future in waiting:
            _settle(future, error=_Ended())

    def _hand_out(self, answer: Answer, payload: bytes) -> None:
        with self._lock:
            future, _ = self._waiting.pop(answer.number, (None, None))
        if future is None:
            return
        if isinstance(answer.error, Unexpected):
            _settle(future, error=_Raised(answer.error))
        elif answer.error is not None:
            _settle(future, error=answer.error)
        else:
            _settle(future, payload if payload else answer.value)
        if answer.number == 0 and answer.error is not None:
            self._kill(_End(Crashed, "its helper process could not begin"))

    def _kill(self, end: _End) -> None:
        """Kill the child, once. The receiver then tells those who wait."""
        with self._lock:
            if self._end:
                return
            self._end = end
            if not self._is_reaped:
                self._kill_all()
        self._wire.end()

    def _kill_all(self) -> None:
        """Kill the child's process group. Only before it is reaped: later the number may be someone else's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _keep_words(self) -> None:
        stream = cast("IO[bytes]", self._process.stderr)
        with stream:
            while words := os.read(stream.fileno(), 1 << 16):
                self._words = (self._words + words)[-_WORDS:]


class _Raised(Exception):
    """The source raised something outside the family."""

    def __init__(self, what: Unexpected) -> None:
        super().__init__(what)
        self.what = what


def _start() -> tuple[socket.socket, subprocess.Popen[bytes], int]:
    """Start a child; return our end of its socket, the process, and the descriptor whose closing kills it."""
    tree = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = [tree, *(os.path.abspath(entry) for entry in sys.path)]
    ours, theirs = socket.socketpair()
    death, lifeline = os.pipe()
    flags = ["-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}", *(["-B"] if sys.dont_write_bytecode else [])]
    try:
        process = subprocess.Popen(
            [sys.executable, *flags, "-c", _BOOT, str(theirs.fileno()), str(death), *path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=(theirs.fileno(), death),
            start_new_session=True,
        )
    except OSError:
        ours.close()
        os.close(lifeline)
        raise
    finally:
        theirs.close()
        os.close(death)
    return ours, process, lifeline


def _end_of(status: int, words: bytes) -> _End:
    """Tell an exit status (negative for a signal) and the last words as a reason."""
    why = f"its helper process ended with status {status}"
    hint = "try again"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        why = f"its helper process was killed by {name}"
        if -status == signal.SIGKILL:
            hint = "perhaps the host ran out of memory; try again"
    text = words.decode("utf-8", "replace").strip()
    last = text.rpartition("\n")[2].strip()
    return _End(Crashed, f"{why}: {last[:200]}" if last else why, hint, text)


def _settle(future: Future[object], value: object = None, error: Exception | None = None) -> None:
    """Give a waiting call its outcome, unless it has one."""
    with contextlib.suppress(InvalidStateError):
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
