"""NBD against what no server that could be installed can be brought to say: a small one of our own says it."""

import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from probes.errors import (
    BadAnswer,
    Denied,
    FarbootError,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.sources.nbd import NAMELESS, NbdSource
from tests.servers.faults import Listener


@pytest.fixture
def source() -> Iterator[NbdSource]:
    with NbdSource() as made:
        yield made


class Negotiator(Listener):
    """A server of the newstyle: `answer(option, data)` gives its (type, payload)s for LIST, INFO and GO."""

    def __init__(self, answer: Callable[[int, bytes], list[tuple[int, bytes]]]) -> None:
        self.answer = answer
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        client.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        stream = client.makefile("rb")
        stream.read(4)
        while len(header := stream.read(16)) == 16:
            option, length = struct.unpack(">8xII", header)
            data = stream.read(length)
            for kind, payload in self.answer(option, data) if option in {LIST, INFO, GO} else [(UNSUPPORTED, b"")]:
                client.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(payload)) + payload)


LIST, INFO, GO = 3, 6, 7
ACK, SERVER, INFORMATION = 1, 2, 3
UNSUPPORTED, POLICY, UNKNOWN = 0x80000001, 0x80000002, 0x80000006


def size_of(size: int, flags: int = 1) -> tuple[int, bytes]:
    return INFORMATION, struct.pack(">HQH", 0, size, flags)


def named(name: bytes, description: bytes = b"") -> tuple[int, bytes]:
    return SERVER, struct.pack(">I", len(name)) + name + description


class TestOddServers:
    """What no server that could be installed can be brought to say: hence one of our own."""

    @pytest.mark.parametrize("refusal", [UNSUPPORTED, POLICY])
    def test_one_that_lists_nothing_offers_its_default_export(self, source: NbdSource, refusal: int) -> None:
        def answer(option: int, data: bytes) -> list[tuple[int, bytes]]:
            return [size_of(4096), (ACK, b"")] if option in {INFO, GO} else [(refusal, b"")]

        with Negotiator(answer) as server:
            (entry,) = source.entries(Location("nbd", server.authority, "/"))
        assert (entry.name, entry.size) == (NAMELESS, 4096)
        assert "does not list" in entry.note

    def test_one_that_lists_nothing_and_has_no_default_says_so(self, source: NbdSource) -> None:
        def answer(option: int, data: bytes) -> list[tuple[int, bytes]]:
            return [(UNKNOWN if option in {INFO, GO} else UNSUPPORTED, b"")]

        with Negotiator(answer) as server, pytest.raises((Unsupported, Denied)):
            list(source.entries(Location("nbd", server.authority, "/")))

    def test_one_that_cannot_tell_without_opening_is_opened(self, source: NbdSource) -> None:
        def answer(option: int, data: bytes) -> list[tuple[int, bytes]]:
            if option == LIST:
                return [named(b"one"), named(b"two"), (ACK, b"")]
            return [size_of(4096), (ACK, b"")] if option == GO else [(UNSUPPORTED, b"")]

        with Negotiator(answer) as server:
            top = Location("nbd", server.authority, "/")
            assert [(entry.name, entry.size) for entry in source.entries(top)] == [("one", None), ("two", None)]
            assert source.stat(top.child("one")).size == 4096

    def test_hostile_names_and_descriptions_are_harmless(self, source: NbdSource) -> None:
        names = [b"\x1b[2J\xff", b"..", b".", b"/", b"/etc/passwd", b"a\nb", b"-x", b"x" * 4096]

        def answer(option: int, data: bytes) -> list[tuple[int, bytes]]:
            if option == LIST:
                return [named(name, b"\x1b]0;owned\x07" * 300) for name in names] + [(ACK, b"")]
            return [size_of(4096), (ACK, b"")]

        with Negotiator(answer) as server:
            found = list(source.entries(Location("nbd", server.authority, "/")))
            assert [entry.name for entry in found] == [os.fsdecode(name) for name in names]
            for entry in found:
                assert len(entry.note) < 120
                assert entry.note.isprintable()
                again, _ = Location.parse(str(entry.location))
                assert again == entry.location
                assert str(entry.location).isprintable()
                assert source.stat(again).name == entry.name

    def test_more_names_than_anybody_has_are_an_error(self, source: NbdSource, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("probes.nbd.connection._MOST_EXPORTS", 100)
        rows = [named(b"%d" % number) for number in range(200)]
        with (
            Negotiator(lambda option, data: [*rows, (ACK, b"")]) as server,
            pytest.raises(BadAnswer, match="more than"),
        ):
            list(source.entries(Location("nbd", server.authority, "/")))

    def test_a_listing_that_drips_for_ever_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Dripping(Negotiator):
            def serve(self, client: socket.socket) -> None:
                with client:
                    client.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
                    client.recv(4)
                    header = client.recv(16)
                    while not self.stopping.wait(0.05):
                        kind, payload = named(b"again")
                        client.sendall(struct.pack(">QIII", 0x3E889045565A9, LIST, kind, len(payload)) + payload)
                    assert header

        monkeypatch.setattr("probes.nbd.driver.PATIENCE", 2)
        with (
            Dripping(lambda option, data: []) as server,
            NbdSource(deadline=0.5) as source,
            pytest.raises(FarbootError),
        ):
            list(source.entries(Location("nbd", server.authority, "/")))

    @pytest.mark.parametrize("block", [3, 1 << 20])
    def test_impossible_block_sizes_are_not_believed(self, source: NbdSource, block: int) -> None:
        def answer(option: int, data: bytes) -> list[tuple[int, bytes]]:
            sizes = (INFORMATION, struct.pack(">HIII", 3, block, block, 1 << 25))
            return [size_of(1 << 21), sizes, (ACK, b"")]

        with Negotiator(answer) as server, source.open(Location("nbd", server.authority)) as reader:
            assert reader.size == 1 << 21

    @pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n" * 10, b"NBDMAGIC" + b"x" * 100])
    def test_what_is_no_nbd_server_is_told(self, source: NbdSource, greeting: bytes) -> None:
        class Other(Listener):
            def serve(self, client: socket.socket) -> None:
                client.sendall(greeting)
                client.recv(1)

        with Other() as server, pytest.raises(BadAnswer, match="no NBD server"):
            source.stat(Location("nbd", server.authority, "/"))

    def test_one_that_hangs_up_at_once_is_unreachable(self, source: NbdSource) -> None:
        class Curt(Listener):
            def serve(self, client: socket.socket) -> None:
                pass

        with Curt() as server, pytest.raises(Unreachable, match="broke the connection"):
            source.stat(Location("nbd", server.authority, "/"))

    def test_a_host_that_nobody_knows_is_unreachable(self, source: NbdSource) -> None:
        with pytest.raises(Unreachable, match=r"no-such-host\.invalid"):
            source.stat(Location("nbd", "no-such-host.invalid", "/"))
