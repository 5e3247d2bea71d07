"""Writing through a child process: whole and exact, whatever the size, and never waiting for one that hangs."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from probes.errors import Cancelled, Denied, FarbootError, TimedOut
from probes.isolation.source import IsolatedSource, isolated
from probes.location import Location
from probes.registry import System
from probes.source import CanWrite, TellsUse

SYSTEM = System("Test", ("test",), "tests.isolated_sources:Writes", isolated=True, abilities=(CanWrite,))
SIZE = 8 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


@pytest.fixture
def source() -> Iterator[IsolatedSource]:
    with isolated(SYSTEM) as made:
        yield made


def at(image: Path, name: str = "a") -> Location:
    return Location("test", "host", f"/{name}", str(image))


def able(source: IsolatedSource) -> CanWrite:
    assert isinstance(source, CanWrite)
    return source


def test_only_a_system_that_can_write_offers_it() -> None:
    assert isinstance(isolated(SYSTEM), CanWrite)
    assert not isinstance(isolated(System("T", ("t",), "x:Y", isolated=True, abilities=(TellsUse,))), CanWrite)


@pytest.mark.parametrize("length", [0, 1, 512, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_what_is_written_is_there_and_read_again(source: IsolatedSource, image: Path, length: int) -> None:
    before, data = image.read_bytes(), random.Random(2).randbytes(length)
    with able(source).open_for_writing(at(image)) as writer:
        assert (writer.size, writer.pin.strong) == (SIZE, True)
        writer.pwrite(12_345, data)
        writer.flush()
        after = before[:12_345] + data + before[12_345 + length :]
        assert writer.pread(12_000, length + 1000) == after[12_000 : 13_000 + length]
    assert image.read_bytes() == after
    assert Path(f"{image}.flushed").read_text() == "x"


def test_sixteen_threads_write_at_once(source: IsolatedSource, image: Path) -> None:
    pieces = {offset: random.Random(offset).randbytes(50_000) for offset in range(0, SIZE - 50_000, 50_000)}
    with able(source).open_for_writing(at(image)) as writer, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda piece: writer.pwrite(*piece), pieces.items()))
    written = image.read_bytes()
    assert all(written[offset : offset + 50_000] == data for offset, data in pieces.items())


def test_errors_arrive_whole(source: IsolatedSource, image: Path) -> None:
    with pytest.raises(Denied, match="somebody else has it"):
        able(source).open_for_writing(at(image, "locked"))
    with able(source).open_for_writing(at(image)) as writer, pytest.raises(Denied, match="not that"):
        writer.pwrite(0, b"deny")


def test_a_closed_writer_writes_no_more(source: IsolatedSource, image: Path) -> None:
    writer = able(source).open_for_writing(at(image))
    writer.close()
    writer.close()
    for call in (lambda: writer.pwrite(0, b"x"), writer.flush, lambda: writer.pread(0, 1)):
        with pytest.raises(Cancelled):
            call()


def test_a_child_that_takes_nothing_holds_nobody_beyond_the_deadline(image: Path) -> None:
    """More is written than the socket between the two takes, while the child's library holds the interpreter."""
    with isolated(SYSTEM, deadline=0.5) as source:
        writer = able(source).open_for_writing(at(image))
        with ThreadPoolExecutor(8) as pool:
            hung = pool.submit(source.stat, at(image))
            started = threading.Barrier(7)

            def write(offset: int) -> None:
                started.wait(30)
                writer.pwrite(offset, bytes(1 << 20))

            calls = [pool.submit(write, offset << 20) for offset in range(7)]
            for call in calls:
                error = call.exception(60)
                assert error is None or isinstance(error, TimedOut), error
            assert isinstance(hung.exception(60), TimedOut)
        with pytest.raises(FarbootError):
            writer.pwrite(0, b"x")
        with able(source).open_for_writing(at(image)) as again:
            again.pwrite(0, b"again")
    assert image.read_bytes()[:5] == b"again"
