"""libiscsi's context: connected, logged in, fed with commands, served and freed, all by one thread.

The library reports by calling back in the middle of its work. There we only note what came; what it gave us is freed,
and handed on, once it has returned.
"""

import contextlib
import ctypes
import itertools
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from probes.iscsi.commands import Command, Status
from probes.iscsi.failures import End, closed, connection_lost, hung_up, login_failure, no_answer
from probes.iscsi.library import (
    DISCOVERY_SESSION,
    FROM_TARGET,
    HEADER_DIGESTS,
    NO_TRANSFER,
    NORMAL_SESSION,
    STATUS_CANCELLED,
    STATUS_ERROR,
    STATUS_REDIRECT,
    STATUS_TIMEOUT,
    TO_TARGET,
    UNDERFLOW,
    Callback,
    Library,
    Target,
    Task,
)
from probes.iscsi.names import Login, portal_text

_FAREWELL = 0.3  # seconds that a target gets for its answer to our logout
_CONNECTED, _LOGGED_IN, _DISCOVERED, _LOGGED_OUT, _FIRST_COMMAND = range(1, 6)
_ENDING = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_SERVED = select.POLLIN | select.POLLOUT | select.POLLERR | select.POLLHUP


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command: `status` is SCSI's, `data` what came, `key` and `code` the sense data."""

    status: int
    data: bytes = b""
    key: int = 0
    code: int = 0

    @property
    def good(self) -> bool:
        """Whether the target did what it was told."""
        return self.status == Status.GOOD


@dataclass(frozen=True, slots=True)
class Found:
    """A target in the answer to SendTargets, as the portal spells it."""

    name: bytes
    portals: tuple[bytes, ...]


@dataclass(eq=False, slots=True)
class Order:
    """A command on its way, the memory that libiscsi reads or fills, and the future that its sender waits for."""

    lun: int
    command: Command
    future: "Future[Answer]" = field(default_factory=Future)
    sent: float = field(default_factory=time.monotonic)
    buffer: Any = None
    task: Any = None


class Gone(Exception):
    """The connection is no more, or could not be made; `end` says why."""

    def __init__(self, end: End, is_unreachable: bool = False) -> None:
        super().__init__(end)
        self.end = end
        self.is_unreachable = is_unreachable


class Ended(Exception):
    """What an order's future gets when its answer will never come; the session knows why."""


