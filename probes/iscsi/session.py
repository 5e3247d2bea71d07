"""One iSCSI session: logged in to a target, over which any number of threads send SCSI commands.

libiscsi's context is not made for threads, and its own waiting functions cannot be ended. So one thread of ours owns
the connection from its making to its end: it polls the socket and a pipe, sends what others have handed in and hands
back what came. Everybody else waits for that, with a deadline; `close`, or a command whose time is up, ends the session
for all. A session that has ended stays so: make another one.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

from probes.errors import FarbootError
from probes.iscsi.commands import Command
from probes.iscsi.connection import Answer, Connection, Ended, Found, Gone, Order, connect
from probes.iscsi.failures import End, closed, login_failure, no_answer
from probes.iscsi.library import Library
from probes.iscsi.names import Login, addresses, portal_of
from probes.location import Location

_REDIRECTS = 3
_CLOSING = 0.6  # seconds that `close` waits for the target to have been told


class Session:
    """Log in with `login`; without a target, to discover what there is.

    `deadline` in seconds bounds the login, and each command from when the target last answered anything. `address` is
    what was connected to, `is_first_address` whether it is the one that libiscsi itself would try.
    """

    def __init__(self, library: Library, login: Login, deadline: float, tried: str, on: Location) -> None:
        self.login = login
        self.address = ""
        self.is_first_address = True
        self.targets: list[Found] = []
        """What a discovery session found, in the portal's order."""
        self._library = library
        self._deadline = deadline
        self._asked = tried, on
        self._end: End | None = None
        self._lock = threading.Lock()
        self._orders: deque[Order] = deque()
        self._connection: Connection | None = None
        self._bell, self._rope = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._rope, False)
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, name="iscsi", daemon=True)
        self._thread.start()

    def wait_until_ready(self, tried: str, on: Location) -> None:
        """Return once the session is logged in. Raises Unreachable, TimedOut, Denied, NotFound, BadAnswer."""
        try:
            self._ready.result(self._deadline)
        except TimeoutError:
            self._stop(no_answer(self.login, self._deadline))
        except Ended:
            pass  # told below, in the caller's own words
        if self._end is not None and not self._has_discovered:
            raise self._end.error(tried, on)

    @property
    def has_ended(self) -> bool:
        """Whether it is of no use any more."""
        return self._end is not None

    def run(self, commands: Sequence[tuple[int, Command]], tried: str, on: Location) -> list[Answer]:
        """Send all of these (LUN as on the wire, command) at once; return their answers in the same order.

        Raises TimedOut when the target answers nothing for the deadline, Unreachable, Cancelled.
        """
        orders = [Order(lun, command) for lun, command in commands]
        with self._lock:
            if self._end is not None:
                raise self._end.error(tried, on)
            self._orders.extend(orders)
        self._ring()
        return [self._outcome(order, tried, on) for order in orders]

    def close(self) -> None:
        """End it; whoever waits gets Cancelled. May be called twice, from any thread."""
        self._stop(closed())
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSING)

    @property
    def _has_discovered(self) -> bool:
        """Whether it has done all that it was for."""
        return not self.login.target and self._ready.done() and self._ready.exception() is None

    def _outcome(self, order: Order, tried: str, on: Location) -> Answer:
        while True:
            answered = self._connection.answered if self._connection else order.sent
            left = max(order.sent, answered) + self._deadline - time.monotonic()
            try:
                return order.future.result(max(0.0, left))
            except TimeoutError:
                if left <= 0:
                    self._stop(no_answer(self.login, self._deadline))
            except Ended:
                pass
            if self._end is not None:
                raise self._end.error(tried, on)

    def _stop(self, end: End) -> None:
        with self._lock:
            self._end = self._end or end
        self._ring()

    def _ring(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # full: it rings already
            if self._rope >= 0:
                os.write(self._rope, b"!")

    # All below runs in the session's own thread

    def _live(self) -> None:
        end = closed()
        try:
            self._connection = connection = self._connected()
            if self.login.target:
                self._ready.set_result(None)
                self._serve(connection)
            else:
                self.targets = connection.discover()
                self._ready.set_result(None)
            connection.say_goodbye()
        except Gone as gone:
            end = gone.end
        except FarbootError as error:
            end = End.like(error)
        finally:
            self._bury(end)

    def _bury(self, end: End) -> None:
        """Free everything, and tell those who wait."""
        with self._lock:
            self._end = self._end or end
            orders = list(self._orders)
            self._orders.clear()
        if self._connection is not None:
            self._connection.close()
        for order in orders:
            order.future.set_exception(Ended())
        with self._lock:
            os.close(self._bell)
            os.close(self._rope)
            self._bell = self._rope = -1
        with contextlib.suppress(InvalidStateError):
            self._ready.set_exception(Ended())

    def _connected(self) -> Connection:
        """Log in at the portal, or where it sends us from there."""
        host, port = self.login.host, self.login.port
        for _ in range(_REDIRECTS + 1):
            found = addresses(host, port, self._deadline, *self._asked)
            connection, elsewhere, number = connect(
                self._library, self.login, found, port, self._deadline, self._bell, self._is_wanted
            )
            if not self.address:  # later ones are where it was sent, which QEMU finds by itself
                self.address, self.is_first_address = found[number], number == 0
            if connection is not None:
                return connection
            moved = portal_of(elsewhere)
            if moved is None:
                raise Gone(login_failure(self.login, f"it has moved to {elsewhere!r}, which is no address"))
            host, port = moved
        raise Gone(login_failure(self.login, "it sends us from portal to portal"))

    def _serve(self, connection: Connection) -> None:
        while self._is_wanted():
            with self._lock:
                orders = list(self._orders)
                self._orders.clear()
            for number, order in enumerate(orders):
                try:
                    connection.send(order)
                except Gone:
                    with self._lock:
                        self._orders.extendleft(reversed(orders[number + 1 :]))
                    raise
            connection.turn()

    def _is_wanted(self) -> bool:
        return self._end is None
