"""A real server for the tests: a process in a folder of its own, awaited, ended by its pid, its log kept.

Ports are the kernel's choice. Between `free_port` and the server's own bind somebody else may take one, so
`start_on_free_port` tries again with another.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

READY = 30.0
"""Seconds that a server may take to answer on a slow machine."""


class ServerFailed(AssertionError):
    """A server did not start; the text holds its log's end."""


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on right now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
    return port


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts TCP connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(happened: Callable[[], bool], what: str, deadline: float = READY) -> None:
    """Poll until `happened()`; raise AssertionError naming `what` after `deadline` seconds."""
    pause = threading.Event()
    end = time.monotonic() + deadline
    while not happened():
        assert time.monotonic() < end, f"waited {deadline} s in vain for {what}"
        pause.wait(0.02)


class Server:
    """One process and what it started, from `start` to `stop`; a context manager.

    `folder` is its working directory and holds `log`, its output. `is_ready` is polled until it is true. The
    process leads a session of its own, is told to end when its parent dies, and `stop` ends the whole group.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: str | os.PathLike[str],
        is_ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.argv = list(argv)
        self.folder = os.fspath(folder)
        self.is_ready = is_ready
        self.environment = environment
        self.stop_signal = stop_signal
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What it has printed so far."""
        path = os.path.join(self.folder, "log")
        if not os.path.exists(path):
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    @property
    def pid(self) -> int:
        """The process's id, while it runs."""
        assert self.process is not None, "the server is not started"
        return self.process.pid

    def start(self, deadline: float = READY) -> Self:
        """Start it and wait until it is ready. Raises ServerFailed."""
        with open(os.path.join(self.folder, "log"), "ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *self.argv],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if self.environment is None else dict(self.environment),
                start_new_session=True,
            )
        try:
            wait_until(lambda: self.has_ended or self.is_ready(), " ".join(self.argv), deadline)
            if self.has_ended:
                raise AssertionError(f"it ended with {self.process.returncode}")
        except AssertionError as error:
            self.stop()
            raise ServerFailed(f"{self.argv[0]}: {error}\n{self.log[-4000:]}") from None
        return self

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process is None or self.process.poll() is not None

    def stop(self, patience: float = 10.0) -> None:
        """End it, by force after `patience` seconds, and whatever is left of its process group."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(self.stop_signal)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: nobody else's process is in there

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        return self if self.process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_on_free_port(make: Callable[[int], Server], attempts: int = 5) -> tuple[Server, int]:
    """Start `make(port)` on a free port, with another one if that fails; return it and its port."""
    for attempt in range(1, attempts + 1):
        port = free_port()
        try:
            return make(port).start(), port
        except ServerFailed:
            if attempt == attempts:
                raise
    raise AssertionError("unreachable")
