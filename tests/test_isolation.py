"""A source in a child process: what goes well, what does not, and that only its own calls pay for it."""

import ast
import gc
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from probes import errors
from probes.attachment import Mode, QemuFacts
from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.entry import Kind
from probes.errors import (
    BadAnswer,
    Cancelled,
    Changed,
    Crashed,
    Denied,
    FarbootError,
    MissingClient,
    NotFound,
    TimedOut,
)
from probes.isolation.source import IsolatedSource, isolated
from probes.isolation.wire import Answer, answer_of
from probes.location import Location
from probes.registry import System
from probes.source import HasSnapshots, Source, TellsUse
from tests.isolated_sources import Good, pattern

Make = Callable[..., IsolatedSource]
PASSWORD = "correct horse"
QEMU = QemuFacts((7, 2, 22), frozenset({"rbd"}))


def at(name: str, query: str = "") -> Location:
    return Location("test", "host", "/" + name, query)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for `condition`, and fail when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        threading.Event().wait(0.01)


def _has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text())


def is_gone(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 0)[0])
    finally:
        os.close(descriptor)


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[IsolatedSource] = []

    def one(name: str, credentials: Credentials = NO_CREDENTIALS, **limits: float) -> IsolatedSource:
        made.append(IsolatedSource(f"tests.isolated_sources:{name}", credentials, **limits))  # type: ignore[arg-type]  # a float each, or memory
        return made[-1]

    yield one
    for source in made:
        source.close()


class TestWorking:
    def test_a_source_works_as_it_does_in_process(self, make: Make) -> None:
        source, direct = make("Good"), Good()
        assert list(source.entries(at("images"))) == list(direct.entries(at("images")))
        assert source.attach(at("a"), QEMU, Mode.WRITE) == direct.attach(at("a"), QEMU, Mode.WRITE)

    def test_it_runs_in_one_other_process_for_all_its_calls(self, make: Make) -> None:
        source = make("Good")
        pids = {source.stat(at("a")).size for _ in range(3)}
        assert len(pids) == 1
        assert os.getpid() not in pids

    def test_nothing_is_started_before_the_first_call(self, make: Make) -> None:
        before = threading.active_count()
        make("Good")
        assert threading.active_count() == before

    def test_names_travel_unharmed(self, make: Make) -> None:
        assert next(make("Good").entries(at("images"))).name == "image0\udcff\x1b[31m.raw"

    def test_credentials_arrive_and_stay_hidden(self, make: Make) -> None:
        source = make("Noticing", Credentials("me", Secret(PASSWORD)))
        facts = ast.literal_eval(source.stat(at("a")).name)
        assert facts["secret"] is False
        attached = make("Good", Credentials(key=Secret("k3y"))).attach(at("a"), QEMU, Mode.SNAPSHOT)
        assert attached.secrets[0].secret.reveal() == "k3y"

    def test_the_child_has_no_terminal_no_interrupts_and_none_of_our_main_module(self, make: Make) -> None:
        facts = ast.literal_eval(make("Noticing").stat(at("a")).name)
        assert facts["files"] == ["/dev/null", "/dev/null"]
        assert facts["leader"]
        assert not facts["tty"]
        assert facts["interrupt"]
        assert facts["main"] is None
        assert facts["made_by"]

    def test_a_hundred_thousand_entries_arrive_whole_and_in_order(self, make: Make) -> None:
        sizes = [entry.size for entry in make("Good").entries(at("many", "100000"))]
        assert sizes == list(range(100_000))

    def test_entries_arrive_before_the_listing_is_over(self, make: Make, tmp_path: Path) -> None:
        go_on = tmp_path / "go on"
        rows = make("Dripping").entries(at("slow", str(go_on)))
        assert [next(rows).name, next(rows).name] == ["a", "b"]
        go_on.touch()
        assert [row.name for row in rows] == ["c"]

    def test_a_listing_that_nobody_finishes_stops(self, make: Make, tmp_path: Path) -> None:
        told = tmp_path / "told"
        rows = make("Counting").entries(at("endless", str(told)))
        assert next(rows).name == "1"
        rows.close()  # type: ignore[attr-defined]  # it is a generator
        until(lambda: _has_text(told))
        assert int(told.read_text().split()[-1]) < 20_000

    def test_a_listing_that_is_forgotten_stops_too(self, make: Make, tmp_path: Path) -> None:
        told = tmp_path / "told"
        source = make("Counting")
        rows = source.entries(at("endless", str(told)))
        next(rows)
        del rows
        gc.collect()
        until(lambda: _has_text(told))
        assert source.stat(at("a")).kind is Kind.IMAGE

    def test_several_listings_run_side_by_side(self, make: Make) -> None:
        source = make("Good")
        rows = zip(*(source.entries(at("many", "5000")) for _ in range(5)), strict=True)
        assert all(len({row.size for row in line}) == 1 for line in rows)

    def test_an_error_in_the_middle_comes_after_what_was_listed(self, make: Make) -> None:
        rows = make("Raises").entries(at("half"))
        assert next(rows).name == "one"
        with pytest.raises(BadAnswer, match="makes no sense"):
            next(rows)


