"""The bridge: any image that Farboot can read, served to QEMU as NBD on a Unix socket, in its own process; and written,
where that is asked for and Farboot can.

It is the way for storage that this QEMU cannot speak, or not soundly. It judges the image again by itself and starts
only if that is what was judged before. What the judgement read is served from memory; every other byte is read from
the pinned content, and compared where both overlap: so what runs is what was judged, whatever the server does. While
the server is away reads wait (`app.qemu.bridge.patience`); once the image has changed they all fail.

Written is the image itself: what the guest is told has been written has reached the storage, and what it is told has
been flushed stays there (`app.qemu.bridge.durable`). What was judged is no longer known where something was written.

Memory: the interpreter and the client library (some 40 MB), what the judgement read (`probes.recording.MAX_BYTES`, 4
MiB, at most), the cache (32 MiB, `app.qemu.bridge.pieces`), what clients wait for (32 MiB a connection,
`app.qemu.bridge.nbd`), and for writing what is not flushed (64 MiB, `app.qemu.bridge.durable`).
"""

import asyncio
import contextlib
import functools
import json
import signal
import sys
from collections.abc import Callable

from app.qemu.bridge.image import BridgedImage, WritableImage
from app.qemu.bridge.judged import Expected, WritingSource, judge, open_again, open_pinned
from app.qemu.bridge.nbd import serve_clients
from app.qemu.bridge.patience import PATIENCE, Patience
from app.qemu.helper import die_with_parent, listening
from probes.credentials import Credentials
from probes.errors import FarbootError
from probes.location import Location
from probes.source import DEADLINE

__all__ = ["BridgedImage", "Expected", "Patience", "credentials_from_stdin", "serve"]

_MOST_CREDENTIALS = 1 << 20
_MOST_LINES = 200


def serve(
    location: Location,
    credentials: Credentials,
    socket_path: str,
    expected: Expected,
    *,
    write: bool = False,
    patience: Patience = PATIENCE,
    deadline: float = DEADLINE,
    parent: int | None = None,
) -> None:
    """Serve the image at `location` on `socket_path` until SIGTERM, SIGINT or SIGHUP, or until the parent dies.

    Raises before the socket exists: Changed if the image is not `expected`, Refused, and whatever opening it raises.
    As soon as the socket exists it can be connected to: by everyone who reaches it if its folder keeps others out
    (under root QEMU is another account), else only by this account. `socket_path` may be relative: Linux takes 107
    bytes. With `write` the image is opened for writing. `deadline` in seconds bounds each call to the storage. `parent`
    is the process that must still be the parent; by default it is the one found.

    For the main thread of a process of its own, whose signals it takes. Outages and changes are told on stderr.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is a socket there is nothing to clear
    die_with_parent(parent, "the bridge")
    if write:
        _unwind_when_told()
    with contextlib.ExitStack() as stack:
        make = _writable if write else _readable
        make_image = make(location, credentials, expected, patience, deadline, stack)
        asyncio.run(_serve_until_told(socket_path, make_image))


def credentials_from_stdin() -> Credentials:
    """Read credentials from standard input, up to its end: `Credentials.to_json` as JSON, or nothing for none.

    Raises FarbootError.
    """
    text = sys.stdin.buffer.read(_MOST_CREDENTIALS)
    try:
        return Credentials.from_json(json.loads(text)) if text.strip() else Credentials()
    except (ValueError, TypeError):  # whose words could hold what they complain about
        raise FarbootError("read", "the credentials on standard input", "they are not one JSON object") from None


def _unwind_when_told() -> None:
    """Have signals raise SystemExit until the event loop takes them: a lock that was taken must be given back."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def _readable(
    location: Location,
    credentials: Credentials,
    expected: Expected,
    patience: Patience,
    deadline: float,
    stack: contextlib.ExitStack,
) -> Callable[[], BridgedImage]:
    """Open and judge the image; return what makes the one to serve, in an event loop. `stack` lets go of it all."""
    reader = open_pinned(location, credentials, expected, deadline)
    stack.callback(reader.close)
    judged = judge(reader, location, expected)
    reopen = functools.partial(open_again, location, credentials, expected, judged, deadline)
    return lambda: BridgedImage(reader, reopen, judged, _Teller(), patience)


def _writable(
    location: Location,
    credentials: Credentials,
    expected: Expected,
    patience: Patience,
    deadline: float,
    stack: contextlib.ExitStack,
) -> Callable[[], BridgedImage]:
    """The same, for writing."""
    source = WritingSource(location, credentials, expected, deadline)
    stack.callback(source.close)
    writer = source.open()
    stack.callback(writer.close)
    judged = judge(writer, location, expected)
    reopen = functools.partial(source.open_again, judged)
    return lambda: WritableImage(writer, reopen, judged, _Teller(), patience)


async def _serve_until_told(path: str, make_image: Callable[[], BridgedImage]) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have it
            loop.add_signal_handler(number, told.set)
    with contextlib.closing(make_image()) as image, listening(path) as listener:
        serving = asyncio.create_task(serve_clients(listener, image))
        await told.wait()
        serving.cancel()
        await asyncio.wait({serving})


class _Teller:
    """Writes lines to stderr, a bounded number of them: a flapping server fills no disk."""

    def __init__(self) -> None:
        self._left = _MOST_LINES

    def __call__(self, line: str) -> None:
        self._left -= 1
        if self._left >= 0:
            text = line if self._left else "no more will be told"
            with contextlib.suppress(OSError):  # nobody listens any more: not the guest's trouble
                sys.stderr.write(f"farboot bridge: {text}\n")
                sys.stderr.flush()
