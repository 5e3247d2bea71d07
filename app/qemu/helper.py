"""What the helpers of a guest have in common, the bridge and the ssh agent: a socket of their own, and their end."""

import contextlib
import ctypes
import os
import signal
import socket
import stat
from collections.abc import Iterator

from probes.errors import Cancelled, FarbootError

_BACKLOG = 16
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """A listening socket at `path`, which appears there only once it listens, and goes with it. Raises FarbootError.

    It can be connected to by everyone who reaches it if its folder keeps others out (under root QEMU is another
    account), else only by this account.
    """
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
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            os.rename(unready, path)
            undo.callback(_remove, path)
        except OSError as error:
            raise FarbootError("listen on", path, error.strerror or str(error)) from None
        yield listener


def die_with_parent(parent: int | None, what: str) -> None:
    """Have the kernel end this process when its parent does. Raises Cancelled if `parent` is already gone.

    By default the parent is the one found.
    """
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Cancelled("start", what, "whoever started it is gone")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