class TestReading:
    @pytest.mark.parametrize(("offset", "length"), [(0, 512), (3, 70_000), (1 << 20, 5 << 20), (5, 0), (64 << 20, 9)])
    def test_reads_are_exact(self, make: Make, offset: int, length: int) -> None:
        with make("Good").open(at("a")) as reader:
            assert reader.pread(offset, length) == pattern(offset, min(length, reader.size - offset))

    def test_the_whole_of_64_mib(self, make: Make) -> None:
        with make("Good").open(at("a")) as reader:
            assert reader.pread(0, 1 << 40) == pattern(0, reader.size)
            assert reader.pin.strong

    def test_sixteen_threads_read_at_once(self, make: Make) -> None:
        with make("Good").open(at("a")) as reader, ThreadPoolExecutor(16) as pool:
            spans = [(number * 40_009, 12_345) for number in range(400)]
            assert list(pool.map(lambda span: reader.pread(*span), spans)) == [pattern(*span) for span in spans]

    def test_reads_are_under_way_together(self, make: Make) -> None:
        """The reader answers none before eight are waiting."""
        with make("Good").open(at("slow")) as reader, ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda offset: reader.pread(offset, 8), range(8, 72, 8))) == [
                pattern(offset, 8) for offset in range(8, 72, 8)
            ]

    def test_more_threads_than_the_child_has_take_turns(self, make: Make) -> None:
        with make("Good").open(at("a")) as reader, ThreadPoolExecutor(100) as pool:
            assert set(pool.map(lambda _: reader.pread(0, 64), range(1000))) == {pattern(0, 64)}

    def test_closing_a_reader_ends_a_read_that_waits_and_nothing_else(self, make: Make) -> None:
        source = make("Good")
        waiting, other = source.open(at("slow")), source.open(at("a"))
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(waiting.pread, 0, 8)
            until(read.running)
            waiting.close()
            waiting.close()
            with pytest.raises(Cancelled):
                read.result(30)
        assert other.pread(0, 8) == pattern(0, 8)
        with pytest.raises(Cancelled):
            waiting.pread(8, 8)

    def test_a_reader_of_a_closed_source_is_closed_too(self, make: Make) -> None:
        source = make("Good")
        reader = source.open(at("a"))
        source.close()
        with pytest.raises(Cancelled):
            reader.pread(0, 8)
        reader.close()

    def test_what_the_reader_raises_is_raised(self, make: Make) -> None:
        with make("Raises").open(at("a")) as reader, pytest.raises(Changed):
            reader.pread(0, 8)


