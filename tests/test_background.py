"""Work in threads: heard while it is wanted, and never in the way of the end.

The pump and the sources are small stand-ins: what is tested is who calls whom, and when.
"""

import threading
from collections.abc import Callable

import pytest
from textual.message_pump import MessagePump

from app.background import Lane, ask
from probes.errors import Crashed, FarbootError, Unreachable
from probes.location import Location
from probes.source import Source
from tests.screens.fakes import HOME, FakeSource


class Pump(MessagePump):
    """Collects what it is to call, for the test to call it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Callable[[], object]] = []
        self.came = threading.Event()

    def call_later(self, callback: Callable[..., object], *args: object, **kwargs: object) -> bool:
        self.calls.append(lambda: callback(*args, **kwargs))
        self.came.set()
        return True

    def run(self) -> None:
        assert self.came.wait(10)
        for call in self.calls:
            call()


def test_a_result_is_heard() -> None:
    pump, heard = Pump(), list[int]()
    ask(pump, lambda: 42, heard.append, lambda _error: None)
    pump.run()
    assert heard == [42]


def test_a_cancelled_job_is_not_heard() -> None:
    pump, heard = Pump(), list[int]()
    job = ask(pump, lambda: 42, heard.append, lambda _error: None)
    job.cancel()
    pump.run()
    assert heard == []


@pytest.mark.parametrize(("raised", "told"), [(Unreachable("list", "x", "no"), Unreachable), (OSError("odd"), Crashed)])
def test_an_error_is_always_one_of_ours(raised: Exception, told: type[FarbootError]) -> None:
    def fail() -> None:
        raise raised

    pump, errors = Pump(), list[FarbootError]()
    ask(pump, fail, lambda _: None, errors.append)
    pump.run()
    assert type(errors[0]) is told


class Opens:
    """Makes sources, and keeps them."""

    def __init__(self) -> None:
        self.made: list[FakeSource] = []

    def open_source(self, location: Location) -> Source:
        self.made.append(FakeSource(lambda _location: iter(())))
        return self.made[-1]


def test_a_lane_keeps_its_source_for_the_same_server_only() -> None:
    opens = Opens()
    lane = Lane(opens)
    with lane.source(HOME) as first:
        pass
    with lane.source(HOME.root) as second:
        assert second is first
    with lane.source(Location.parse("http://other.example.org/")[0]) as third:
        assert third is not first
    assert opens.made[0].closed.is_set()


def test_a_source_that_failed_is_not_used_again() -> None:
    opens = Opens()
    lane = Lane(opens)
    with pytest.raises(Unreachable), lane.source(HOME):
        raise Unreachable("list", HOME, "no")
    assert opens.made[0].closed.is_set()
    with lane.source(HOME):
        assert len(opens.made) == 2


def test_giving_up_closes_what_a_job_still_uses() -> None:
    opens = Opens()
    lane = Lane(opens)
    with lane.source(HOME):
        lane.give_up()
        assert opens.made[0].closed.wait(10)
    with lane.source(HOME):
        assert len(opens.made) == 2
