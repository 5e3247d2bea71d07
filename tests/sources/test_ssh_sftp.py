"""SFTP, by itself: OpenSSH's own sftp-server at the other end of a socket, and servers that lie."""

import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from probes.errors import BadAnswer, Cancelled, FarbootError, TimedOut, Unreachable, Unsupported
from probes.ssh import replies as protocol
from probes.ssh.replies import SftpError
from probes.ssh.sftp import Sftp
from probes.ssh.wire import Malformed, Packet, string, u32, u64

_SERVER = "/usr/lib/openssh/sftp-server"


def lost() -> FarbootError:
    return Unreachable("use", "it", "the connection broke off")


def session(stream: Any, deadline: float = 10.0) -> Sftp:
    return Sftp(stream, deadline, lost)  # a socket does all that it wants of a channel


@pytest.fixture
def sftp() -> Iterator[Sftp]:
    """A session with OpenSSH's sftp-server."""
    ours, theirs = socket.socketpair()
    with theirs:
        server = subprocess.Popen([_SERVER], stdin=theirs.fileno(), stdout=theirs.fileno())
    with ours:
        found = session(ours)
        yield found
        ours.shutdown(socket.SHUT_RDWR)  # a socket's close, unlike a channel's, wakes nobody
        found.close()
    server.wait(10)


def test_a_large_folder_comes_whole_with_its_links_followed(sftp: Sftp, tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(bytes(777))
    for number in range(3000):
        if number % 2:
            (tmp_path / f"link-{number}").symlink_to("target" if number % 3 else "nowhere")
        else:
            (tmp_path / f"file-{number}").touch()
    found = dict(sftp.entries(os.fsencode(tmp_path)))
    assert {os.fsdecode(name) for name in found} == set(os.listdir(tmp_path))
    for name, attributes in found.items():
        leads = (tmp_path / os.fsdecode(name)).exists()
        assert attributes.is_link is not leads
        if leads:
            assert attributes.size == (tmp_path / os.fsdecode(name)).stat().st_size


def test_a_listing_that_nobody_finishes_closes_its_folder(sftp: Sftp, tmp_path: Path) -> None:
    for number in range(500):
        (tmp_path / str(number)).touch()
    for _ in range(300):  # sftp-server has 100 to 1,000 handles
        listing = sftp.entries(os.fsencode(tmp_path))
        next(listing)
        listing.close()  # type: ignore[attr-defined]  # it is a generator
    assert len(list(sftp.entries(os.fsencode(tmp_path)))) == 500


def test_many_threads_read_list_and_write_over_one_session(sftp: Sftp, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "image").write_bytes(data)
    (tmp_path / "copy").write_bytes(bytes(len(data)))
    image, copy = (sftp.open(os.fsencode(tmp_path / name), name == "copy") for name in ("image", "copy"))

    def work(number: int) -> bool:
        at, size = number * 60_000, 60_000
        piece = sftp.read(image, at, size)
        sftp.write(copy, at, piece)
        names = [name for name, _ in sftp.entries(os.fsencode(tmp_path))]
        return piece == data[at : at + size] and sorted(names) == [b"copy", b"image"]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(50)))
    assert sftp.sync(copy)
    assert (tmp_path / "copy").read_bytes() == data


def test_reading_over_the_end_gives_what_there_is(sftp: Sftp, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * 1_000_001)
    handle = sftp.open(os.fsencode(tmp_path / "image"))
    assert sftp.read(handle, 0, 5_000_000) == b"x" * 1_000_001
    assert sftp.read(handle, 1_000_000, 10) == b"x"
    assert sftp.read(handle, 1_000_001, 10) == b""
    assert sftp.read(handle, 5_000_000, 10) == b""


def test_what_goes_wrong_has_its_code(sftp: Sftp, tmp_path: Path) -> None:
    with pytest.raises(SftpError) as caught:
        sftp.open(os.fsencode(tmp_path / "missing"))
    assert caught.value.code == protocol.NO_SUCH_FILE
    with pytest.raises(SftpError):
        list(sftp.entries(os.fsencode(tmp_path / "missing")))


# Servers that lie

Answer = Callable[[int, bytes], bytes]
VERSION = string(bytes([protocol.VERSION]) + u32(3))


class Liar:
    """Answers each request with the bytes that `answer(kind, number and body)` gives."""

    def __init__(self, answer: Answer, greeting: bytes = VERSION) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.answer = answer
        self.greeting = greeting
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self.theirs, self.theirs.makefile("rb") as requests:
            requests.read(9)
            self.theirs.sendall(self.greeting)
            while head := requests.read(4):
                message = requests.read(int.from_bytes(head, "big"))
                try:
                    self.theirs.sendall(self.answer(message[0], message[1:]))
                except OSError:
                    return

    def session(self, deadline: float = 10.0) -> Sftp:
        return session(self.ours, deadline)


def reply(kind: int, body: bytes, payload: bytes) -> bytes:
    return string(bytes([kind]) + body[:4] + payload)


def handle(body: bytes) -> bytes:
    return reply(protocol.HANDLE, body, string(b"h"))