class Connection:
    """One connection to one address. `bell` is a descriptor that becomes readable when there is something else to do;
    `wanted` tells whether anybody still wants the connection. Free it with `close`.
    """

    def __init__(self, library: Library, login: Login, bell: int, wanted: Callable[[], bool]) -> None:
        self.answered = time.monotonic()
        """When the target last answered a command."""
        self._library = library
        self._login = login
        self._bell = bell
        self._wanted = wanted
        self._running: dict[int, Order] = {}
        self._numbers = itertools.count(_FIRST_COMMAND)
        self._finished: list[Order] = []
        self._states: dict[int, int] = {}
        self._targets: list[Found] = []
        self._callback = Callback(self._called)  # libiscsi holds on to it
        self._context = self._made()

    def log_in(self, portal: str, patience: float) -> str:
        """Connect within `patience` seconds and log in; return where the target sends us instead, "" if it lets us in.

        Raises Gone.
        """
        lib, context = self._library, self._context
        started = lib.connect(context, portal.encode(), self._callback, _CONNECTED)
        if started != 0 or self._await(_CONNECTED, patience) != 0:
            raise self._lost()
        if lib.login(context, self._callback, _LOGGED_IN) != 0:
            raise Gone(login_failure(self._login, self._words()))
        try:
            status = self._await(_LOGGED_IN)
        except Gone as gone:
            raise Gone(hung_up(self._login, self._words())) if gone.is_unreachable else gone from None
        if status == STATUS_REDIRECT:
            return (lib.target_address(context) or b"").decode("utf-8", "replace")
        if status != 0:
            raise Gone(login_failure(self._login, self._words()))
        return ""

    def discover(self) -> list[Found]:
        """Return the targets that a discovery session is told of, in the portal's order. Raises Gone."""
        if self._library.discover(self._context, self._callback, _DISCOVERED) != 0 or self._await(_DISCOVERED) != 0:
            raise Gone(login_failure(self._login, self._words()))
        return self._targets

    def send(self, order: Order) -> None:
        """Send a command; its future is settled in a later `turn`. Raises Gone, and then it is settled already."""
        lib, command = self._library, order.command
        length = command.length or len(command.data)
        direction = FROM_TARGET if command.length else TO_TARGET if command.data else NO_TRANSFER
        order.task = task = lib.create_task(len(command.cdb), command.cdb, direction, length)
        if not task:
            _settle(lib, order, None)
            raise Gone(connection_lost(self._login, "libiscsi has no memory for a command"))
        if command.length:
            order.buffer = ctypes.create_string_buffer(length)
            lib.add_in(task, length, order.buffer)
        elif command.data:
            order.buffer = ctypes.c_char_p(command.data)  # bytes do not move, and the order keeps them
            lib.add_out(task, length, ctypes.cast(order.buffer, ctypes.c_void_p))
        number = next(self._numbers)
        self._running[number] = order
        if lib.command(self._context, order.lun, task, self._callback, None, number) != 0:
            self._running.pop(number, None)
            _settle(lib, order, None)
            raise self._lost()

    def turn(self, patience: float | None = None) -> None:
        """Wait until something happens on the connection, or the bell rings, or `patience` seconds are over, and see to
        it. Raises Gone.
        """
        lib, fd = self._library, self._library.fd(self._context)
        if fd < 0:
            raise self._lost()
        poll = select.poll()
        poll.register(fd, lib.which_events(self._context) | select.POLLRDHUP)
        poll.register(self._bell, select.POLLIN)
        happened = dict(poll.poll(None if patience is None else patience * 1000))
        if self._bell in happened:
            with contextlib.suppress(BlockingIOError):
                os.read(self._bell, 4096)
        if not (events := happened.get(fd, 0)):
            return
        alive = lib.service(self._context, events & _SERVED) >= 0
        given_up = self._collect()
        if not alive or given_up or (events & _ENDING and _is_at_end(lib.fd(self._context))):
            raise self._lost()

    def say_goodbye(self) -> None:
        """Log out, if nothing is under way: a target that is not told complains in its log."""
        if self._running or self._library.logout(self._context, self._callback, _LOGGED_OUT) != 0:
            return
        end = time.monotonic() + _FAREWELL
        with contextlib.suppress(Gone):
            while _LOGGED_OUT not in self._states and (left := end - time.monotonic()) > 0:
                self.turn(left)

    def close(self) -> None:
        """Break the connection, free everything; the orders under way get `Ended`."""
        waiting = list(self._running.values())
        self._library.destroy_context(self._context)  # calls back for what was under way
        self._collect()
        for order in waiting:
            _settle(self._library, order, None)

    def _made(self) -> int:
        lib, login = self._library, self._login
        context = lib.create_context(login.initiator.encode())
        if not context:
            raise Gone(login_failure(login, "libiscsi has no memory for a session"))
        lib.set_noautoreconnect(context, 1)
        # Two sessions of one initiator with the same ISID throw each other out: a guest's must never be ours.
        lib.set_isid_random(context, int.from_bytes(os.urandom(3), "big"), int.from_bytes(os.urandom(2), "big"))
        lib.set_session_type(context, NORMAL_SESSION if login.target else DISCOVERY_SESSION)
        if login.target:
            lib.set_targetname(context, login.target.encode("utf-8", "surrogateescape"))
        if login.digest:
            lib.set_header_digest(context, HEADER_DIGESTS[login.digest])
        if login.user and login.password is not None:
            lib.set_chap(context, login.user.encode(), login.password.reveal().encode())
            if login.target_user and login.target_password is not None:
                lib.set_target_chap(context, login.target_user.encode(), login.target_password.reveal().encode())
        return int(context)

    def _await(self, what: int, patience: float | None = None) -> int:
        """Serve the connection until `what` has been called back; return its status."""
        end = None if patience is None else time.monotonic() + patience
        while what not in self._states:
            if not self._wanted():
                raise Gone(closed())
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise Gone(no_answer(self._login, patience or 0), is_unreachable=True)
            try:
                self.turn(left)
            except Gone:
                if what not in self._states:  # else it said why before it hung up
                    raise
        return self._states[what]

    def _called(self, context: int, status: int, came: int | None, number: int) -> None:
        """Note what libiscsi tells us; it is in the middle of its work."""
        if number == _DISCOVERED and status == 0:
            self._targets = _found(came)
        if number < _FIRST_COMMAND:
            self._states.setdefault(number, status)
        elif (order := self._running.pop(number, None)) is not None:
            order.task.contents.status = status
            self._finished.append(order)

    def _collect(self) -> bool:
        """Hand on what is finished; return whether the library has given up a command."""
        finished, self._finished = self._finished, []
        given_up = False
        for order in finished:
            answer = _answer(order)
            if answer is None:
                given_up = True
            else:
                self.answered = time.monotonic()
            _settle(self._library, order, answer)
        return given_up

    def _lost(self) -> Gone:
        return Gone(connection_lost(self._login, self._words()), is_unreachable=True)

    def _words(self) -> str:
        return (self._library.error(self._context) or b"").decode("utf-8", "replace")


