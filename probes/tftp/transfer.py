"""One TFTP transfer: a file from its beginning, as far as one wants it.

Our own client, for tftpy (and every other in Python) lacks RFC 7440: with one block a round trip, 10 ms away, 1428
bytes a block are 0.13 MB/s. A window of blocks is asked for, and one at a time taken from a server that knows no
windows.

What may go wrong on the way: a block that is lost or comes out of order is asked for by acknowledging the last one
that came in order, once (repeating it would double every packet from then on); a duplicate is dropped, and only the
last block's is acknowledged again; after a silence the last block that came in order is acknowledged. The silence is
short where there are windows: atftpd, told of a gap in the middle of one, ends it where it would have ended, and waits
there. Block numbers have 16 bits and roll over to 0, of some servers to 1. Packets from elsewhere than the server's
port of this transfer get an ERROR 5.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from typing import Any, Self

from probes.errors import BadAnswer, Denied, FarbootError, NotFound, Unreachable
from probes.network.call import Call
from probes.tftp import packets
from probes.tftp.packets import Data, Error, OptionAck, Packet

PORT = 69
BLOCK_SIZE = 1428
"""Bytes that fit an Ethernet frame, also in IPv6 and in a tunnel."""
WINDOW = 32
"""Blocks sent without waiting; the kernel's default receive buffer holds three times as many."""

_SHORTEST_SILENCE, _LONGEST_SILENCE = 0.15, 4.0
"""Seconds after which something is said again: four round trips at first, then twice as long each time."""
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h: have an ICMP "port unreachable" told to a socket without a peer