class TestErrors:
    FAMILY = sorted(
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, FarbootError) and kind not in {FarbootError, Denied}
    )

    @pytest.mark.parametrize("name", FAMILY)
    def test_each_of_the_family_arrives_whole(self, make: Make, name: str) -> None:
        with pytest.raises(FarbootError) as caught:
            make("Raises").stat(at(name))
        assert type(caught.value).__name__ == name
        assert (caught.value.why, caught.value.hint, caught.value.detail) == ("the reason", "the hint", "the detail")

    def test_a_denial_still_says_what_it_wants(self, make: Make) -> None:
        with pytest.raises(Denied) as caught:
            make("Raises").stat(at("Denied"))
        assert caught.value.wants == ("username", "password")

    def test_a_subclass_of_the_sources_own_arrives_as_its_base(self, make: Make) -> None:
        with pytest.raises(NotFound) as caught:
            make("Raises").stat(at("Own"))
        assert (type(caught.value), caught.value.hint) == (NotFound, "look elsewhere")

    @pytest.mark.parametrize("name", ["ValueError", "SystemExit", "Unpicklable", "Foreign"])
    def test_anything_else_is_told_without_traceback_escapes_or_secrets(self, make: Make, name: str) -> None:
        source = make("Raises", Credentials(password=Secret(PASSWORD)))
        with pytest.raises((Crashed, BadAnswer)) as caught:
            source.stat(at(name))
        text = str(caught.value) + caught.value.detail
        assert "Traceback" not in text
        assert "\x1b" not in text
        assert PASSWORD not in text

    def test_an_unexpected_error_says_where_it_was_and_leaves_the_child_alive(self, make: Make) -> None:
        source = make("Raises")
        with pytest.raises(Crashed, match="ValueError") as caught:
            source.stat(at("ValueError"))
        assert caught.value.detail.startswith("isolated_sources.py:")
        with pytest.raises(NotFound):
            source.stat(at("NotFound"))

    def test_a_source_that_cannot_begin_says_why_each_time(self, make: Make) -> None:
        source = make("CannotBegin")
        for _ in range(2):
            with pytest.raises(MissingClient, match="apt install libfoo"):
                source.stat(at("a"))

    def test_a_class_that_does_not_exist_is_an_error_like_any_other(self, make: Make) -> None:
        with pytest.raises(Crashed, match="AttributeError"):
            make("Nonsense").stat(at("a"))

    def test_no_answer_makes_the_parent_run_code(self) -> None:
        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return os.system, ("exit 3",)

        with pytest.raises(pickle.UnpicklingError):
            answer_of(pickle.dumps(Evil()))
        with pytest.raises(pickle.UnpicklingError):
            answer_of(pickle.dumps(Answer(1, subprocess.Popen)))


class TestHanging:
    def test_a_call_that_holds_the_interpreter_lock_times_out_and_the_next_one_works(
        self, make: Make, tmp_path: Path
    ) -> None:
        told = tmp_path / "pid"
        source = make("HoldsTheGil", deadline=0.3, grace=0.2)
        with pytest.raises(TimedOut):
            source.stat(at("a", str(told)))
        until(lambda: is_gone(int(told.read_text())))
        assert source.stat(at("a", str(told))).size != int(told.read_text())

    def test_a_listing_that_stops_coming_times_out(self, make: Make) -> None:
        rows = make("HoldsTheGil", deadline=0.3, grace=0.2).entries(at("a"))
        with pytest.raises(TimedOut):
            list(rows)

    def test_it_takes_its_own_readers_along_and_no_others(self, make: Make) -> None:
        source, other = make("HoldsTheGil", deadline=0.3, grace=0.2), make("Good")
        own, apart = source.open(at("a")), other.open(at("a"))
        with pytest.raises(TimedOut):
            source.stat(at("a"))
        with pytest.raises(TimedOut):
            own.pread(0, 8)
        with source.open(at("a")) as fresh:
            assert fresh.pread(0, 8) == apart.pread(0, 8) == pattern(0, 8)
        with pytest.raises(TimedOut):
            own.pread(0, 8)
        own.close()

    def test_closing_from_another_thread_cancels_at_once(self, make: Make, tmp_path: Path) -> None:
        for name in ("HoldsTheGil", "Waits"):
            told = tmp_path / name
            source = make(name, deadline=600.0)
            with ThreadPoolExecutor(2) as pool:
                asked = pool.submit(source.stat, at("a", str(told)))
                until(partial(_has_text, told))
                source.close()
                source.close()
                with pytest.raises(Cancelled):
                    asked.result(30)
            assert is_gone(int(told.read_text()))
            with pytest.raises(Cancelled):
                source.stat(at("a"))

    @pytest.mark.parametrize("name", ["HoldsTheGil", "Waits"])
    def test_the_child_dies_with_a_parent_that_is_killed(self, name: str, tmp_path: Path) -> None:
        told = tmp_path / "pid"
        program = (
            "import sys; from probes.isolation.source import IsolatedSource; from probes.location import Location;"
            f"IsolatedSource('tests.isolated_sources:{name}', deadline=600.0)"
            f".stat(Location('test', 'h', '/a', {str(told)!r}))"
        )
        parent = subprocess.Popen([sys.executable, "-c", program])
        try:
            until(lambda: _has_text(told))
        finally:
            parent.kill()
            parent.wait()
        until(lambda: is_gone(int(told.read_text())))

    def test_the_child_outlives_the_thread_that_started_it(self, make: Make) -> None:
        source = make("Good")
        pids: list[int | None] = []
        for _ in range(2):
            thread = threading.Thread(target=lambda: pids.append(source.stat(at("a")).size))
            thread.start()
            thread.join()
        assert pids[0] == pids[1]


