"""The bridge: any image that Farboot can read, served read-only to QEMU as NBD on a Unix socket, in its own process.

It is the way for storage that this QEMU cannot speak, or not soundly. It judges the image again by itself and starts
only if that is what was judged before. What the judgement read is served from memory; every other byte is read from
the pinned content, and compared where both overlap: so what runs is what was judged, whatever the server does. While
the server is away reads wait (`app.qemu.bridge.patience`); once the image has changed they all fail.

Memory: the interpreter and the client library (some 40 MB), what the judgement read (`probes.recording.MAX_BYTES`, 4
MiB, at most), the cache (32 MiB, `app.qemu.bridge.pieces`) and what clients wait for (32 MiB a connection,
`app.qemu.bridge.nbd`).
"""

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Iterator

from app.qemu.bridge.judged import Expected, JudgedBytes, judge, open_again, open_pinned
from app.qemu.bridge.nbd import serve_clients
from app.qemu.bridge.patience import PATIENCE, Patience, PatientReader
from app.qemu.bridge.pieces import Pieces
from app.qemu.bridge.workers import Workers
from probes.credentials import Credentials
from probes.errors import Cancelled, Changed, FarbootError
from probes.location import Location
from probes.reader import Reader

__all__ = ["BridgedImage", "Expected", "Patience", "credentials_from_stdin", "serve"]

READS_AT_ONCE = 16
_MOST_CREDENTIALS = 1 << 20
_MOST_LINES = 200
_PR_SET_PDEATHSIG = 1


def serve(
    location: Location,
    credentials: Credentials,
    socket_path: str,
    expected: Expected,
    *,
    patience: Patience = PATIENCE,
    parent: int | None = None,
) -> None:
    """Serve the image at `location` on `socket_path` until SIGTERM, SIGINT or SIGHUP, or until the parent dies.

    Raises before the socket exists: Changed if the image is not `expected`, Refused, and whatever opening it raises.
    As soon as the socket exists it can be connected to: by everyone who reaches it if its folder keeps others out
    (under root QEMU is another account), else only by this account. `socket_path` may be relative: Linux takes 107
    bytes. `parent` is the process that must still be the parent; by default it is the one found.

    For the main thread of a process of its own, whose signals it takes. Outages and changes are told on stderr.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is a socket there is nothing to clear
    _die_with_parent(os.getppid() if parent is None else parent)
    reader = open_pinned(location, credentials, expected)
    with contextlib.ExitStack() as until_taken_over:
        until_taken_over.callback(reader.close)
        judged = judge(reader, location, expected)
        reopen = functools.partial(open_again, location, credentials, expected, judged)
        until_taken_over.pop_all()
        asyncio.run(_serve_until_told(socket_path, reader, reopen, judged, patience))


def credentials_from_stdin() -> Credentials:
    """Read credentials from standard input, up to its end: `Credentials.to_json` as JSON, or nothing for none.

    Raises FarbootError.
    """
    text = sys.stdin.buffer.read(_MOST_CREDENTIALS)
    try:
        return Credentials.from_json(json.loads(text)) if text.strip() else Credentials()
    except (ValueError, TypeError):  # whose words could hold what they complain about
        raise FarbootError("read", "the credentials on standard input", "they are not one JSON object") from None


class BridgedImage:
    """The image as NBD's clients see it: `app.qemu.bridge.nbd.Export`.

    `reader` is taken over, `reopen` as `PatientReader` takes it.
    """

    def __init__(
        self,
        reader: Reader,
        reopen: Callable[[], Reader],
        judged: JudgedBytes,
        tell: Callable[[str], None],
        patience: Patience = PATIENCE,
    ) -> None:
        self._size = reader.size
        self._judged = judged
        self._patient = PatientReader(reader, reopen, Workers(READS_AT_ONCE), tell, patience)
        self._pieces = Pieces(self._fetch, reader.size)

    @property
    def size(self) -> int:
        """In bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes | Awaitable[bytes]:
        """Return exactly these bytes, at once if they were judged or are in the cache.

        Raises Changed, and then always, or, when awaited, what reading failed of in the end.
        """
        if self._patient.changed is not None:
            raise self._patient.changed.with_traceback(None)
        data = self._judged.at_hand(offset, length)
        return self._pieces.read(offset, length) if data is None else data

    def close(self) -> None:
        """Let go of the reader."""
        self._patient.close()

    async def _fetch(self, offset: int, length: int) -> bytes:
        data = await self._patient.pread(offset, length)
        if not self._judged.agree(offset, data):
            changed = Changed("read", "the image", f"the bytes at {offset} are not those that were judged")
            self._patient.give_up(changed)
            raise changed
        return data


async def _serve_until_told(
    path: str, reader: Reader, reopen: Callable[[], Reader], judged: JudgedBytes, patience: Patience
) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have it
            loop.add_signal_handler(number, told.set)
    image = BridgedImage(reader, reopen, judged, _Teller(), patience)
    with contextlib.closing(image), _listening(path) as listener:
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


@contextlib.contextmanager
def _listening(path: str) -> Iterator[socket.socket]:
    """A listening socket at `path`, which appears there only once it listens, and goes with it. Raises FarbootError."""
    unready = f"{path}~"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, contextlib.ExitStack() as undo:
        try:
            folder = os.stat(os.path.dirname(path) or ".")
            is_private = stat.S_IMODE(folder.st_mode) & 0o077 == 0
            # By umask, not chmod: there is no moment at which another file could lie at that path.
            umask = os.umask(0o111 if is_private else 0o177)
            try:
                listener.bind(unready)
            finally:
                os.umask(umask)
            undo.callback(_remove, unready)
            listener.listen(16)
            listener.setblocking(False)
            os.rename(unready, path)
            undo.callback(_remove, path)
        except OSError as error:
            raise FarbootError("listen on", path, error.strerror or str(error)) from None
        yield listener


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent does. Raises Cancelled if it is already gone."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Cancelled("start", "the bridge", "whoever started it is gone")
