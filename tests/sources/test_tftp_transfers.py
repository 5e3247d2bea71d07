"""TFTP transfers: over a line that loses, repeats and swaps packets, and with servers that are odd, old or hostile."""

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probes.errors import BadAnswer, BadLocation, Denied, FarbootError, NotFound, Unreachable
from probes.location import Location
from probes.network.call import Call
from probes.sources.tftp import TftpSource
from probes.tftp import packets
from probes.tftp.transfer import BLOCK_SIZE, Transfer
from tests.servers.server import wait_until
from tests.servers.tftpd import Tftpd, start_atftpd, start_tftpd_hpa
from tests.servers.udp_faults import UdpProxy
from tests.sources.contract import content

IMAGE = content(400_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tftp") / "root"
    folder.mkdir()
    (folder / "image").write_bytes(IMAGE)
    (folder / "empty").write_bytes(b"")
    (folder / "block").write_bytes(IMAGE[:BLOCK_SIZE])
    (folder / "folder").mkdir()
    (folder / "secret").write_bytes(b"x")
    (folder / "secret").chmod(0o600)
    return folder


@pytest.fixture(scope="module", params=["atftpd", "tftpd-hpa"])
def server(request: pytest.FixtureRequest, root: Path) -> Iterator[Tftpd]:
    start = start_atftpd if request.param == "atftpd" else start_tftpd_hpa
    running = start(root.parent / request.param, root)
    yield running
    running.server.stop()


def fetched(port: int, name: str = "image", seconds: float = 20, host: str = "127.0.0.1") -> bytes:
    with Transfer(Call("fetch", name, seconds), host, port, name.encode()) as transfer:
        transfer.begin()
        return b"".join(transfer.blocks())


@pytest.mark.parametrize("name", ["image", "empty", "block"])
def test_a_file_comes_whole_and_its_size_is_told_before(server: Tftpd, name: str) -> None:
    data = (server.root / name).read_bytes()
    with Transfer(Call("fetch", name, 20), "127.0.0.1", server.port, name.encode()) as transfer:
        transfer.begin()
        assert transfer.size == len(data)
        assert b"".join(transfer.blocks()) == data


def test_over_a_line_that_loses_repeats_and_swaps(server: Tftpd) -> None:
    chance = random.Random(4711)  # the same misfortunes in every run

    def fate(number: int, packet: bytes, is_from_server: bool) -> list[tuple[float, bytes]]:
        drawn = chance.random()
        if drawn < 0.01:
            return []
        if drawn < 0.03:
            return [(0.0, packet), (0.002, packet)]
        return [(0.003 if drawn < 0.05 else 0.0, packet)]

    with UdpProxy(server.port) as proxy:
        proxy.fate = fate
        assert fetched(proxy.port, seconds=60) == IMAGE


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_the_loss_of_any_first_packet_is_overcome(server: Tftpd, lost: int) -> None:
    for direction in (True, False):

        def fate(
            number: int, packet: bytes, is_from_server: bool, direction: bool = direction
        ) -> list[tuple[float, bytes]]:
            return [] if (is_from_server, number) == (direction, lost) else [(0.0, packet)]

        with UdpProxy(server.port) as proxy:
            proxy.fate = fate
            assert fetched(proxy.port) == IMAGE


def test_what_is_not_there_is_not_found(server: Tftpd) -> None:
    for name in ("nothing", "nothing/at/all"):
        with pytest.raises(NotFound):
            fetched(server.port, name)


def test_what_may_not_be_read_is_denied(root: Path) -> None:
    # atftpd gives out what its account can read, and that is root's here.
    server = start_tftpd_hpa(root.parent / "strict", root)
    with server.server, pytest.raises(Denied, match="does not give it out"):
        fetched(server.port, "secret")


def test_a_folder_is_none(root: Path) -> None:
    server = start_tftpd_hpa(root.parent / "folders", root)
    with server.server, pytest.raises(FarbootError) as caught:
        fetched(server.port, "folder")
    assert isinstance(caught.value, NotFound | Denied)


def test_over_ipv6(root: Path) -> None:
    server = start_tftpd_hpa(root.parent / "six", root, "::1")
    with server.server:
        assert fetched(server.port, host="::1") == IMAGE
        with TftpSource() as source:
            assert source.stat(Location("tftp", server.authority, "/image")).size == len(IMAGE)


def test_block_numbers_roll_over(root: Path) -> None:
    with open(root / "long", "wb") as file:
        file.truncate(65_700 * BLOCK_SIZE)
        for number in (0, 65_535, 65_536, 65_600):
            file.seek(number * BLOCK_SIZE - 4 if number else 0)
            file.write(f"here is {number}".encode())
    server = start_atftpd(root.parent / "long-one", root)
    with server.server:
        assert fetched(server.port, "long", 60) == (root / "long").read_bytes()


class Odd:
    """A TFTP server in a thread: `answer` gets a packet and the server's socket for this transfer, and sends."""

    def __init__(self, answer: Callable[[bytes, socket.socket, tuple[str, int]], None]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.answer = answer
        self.received: list[bytes] = []
        self._transfer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._transfer.bind(("127.0.0.1", 0))
        for one in (self.socket, self._transfer):
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def __enter__(self) -> "Odd":
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.socket, self._transfer):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # which wakes its thread
            one.close()

    def _serve(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                packet, sender = one.recvfrom(2000)
                if not packet:
                    return
                self.received.append(packet)
                self.answer(packet, self._transfer, sender)


def data(number: int, block: bytes) -> bytes:
    return b"\0\3" + (number & 0xFFFF).to_bytes(2, "big") + block


def oack(*words: str) -> bytes:
    return b"\0\6" + b"".join(word.encode() + b"\0" for word in words)


def test_a_server_that_knows_no_options_is_understood() -> None:
    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        number = 0 if packet[1] == 1 else int.from_bytes(packet[2:4], "big")
        if number < 3:
            through.sendto(data(number + 1, b"x" * (512 if number < 2 else 100)), client)

    with Odd(answer) as server:
        assert fetched(server.port) == b"x" * 1124


def test_a_server_that_refuses_options_is_asked_without() -> None:
    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        if packet[1] == 1:
            has_options = packet.count(b"\0") > 3
            through.sendto(packets.error(8, "no options") if has_options else data(1, b"short"), client)

    with Odd(answer) as server:
        assert fetched(server.port) == b"short"


def test_a_server_may_roll_over_to_1() -> None:
    blocks = 65_600

    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        if packet[1] == 1:
            state["sent"] = 0
            through.sendto(oack("blksize", "8"), client)
        elif packet[1] == 4 and state["sent"] < blocks:
            state["sent"] += 1
            number = state["sent"] if state["sent"] < 65_536 else state["sent"] - 65_535
            through.sendto(data(number, b"abcdefgh" if state["sent"] < blocks else b"end"), client)

    state = {"sent": 0}
    with Odd(answer) as server:
        assert fetched(server.port, seconds=60) == b"abcdefgh" * (blocks - 1) + b"end"


@pytest.mark.parametrize(
    "words",
    [
        ("multicast", "224.0.0.1"),
        ("blksize", "65464"),
        ("blksize", "4"),
        ("windowsize", "65535"),
        ("windowsize", "0"),
        ("tsize", "-5"),
        ("tsize", "9" * 40),
        ("blksize", "many"),
    ],
)
def test_options_that_nobody_asked_for_are_refused(words: tuple[str, str]) -> None:
    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        if packet[1] == 1:
            through.sendto(oack(*words), client)

    with Odd(answer) as server:
        with pytest.raises(BadAnswer):
            fetched(server.port)
        told = b"\0\5\0\x08"
        wait_until(lambda: any(packet[:4] == told for packet in server.received), "error 8, which tells the server")


def test_packets_of_a_stranger_are_rejected_and_change_nothing() -> None:
    strangers = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    strangers.bind(("127.0.0.1", 0))
    strangers.settimeout(10)

    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        if packet[1] == 1:
            through.sendto(oack("blksize", "512"), client)
        elif packet[1:4] == b"\4\0\0":
            strangers.sendto(data(1, b"false" * 100), client)
            through.sendto(data(1, b"right"), client)

    with Odd(answer) as server, strangers:
        assert fetched(server.port) == b"right"
        assert strangers.recvfrom(100)[0][:4] == b"\0\5\0\5"


@pytest.mark.parametrize("size", [100, 5000])
def test_more_than_was_told_is_no_answer(size: int) -> None:
    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        if packet[1] == 1:
            through.sendto(oack("tsize", "50", "blksize", "1428"), client)
        elif packet[1] == 4:
            through.sendto(data(1, b"x" * size), client)

    with Odd(answer) as server, pytest.raises(BadAnswer):
        fetched(server.port)


@pytest.mark.parametrize("packet", [b"", b"\0", b"\0\3", b"\0\x09\0\0", b"\0\6odd\0", b"\xff" * 60, b"\0\4\0\0"])
def test_what_is_no_packet_of_a_server_is_nothing(packet: bytes) -> None:
    assert packets.parse(packet) is None


def test_an_error_text_reaches_no_terminal_as_it_is() -> None:
    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        through.sendto(b"\0\5\0\0\x1b[31mred" + b"x" * 1000 + b"\0", client)

    with Odd(answer) as server, pytest.raises(BadAnswer) as caught:
        fetched(server.port)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_server_that_nobody_runs_refuses() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    with pytest.raises(Unreachable, match="refuses"):
        fetched(port)


def test_a_transfer_that_is_left_is_ended_politely() -> None:
    def answer(packet: bytes, through: socket.socket, client: tuple[str, int]) -> None:
        if packet[1] == 1:
            through.sendto(oack("tsize", "123456"), client)
        if packet[1] == 5:
            ended.set()

    ended = threading.Event()
    with Odd(answer) as server, TftpSource() as source:
        assert source.stat(Location("tftp", f"127.0.0.1:{server.port}", "/a.img")).size == 123456
        assert ended.wait(10)


@pytest.mark.parametrize("path", ["/a%00b", "/" + "x" * 500])
def test_a_name_that_no_request_can_hold(path: str) -> None:
    with TftpSource() as source, pytest.raises(BadLocation):
        source.stat(Location("tftp", "127.0.0.1:9", path))
