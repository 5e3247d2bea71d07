"""The web source's patience, and its connections."""

import threading
from pathlib import Path

import pytest

from probes.attachment import QemuFacts, RouteWish
from probes.errors import (
    FarbootError,
    TimedOut,
)
from probes.location import Location
from probes.network.call import PROGRESS, Call
from probes.sources.http import HttpSource
from tests.servers.faults import Drip, FaultyProxy, Listener
from tests.servers.nginx import Nginx
from tests.servers.site import Reply, Request, ranged
from tests.sources.contract import content

DATA = content(200_000)
DIRECT = QemuFacts((10, 0, 13), frozenset({"http", "https"}), RouteWish.DIRECT)


def at(text: str) -> Location:
    return Location.parse(text)[0]


@pytest.fixture
def folder(nginx: Nginx, tmp_path: Path) -> tuple[Path, str]:
    """A folder of this test's own under a real nginx, and its URL."""
    path = Path(nginx.root) / tmp_path.name
    path.mkdir()
    return path, f"{nginx.url}{tmp_path.name}/"


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000000\r\n\r\n<html>",
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-65535/9999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["headers", "listing", "image", "chunks"],
)
def test_a_server_that_drips_is_given_up(start: bytes) -> None:
    with Drip(start) as server, HttpSource(deadline=0.7) as source:
        with pytest.raises(TimedOut):
            source.open(at(f"http://{server.authority}/x.img"))
        if b"Range" not in start:
            with pytest.raises(TimedOut):
                list(source.entries(at(f"http://{server.authority}/")))


def test_real_progress_moves_the_deadline_on_and_drops_do_not() -> None:
    now = [0.0]
    call = Call("read", "x", 10.0, lambda: now[0])
    for _ in range(5):
        now[0] += 9
        call.progressed(PROGRESS)
        assert call.remaining() == 10
    for _ in range(9):
        now[0] += 1
        call.progressed(1)
    assert call.remaining() == 1
    now[0] += 1
    with pytest.raises(TimedOut):
        call.remaining()


def test_the_clock_stands_still_while_the_caller_is_busy_with_what_it_got() -> None:
    now = [0.0]
    call = Call("list", "x", 10.0, lambda: now[0])
    with call.resting():
        now[0] += 1000
    assert call.remaining() == 10


def test_a_name_server_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock, for a resolver that hangs cannot be had without changing the machine's own."""
    hang = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: hang.wait())
    with HttpSource(deadline=0.3) as source, pytest.raises(TimedOut, match="looking up"):
        source.stat(at("http://images.invalid/"))
    hang.set()


def test_closing_a_reader_ends_its_read(folder: tuple[Path, str]) -> None:
    path, url = folder
    (path / "x.img").write_bytes(DATA)
    port = at(url).port
    assert port
    with FaultyProxy(port) as proxy, HttpSource(deadline=120) as source:
        reader = source.open(Location("http", proxy.authority, at(url + "x.img").path))
        proxy.hold_after = 0
        proxy.hang_up()
        failed: list[BaseException] = []
        begun = threading.Event()

        def read() -> None:
            begun.set()
            try:
                reader.pread(100_000, 512)
            except FarbootError as error:
                failed.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        assert begun.wait(30)
        reader.close()
        thread.join(60)
        assert failed


# -- connections ---------------------------------------------------------------------------------------------------


def test_reads_one_after_another_share_a_connection(folder: tuple[Path, str]) -> None:
    path, url = folder
    (path / "x.img").write_bytes(DATA)
    port = at(url).port
    assert port
    with FaultyProxy(port) as proxy, HttpSource() as source:
        with source.open(Location("http", proxy.authority, at(url + "x.img").path)) as reader:
            for number in range(30):
                assert reader.pread(70_000 + number * 1000, 1000) == DATA[70_000 + number * 1000 :][:1000]
        assert proxy.connections == 1


class Impatient(Listener):
    """Ends its first connection when it is used a second time, without an answer."""

    def serve(self, client: object) -> None:
        import socket

        assert isinstance(client, socket.socket)
        first = self.connections == 1
        while request := client.recv(65536):
            fields = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:] if ": " in line)
            reply = ranged(DATA, Request("/", fields))
            headers = {**reply.headers, "Content-Length": str(len(reply.body))}
            client.sendall(Reply(206, reply.body, headers).raw)
            if first:
                client.recv(65536)
                return


def test_a_connection_that_the_server_ended_while_it_rested_is_no_error() -> None:
    with Impatient() as server, HttpSource() as source:
        with source.open(at(f"http://{server.authority}/x.img")) as reader:
            assert reader.pread(100_000, 512) == DATA[100_000:100_512]
        assert server.connections == 2