class Transfer:
    """Asks for `name`; `begin` first, then `blocks`. One thread uses it; `call` bounds it and ends it."""

    def __init__(self, call: Call, host: str, port: int, name: bytes, window: int = WINDOW) -> None:
        self.call = call
        self.size: int | None = None
        """As the server told it (tsize)."""
        self._host, self._port, self._name = host, port, name
        self._options = {"tsize": 0, "blksize": BLOCK_SIZE, "windowsize": window, "timeout": 1}
        self._block, self._window = packets.BLOCK, 1
        self._first: Data | None = None
        self._sent = b""
        self._silence = self._patience = 1.0
        self._expected, self._since_ack = 1, 0
        self._has_told = False  # that there is a gap, before the block that is
        self._ahead = 0  # further than the one that is missing
        self._is_over = False
        self._socket: socket.socket | None = None
        self._peer: tuple[Any, ...] = ()
        self._server = ""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; a server that is still sending is told so."""
        if self._socket is not None:
            if self._peer and not self._is_over:
                with contextlib.suppress(OSError):
                    self._socket.sendto(packets.error(packets.UNDEFINED, "thank you"), self._peer)
            self._socket.close()
            self._socket = None
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    def begin(self) -> None:
        """Ask, and wait until the server begins: then `size` is known if it tells it.

        Raises NotFound, Denied, Unreachable, TimedOut, BadAnswer.
        """
        addresses = self.call.look_up(self._host, self._port, socket.SOCK_DGRAM)
        for index, (family, _, _, _, address) in enumerate(addresses):
            try:
                self._ask(family, address)
            except Unreachable:
                if index + 1 == len(addresses):
                    raise
            else:
                return

    def blocks(self) -> Iterator[bytes]:
        """Yield the file's blocks in order, to its end. Raises as `begin` does."""
        if self._first is None:
            self._send(packets.ack(0))
        total = 0
        while not self._is_over:
            packet = self._first or self._receive()
            self._first = None
            if packet is None:  # silence
                self._send(packets.ack(self._expected - 1))
                self._since_ack, self._has_told = 0, False
            elif isinstance(packet, Data) and self._is_next(packet.number):
                self._accept(packet)
                total += len(packet.data)
                self._check_size(total)
                self.call.progressed(len(packet.data))
                if packet.data:
                    yield packet.data
            elif isinstance(packet, Data):
                self._ask_for_what_is_missing(packet.number)
            elif self._expected == 1:  # the options again: our ACK of them was lost
                self._send(packets.ack(0))

    def _is_next(self, number: int) -> bool:
        if number == self._expected & 0xFFFF:
            return True
        # A server that rolls over to 1; with a window that could as well be the block after one that was lost.
        return self._window == 1 and number == 1 and self._expected > 1 and self._expected & 0xFFFF == 0

    def _accept(self, packet: Data) -> None:
        if packet.number != self._expected & 0xFFFF:
            self._expected += 1  # this server leaves 0 out
        if len(packet.data) > self._block:
            raise BadAnswer(self.call.tried, self.call.on, "a block is larger than was agreed on")
        self._is_over = len(packet.data) < self._block
        self._has_told = False
        self._silence = self._patience
        self._since_ack += 1
        if self._is_over or self._since_ack >= self._window:
            self._send(packets.ack(self._expected))
            self._since_ack = 0
        self._expected += 1

    def _ask_for_what_is_missing(self, number: int) -> None:
        """Acknowledge the last block that came in order: after a gap once, when that very block comes again, and when
        the server has begun the window anew and what is missing was lost once more.
        """
        ahead = (number - self._expected) & 0xFFFF
        if ahead < 0x8000:
            is_due = not self._has_told or ahead < self._ahead
            self._ahead, self._has_told = ahead, True
        else:
            is_due = ahead == 0xFFFF
        if is_due:
            self._send(packets.ack(self._expected - 1))
            self._since_ack = 0

    def _check_size(self, total: int) -> None:
        if self.size is not None and (total > self.size or (self._is_over and total < self.size)):
            raise BadAnswer(self.call.tried, self.call.on, f"the server told {self.size} bytes, and sent others")

    # -- beginning ------------------------------------------------------------------------------------------------

    def _ask(self, family: int, address: tuple[Any, ...]) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        level, option = (socket.IPPROTO_IPV6, _IPV6_RECVERR) if family == socket.AF_INET6 else (0, _IP_RECVERR)
        self._socket.setsockopt(level, option, 1)
        self._server, self._peer = address[0], ()
        options = self._options
        begun = time.monotonic()
        self._send(packets.read_request(self._name, options), address)
        while True:
            try:
                packet = self._receive(address)
            except _OptionsRefused:
                if not options:
                    why = "the server refuses options that nobody asked for"
                    raise BadAnswer(self.call.tried, self.call.on, why) from None
                options, self._peer = {}, ()  # an old server, that should have ignored them
                self._send(packets.read_request(self._name, options), address)
                continue
            round_trip = time.monotonic() - begun  # or more, if it was asked again
            self._patience = self._silence = min(max(4 * round_trip, _SHORTEST_SILENCE), _LONGEST_SILENCE)
            if isinstance(packet, OptionAck):
                self._agree(packet, options)
                return
            if isinstance(packet, Data) and packet.number == 1:
                self._first = packet
                if len(packet.data) < self._block:
                    self.size = len(packet.data)
                return

    def _agree(self, answer: OptionAck, asked: dict[str, int]) -> None:
        """Take what the server agreed to: each option was asked for, and no value is more than was asked."""
        numbers = {name: int(value) for name, value in answer.options.items() if value.isascii() and value.isdigit()}
        is_fine = (
            set(numbers) == set(answer.options) and set(numbers) <= set(asked)
            and 8 <= numbers.get("blksize", 8) <= BLOCK_SIZE
            and 1 <= numbers.get("windowsize", 1) <= asked.get("windowsize", 1)
            and numbers.get("tsize", 0) < 1 << 62
        )  # fmt: skip
        if not is_fine:
            self._send(packets.error(packets.OPTIONS_REFUSED, "not what was asked for"))
            self._is_over = True
            raise BadAnswer(self.call.tried, self.call.on, "the server agrees to options that nobody asked for")
        self.size = numbers.get("tsize")
        self._block = numbers.get("blksize", packets.BLOCK)
        self._window = numbers.get("windowsize", 1)
        if self._window == 1:  # nothing is won by hurry: a sound server waits for its own clock (RFC 1123, 4.2.3.1)
            self._patience = self._silence = max(self._patience, 1.0)

    # -- packets --------------------------------------------------------------------------------------------------

    def _send(self, packet: bytes, address: tuple[Any, ...] | None = None) -> None:
        assert self._socket is not None, "it has begun"
        self._sent = packet
        try:
            self._socket.sendto(packet, address or self._peer)
        except BlockingIOError:
            return  # as good as lost on the way
        except OSError as error:
            raise self.call.unreachable(error, self._server) from None

    def _receive(self, asked: tuple[Any, ...] | None = None) -> Packet | None:
        """The next packet of this transfer; None after a silence.

        `asked` is the address that a request went to: its answer comes from another port, and after a silence it is
        sent again.
        """
        while True:
            data, sender = self._datagram(self._silence)
            if not sender:
                self._silence = min(2 * self._silence, _LONGEST_SILENCE)
                if asked is None:
                    return None
                self._send(self._sent, asked)
                continue
            if sender[0] != self._server or (self._peer and sender != self._peer):
                self._reject(sender)
                continue
            packet = packets.parse(data)
            if packet is None:
                continue
            if isinstance(packet, Error):
                self._is_over = packet.code != packets.OPTIONS_REFUSED
                raise self._told(packet)
            self._peer = sender
            return packet

    def _datagram(self, seconds: float) -> tuple[bytes, tuple[Any, ...]]:
        """A datagram and its sender; nobody after `seconds`. Raises Unreachable, TimedOut, Cancelled."""
        assert self._socket is not None, "it has begun"
        try:
            with contextlib.suppress(BlockingIOError):
                return self._socket.recvfrom(packets.LARGEST_BLOCK + 4)
            with self.call.waiting(lambda: os.eventfd_write(self._wake, 1)) as left:
                waiter = select.poll()
                waiter.register(self._socket, select.POLLIN)
                waiter.register(self._wake, select.POLLIN)
                waiter.poll(1 + 1000 * min(seconds, left))
            self.call.remaining()
            with contextlib.suppress(BlockingIOError):
                return self._socket.recvfrom(packets.LARGEST_BLOCK + 4)
        except OSError as error:
            raise self.call.unreachable(error, f"{self._server} (UDP port {self._port})") from None
        return b"", ()

    def _reject(self, sender: tuple[Any, ...]) -> None:
        assert self._socket is not None, "it has begun"
        with contextlib.suppress(OSError):
            self._socket.sendto(packets.error(packets.UNKNOWN_TID, "unknown transfer"), sender)

    def _told(self, error: Error) -> FarbootError | Exception:
        tried, on = self.call.tried, self.call.on
        said = f': "{error.text}"' if error.text else ""
        text = error.text.lower()
        if error.code == packets.OPTIONS_REFUSED:
            return _OptionsRefused()
        if error.code == packets.NOT_FOUND or (error.code == packets.UNDEFINED and "not found" in text):
            hint = "paths begin in the folder that the server serves"
            return NotFound(tried, on, f"the server has no such file{said}", hint)
        if error.code == packets.DENIED or "permission" in text:
            hint = "the file must be readable for everybody, and lie in the server's folder"
            return Denied(tried, on, f"the server does not give it out{said}", hint)
        if "not a regular file" in text or "directory" in text:
            return NotFound(tried, on, f"there is no file of that name{said}")
        return BadAnswer(tried, on, f"the server says error {error.code}{said}")


class _OptionsRefused(Exception):
    """ERROR 8."""
