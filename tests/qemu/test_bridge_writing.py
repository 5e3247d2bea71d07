"""The bridge for writing, as QEMU meets it: a process of its own, in front of a real server that can be killed."""

import asyncio
import contextlib
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from probes.errors import Denied
from probes.evidence import NOT_JUDGED, Evidence
from probes.location import Location
from probes.sources.sheepdog import SheepdogSource
from tests.qemu.bridge_process import BridgeProcess, judged
from tests.qemu.nbd_client import FLUSH, READ, WRITE, WRITE_ZEROES, Client, qemu
from tests.servers.faults import FaultyProxy
from tests.servers.nbdkit import start_nbdkit
from tests.servers.server import wait_until
from tests.servers.sheep import Sheep, start_sheep
from tests.servers.sshd import make_home, start_sshd

SIZE = 5_000_000
CONTENT = random.Random(8).randbytes(SIZE)
EIO, EPERM, EINVAL, ENOSPC = 5, 1, 22, 28
FUA = 1


@pytest.fixture
def disk(sheep: Sheep) -> str:
    """A VDI of small objects, half of which it shares with a snapshot."""
    sheep.store.create("disk", CONTENT, shift=18)
    sheep.store.snapshot("disk", "s")
    return sheep.vdi("disk")


def stored(sheep: Sheep) -> bytes:
    return sheep.store.content(sheep.store.current(b"disk"))


@contextlib.asynccontextmanager
async def connected(bridge: BridgeProcess) -> AsyncIterator[Client]:
    client = await Client.ready(bridge.path)
    yield client
    client.close()


async def write(client: Client, offset: int, data: bytes, flags: int = 0) -> int:
    return (await client.ask(WRITE, offset, len(data), data, flags)).error


async def read(client: Client, offset: int, length: int) -> bytes:
    reply = await client.ask(READ, offset, length)
    assert reply.error == 0
    return reply.data


# What QEMU does with it


async def test_qemu_writes_and_finds_it_again(disk: str, sheep: Sheep, tmp_path: Path) -> None:
    with BridgeProcess(tmp_path / "b", disk, write=True) as bridge:
        commands = ("write -P 7 1000000 300000", "write -z 2000000 100000", "write -f -P 9 0 512", "flush")
        arguments = [part for command in commands for part in ("-c", command)]
        status, said = await qemu("qemu-io", "-f", "raw", *arguments, bridge.uri)
        assert status == 0, said
        status, said = await qemu("qemu-io", "-r", "-f", "raw", "-c", "read -P 7 1000000 300000", bridge.uri)
        assert (status, "Pattern verification failed" in said) == (0, False)
    expected = bytearray(CONTENT)
    expected[1_000_000:1_300_000] = b"\7" * 300_000
    expected[2_000_000:2_100_000] = bytes(100_000)
    expected[:512] = b"\x09" * 512
    assert stored(sheep) == expected
    assert sheep.store.content(sheep.store.snapshot_of(b"disk", b"s", 0)) == CONTENT


