"""The NBD protocol, against a client that keeps to it, one that does not, and QEMU.

Long, for it goes through the protocol from the greeting to the goodbye.
"""

import asyncio
import errno
import random
import struct
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.qemu.bridge import nbd
from probes.errors import Unreachable
from tests.qemu.nbd_client import (
    ABORT,
    ACK,
    BLOCK_STATUS,
    CACHE,
    DISC,
    EXPORT_NAME,
    FLUSH,
    GO,
    INFO,
    INVALID,
    LIST,
    META_CONTEXT,
    READ,
    REPLY_INFO,
    SERVER,
    STARTTLS,
    STRUCTURED_REPLY,
    TRIM,
    UNKNOWN,
    UNSUPPORTED,
    WRITE,
    WRITE_ZEROES,
    Client,
    qemu,
    serving,
)

CONTENT = random.Random(1).randbytes(3_000_001)


class Memory:
    """An export of bytes; what lies before `far` is at hand."""

    def __init__(self, content: bytes = CONTENT, far: int = 1 << 20) -> None:
        self.content = content
        self.far = far

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes | Awaitable[bytes]:
        if offset + length <= self.far:
            return self.content[offset : offset + length]
        return self.read_later(offset, length)

    async def read_later(self, offset: int, length: int) -> bytes:
        await asyncio.sleep(0)
        return self.content[offset : offset + length]


class Gated(Memory):
    """Holds every read until its offset is let through: a stub, for no real storage answers in a wished order."""

    def __init__(self) -> None:
        super().__init__(far=0)
        self.asked: list[int] = []
        self.gates: dict[int, asyncio.Event] = {}
        self.more = asyncio.Event()

    async def read_later(self, offset: int, length: int) -> bytes:
        self.asked.append(offset)
        self.more.set()
        await self.gates.setdefault(offset, asyncio.Event()).wait()
        return await super().read_later(offset, length)

    def let_through(self, offset: int) -> None:
        self.gates.setdefault(offset, asyncio.Event()).set()

    async def until_asked(self, count: int) -> None:
        while len(self.asked) < count:
            self.more.clear()
            await self.more.wait()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


