"""A conversation with an SFTP server over one channel: requests of many threads, and each answer to whoever asked.

Any number of requests may be under way. paramiko's own client waits for one answer at a time, and loses answers when
several threads ask.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence

import paramiko

from probes.errors import BadAnswer, Cancelled, FarbootError, TimedOut, Unsupported
from probes.ssh.replies import INIT, OK, STATUS, VERSION, status_of
from probes.ssh.wire import Malformed, Packet, string, u32

_LONGEST = 4 << 20
"""Bytes of one answer that are believed."""

Answers = queue.SimpleQueue[tuple[int, int, bytes] | None]
"""Number, kind and body of each answer; None when the conversation has ended."""


class NoSftp(Unsupported):
    """The server has no SFTP for this account."""


class Asked:
    """Requests that one caller has under way, and their answers as they come."""

    def __init__(self, sftp: "Session") -> None:
        self._sftp = sftp
        self._answers: Answers = queue.SimpleQueue()
        self.waiting: set[int] = set()

    def send(self, requests: Sequence[tuple[int, bytes]]) -> list[int]:
        """Send `(kind, body)` of several requests at once; return their numbers."""
        return self._sftp.send(requests, self._answers, self.waiting)

    def next(self) -> tuple[int, int, bytes]:
        """The next answer: number, kind, body. Raises TimedOut, Cancelled, and what ended the connection."""
        try:
            heard = self._answers.get(timeout=self._sftp.deadline)
        except queue.Empty:
            raise self._sftp.timed_out() from None
        if heard is None:
            raise self._sftp.ended()
        self.waiting.discard(heard[0])
        return heard

    def forget(self) -> None:
        """Let the answers that are still to come be dropped."""
        self._sftp.forget(self.waiting)


class Session:
    """One SFTP session on `channel`, which it takes over. `deadline` in seconds bounds each wait for an answer.

    `why_lost` gives the error of a connection that has ended. Errors raised here name no location: the caller has it.
    """

    def __init__(self, channel: paramiko.Channel, deadline: float, why_lost: Callable[[], FarbootError]) -> None:
        self.deadline = deadline
        self._channel = channel
        self._why_lost = why_lost
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._number = 0
        self._askers: dict[int, Answers] = {}
        self._closed = False
        self._failure: FarbootError | None = None
        self._has_ended = False
        self.extensions: dict[str, bytes] = {}
        channel.settimeout(deadline)
        self._send(string(bytes([INIT]) + u32(3)))
        kind, body = self._receive(self._exactly)
        if kind != VERSION:
            raise BadAnswer("begin", "SFTP", "the server does not speak it", _CHATTY)
        packet = Packet(body)
        packet.u32()
        with contextlib.suppress(Malformed):
            while not packet.ended:
                name = packet.text()
                self.extensions[name] = packet.string()
        threading.Thread(target=self._listen, name="sftp", daemon=True).start()

    def close(self) -> None:
        """End the session, from any thread: whoever waits gets Cancelled."""
        self._closed = True
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
        self._wake()

    # -- asking and being answered ------------------------------------------------------------------------------

    def send(
        self,
        requests: Sequence[tuple[int, bytes]],
        answers: Answers,
        waiting: set[int],
    ) -> list[int]:
        """Send requests, whose answers then come to `answers`. Their numbers are added to `waiting` and returned."""
        with self._lock:
            if self._has_ended:
                raise self.ended()
            first = self._number + 1
            numbers = [(first + index) & 0xFFFFFFFF for index in range(len(requests))]
            self._number = numbers[-1]
            self._askers.update((number, answers) for number in numbers)
            waiting.update(numbers)
        parts = (
            string(bytes([kind]) + u32(number) + body) for number, (kind, body) in zip(numbers, requests, strict=True)
        )
        self._send(b"".join(parts))
        return numbers

    def tell(self, kind: int, body: bytes) -> None:
        """Send a request whose answer nobody waits for."""
        with contextlib.suppress(FarbootError):
            self.send([(kind, body)], _NOBODY, set())

    def forget(self, numbers: set[int]) -> None:
        """Drop the answers to these requests when they come."""
        with self._lock:
            for number in numbers:
                if number in self._askers:
                    self._askers[number] = _NOBODY

    def timed_out(self) -> FarbootError:
        """The error of a server that does not answer."""
        return TimedOut("hear from", "the server", f"no answer within {self.deadline:g} s", "is it still up?")

    def ended(self) -> FarbootError:
        """The error of a session that is over."""
        if self._closed:
            return Cancelled("use", "the connection", "it was closed")
        return self._failure or self._why_lost()

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def _ask(self, kind: int, body: bytes, expected: int) -> bytes:
        """One request and its answer. Raises SftpError for a status that is not OK, BadAnswer."""
        asked = Asked(self)
        try:
            asked.send([(kind, body)])
            _, answered, answer = asked.next()
        finally:
            asked.forget()
        if answered == STATUS:
            status = status_of(answered, answer)
            if status.code != OK or expected != STATUS:
                raise status
        elif answered != expected:
            raise BadAnswer("use", "SFTP", "the server answers another question")
        return answer

    def _send(self, data: bytes) -> None:
        try:
            with self._sending:
                self._channel.sendall(data)
        except TimeoutError:
            raise self.timed_out() from None
        except (OSError, EOFError, paramiko.SSHException):
            raise self.ended() from None

    def _listen(self) -> None:
        """Hand out answers, in a thread of its own, until the session ends."""
        buffer = bytearray()

        def take(count: int) -> bytes:
            while len(buffer) < count:
                try:
                    piece = self._channel.recv(1 << 20)
                except TimeoutError:  # nobody asked for anything
                    continue
                if not piece:
                    raise EOFError
                buffer.extend(piece)
            taken = bytes(buffer[:count])
            del buffer[:count]
            return taken

        try:
            while True:
                kind, body = self._receive(take)
                number, rest = int.from_bytes(body[:4], "big"), body[4:]
                with self._lock:
                    answers = self._askers.pop(number, _NOBODY)
                if answers is not _NOBODY:
                    answers.put((number, kind, rest))
        except FarbootError as error:
            self._failure = error
        except (OSError, EOFError, paramiko.SSHException):
            pass
        finally:
            self._wake()

    def _wake(self) -> None:
        with self._lock:
            self._has_ended = True
            waiting = set(map(id, self._askers.values()))
            askers = {id(answers): answers for answers in self._askers.values()}
            self._askers.clear()
        for each in waiting:
            if askers[each] is not _NOBODY:
                askers[each].put(None)

    def _receive(self, take: Callable[[int], bytes]) -> tuple[int, bytes]:
        length = int.from_bytes(take(4), "big")
        if not 0 < length <= _LONGEST:
            raise BadAnswer("use", "SFTP", "the server's answers make no sense", _CHATTY)
        message = take(length)
        return message[0], message[1:]

    def _exactly(self, count: int) -> bytes:
        data = b""
        try:
            while len(data) < count:
                if not (piece := self._channel.recv(count - len(data))):
                    raise NoSftp("begin", "SFTP", "the server ends the session at once", _CHATTY)
                data += piece
        except TimeoutError:
            raise self.timed_out() from None
        return data


_NOBODY: Answers = queue.SimpleQueue()
_CHATTY = "is sftp-server installed there, and does the account's .bashrc print nothing?"