async def test_a_qcow2_in_it_is_written_and_stays_sound(sheep: Sheep, tmp_path: Path) -> None:
    assert (await qemu("qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "q"), "64M"))[0] == 0
    sheep.store.create("disk", (tmp_path / "q").read_bytes(), 8 << 20)
    with BridgeProcess(tmp_path / "b", sheep.vdi("disk"), write=True) as bridge:
        commands = ("write -P 3 0 1M", "write -P 4 50M 1M", "discard 0 64k", "flush")
        arguments = [part for command in commands for part in ("-c", command)]
        assert (await qemu("qemu-io", "-f", "qcow2", *arguments, bridge.uri))[0] == 0
        assert (await qemu("qemu-img", "check", "-f", "qcow2", bridge.uri))[0] == 0
        status, said = await qemu("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 4 50M 1M", bridge.uri)
        assert (status, "failed" in said) == (0, False)


async def test_it_says_what_it_can(disk: str, tmp_path: Path) -> None:
    with BridgeProcess(tmp_path / "b", disk, write=True) as bridge:
        done = await asyncio.to_thread(subprocess.run, ["nbdinfo", bridge.uri], capture_output=True, text=True)
        facts = {line.strip() for line in done.stdout.splitlines()}
        assert {"is_read_only: false", "can_flush: true", "can_fua: true", "can_zero: true", "can_trim: false"} <= facts
    with BridgeProcess(tmp_path / "c", disk) as bridge:
        done = await asyncio.to_thread(subprocess.run, ["nbdinfo", bridge.uri], capture_output=True, text=True)
        facts = {line.strip() for line in done.stdout.splitlines()}
        assert {"is_read_only: true", "can_zero: false"} <= facts
        async with connected(bridge) as client:
            assert await write(client, 0, b"x") == EPERM
            assert (await client.ask(WRITE_ZEROES, 0, 512)).error == EPERM
            assert await read(client, 0, 1) == CONTENT[:1]


# What a client may ask for


@pytest.mark.parametrize(
    ("command", "offset", "length", "flags", "error"),
    [
        (WRITE, SIZE - 1, 2, 0, ENOSPC),
        (WRITE, SIZE, 1, 0, ENOSPC),
        (WRITE, 1 << 63, 1, 0, ENOSPC),
        (WRITE, 0, 0, 0, EINVAL),
        (WRITE, 0, 5, 1 << 4, EINVAL),
        (WRITE, 0, (32 << 20) + 1, 0, EINVAL),
        (WRITE_ZEROES, SIZE - 1, 2, 0, ENOSPC),
        (WRITE_ZEROES, 0, 512, 1 << 4, EINVAL),
        (WRITE_ZEROES, 0, 0, 0, EINVAL),
        (4, 0, 512, 0, EPERM),
    ],
)
async def test_what_cannot_be_written_is_refused_and_the_next_request_works(
    disk: str, sheep: Sheep, tmp_path: Path, command: int, offset: int, length: int, flags: int, error: int
) -> None:
    with BridgeProcess(tmp_path / "b", disk, write=True) as bridge:
        async with connected(bridge) as client:
            payload = bytes(length) if command == WRITE else b""
            assert (await client.ask(command, offset, length, payload, flags)).error == error
            assert await write(client, 1, b"after", FUA) == 0
            assert await read(client, 0, 7) == CONTENT[:1] + b"after" + CONTENT[6:7]
            assert (await client.ask(WRITE_ZEROES, 2, 1, flags=FUA | 2)).error == 0
            assert await read(client, 0, 7) == CONTENT[:1] + b"a\0ter" + CONTENT[6:7]
    assert stored(sheep)[:7] == CONTENT[:1] + b"a\0ter" + CONTENT[6:7]


# Together


async def test_what_a_model_says_is_what_every_read_gives_and_what_is_stored(
    disk: str, sheep: Sheep, tmp_path: Path
) -> None:
    """Sixteen writers and readers, each with a part of the image of its own, on two connections."""
    model = bytearray(CONTENT)
    chance = random.Random(21)

    async def work(client: Client, lock: asyncio.Lock, low: int, high: int) -> None:
        for _ in range(40):
            start = chance.randrange(low, high)
            length = min(chance.choice([1, 512, 4096, 5000, 70_000, 300_000]), high - start)
            async with lock:
                match chance.randrange(5):
                    case 0 | 1:
                        data = chance.randbytes(length)
                        model[start : start + length] = data
                        assert await write(client, start, data, FUA if length == 512 else 0) == 0
                    case 2:
                        model[start : start + length] = bytes(length)
                        assert (await client.ask(WRITE_ZEROES, start, length)).error == 0
                    case _:
                        assert await read(client, start, length) == model[start : start + length]

    with BridgeProcess(tmp_path / "b", disk, write=True) as bridge:
        share = SIZE // 16 + 1
        clients = [await Client.ready(bridge.path) for _ in range(16)]
        spans = [(index * share, min((index + 1) * share, SIZE)) for index in range(16)]
        await asyncio.gather(*(work(c, asyncio.Lock(), *span) for c, span in zip(clients, spans, strict=True)))
        assert await read(clients[3], 0, SIZE) == model
        for client in clients:
            client.close()
    assert stored(sheep) == model


async def test_overlapping_writes_in_flight_end_as_the_last_one_asked_for(
    disk: str, sheep: Sheep, tmp_path: Path
) -> None:
    chance = random.Random(4)
    with BridgeProcess(tmp_path / "b", disk, write=True) as bridge:
        async with connected(bridge) as client:
            model = bytearray(CONTENT)
            for _ in range(20):
                for _ in range(16):
                    start, length = chance.randrange(200_000, 260_000), chance.choice([100, 4096, 65_536])
                    data = chance.randbytes(length)
                    client.send(WRITE, start, length, data)
                    model[start : start + length] = data
                replies = [await client.reply() for _ in range(16)]
                assert {reply.error for reply in replies} == {0}
                assert await read(client, 190_000, 200_000) == model[190_000:390_000]
    assert stored(sheep) == model


async def test_a_write_goes_on_when_whoever_asked_for_it_leaves(disk: str, sheep: Sheep, tmp_path: Path) -> None:
    with FaultyProxy(sheep.port) as proxy, writing(proxy, tmp_path) as bridge:
        proxy.latency = 0.3
        client = await Client.ready(bridge.path)
        client.send(WRITE, 100_000, 50_000, b"x" * 50_000)
        await client.writer.drain()
        async with connected(bridge) as other:
            assert await read(other, 0, 1) == CONTENT[:1]
            client.close()
            assert await write(other, 120_000, b"y" * 10) == 0
            assert await read(other, 100_000, 50_000) == b"x" * 20_000 + b"y" * 10 + b"x" * 29_990


# Outages


def writing(proxy: FaultyProxy, tmp_path: Path) -> BridgeProcess:
    """A bridge that reaches the disk through a proxy, which keeps the port while nobody serves it."""
    return BridgeProcess(tmp_path / "b", f"sheepdog://{proxy.authority}/disk", write=True)


@contextlib.contextmanager
def away(sheep: Sheep, proxy: FaultyProxy) -> Iterator[None]:
    """The sheep is dead while the block runs."""
    proxy.refuse = True
    sheep.server.kill()
    proxy.hang_up()
    yield
    again = start_sheep(sheep.folder)  # on another port: somebody may have taken the one that it had
    sheep.server = again.server
    proxy.upstream = ("127.0.0.1", again.port)
    proxy.heal()


async def until_told(bridge: BridgeProcess, before: int) -> None:
    """Until one more outage has been told than `before`."""

    def told() -> bool:
        return bridge.said.count("the guest waits") > before

    await asyncio.to_thread(wait_until, told, "the outage to be told")


async def test_writes_wait_while_the_server_is_dead_and_nothing_is_lost(
    disk: str, sheep: Sheep, tmp_path: Path
) -> None:
    model = bytearray(CONTENT)
    chance = random.Random(5)
    with FaultyProxy(sheep.port) as proxy, writing(proxy, tmp_path) as bridge:
        async with connected(bridge) as client:
            for _ in range(3):
                before = bridge.said.count("the guest waits")
                for _ in range(12):
                    start, length = chance.randrange(SIZE - 200_000), chance.choice([512, 4096, 200_000])
                    data = chance.randbytes(length)
                    client.send(WRITE, start, length, data)
                    model[start : start + length] = data
                with away(sheep, proxy):
                    client.send(WRITE, 0, 512, bytes(model[:512]))
                    await client.writer.drain()
                    await until_told(bridge, before)
                replies = [await asyncio.wait_for(client.reply(), 60) for _ in range(13)]
                assert {reply.error for reply in replies} == {0}
            assert (await client.ask(FLUSH)).error == 0
            assert await read(client, 0, SIZE) == model
    assert stored(sheep) == model


async def test_what_the_storage_forgot_in_a_crash_before_a_flush_is_written_again(
    disk: str, sheep: Sheep, tmp_path: Path
) -> None:
    """As a server does that has it only in its memory: here its store is put back as it was."""
    store = sheep.folder / "obj"
    await qemu("cp", "-r", "--sparse=always", str(store), str(tmp_path / "before"))
    with FaultyProxy(sheep.port) as proxy, writing(proxy, tmp_path) as bridge:
        async with connected(bridge) as client:
            assert await write(client, 100, b"flushed", FUA) == 0
            assert await write(client, 1_000_000, b"first, and overwritten") == 0
            assert await write(client, 1_000_007, b"second") == 0
            assert await write(client, 3_000_000, b"third") == 0
            with away(sheep, proxy):
                await qemu("rm", "-r", str(store))
                await qemu("cp", "-r", "--sparse=always", str(tmp_path / "before"), str(store))
                assert stored(sheep) == CONTENT
            assert (await client.ask(FLUSH)).error == 0
    expected = bytearray(CONTENT)
    expected[1_000_000:1_000_022] = b"first, and overwritten"
    expected[1_000_007:1_000_013] = b"second"
    expected[3_000_000:3_000_005] = b"third"
    assert stored(sheep) == expected


async def test_an_image_of_another_size_after_an_outage_is_given_up(disk: str, sheep: Sheep, tmp_path: Path) -> None:
    with FaultyProxy(sheep.port) as proxy, writing(proxy, tmp_path) as bridge:
        async with connected(bridge) as client:
            assert await write(client, 0, b"x") == 0
            with away(sheep, proxy):
                sheep.store.delete(sheep.store.current(b"disk"))
                sheep.store.create("disk", CONTENT[:100_000])
            assert await write(client, 0, b"y") == EIO
            assert (await client.ask(READ, 0, 1)).error == EIO
            assert (await client.ask(FLUSH)).error == EIO
    assert stored(sheep) == CONTENT[:100_000]


async def test_what_was_judged_and_not_written_must_still_be_there_after_an_outage(
    disk: str, sheep: Sheep, tmp_path: Path
) -> None:
    with FaultyProxy(sheep.port) as proxy, writing(proxy, tmp_path) as bridge:
        async with connected(bridge) as client:
            assert await write(client, 0, b"x") == 0
            with away(sheep, proxy):
                pass
            assert await write(client, 1, b"y") == 0
            with away(sheep, proxy):
                vdi = sheep.store.current(b"disk")
                sheep.store.write(vdi.vid << 32, 10, b"somebody else")
            assert await write(client, 0, b"z") == EIO


async def test_a_bridge_started_in_place_of_one_that_ended_serves_what_was_written(
    disk: str, sheep: Sheep, tmp_path: Path
) -> None:
    import dataclasses

    expected = judged(disk)
    with BridgeProcess(tmp_path / "b", disk, expected, write=True) as bridge:
        async with connected(bridge) as client:
            assert await write(client, 0, b"written") == 0
            assert (await client.ask(FLUSH, 0, 0)).error == 0
    again = dataclasses.replace(expected, evidence=NOT_JUDGED, validator="")
    with BridgeProcess(tmp_path / "c", disk, again, write=True) as bridge:
        async with connected(bridge) as client:
            assert await read(client, 0, 7) == b"written"


# Locks, and the end


def lockable(location: str) -> bool:
    with SheepdogSource() as source:
        try:
            source.open_for_writing(Location.parse(location)[0]).close()
        except Denied:
            return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_the_lock_is_held_while_it_runs_and_given_back_at_the_end(
    disk: str, sheep: Sheep, tmp_path: Path, number: signal.Signals
) -> None:
    with BridgeProcess(tmp_path / "b", disk, write=True) as bridge:
        assert not lockable(disk)
        second = BridgeProcess(tmp_path / "c", disk, write=True).start()
        assert second.ended() == 1
        assert "locked" in second.said
        bridge.process.send_signal(number)
        assert bridge.ended() == 0
        assert bridge.said == ""
    assert lockable(disk)


async def test_the_lock_is_given_back_when_the_image_is_not_the_judged_one(disk: str, tmp_path: Path) -> None:
    import dataclasses

    for wrong in ({"size": 7}, {"validator": "x"}, {"evidence": Evidence.by([(0, b"other")])}, {"format": "qcow2"}):
        expected = dataclasses.replace(judged(disk), **wrong)
        bridge = BridgeProcess(tmp_path / "b", disk, expected, write=True).start()
        assert bridge.ended() == 1
        assert bridge.said.count("\n") == 1
        assert lockable(disk)


def test_what_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "image.raw").write_bytes(CONTENT[:4096])
    bridge = BridgeProcess(tmp_path / "b", str(tmp_path / "image.raw"), write=True).start()
    assert bridge.ended() == 1
    assert "only read" in bridge.said
    assert bridge.said.count("\n") == 1


async def test_memory_is_bounded_however_much_is_written(sheep: Sheep, tmp_path: Path) -> None:
    sheep.store.create("disk", b"\1", 512 << 20)
    with BridgeProcess(tmp_path / "b", sheep.vdi("disk"), write=True) as bridge:
        command = ("qemu-img", "bench", "-f", "raw", "-w", "-n", "-c", "200", "-d", "16", "-s", str(2 << 20))
        status, said = await qemu(*command, "--pattern", "5", bridge.uri)
        assert status == 0, said
        assert bridge.peak_memory < 320 << 20


# Other storage systems, through whatever source they have


@contextlib.contextmanager
def _on_ssh(image: Path, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[int, str]]:
    sshd, home = start_sshd(folder / "sshd"), make_home(folder / "home")
    sshd.authorize(home.key())
    home.trust(sshd.known().replace(f"[127.0.0.1]:{sshd.port}", "*"))
    patch.setenv("HOME", str(home.path))
    patch.delenv("SSH_AUTH_SOCK", raising=False)
    with sshd.server:
        yield sshd.port, sshd.url(image).replace(f":{sshd.port}/", ":{port}/")


@contextlib.contextmanager
def _on_nbd(image: Path, folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[int, str]]:
    server = start_nbdkit(folder / "nbdkit", "file", f"dir={image.parent}")
    with server.server:
        yield server.port, "nbd://127.0.0.1:{port}/" + image.name


@pytest.mark.parametrize("system", [_on_ssh, _on_nbd], ids=["ssh", "nbd"])
async def test_the_same_holds_for_other_systems_whose_connection_breaks(
    system: Callable[..., "contextlib.AbstractContextManager[tuple[int, str]]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "served").mkdir()
    image, model, chance = tmp_path / "served" / "disk.raw", bytearray(CONTENT), random.Random(6)
    image.write_bytes(CONTENT)
    with system(image, tmp_path, monkeypatch) as (port, location), FaultyProxy(port) as proxy:
        where = location.format(port=proxy.port)
        with BridgeProcess(tmp_path / "b", where, write=True) as bridge:
            async with connected(bridge) as client:
                for _ in range(2):
                    before = bridge.said.count("the guest waits")
                    for _ in range(12):
                        start, length = chance.randrange(SIZE - 200_000), chance.choice([1, 4096, 200_000])
                        data = chance.randbytes(length)
                        client.send(WRITE, start, length, data)
                        model[start : start + length] = data
                    proxy.refuse = True
                    proxy.hang_up()
                    client.send(WRITE, 5, 1, bytes(model[5:6]))
                    await client.writer.drain()
                    await until_told(bridge, before)
                    proxy.heal()
                    replies = [await asyncio.wait_for(client.reply(), 60) for _ in range(13)]
                    assert {reply.error for reply in replies} == {0}
                assert (await client.ask(FLUSH)).error == 0
                assert await read(client, 0, SIZE) == model
    assert image.read_bytes() == model
