"""A child process of the supervisor: it goes when the supervisor goes, and its last words are kept."""

import asyncio
import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from probes.errors import FarbootError, MissingClient

WORDS = 16 << 10
"""Bytes of a child's standard error that are kept."""
_PR_SET_PDEATHSIG = 1
_KEPT_ENVIRONMENT = (
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "TZ",
    "SSH_AUTH_SOCK", "CEPH_CONF", "QEMU_MODULE_DIR", "LD_LIBRARY_PATH",
)  # fmt: skip
_LIBC = ctypes.CDLL(None)


class Child:
    """A running process, to be made in the main thread while no other one runs (see `_die_with`).

    With `feed` its standard input is that and then ends; with `serial` its standard input and output are pipes whose
    other ends are `keys` and `output`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: str,
        environment: Mapping[str, str],
        feed: bytes | None = None,
        serial: bool = False,
        descriptors: Sequence[int] = (),
    ) -> None:
        try:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE if serial or feed is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE if serial else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=tuple(descriptors),
                process_group=0,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509  (no other thread runs: see `_die_with`)
                bufsize=0,
            )
        except FileNotFoundError:
            raise MissingClient("start", argv[0], "it is not installed") from None
        except (OSError, subprocess.SubprocessError) as error:
            raise FarbootError("start", argv[0], getattr(error, "strerror", None) or "it failed") from None
        self.name = os.path.basename(argv[0])
        self.pid = self._process.pid
        self.status: int | None = None
        self._inner: int | None = None
        self.ended = asyncio.Event()
        self._words = bytearray()
        self._silent = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._reap)
        self._listen()
        if feed is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(feed)  # a pipe holds 64 KiB: this cannot block
            self._process.stdin.close()

    def take_serial(self) -> tuple[int, int]:
        """The descriptors that write to its standard input and read from its output; from now on the caller's."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        keys, output = os.dup(self._process.stdin.fileno()), os.dup(self._process.stdout.fileno())
        self._process.stdin.close()
        self._process.stdout.close()
        return keys, output

    @property
    def words(self) -> str:
        """The last of what it wrote to its standard error."""
        return self._words.decode(errors="replace")

    @property
    def last_words(self) -> str:
        """The last line of `words` that is not empty."""
        return next((line.strip() for line in reversed(self.words.splitlines()) if line.strip()), "")

    async def wait(self) -> int:
        """Await its end, with all that it had to say; gives its status as subprocess does."""
        await self.ended.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):  # somebody may have inherited its standard error
                await self._silent.wait()
        assert self.status is not None
        return self.status

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and to those that it started, if it still runs."""
        if self.status is None:  # not reaped yet: the number is still its own
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def take_also(self, pid: int) -> None:
        """Also kill process `pid` when this one is killed: the program itself, where `argv` starts with wrappers."""
        if pid != self.pid and pid > 0:
            with suppress(ProcessLookupError):
                self._inner = os.pidfd_open(pid)

    def kill(self) -> None:
        """Kill it now."""
        if self._inner is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._inner, signal.SIGKILL)
        self.signal(signal.SIGKILL)

    async def end(self, patience: float = 3.0) -> None:
        """Make it end: politely, and after `patience` seconds not."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience):
                await self.ended.wait()
        except TimeoutError:
            self.kill()
            await self.ended.wait()

    def _reap(self) -> None:
        self.status = self._process.wait()
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._inner is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._inner, signal.SIGKILL)  # should its wrapper have been killed alone
            os.close(self._inner)
            self._inner = None
        self.ended.set()

    def _listen(self) -> None:
        assert self._process.stderr is not None
        stderr = self._process.stderr
        os.set_blocking(stderr.fileno(), False)

        def hear() -> None:
            try:
                heard = os.read(stderr.fileno(), 65536)
            except BlockingIOError:
                return
            self._words += heard
            del self._words[:-WORDS]
            if not heard:
                self._loop.remove_reader(stderr.fileno())
                stderr.close()
                self._silent.set()

        self._loop.add_reader(stderr.fileno(), hear)


def environment(folder: str) -> dict[str, str]:
    """What QEMU gets to see of our environment: nothing that could be a secret."""
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return {**kept, "TMPDIR": folder}


def _die_with(parent: int) -> Callable[[], None]:
    """What a new child does first: ask to be killed when `parent`'s main thread ends.

    This runs between fork and exec, where a lock that another thread holds would be held for ever: so nothing but
    one system call through a function that is already bound.
    """
    prctl, kill_signal = _LIBC.prctl, int(signal.SIGKILL)

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, kill_signal, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
