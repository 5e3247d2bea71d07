"""Threads for blocking calls, for an event loop that must end when it is told to."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_Job = tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]


class Workers:
    """`count` daemon threads.

    Unlike those of concurrent.futures they are not waited for at exit: one that is stuck in a connection to a dead
    server cannot hold the process.
    """

    def __init__(self, count: int) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"worker-{number}", daemon=True).start()

    async def run(self, call: Callable[..., _T], *arguments: object) -> _T:
        """Return what `call(*arguments)` returns, or raise what it raises, having run it in a thread.

        A cancelled caller does not stop the call, only its outcome is dropped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._jobs.put((loop, future, call, arguments))
        return await future

    def start(self, call: Callable[[], object]) -> None:
        """Run `call` in a thread, whatever becomes of it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.create_future()
        future.add_done_callback(look_at)
        self._jobs.put((loop, future, call, ()))

    def _work(self) -> None:
        while True:
            loop, future, call, arguments = self._jobs.get()
            if future.cancelled():
                continue
            result, error = None, None
            try:
                result = call(*arguments)
            except BaseException as raised:  # noqa: BLE001 - it is the caller's, who gets it in its own thread
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, result, error)
            del loop, future, call, arguments, result, error  # a thread that waits keeps no image data alive


def look_at(future: asyncio.Future[Any]) -> None:
    """A done callback for futures whose failure may be of no interest to anyone: asyncio would complain."""
    if not future.cancelled():
        future.exception()


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
