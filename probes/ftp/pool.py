"""The connections to one server, for one login: few, for servers count them, and lent to one call at a time.

A read that goes on where another ended gets the connection on which those very bytes are already coming. A connection
that broke while it rested is replaced without a word. When the server takes no more, those that there are must do.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from probes.errors import Changed, Denied, NotAContainer, NotAnImage, NotFound, Unsupported
from probes.ftp.control import Control, Features, Login
from probes.ftp.failures import Full, HungUp, ReplyError
from probes.network.call import Call

MOST = 4
"""Connections to one server at once."""

_T = TypeVar("_T")
Fits = Callable[[Control], int | None]


class Pool:
    """At most `most` connections, or as many as the server takes."""

    def __init__(self, login: Login, most: int = MOST) -> None:
        self.login = login
        self.most = most
        self.features: Features | None = None
        self.can_rest: bool | None = None
        self._idle: list[Control] = []  # the one used last comes last
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    def run(self, call: Call, work: Callable[[Control], _T], fits: Fits | None = None) -> _T:
        """Return what `work` does with a connection; `fits` tells how well a resting one would do (less is better,
        None not at all).
        """
        with self.begun(call, work, fits) as (_, result):
            return result

    @contextlib.contextmanager
    def begun(
        self, call: Call, work: Callable[[Control], _T], fits: Fits | None = None
    ) -> Iterator[tuple[Control, _T]]:
        """Lend a connection with which `work` was done. That is done again, on another, if the first had died while it
        rested. What fails otherwise than by an answer ends the connection.
        """
        while True:
            control = self._take(call, fits)
            control.lend(call)
            try:
                with self._returned_if_it_failed(control):
                    result = work(control)
                break
            except HungUp as error:
                if not control.has_rested:
                    raise error.as_unreachable() from None
        try:
            with self._returned_if_it_failed(control):
                yield control, result
        except HungUp as error:
            raise error.as_unreachable() from None
        self._give_back(control)

    @contextlib.contextmanager
    def _returned_if_it_failed(self, control: Control) -> Iterator[None]:
        try:
            yield
        except (ReplyError, GeneratorExit, Denied, NotFound, NotAContainer, NotAnImage, Changed, Unsupported):
            self._give_back(control)  # the server has answered, and nothing is the matter with the connection
            raise
        except BaseException:
            self.discard(control)
            raise

    def discard(self, control: Control) -> None:
        """End a connection that was lent."""
        with self._changed:
            if control.is_lent:
                control.is_lent = False
                self._count -= 1
                self._changed.notify_all()
        control.close()

    def wake(self) -> None:
        """Have those that wait look whether their call has ended."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End every connection that rests; those that are lent end with their calls."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._count -= len(idle)
            self._changed.notify_all()
        for control in idle:
            control.close()

    def _give_back(self, control: Control) -> None:
        with self._changed:
            if not control.is_lent:
                return
            control.is_lent = False
            if self._closed or control.has_strayed:
                self._count -= 1
                self._changed.notify_all()
            else:
                control.has_rested = True
                self._idle.append(control)
                self._changed.notify()
                return
        control.close()

    def _take(self, call: Call, fits: Fits | None) -> Control:
        with self._changed:
            while True:
                call.remaining()
                chosen = self._choose(fits)
                if chosen is not None:
                    self._idle.remove(chosen)
                    chosen.is_lent = True
                    return chosen
                if self._count < self.most:
                    self._count += 1
                    break
                with call.waiting(self._wake_soon) as left:
                    self._changed.wait(left)
        try:
            control = Control(call, self.login, self.features)
        except BaseException as error:
            with self._changed:
                self._count -= 1
                others = self._count
                if isinstance(error, Full) and others:
                    self.most = max(1, others)
                self._changed.notify_all()
            if isinstance(error, Full):
                if others:
                    return self._take(call, fits)
                raise error.as_unreachable() from None
            if isinstance(error, HungUp):
                raise error.as_unreachable() from None
            raise
        control.is_lent = True
        with self._changed:
            self.features = self.features or control.features
        return control

    def _wake_soon(self) -> None:
        # Not in this thread: whoever ends a call may hold what a waiting one needs.
        threading.Thread(target=self.wake, name="ftp-wake", daemon=True).start()

    def _choose(self, fits: Fits | None) -> Control | None:
        """The resting connection that fits best: one that brings the bytes already, else one without a transfer, else
        one whose transfer nobody went on with, else (when no more may be opened) the one that rested longest.
        """
        best: tuple[int, Control] | None = None
        for control in self._idle:
            score = fits(control) if fits else None
            if score is not None and (best is None or score < best[0]):
                best = (score, control)
        if best is not None:
            return best[1]
        free = [control for control in self._idle if control.stream is None]
        if free:
            return free[-1]
        lonely = [control for control in self._idle if control.stream is not None and control.stream.reads <= 1]
        if lonely:
            return lonely[0]
        return self._idle[0] if self._idle and self._count >= self.most else None