def connect(
    library: Library,
    login: Login,
    found: Sequence[str],
    port: int,
    deadline: float,
    bell: int,
    wanted: Callable[[], bool],
) -> tuple[Connection | None, str, int]:
    """Log in at the first of these addresses that answers, each within its part of the deadline.

    Return the connection, or None and the portal that the target sends us to; and which address it was. Raises Gone.
    """
    for number, address in enumerate(found):
        connection = Connection(library, login, bell, wanted)
        try:
            elsewhere = connection.log_in(portal_text(address, port), deadline / len(found))
        except Gone as gone:
            connection.close()
            if gone.is_unreachable and wanted() and number < len(found) - 1:
                continue
            raise
        except BaseException:
            connection.close()
            raise
        if elsewhere:
            connection.close()
            return None, elsewhere, number
        return connection, "", number
    raise Gone(connection_lost(login, "it has no address"), is_unreachable=True)


def _settle(library: Library, order: Order, answer: Answer | None) -> None:
    if order.task:
        library.free_task(order.task)
    order.task = order.buffer = None
    if not order.future.done():
        if answer is None:
            order.future.set_exception(Ended())
        else:
            order.future.set_result(answer)


def _answer(order: Order) -> Answer | None:
    """What came of a command, None where libiscsi gave it up."""
    task: Task = order.task.contents
    if task.status in {STATUS_CANCELLED, STATUS_TIMEOUT, STATUS_ERROR}:
        return None
    wanted = order.command.length
    if task.status != Status.GOOD:
        return Answer(task.status, b"", task.sense_key, task.sense_code)
    missing = min(task.residual, wanted) if task.residual_status == UNDERFLOW else 0
    return Answer(Status.GOOD, ctypes.string_at(order.buffer, wanted - missing) if wanted else b"")


def _found(came: int | None) -> list[Found]:
    """Copy what a discovery found, which libiscsi frees after the callback. It is in reverse order."""
    found: list[Found] = []
    target = ctypes.cast(came, ctypes.POINTER(Target)) if came else None
    while target:
        portals, portal = [], target.contents.portals
        while portal:
            portals.append(portal.contents.portal or b"")
            portal = portal.contents.next
        found.append(Found(target.contents.name or b"", tuple(reversed(portals))))
        target = target.contents.next
    return found[::-1]


def _is_at_end(fd: int) -> bool:
    """Whether the other end has closed, and everything that it sent has been read."""
    if fd < 0:
        return True
    try:
        with socket.socket(fileno=os.dup(fd)) as looked_at:
            return not looked_at.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
