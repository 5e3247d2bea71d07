"""What an NFS server that lies, or speaks nonsense, can do: be told of, in time, and nothing more."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from probes.errors import BadAnswer, BadLocation, Changed, Denied, FarbootError, NotFound, TimedOut, Unreachable
from probes.location import Location
from probes.nfs import services
from probes.nfs.errors import failure
from probes.nfs.readdir import CannotList, read_folder
from probes.nfs.readdir4 import read_tree
from probes.nfs.rpc import Connection, Deadline, RpcDenied, RpcError, RpcRefused, opaque
from probes.nfs.server import tidy
from probes.nfs.services import ExportLine
from probes.sources.nfs import NfsSource
from tests.servers.faults import Listener

PLACE = Location("nfs", "host", "/export/")
HANDLE = b"h" * 32


def accepted(results: bytes, status: int = 0) -> bytes:
    """An answer, but for its number."""
    return struct.pack(">5I", 1, 0, 0, 0, status) + results


@dataclass
class Liar(Listener):
    """Answers every call with the next of `answers` (the last one for ever), after the call's own number."""

    answers: list[bytes]
    calls: list[bytes] = field(default_factory=list)
    fragments: int = 1
    claimed: int | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def serve(self, client: socket.socket) -> None:
        while head := client.recv(4):
            length = int.from_bytes(head, "big") & 0x7FFFFFFF
            call = client.recv(length)
            self.calls.append(call)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            self.say(client, call[:4] + answer)

    def say(self, client: socket.socket, message: bytes) -> None:
        size = -(-len(message) // self.fragments)
        pieces = [message[at : at + size] for at in range(0, len(message), size)]
        for number, piece in enumerate(pieces, 1):
            length = len(piece) if self.claimed is None else self.claimed
            client.sendall(struct.pack(">I", (number == len(pieces)) << 31 | length) + piece)


@pytest.fixture
def lying() -> Iterator[Callable[..., Liar]]:
    made: list[Liar] = []

    def make(*answers: bytes, **more: int) -> Liar:
        made.append(Liar(list(answers), **more))  # type: ignore[arg-type]  # its other fields are numbers
        return made[-1]

    yield make
    for liar in made:
        liar.close()


def exports(liar: Liar, seconds: float = 10.0) -> tuple[ExportLine, ...]:
    return services.exports("127.0.0.1", liar.port, Deadline(seconds))


class TestAnswers:
    def test_an_answer_in_fragments_is_put_together(self, lying: Callable[..., Liar]) -> None:
        line = struct.pack(">I", 1) + opaque(b"/a") + struct.pack(">I", 1) + opaque(b"h1") + struct.pack(">2I", 0, 0)
        assert exports(lying(accepted(line), fragments=7)) == (ExportLine("/a", ("h1",)),)

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"\0\0\0\1",
            accepted(b""),
            accepted(struct.pack(">2I", 1, 0xFFFFFFFF)),
            accepted(struct.pack(">2I", 1, 4000) + b"x"),
            accepted(struct.pack(">I", 1) + opaque(b"/a") + struct.pack(">I", 1)),
            struct.pack(">5I", 0, 0, 0, 0, 0),
            struct.pack(">4I", 1, 0, 0, 0xFFFFFFFF),
        ],
    )
    def test_nonsense_is_an_error(self, lying: Callable[..., Liar], answer: bytes) -> None:
        with pytest.raises(RpcError):
            exports(lying(answer))

    def test_an_answer_to_another_call_is_none(self, lying: Callable[..., Liar]) -> None:
        liar = lying(accepted(b""))
        liar.say = lambda client, message: Liar.say(liar, client, b"\0\0\0\0" + message[4:])  # type: ignore[method-assign]  # it lies once more
        with pytest.raises(RpcError, match="no answer to what was asked"):
            exports(liar)

    def test_an_answer_of_gigabytes_is_not_read(self, lying: Callable[..., Liar]) -> None:
        with pytest.raises(RpcError, match="impossible length"):
            exports(lying(accepted(b""), claimed=0x7FFFFFFF))

    def test_an_export_list_without_an_end_is_cut(
        self, lying: Callable[..., Liar], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(services, "_MOST_EXPORTS", 10)
        line = struct.pack(">I", 1) + opaque(b"/a") + struct.pack(">I", 0)
        with pytest.raises(RpcError, match="without an end"):
            exports(lying(accepted(line * 100)))

    def test_refusals_are_told_apart(self, lying: Callable[..., Liar]) -> None:
        with pytest.raises(RpcRefused, match="program is not there"):
            exports(lying(accepted(b"", status=1)))
        with pytest.raises(RpcDenied):
            exports(lying(struct.pack(">4I", 1, 1, 1, 5)))

    def test_a_server_that_stops_in_the_middle_times_out(self, lying: Callable[..., Liar]) -> None:
        with pytest.raises(TimeoutError):
            exports(lying(accepted(b""), claimed=1000), seconds=0.3)

    def test_the_identity_is_sent(self, lying: Callable[..., Liar]) -> None:
        liar = lying(accepted(struct.pack(">I", 13)))
        assert services.mount("127.0.0.1", liar.port, "/a", (12, 34), Deadline(10)) == (b"", "access denied")
        assert opaque(b"farboot") + struct.pack(">3I", 12, 34, 0) in liar.calls[0]


def row(number: int, name: bytes, follows: int = 0) -> bytes:
    return struct.pack(">IQ", 1, number) + opaque(name) + struct.pack(">Q2I", number, follows, 0)


def page(*rows: bytes, last: bool = True) -> bytes:
    return accepted(struct.pack(">2I", 0, 0) + bytes(8) + b"".join(rows) + struct.pack(">2I", 0, last))


def listed(liar: Liar, path: str = "/") -> list[str]:
    with Connection("127.0.0.1", liar.port, Deadline(10), (0, 0)) as connection:
        return [name for name, _ in read_folder(connection, HANDLE, path, 10)]


class TestFolders:
    def test_pages_follow_one_another_without_the_folder_itself(self, lying: Callable[..., Liar]) -> None:
        liar = lying(page(row(1, b"."), row(2, b".."), row(3, b"a"), last=False), page(row(4, b"\xff"), row(5, b"b")))
        assert listed(liar) == ["a", os.fsdecode(b"\xff"), "b"]
        assert struct.pack(">Q", 3) in liar.calls[1], "it goes on where the first page ended"

    @pytest.mark.parametrize(
        "answer",
        [
            page(last=False),
            page(row(0, b"a"), last=False),
            page(row(1, b"x" * 5000)),
            page(row(1, b"a", follows=1)),
            accepted(struct.pack(">2I", 0, 0)),
        ],
    )
    def test_nonsense_is_an_error(self, lying: Callable[..., Liar], answer: bytes) -> None:
        with pytest.raises(RpcError):
            listed(lying(answer))

    @pytest.mark.parametrize(("status", "error"), [(13, PermissionError), (20, NotADirectoryError), (2, OSError)])
    def test_refusals_are_errors_of_the_system(
        self, lying: Callable[..., Liar], status: int, error: type[OSError]
    ) -> None:
        with pytest.raises(error):
            listed(lying(accepted(struct.pack(">2I", status, 0))))

    def test_a_server_without_the_procedure_is_left_to_libnfs(self, lying: Callable[..., Liar]) -> None:
        with pytest.raises(CannotList):
            listed(lying(accepted(struct.pack(">2I", 10004, 0))))


def page4(*rows: bytes, last: bool = True, operations: int = 2) -> bytes:
    head = struct.pack(">I", 0) + opaque(b"") + struct.pack(">I", operations) + bytes(8 * operations)
    return accepted(head + bytes(8) + b"".join(rows) + struct.pack(">2I", 0, last))


def row4(number: int, name: bytes, bits: tuple[int, ...] = (0x12, 0x200002), values: bytes | None = None) -> bytes:
    found = struct.pack(">IQIqI", 1, 1234, 0o644, -5, 7) if values is None else values
    bitmap = struct.pack(f">I{len(bits)}I", len(bits), *bits)
    return struct.pack(">IQ", 1, number) + opaque(name) + bitmap + opaque(found)


def listed4(liar: Liar, path: str = "/") -> list[tuple[str, int | None]]:
    with Connection("127.0.0.1", liar.port, Deadline(10), (0, 0)) as connection:
        return [(name, found.size if found else None) for name, found in read_tree(connection, path, 10)]


class TestFoldersOfVersion4:
    def test_pages_follow_one_another(self, lying: Callable[..., Liar]) -> None:
        liar = lying(page4(row4(3, b"a"), last=False), page4(row4(4, b"\xff"), row4(5, b"b", (), b"")))
        assert listed4(liar) == [("a", 1234), (os.fsdecode(b"\xff"), 1234), ("b", None)]
        assert struct.pack(">Q", 3) in liar.calls[1], "it goes on where the first page ended"

    @pytest.mark.parametrize(
        "answer",
        [
            page4(last=False),
            page4(row4(0, b"a"), last=False),
            page4(row4(1, b"x" * 5000)),
            page4(row4(1, b"a", values=b"")),
            page4(row4(1, b"a", bits=(0xFFFFFFFF, 0xFFFFFFFF))),
            page4(row4(1, b"a", bits=(0,) * 17)),
            page4(row4(1, b"a", bits=(0x12, 0x200002, 1))),
            page4(row4(1, b"a"), operations=1),
            accepted(struct.pack(">I", 0)),
        ],
    )
    def test_nonsense_is_an_error(self, lying: Callable[..., Liar], answer: bytes) -> None:
        with pytest.raises(RpcError):
            listed4(lying(answer))

    def test_refusals_are_errors_of_the_system(self, lying: Callable[..., Liar]) -> None:
        with pytest.raises(PermissionError):
            listed4(lying(accepted(struct.pack(">I", 13))))
        with pytest.raises(BlockingIOError):
            listed4(lying(accepted(struct.pack(">I", 10013))))

    def test_links_on_the_way_are_left_to_libnfs(self, lying: Callable[..., Liar]) -> None:
        with pytest.raises(CannotList):
            listed4(lying(accepted(struct.pack(">I", 10029))))


@pytest.mark.parametrize(
    ("number", "family"),
    [
        ("EACCES", Denied),
        ("EROFS", Denied),
        ("ENOSPC", Denied),
        ("ENOENT", NotFound),
        ("ELOOP", NotFound),
        ("ESTALE", Changed),
        ("EINTR", TimedOut),
        ("ECONNREFUSED", Unreachable),
        ("EIO", Unreachable),
        ("EINVAL", BadAnswer),
    ],
)
def test_what_libnfs_says_becomes_one_of_the_family(number: str, family: type[FarbootError]) -> None:
    import errno

    assert type(failure(OSError(getattr(errno, number), "words"), "open", PLACE)) is family


def test_a_server_in_its_grace_period_is_one_to_wait_for() -> None:
    assert isinstance(failure(OSError(5, "NFS4ERR_GRACE(-5)"), "open", PLACE), TimedOut)
    assert isinstance(failure(OSError(5, "NFS3ERR_IO(-5)"), "open", PLACE), BadAnswer)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("", "/"), ("/", "/"), ("//a//b/", "/a/b"), ("/a/./b/../c", "/a/c"), ("/../../etc", "/etc"), ("a", "/a")],
)
def test_paths_are_tidied(typed: str, meant: str) -> None:
    assert tidy(typed) == meant


def test_nothing_is_contacted_before_the_options_are_understood() -> None:
    with NfsSource() as source, pytest.raises(BadLocation):
        source.stat(Location("nfs", "nonesuch.invalid", "/a", "sec=krb5"))