async def test_qemu_reads_the_very_bytes(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(CONTENT)
    uri = f"nbd+unix:///?socket={path}"
    async with serving(Memory(), path):
        assert (await qemu("qemu-img", "compare", "-f", "raw", "-F", "raw", uri, str(copy)))[0] == 0


@pytest.mark.parametrize("size", [1, 511, 513, 2_000_000, 3_000_001])
async def test_qemu_copies_images_of_every_size(path: Path, tmp_path: Path, size: int) -> None:
    async with serving(Memory(CONTENT[:size], far=100), path):
        command = (
            "qemu-img",
            "convert",
            "-f",
            "raw",
            "-O",
            "raw",
            f"nbd+unix:///?socket={path}",
            str(tmp_path / "copy"),
        )
        assert await qemu(*command) == (0, "")
    copied = (tmp_path / "copy").read_bytes()
    assert copied == CONTENT[:size] + bytes(-size % 512), "QEMU counts in sectors"


async def test_qemu_cannot_open_it_for_writing(path: Path) -> None:
    async with serving(Memory(), path):
        status, said = await qemu("qemu-io", "-f", "raw", "-c", "write 0 512", f"nbd+unix:///?socket={path}")
    assert status != 0
    assert "Permission denied" in said


async def test_it_says_what_it_is(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.ready(path)
        assert client.size == len(CONTENT)
        assert client.flags == 0b1_0000_0011  # flags, read-only, several connections are fine
        client.close()


async def test_it_is_listed_under_the_empty_name(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.connected(path)
        assert await client.option(LIST) == [(SERVER, bytes(4)), (ACK, b"")]
        assert await client.option(LIST, b"x") == [(INVALID, b"")]
        client.close()


async def test_info_tells_size_and_block_sizes_and_leaves_the_client_in_negotiation(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.connected(path)
        for _ in range(2):
            export, blocks, end = await client.option(INFO, struct.pack(">IHHH", 0, 2, 3, 1))
            assert export == (REPLY_INFO, struct.pack(">HQH", 0, len(CONTENT), 0b1_0000_0011))
            assert blocks == (REPLY_INFO, struct.pack(">HIII", 3, 1, 4096, 32 << 20))
            assert end == (ACK, b"")
        client.close()


@pytest.mark.parametrize("zeroes", [0, 124], ids=["without zeroes", "with zeroes"])
async def test_the_oldest_way_in_works_too(path: Path, zeroes: int) -> None:
    async with serving(Memory(), path):
        reader, writer = await asyncio.open_unix_connection(str(path))
        await reader.readexactly(18)
        writer.write(struct.pack(">I8sII", 1 if zeroes else 3, b"IHAVEOPT", EXPORT_NAME, 0))
        assert await reader.readexactly(10 + zeroes) == struct.pack(">QH", len(CONTENT), 0x103) + bytes(zeroes)
        assert (await Client(reader, writer).ask(READ, 5, 10)).data == CONTENT[5:15]
        writer.close()


@pytest.mark.parametrize("option", [0, 4, STARTTLS, 9, META_CONTEXT, 0xFFFFFFFF])
async def test_other_options_are_declined_and_negotiation_goes_on(path: Path, option: int) -> None:
    async with serving(Memory(), path):
        client = await Client.connected(path)
        assert await client.option(option, b"what") == [(UNSUPPORTED, b"")]
        assert (await client.option(GO, bytes(6)))[-1] == (ACK, b"")
        client.close()


@pytest.mark.parametrize("data", [b"", b"\0", bytes(5), bytes(7), struct.pack(">IH", 9, 0), struct.pack(">IH", 0, 9)])
async def test_a_malformed_wish_is_invalid(path: Path, data: bytes) -> None:
    async with serving(Memory(), path):
        client = await Client.connected(path)
        assert await client.option(GO, data) == [(INVALID, b"")]
        assert await client.option(INFO, data) == [(INVALID, b"")]
        client.close()


async def test_another_export_is_unknown(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.connected(path)
        assert await client.option(GO, struct.pack(">I5sH", 5, b"other", 0)) == [(UNKNOWN, b"")]
        client.writer.write(struct.pack(">8sII", b"IHAVEOPT", EXPORT_NAME, 5) + b"other")
        assert await client.is_closed()


async def test_abort_is_acknowledged(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.connected(path)
        assert await client.option(ABORT) == [(ACK, b"")]
        assert await client.is_closed()


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, 4096), (1_048_000, 5000), (2_999_999, 2), (3_000_000, 1), (0, 3_000_001)],
)
async def test_reads_inside_are_exact(path: Path, offset: int, length: int) -> None:
    async with serving(Memory(), path):
        client = await Client.ready(path)
        reply = await client.ask(READ, offset, length)
        assert reply.error == 0
        assert reply.data == CONTENT[offset : offset + length]
        client.close()


@pytest.mark.parametrize(
    ("offset", "length", "flags"),
    [
        (3_000_001, 1, 0),
        (3_000_000, 2, 0),
        (0, 0, 0),
        (0, 0xFFFFFFFF, 0),
        (2**64 - 1, 1, 0),
        (2**63, 4096, 0),
        (0, 512, 1 << 2),
    ],
)
async def test_reads_outside_are_invalid_and_the_next_one_works(
    path: Path, offset: int, length: int, flags: int
) -> None:
    async with serving(Memory(), path):
        client = await Client.ready(path)
        assert (await client.ask(READ, offset, length, flags=flags)).error == errno.EINVAL
        assert (await client.ask(READ, 7, 7)).data == CONTENT[7:14]
        client.close()


async def test_structured_replies_are_given_to_those_who_ask_for_them(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.connected(path)
        assert await client.option(STRUCTURED_REPLY, b"x") == [(INVALID, b"")]
        client.close()
        client = await Client.ready(path, structured=True)
        assert client.flags == 0b1_1000_0011  # the DF flag, too
        for offset, length in ((0, 4096), (1_048_000, 5000), (2_999_999, 2)):
            assert (await client.ask(READ, offset, length)).data == CONTENT[offset : offset + length]
        assert (await client.ask(READ, 10, 10, flags=1 << 2)).data == CONTENT[10:20]
        assert (await client.ask(READ, 3_000_001, 1)).error == errno.EINVAL
        assert (await client.ask(FLUSH)).error == 0
        assert (await client.ask(WRITE, 0, 512, payload=bytes(512))).error == errno.EPERM
        client.close()


async def test_a_length_beyond_the_protocol_is_refused_before_it_costs_memory(path: Path) -> None:
    class Endless(Memory):
        @property
        def size(self) -> int:
            return 1 << 50

        async def read_later(self, offset: int, length: int) -> bytes:
            raise AssertionError("it was read")

    async with serving(Endless(far=0), path):
        client = await Client.ready(path)
        assert (await client.ask(READ, 0, (32 << 20) + 1)).error == errno.EINVAL
        client.close()


async def test_whatever_writes_is_not_permitted_and_the_next_read_works(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.ready(path)
        assert (await client.ask(WRITE, 0, 100_000, payload=bytes(100_000))).error == errno.EPERM
        assert (await client.ask(TRIM, 0, 512)).error == errno.EPERM
        assert (await client.ask(WRITE_ZEROES, 0, 512)).error == errno.EPERM
        assert (await client.ask(READ, 0, 512)).data == CONTENT[:512]
        client.close()


async def test_a_flush_has_nothing_to_do_and_unknown_commands_are_invalid(path: Path) -> None:
    async with serving(Memory(), path):
        client = await Client.ready(path)
        assert (await client.ask(FLUSH)).error == 0
        for command in (CACHE, BLOCK_STATUS, 8, 0xFFFF):
            assert (await client.ask(command, 0, 512)).error == errno.EINVAL
        client.close()


async def test_a_failed_read_is_an_input_output_error_and_the_next_one_works(path: Path) -> None:
    class Failing(Memory):
        def read(self, offset: int, length: int) -> bytes | Awaitable[bytes]:
            if offset == 1:
                raise Unreachable("read", "it", "nobody answers")
            return super().read(offset, length)

        async def read_later(self, offset: int, length: int) -> bytes:
            raise Unreachable("read", "it", "nobody answers")

    async with serving(Failing(), path):
        for client in (await Client.ready(path), await Client.ready(path, structured=True)):
            assert (await client.ask(READ, 2_000_000, 512)).error == errno.EIO
            assert (await client.ask(READ, 1, 512)).error == errno.EIO
            assert (await client.ask(READ, 0, 512)).data == CONTENT[:512]
            client.close()


async def test_the_requests_of_one_connection_run_at_once_and_are_answered_as_they_finish(path: Path) -> None:
    export = Gated()
    async with serving(export, path):
        client = await Client.ready(path)
        cookies = {client.send(READ, offset, 4): offset for offset in range(nbd.IN_FLIGHT)}
        await export.until_asked(nbd.IN_FLIGHT)
        for offset in reversed(range(nbd.IN_FLIGHT)):
            export.let_through(offset)
            reply = await client.reply()
            assert cookies[reply.cookie] == offset
            assert reply.data == CONTENT[offset : offset + 4]
        client.close()


async def test_no_more_than_the_limit_are_in_flight(path: Path) -> None:
    export = Gated()
    async with serving(export, path):
        client = await Client.ready(path)
        for offset in range(100):
            client.send(READ, offset, 4)
        await export.until_asked(nbd.IN_FLIGHT)
        for offset in range(100):
            assert len(export.asked) <= offset + nbd.IN_FLIGHT
            export.let_through(offset)
            assert (await client.reply()).data == CONTENT[offset : offset + 4]
        client.close()


async def test_large_reads_in_flight_are_bounded_by_their_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbd, "IN_FLIGHT_BYTES", 1_000_000)
    export = Gated()
    async with serving(export, path):
        client = await Client.ready(path)
        client.send(READ, 0, 700_000)
        client.send(READ, 1, 700_000)
        await export.until_asked(1)
        other = await Client.ready(path)  # by whose answer the second request would have been seen, had it started
        export.let_through(2)
        assert (await other.ask(READ, 2, 1)).data == CONTENT[2:3]
        assert export.asked == [0, 2]
        export.let_through(0)
        assert (await client.reply()).data == CONTENT[:700_000]
        export.let_through(1)
        assert (await client.reply()).data == CONTENT[1:700_001]
        client.close()
        other.close()


async def test_a_goodbye_lets_what_was_asked_finish(path: Path) -> None:
    export = Gated()
    async with serving(export, path):
        client = await Client.ready(path)
        client.send(READ, 100, 10)
        client.send(DISC)
        await export.until_asked(1)
        export.let_through(100)
        assert (await client.reply()).data == CONTENT[100:110]
        assert await client.is_closed()


async def test_a_client_that_leaves_takes_its_reads_with_it_and_nobody_else(path: Path) -> None:
    export = Gated()
    async with serving(export, path):
        leaving, staying = await Client.ready(path), await Client.ready(path)
        leaving.send(READ, 0, 10)
        staying.send(READ, 20, 10)
        await export.until_asked(2)
        leaving.close()
        export.let_through(20)
        assert (await staying.reply()).data == CONTENT[20:30]
        staying.close()


async def test_a_client_that_never_takes_its_answers_does_not_hold_the_others(path: Path) -> None:
    async with serving(Memory(), path):
        greedy, modest = await Client.ready(path), await Client.ready(path)
        for _ in range(64):
            greedy.send(READ, 0, 3_000_001)
        for offset in range(100):
            assert (await modest.ask(READ, offset, 100)).data == CONTENT[offset : offset + 100]
        greedy.writer.transport.abort()
        modest.close()


async def test_sixteen_connections_read_at_once(path: Path) -> None:
    async def read_all() -> bytes:
        client = await Client.ready(path)
        parts = [(await client.ask(READ, offset, min(50_000, len(CONTENT) - offset))).data
                 for offset in range(0, len(CONTENT), 50_000)]  # fmt: skip
        client.close()
        return b"".join(parts)

    async with serving(Memory(), path):
        for content in await asyncio.gather(*(read_all() for _ in range(16))):
            assert content == CONTENT


async def test_more_connections_than_it_keeps_are_closed_and_room_is_made_again(path: Path) -> None:
    async with serving(Memory(), path):
        clients = [await Client.ready(path) for _ in range(nbd.CONNECTIONS)]
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert await reader.read() == b""
        writer.close()
        clients.pop().send(DISC)
        while True:
            try:
                clients.append(await Client.ready(path))
                break
            except (asyncio.IncompleteReadError, ConnectionError):
                await asyncio.sleep(0)  # the goodbye is still on its way
        for client in clients:
            assert (await client.ask(READ, 0, 1)).data == CONTENT[:1]
            client.close()


async def test_a_client_that_does_not_negotiate_is_let_go_and_a_silent_guest_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nbd, "HANDSHAKE_SECONDS", 1.0)
    async with serving(Memory(), path):
        guest = await Client.ready(path)
        dumb = await Client.connected(path)
        assert await dumb.is_closed()  # by when the guest has been there for longer
        assert (await guest.ask(READ, 0, 1)).data == CONTENT[:1]
        guest.close()


_requests = st.builds(
    lambda magic, flags, command, offset, length, rest: (
        struct.pack(">IHHQQI", magic, flags, command, 1, offset, length) + rest
    ),
    st.sampled_from([0x25609513, 0x25609513, 0, 0x67446698]),
    st.integers(0, 0xFFFF),
    st.integers(0, 9),
    st.integers(0, 2**64 - 1) | st.integers(0, 4_000_000),
    st.integers(0, 2**32 - 1) | st.integers(0, 100_000),
    st.binary(max_size=40),
)
_options = st.builds(
    lambda magic, option, length, data: struct.pack(">8sII", magic, option, length) + data,
    st.sampled_from([b"IHAVEOPT", b"IHAVEOPT", b"NBDMAGIC"]),
    st.integers(0, 12),
    st.integers(0, 2**32 - 1) | st.integers(0, 24),
    st.binary(max_size=24),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=60) | _options, max_size=8), st.lists(st.binary(max_size=60) | _requests))
def test_no_garbage_ends_the_server_or_touches_another_connection(options: list[bytes], requests: list[bytes]) -> None:
    async def scenario(path: Path) -> None:
        async with serving(Memory(), path):
            good = await Client.ready(path)
            negotiating, reading = await Client.connected(path), await Client.ready(path)
            negotiating.writer.write(b"".join(options))
            reading.writer.write(b"".join(requests))
            for wicked in (negotiating, reading):
                wicked.writer.write_eof()
                assert await wicked.reader.read() is not None  # it ends: what was said before does not matter
                wicked.close()
            assert (await good.ask(READ, 999_999, 100_000)).data == CONTENT[999_999:1_099_999]
            good.close()
            newcomer = await Client.ready(path)
            assert (await newcomer.ask(READ, 0, 9)).data == CONTENT[:9]
            newcomer.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(Path(folder) / "s"))