@pytest.mark.parametrize(
    "greeting",
    [b"", b"Welcome to this host!\n" * 10, u32(0), u32(1 << 31), string(b"\x65"), string(bytes([protocol.STATUS]))],
)
def test_what_is_not_sftp_is_told(greeting: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(greeting)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises((BadAnswer, Unsupported)) as caught:
            session(ours)
    assert ".bashrc" in caught.value.hint


def test_more_data_than_was_asked_for_is_refused() -> None:
    liar = Liar(lambda kind, body: reply(protocol.DATA, body, string(bytes(40_000))))
    with pytest.raises(BadAnswer):
        liar.session().read(b"h", 0, 512)


def test_no_data_for_ever_is_refused() -> None:
    liar = Liar(lambda kind, body: reply(protocol.DATA, body, string(b"")))
    with pytest.raises(BadAnswer):
        liar.session().read(b"h", 0, 512)


def test_data_that_comes_in_small_pieces_is_put_together() -> None:
    def answer(kind: int, body: bytes) -> bytes:
        packet = Packet(body[4:])
        packet.string()
        at, size = packet.u64(), packet.u32()
        return reply(protocol.DATA, body, string(bytes((at + n) % 251 for n in range(min(size, 1000)))))

    found = Liar(answer).session().read(b"h", 5, 100_000)
    assert found == bytes((5 + n) % 251 for n in range(100_000))


@pytest.mark.parametrize("kind", [protocol.DATA, protocol.HANDLE, 99])
def test_an_answer_to_another_question_is_refused(kind: int) -> None:
    liar = Liar(lambda _, body: reply(kind, body, string(b"x")))
    with pytest.raises(BadAnswer):
        liar.session().stat(b"/")


@pytest.mark.parametrize(
    "payload", [b"", u32(1), u32(4), u32(0x80000000) + u32(0xFFFFFFFF), u32(0x80000000) + u32(1) + u32(0xFFFFFFFF)]
)
def test_attributes_that_end_too_soon_are_malformed(payload: bytes) -> None:
    with pytest.raises(Malformed):
        Liar(lambda _, body: reply(protocol.ATTRS, body, payload)).session().stat(b"/")


def listing(*names: bytes, count: int | None = None) -> Answer:
    """A server whose folder holds these names, and ends after them."""
    rows = b"".join(string(name) + string(b"-") + u32(4) + u32(stat.S_IFREG) for name in names)
    told = iter([u32(len(names) if count is None else count) + rows])

    def answer(kind: int, body: bytes) -> bytes:
        if kind == protocol.OPENDIR:
            return handle(body)
        if kind == protocol.READDIR and (page := next(told, None)):
            return reply(protocol.NAME, body, page)
        return reply(protocol.STATUS, body, u32(protocol.END))

    return answer


def test_names_that_lead_elsewhere_are_left_out() -> None:
    sftp = Liar(listing(b"fine", b"..", b".", b"../../etc/shadow", b"/etc/shadow", b"", b"nul\0")).session()
    assert [name for name, _ in sftp.entries(b"/")] == [b"fine"]


def test_a_listing_that_promises_more_than_it_holds_is_refused() -> None:
    with pytest.raises(BadAnswer):
        list(Liar(listing(b"one", count=0xFFFFFFFF)).session().entries(b"/"))


def test_a_listing_that_fails_is_an_error_and_not_an_end() -> None:
    def answer(kind: int, body: bytes) -> bytes:
        return handle(body) if kind == protocol.OPENDIR else reply(protocol.STATUS, body, u32(protocol.FAILURE))

    with pytest.raises(SftpError):
        list(Liar(answer).session().entries(b"/"))


def test_answers_to_nobody_are_dropped() -> None:
    attributes = u32(1) + u64(7)
    liar = Liar(lambda _, body: string(b"\x69" + u32(4711) + attributes) + reply(protocol.ATTRS, body, attributes))
    assert liar.session().stat(b"/").size == 7


def test_a_server_that_falls_silent_times_out() -> None:
    with pytest.raises(TimedOut):
        Liar(lambda *_: b"").session(deadline=0.3).stat(b"/")


def test_a_connection_that_breaks_off_is_told() -> None:
    liar = Liar(lambda *_: b"")
    sftp = liar.session()
    liar.theirs.shutdown(socket.SHUT_RDWR)
    with pytest.raises(Unreachable):
        sftp.stat(b"/")


def test_closing_ends_a_call_that_waits() -> None:
    begun = threading.Event()

    def answer(*_: object) -> bytes:
        begun.set()
        return b""

    sftp = Liar(answer).session(deadline=120)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(sftp.stat, b"/")
        assert begun.wait(30)
        sftp.close()
        with pytest.raises(Cancelled):
            asked.result(30)


def test_a_server_with_small_limits_is_asked_for_small_pieces() -> None:
    sizes = []

    def answer(kind: int, body: bytes) -> bytes:
        if kind == protocol.EXTENDED:
            return reply(protocol.EXTENDED_REPLY, body, u64(9000) + u64(5000) + u64(5000) + u64(10))
        packet = Packet(body[4:])
        packet.string(), packet.u64()
        sizes.append(packet.u32())
        return reply(protocol.DATA, body, string(bytes(sizes[-1])))

    greeting = string(bytes([protocol.VERSION]) + u32(3) + string(b"limits@openssh.com") + string(b"1"))
    assert len(Liar(answer, greeting).session().read(b"h", 0, 12_000)) == 12_000
    assert sizes == [5000, 5000, 2000]
