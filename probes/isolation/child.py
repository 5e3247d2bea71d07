"""The child process of an isolated source: it runs the source's class unchanged and answers the parent's calls.

`probes.isolation.process` starts it, with its end of a socket and of a pipe as the first two arguments and the parent's
`sys.path` as the rest. Everything else, credentials first of all, comes over the socket.
"""

import contextlib
import fcntl
import importlib
import itertools
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, NoReturn, cast

from probes import errors
from probes.credentials import Credentials
from probes.entry import Entry
from probes.errors import FarbootError
from probes.isolation.wire import CALLS, Answer, Call, Opened, Setup, Unexpected, Wire
from probes.location import Location
from probes.reader import Reader, Writer
from probes.source import Source

_BATCH = 1000
_AHEAD = 4000  # entries read before anyone asks for them


def main() -> None:
    """Serve until the parent closes its end, then leave."""
    _die_with_the_parent(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    wire = Wire(connection)
    frame = wire.receive()
    setup = _unpickled(frame[0]) if frame else None
    if isinstance(setup, Setup):
        _limit(setup.memory)
        _Child(wire, setup).serve()
    os._exit(0)  # threads inside a C library must not keep the process


def _die_with_the_parent(lifeline: int) -> None:
    """Have the kernel kill this process when the pipe's other end closes, which only the parent holds.

    PR_SET_PDEATHSIG would do it when the parent's *thread* ends that started us: a worker thread, that is. And a
    thread of our own that reads to the end would never run while a library holds the GIL.
    """
    os.set_inheritable(lifeline, False)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    if poll.poll(0):
        os._exit(0)


def _limit(memory: int) -> None:
    """Bound the private memory (not the address space: thread stacks and malloc's arenas only reserve that)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold the credentials
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or memory < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))


class _Child:
    def __init__(self, wire: Wire, setup: Setup) -> None:
        self._wire = wire
        self._setup = setup
        self._receiving = threading.Lock()
        self._counting = threading.Lock()
        self._threads = self._idle = 0
        self._held: dict[int, Reader | _Listing] = {}
        self._handles = itertools.count(1)
        self._source: Source

    def serve(self) -> None:
        """Carry out calls until the parent closes its end, then end the process.

        Whoever has received a call carries it out, and another thread, if need be a new one, receives the next: no
        call waits for a thread to wake up.
        """
        self._do(0, self._make)
        self._threads = 1
        self._carry_out_calls()

    def _carry_out_calls(self) -> None:
        try:
            while True:
                call, payload = self._next_call()
                if call.verb == "drop":
                    self._drop(call.args[0])
                elif call.verb == "pwrite":
                    self._do(call.number, self._pwrite, *call.args, payload)
                else:
                    self._do(call.number, self._verb(call.verb), *call.args)
        except BaseException:  # noqa: BLE001  # the last words, which the parent tells
            sys.excepthook(*sys.exc_info())
            os._exit(1)

    def _next_call(self) -> tuple[Call, bytes]:
        with self._counting:
            self._idle += 1
        with self._receiving:
            frame = self._wire.receive()
            call = _unpickled(frame[0]) if frame else None
            if frame is None or not isinstance(call, Call):
                self._leave()
            with self._counting:
                self._idle -= 1
                is_one_short = not self._idle and self._threads < CALLS
                self._threads += is_one_short
        if is_one_short:
            threading.Thread(target=self._carry_out_calls, name="call", daemon=True).start()
        return call, frame[1]

    def _leave(self) -> NoReturn:
        for held in [*self._held.values(), getattr(self, "_source", None)]:
            if held is not None:
                with contextlib.suppress(Exception):  # we are leaving, and nobody listens any more
                    held.close()
        os._exit(0)  # threads inside a C library must not keep the process

    def _make(self) -> None:
        module, _, name = self._setup.source.partition(":")
        made = getattr(importlib.import_module(module), name)
        self._source = made(self._setup.credentials, self._setup.deadline)

    def _verb(self, verb: str) -> Callable[..., object]:
        own: dict[str, Callable[..., object]] = {
            "open": self._open,
            "open_for_writing": self._open_for_writing,
            "pread": self._pread,
            "lies_below": self._lies_below,
            "flush": self._flush,
            "entries": self._list,
            "snapshots": self._list_snapshots,
            "more": self._more,
        }
        return own.get(verb) or cast("Callable[..., object]", getattr(self._source, verb))

    def _do(self, number: int, what: Callable[..., object], *args: object) -> None:
        payload, value, error = b"", None, None
        try:
            value = what(*args)
            if isinstance(value, bytes):
                payload, value = value, None
        except BaseException as raised:  # noqa: BLE001  # whatever it is, it is the parent's to hear, SystemExit too
            error = told(raised, self._setup.credentials)
        try:
            self._wire.send(Answer(number, value, error), payload)
        except OSError:
            os._exit(0)  # the parent is gone
        except Exception as raised:  # noqa: BLE001  # a value that cannot be pickled, for any of pickle's reasons
            self._wire.send(Answer(number, None, told(raised, self._setup.credentials)))

    def _hold(self, thing: "Reader | _Listing") -> int:
        handle = next(self._handles)
        self._held[handle] = thing
        return handle

    def _drop(self, handle: object) -> None:
        held = self._held.pop(cast("int", handle), None)
        if held is not None:
            with contextlib.suppress(Exception):  # nobody waits for the outcome
                held.close()

    def _open(self, location: Location) -> Opened:
        reader = self._source.open(location)
        return Opened(self._hold(reader), reader.size, reader.pin)

    def _open_for_writing(self, location: Location) -> Opened:
        source: Any = self._source
        writer = source.open_for_writing(location)
        return Opened(self._hold(writer), writer.size, writer.pin)

    def _pwrite(self, handle: int, offset: int, data: bytes) -> None:
        writer = self._held[handle]
        assert isinstance(writer, Writer)
        writer.pwrite(offset, data)

    def _flush(self, handle: int) -> None:
        writer = self._held[handle]
        assert isinstance(writer, Writer)
        writer.flush()

    def _pread(self, handle: int, offset: int, length: int) -> bytes:
        reader = self._held[handle]
        assert isinstance(reader, Reader)
        return bytes(reader.pread(offset, length))

    def _lies_below(self, handle: int, folder: Location) -> bool:
        reader = self._held[handle]
        assert isinstance(reader, Reader)
        return reader.lies_below(folder)

    def _list(self, location: Location) -> int:
        return self._hold(_Listing(lambda: self._source.entries(location)))

    def _list_snapshots(self, location: Location) -> int:
        source: Any = self._source
        return self._hold(_Listing(lambda: source.snapshots(location)))

    def _more(self, handle: int) -> tuple[list[Entry], bool]:
        listing = self._held[handle]
        assert isinstance(listing, _Listing)
        return listing.more()


class _Listing:
    """A listing under way: a thread reads ahead, as far as `_AHEAD`, and `more` takes what has come so far."""

    def __init__(self, begin: Callable[[], Iterator[Entry]]) -> None:
        self._begin = begin
        self._rows: deque[Entry] = deque()
        self._change = threading.Condition()
        self._ended = self._dropped = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="listing", daemon=True).start()

    def more(self) -> tuple[list[Entry], bool]:
        """Wait for at least one more entry; return those there are, and whether they were the last."""
        with self._change:
            self._change.wait_for(lambda: self._rows or self._ended)
            rows = [self._rows.popleft() for _ in range(min(_BATCH, len(self._rows)))]
            self._change.notify_all()
            if self._error is not None and not rows:
                raise self._error
            return rows, self._ended and not self._rows and self._error is None

    def close(self) -> None:
        with self._change:
            self._dropped = True
            self._change.notify_all()

    def _run(self) -> None:
        rows: Iterator[Entry] | None = None
        try:
            rows = self._begin()
            for row in rows:
                if not self._take(row):
                    break
        except BaseException as error:  # noqa: BLE001  # `more` raises it where it is told to the parent
            self._error = error
        finally:
            if isinstance(rows, Generator):
                with contextlib.suppress(Exception):  # its own clean-up; the listing is over anyhow
                    rows.close()
            with self._change:
                self._ended = True
                self._change.notify_all()

    def _take(self, row: Entry) -> bool:
        with self._change:
            if len(self._rows) >= _AHEAD:
                self._change.wait_for(lambda: len(self._rows) < _AHEAD or self._dropped)
            self._rows.append(row)
            if len(self._rows) == 1:
                self._change.notify_all()
            return not self._dropped


def told(error: BaseException, credentials: Credentials) -> FarbootError | Unexpected:
    """`error` as it travels: one of the family itself, anything else as text, without the secrets it may hold."""
    for family in type(error).__mro__:
        if isinstance(error, FarbootError) and getattr(errors, family.__name__, None) is family:
            arguments = error.__reduce__()[1]
            return family(*arguments)  # type: ignore[no-any-return]  # a subclass of a source's own becomes its base
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    for secret in credentials.secrets():
        if secret.reveal():
            text = text.replace(secret.reveal(), "…")
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
    return Unexpected(text, where)


def _unpickled(body: bytes) -> object:
    import pickle

    return pickle.loads(body)  # noqa: S301  # the parent's own words
