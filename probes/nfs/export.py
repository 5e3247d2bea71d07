"""One export, or the NFSv4 root: several connections to it, one for each call that runs at the same time."""

import contextlib
import errno
import threading
import time
from collections.abc import Callable, Container, Iterator

from probes.errors import Cancelled, TimedOut, Unreachable
from probes.location import Location
from probes.nfs.errors import failure, is_of_the_server, mount_failure
from probes.nfs.library import Context, File
from probes.nfs.rpc import Deadline

_LEASE = 15.0
"""Seconds of idleness after which an NFSv4 server may have forgotten a client: libnfs does not renew its lease."""

CONNECTIONS = 16
"""How many calls to one export run at once: NFS's own pipelining is not libnfs's over one context."""


class Export:
    """What lies below `path` of a server; its connections are made when they are wanted."""

    def __init__(
        self,
        path: str,
        make: Callable[[], Context],
        denial: Callable[[], str],
        host: str,
        who: tuple[int, int],
        version: int,
    ) -> None:
        """`make` makes a connection that is not mounted yet; `denial` asks the server why it would not be."""
        self.path = path
        self.who = who
        self._make = make
        self._denial = denial
        self._host = host
        self._is_4 = version == 4
        self._idle: list[tuple[Context, float]] = []
        self._busy: set[Context] = set()
        self._unwanted: dict[Context, list[File]] = {}
        self._change = threading.Condition()
        self._closed = False

    @contextlib.contextmanager
    def use(
        self,
        tried: str,
        location: Location,
        deadline: float,
        only: Context | None = None,
        rather: Container[Context] = (),
    ) -> Iterator[Context]:
        """A connection for this thread alone, with `only` that very one, one of `rather` if one of them is idle;
        libnfs's errors become ours.

        Raises Unreachable where `only` has broken meanwhile.
        """
        if only is None:
            context = self._take(tried, location, deadline, rather)
        else:
            context = self._take_back(only, tried, location, deadline)
        keep = is_sound = True
        try:
            yield context
        except OSError as error:
            is_sound = is_of_the_server(error)
            keep = is_sound and not self._is_4  # libnfs 4 keeps failing after one failure of NFSv4's
            if self._closed:
                raise Cancelled(tried, location, "it was closed") from None
            raise failure(error, tried, location, self.who) from None
        finally:
            self._give(context, keep, is_sound)

    def forget(self, files: dict[Context, File]) -> None:
        """Close these files when their connections are free; those of dead connections are gone already."""
        with self._change:
            for context, file in files.items():
                if context in self._busy or any(context is idle for idle, _ in self._idle):
                    self._unwanted.setdefault(context, []).append(file)

    def close(self) -> None:
        """Drop every connection; calls that wait for the server fail."""
        with self._change:
            self._closed = True
            idle, self._idle = self._idle, []
            for context in self._busy:
                context.wake()
            self._change.notify_all()
        for context, _ in idle:
            context.destroy()

    def _take(self, tried: str, location: Location, deadline: float, rather: Container[Context]) -> Context:
        """An idle connection, or a new one, or the first that another call gives back.

        The one that was used last comes last: whoever has just opened a file over it will read by it.
        """
        end = Deadline(deadline)
        with self._change:
            while not self._closed and not self._idle and len(self._busy) >= CONNECTIONS:
                try:
                    self._change.wait(end.left)
                except TimeoutError:
                    raise TimedOut(tried, location, "all connections to the server are waiting for it") from None
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            is_mounted = bool(self._idle)
            wanted = [index for index, (context, _) in enumerate(self._idle) if context in rather]
            context, since = self._idle.pop(wanted[-1] if wanted else 0) if is_mounted else (self._make(), 0.0)
            self._busy.add(context)
        if is_mounted and context.is_connected and not (self._is_4 and time.monotonic() - since > _LEASE):
            for file in self._unwanted.pop(context, ()):
                file.close()
            return context
        if is_mounted:  # servers hang up on who is idle for minutes
            self._give(context, keep=False)
            with self._change:
                if self._closed:
                    raise Cancelled(tried, location, "it was closed")
                context = self._make()
                self._busy.add(context)
        self._mount(context, tried, location)
        return context

    def _take_back(self, only: Context, tried: str, location: Location, deadline: float) -> Context:
        end = Deadline(deadline)
        with self._change:
            while not self._closed and only in self._busy:
                try:
                    self._change.wait(end.left)
                except TimeoutError:
                    raise TimedOut(tried, location, "the connection to the server is waiting for it") from None
            if self._closed:
                raise Cancelled(tried, location, "it was closed")
            idle = [(context, since) for context, since in self._idle if context is not only]
            if len(idle) == len(self._idle) or not only.is_connected:
                raise Unreachable(tried, location, "a connection by which it was written has broken", "write it again")
            self._idle = idle
            self._busy.add(only)
        return only

    def _mount(self, context: Context, tried: str, location: Location) -> None:
        try:
            context.mount(self._host, self.path)
        except OSError as error:
            self._give(context, keep=False, is_sound=is_of_the_server(error))
            if self._closed:
                raise Cancelled(tried, location, "it was closed") from None
            denial = self._denial() if error.errno == errno.EFAULT else ""
            raise mount_failure(error, tried, location, self.path, denial) from None
        except BaseException:
            self._give(context, keep=False)
            raise

    def _give(self, context: Context, keep: bool, is_sound: bool = True) -> None:
        with self._change:
            self._busy.discard(context)
            keep = keep and not self._closed
            if keep:
                self._idle.append((context, time.monotonic()))
            else:
                self._unwanted.pop(context, None)
                context.destroy(is_sound)  # under the lock: `close` must not wake what is gone
            self._change.notify_all()  # one may wait for any connection, another for this very one