class TestCrashing:
    @pytest.mark.parametrize(("way", "told"), [("segv", "SIGSEGV"), ("kill", "SIGKILL"), ("exit", "status 7")])
    def test_it_is_told_how_and_with_its_last_words(self, make: Make, way: str, told: str) -> None:
        with pytest.raises(Crashed, match=told) as caught:
            make("Crashes").stat(at(way))
        assert r"libfoo: assertion \x1b[31mfailed" in str(caught.value)
        assert len(caught.value.detail) < 20_000

    def test_the_second_try_works(self, make: Make, tmp_path: Path) -> None:
        source = make("Crashes")
        with pytest.raises(Crashed):
            source.stat(at("segv", str(tmp_path / "once")))
        assert source.stat(at("segv", str(tmp_path / "once"))).kind is Kind.IMAGE

    def test_a_crash_fails_every_call_that_waits(self, make: Make) -> None:
        source = make("Crashes", deadline=600.0)
        with ThreadPoolExecutor(8) as pool, source.open(at("slow")) as reader:
            reads = [pool.submit(reader.pread, 0, 8) for _ in range(4)]
            until(lambda: all(read.running() for read in reads))
            with pytest.raises(Crashed):
                source.stat(at("segv"))
            for read in reads:
                with pytest.raises(Crashed):
                    read.result(30)

    def test_a_child_killed_between_two_calls_is_replaced(self, make: Make) -> None:
        source = make("Good")
        first = source.stat(at("a")).size
        assert first
        with source.open(at("a")) as reader:
            os.kill(first, signal.SIGKILL)
            with pytest.raises(Crashed, match="SIGKILL"):
                reader.pread(0, 8)
        until(lambda: is_gone(first))
        assert source.stat(at("a")).size != first

    def test_its_memory_is_limited(self, make: Make) -> None:
        with pytest.raises(Crashed, match="MemoryError"):
            make("Greedy", memory=256 << 20).stat(at("a"))

    def test_a_process_that_cannot_be_started_is_told(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/nonexistent/python")
        with pytest.raises(Crashed, match="cannot be started"):
            make("Good").stat(at("a"))


class TestAbilities:
    @pytest.mark.parametrize("abilities", [(), (HasSnapshots,), (TellsUse,), (HasSnapshots, TellsUse)])
    def test_the_proxy_has_the_abilities_that_the_registry_tells(self, abilities: tuple[type, ...]) -> None:
        system = System("Test", ("test",), "tests.isolated_sources:Able", isolated=True, abilities=abilities)
        with isolated(system) as source:
            assert isinstance(source, HasSnapshots) == (HasSnapshots in abilities)
            assert isinstance(source, TellsUse) == (TellsUse in abilities)
            assert source.title == system.title
            assert source.schemes == system.schemes

    def test_they_work(self) -> None:
        system = System("Test", ("test",), "tests.isolated_sources:Able", abilities=(HasSnapshots, TellsUse))
        source: Source = isolated(system)
        with source:
            assert isinstance(source, HasSnapshots)
            assert isinstance(source, TellsUse)
            assert [row.name for row in source.snapshots(at("a"))] == ["@one"]
            assert source.in_use(at("a")).users == ("client.1 at 192.0.2.7",)


def test_a_program_that_is_odd_in_every_way_can_use_it(tmp_path: Path) -> None:
    """No guard around its main code, a name that is no module's, another working directory."""
    program = tmp_path / "odd name"
    program.write_text(
        f"import sys; sys.path.insert(0, {os.getcwd()!r}); print('started')\n"
        "from probes.isolation.source import IsolatedSource\nfrom probes.location import Location\n"
        "with IsolatedSource('tests.isolated_sources:Good') as source:\n"
        "    print(len(list(source.entries(Location('test', 'h', '/a', '7')))))\n"
    )
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["started", "7"], done.stderr
