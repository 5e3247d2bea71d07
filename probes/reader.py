"""Reading an image where it lies."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from probes.location import Location


@dataclass(frozen=True, slots=True)
class Pin:
    """Says "the same bytes": the size in bytes and a validator.

    `validator` is opaque text that changes when the content does (an ETag, mtime and inode, a snapshot's id);
    empty where the storage has none. `strong` says that equal validators mean equal bytes; a weak one (a time
    stamp in whole seconds) only makes it likely.
    """

    size: int
    validator: str = ""
    strong: bool = False


class Reader(ABC):
    """An open image. Safe to use from several threads at once."""

    _pin: Pin
    """What `pin` says, for those who set it once and for all."""

    @property
    def size(self) -> int:
        """The image's size in bytes."""
        return self.pin.size

    @property
    def pin(self) -> Pin:
        """What this reader reads: every `pread` is of this very content."""
        return self._pin

    @property
    def is_whole(self) -> bool:
        """Whether all of it was fetched to open it, because its storage cannot give a part."""
        return False

    def lies_below(self, folder: Location) -> bool:
        """Whether the image lies in `folder`, or below, once all links and redirects were followed, and is not hidden:
        True where its storage does not tell. Raises what `pread` raises.
        """
        return True

    @abstractmethod
    def pread(self, offset: int, length: int) -> bytes:
        """Return exactly the `length` bytes at `offset`, fewer only where the image ends first.

        At or past the end that is `b""`. Raises a FarbootError when the bytes cannot be had: `Changed` when
        the content is no longer the pinned one, `TimedOut` after the source's deadline, and so on. Never
        returns short for another reason.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it. May be called twice; a `pread` in another thread then fails."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def is_openly_below(path: str, folder: str) -> bool:
    """Whether `path` is in `folder`, or below it, and hidden nowhere on the way; of both all links were followed."""
    whole = folder.rstrip("/") + "/"
    return path.startswith(whole) and "/." not in path[len(whole) - 1 :]


class Writer(Reader):
    """An open image that can be written too. Safe to use from several threads at once.

    After the first `pwrite` the pin says no more than what the image was when it was opened. One whose connection broke
    stays broken, and its `flush` fails: a server that was restarted may have lost what was not flushed, and whoever
    opens it again writes that again.
    """

    @abstractmethod
    def pwrite(self, offset: int, data: bytes) -> None:
        """Write all of `data` at `offset`, inside the image. Raises a FarbootError when it cannot be done; then any
        part of it may have been written.
        """

    @abstractmethod
    def flush(self) -> None:
        """Return once all that was written before will survive a crash of the storage system, as far as it can."""


class Begun(Protocol):
    """A read that is under way."""

    def result(self) -> bytes:
        """Wait for the bytes, as `pread` would, and raise what it would."""
        ...

    def when_done(self, call: Callable[[], object]) -> None:
        """Have `call` called, by any thread, once `result` need not wait any more: now, if that is so already."""
        ...


@runtime_checkable
class BeginsReads(Protocol):
    """A reader whose reads another thread or process carries out: nobody needs to wait for them in a third."""

    def begin_read(self, offset: int, length: int) -> Begun | None:
        """Ask for what `pread` would return, and do not wait: None where that would have to. Raises as `pread`."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A reader that can be told what will be wanted of it."""

    def ahead(self, spans: Iterable[tuple[int, int]]) -> None:
        """Have the (offset, length) of `spans` at hand, fetched all at once. Raises what `pread` raises."""
        ...


def ahead(reader: Reader, spans: Iterable[tuple[int, int]]) -> None:
    """Tell `reader` what will be wanted of it, so that it takes one round trip: where it can make use of that."""
    if isinstance(reader, ReadsAhead):
        reader.ahead(spans)
