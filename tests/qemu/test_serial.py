"""The serial line's log and its listeners, without a QEMU: what is at its other end here is a pair of pipes."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.qemu.sessions.folders import open_private
from app.qemu.sessions.serial import SerialLine, SerialLog

Scratch = Callable[[str], Path]


@pytest.fixture
def log(scratch: Scratch) -> SerialLog:
    return SerialLog(open_private(str(scratch("session"))), limit=4096)


def line_on(log: SerialLog) -> SerialLine:
    return SerialLine(log)


def test_a_log_keeps_the_beginning_and_the_end_and_says_what_is_missing(log: SerialLog, scratch: Scratch) -> None:
    for number in range(2000):
        log.append(b"%06d\n" % number)
    content = scratch("session/serial.log").read_bytes()
    assert len(content) <= 4096
    assert content.startswith(b"000000\n000001\n")
    assert content.endswith(b"001998\n001999\n")
    missing = int(content.split(b"[farboot: ")[1].split()[0])
    assert missing > 14000 - 4096
    assert log.tail(7) == b"001999\n"


def test_a_log_takes_more_than_it_may_hold_at_once(log: SerialLog, scratch: Scratch) -> None:
    log.append(b"first" + b"x" * 100_000 + b"last")
    content = scratch("session/serial.log").read_bytes()
    assert content.startswith(b"first")
    assert content.endswith(b"last")
    assert len(content) < 4096


async def test_a_text_is_found_across_the_borders_of_what_arrives(log: SerialLog) -> None:
    line = line_on(log)
    line.data_received(b"some FAR")
    waiting = asyncio.create_task(line.wait_for(b"FARBOOT-READY"))
    await asyncio.sleep(0)
    for piece in (b"B", b"OO", b"T-READ"):
        line.data_received(piece)
        await asyncio.sleep(0)
        assert not waiting.done()
    line.data_received(b"Y.")
    await asyncio.wait_for(waiting, 5)


@given(st.data())
def test_a_text_is_found_however_it_is_cut_and_whenever_one_begins_to_wait(data: st.DataObject) -> None:
    import tempfile

    said = data.draw(st.binary(max_size=40).map(lambda noise: noise + b"needle" + noise))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=8)))
    begin = data.draw(st.integers(0, len(cuts)))
    pieces = [said[a:b] for a, b in zip([0, *cuts], [*cuts, len(said)], strict=True)]

    async def listen(folder: str) -> None:
        line = line_on(SerialLog(open_private(folder)))
        waiting: asyncio.Task[None] | None = None
        for number, piece in enumerate(pieces):
            if number == begin:
                waiting = asyncio.create_task(line.wait_for(b"needle"))
                await asyncio.sleep(0)
            line.data_received(piece)
        waiting = waiting or asyncio.create_task(line.wait_for(b"needle"))
        await asyncio.wait_for(waiting, 5)
        line.close()

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        asyncio.run(listen(folder))


async def test_typing_waits_for_a_guest_that_does_not_read_and_loses_nothing(log: SerialLog) -> None:
    line = line_on(log)
    guest_input, keys = os.pipe()
    output, guest_output = os.pipe()
    await line.attach(keys, output)
    typed = os.urandom(500_000)

    async def type_all() -> None:
        for start in range(0, len(typed), 4096):
            await line.type(typed[start : start + 4096])

    typing = asyncio.create_task(type_all())
    arrived = b""
    while len(arrived) < len(typed):
        arrived += await asyncio.to_thread(os.read, guest_input, 65536)
    await typing
    assert arrived == typed
    os.close(guest_output)
    await asyncio.wait_for(line.ended.wait(), 5)
    line.close()
    os.close(guest_input)


async def test_typing_into_a_line_that_has_ended_is_no_error(log: SerialLog) -> None:
    line = line_on(log)
    guest_input, keys = os.pipe()
    output, guest_output = os.pipe()
    await line.attach(keys, output)
    os.close(guest_input)
    os.close(guest_output)
    await asyncio.wait_for(line.ended.wait(), 5)
    for _ in range(3):
        await line.type(b"hello?")
        await asyncio.sleep(0)
    line.close()
