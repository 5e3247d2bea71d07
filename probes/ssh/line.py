"""One SSH connection, up to the point where its user is let in: paramiko's Transport, with three things that it lacks.

Every wait ends at the call's deadline or when the call is ended from another thread. Log-in requests go to the server
one by one, a key being asked about before it signs (RFC 4252, section 7). And the server's other host keys become
known, with proof that it holds them (OpenSSH's PROTOCOL, section 2.5): libssh may be shown another one than we were.

What a server says is taken apart here and not in paramiko, for that believes counts and lengths.
"""

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import paramiko

from probes.errors import BadAnswer, FarbootError, TimedOut, Unreachable
from probes.network.call import Call
from probes.ssh.identities import Identity
from probes.ssh.wire import Malformed, Packet, string, u32

SERVICE_REQUEST, SERVICE_ACCEPT, USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS = 5, 6, 50, 51, 52
USERAUTH_BANNER, USERAUTH_ANSWER, USERAUTH_RESPONSE = 53, 60, 61
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE, CHANNEL_REQUEST = 80, 81, 82, 98

HOST_KEY_ORDER = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp521",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp256",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""Libssh's order of preference (0.8 to 0.11), where no known_hosts file changes it: none does for a confined QEMU."""

KEEPALIVE = 30
"""Seconds between signs of life: routers forget silent connections."""

_PACKET = 256 << 10
_MOST_KEYS = 32
_MOST_REPLIES = 64
_PROVE = b"hostkeys-prove-00@openssh.com"
logging.getLogger("paramiko").addHandler(logging.NullHandler())  # it would write on the screen


@dataclass(frozen=True)
class Reply:
    """What the server said to a log-in request: `success`; or which `methods` may go on, `partial` if this one was
    right but is not enough; or that it would take the key (`welcome`); or `prompts` to answer.
    """

    success: bool = False
    partial: bool = False
    welcome: bool = False
    methods: tuple[str, ...] = ()
    prompts: int | None = None


def silent(call: Call) -> TimedOut:
    """The error of a server that says nothing."""
    hint = "is it up, and does a firewall let the port of sshd through?"
    return TimedOut(call.tried, call.on, f"no answer within {call.seconds:g} s", hint)


class Line(paramiko.Transport):
    """An SSH connection over `stream`. `kinds` are the host key algorithms to ask for, best first."""

    def __init__(self, stream: Any, kinds: Sequence[str] = HOST_KEY_ORDER) -> None:
        super().__init__(stream, default_window_size=8 << 20, default_max_packet_size=_PACKET)
        self.daemon = True
        self.farewell = ""
        self.host_keys: tuple[bytes, ...] = ()
        self.offered_kinds: tuple[str, ...] = ()
        self._replies: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._lock_of_requests = threading.Lock()
        options = self.get_security_options()
        options.key_types = [kind for kind in kinds if kind in options.key_types]
        options.ciphers = sorted(options.ciphers, key=lambda name: "gcm" not in name)  # twice as fast here
        handlers: dict[int, Any] = self._handler_table  # type: ignore[attr-defined]  # paramiko's place for such
        for kind in (SERVICE_ACCEPT, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_ANSWER):
            handlers[kind] = lambda message, kind=kind: self._heard(kind, message)
        handlers[USERAUTH_BANNER] = lambda _message: None
        handlers[GLOBAL_REQUEST] = self._asked
        for kind in (REQUEST_SUCCESS, REQUEST_FAILURE):
            handlers[kind] = lambda message, kind=kind: self._heard(kind, message)

    def greet(self, call: Call) -> None:
        """Exchange keys. Raises TimedOut, Unreachable, BadAnswer, Cancelled."""
        done = threading.Event()
        self.banner_timeout = self.handshake_timeout = self.auth_timeout = call.remaining() + 1

        def interrupt() -> None:
            self.drop()
            done.set()

        with call.waiting(interrupt) as left:
            self.start_client(event=done)
            if not done.wait(left):
                raise silent(call)
        if not (self.is_active() and self.offered_kinds):
            raise self.lost(call)

    @property
    def shown_key(self) -> bytes:
        """The host key that the server has proven."""
        return self.get_remote_server_key().asbytes()

    def begin_log_in(self, call: Call) -> None:
        """Ask for the log-in service."""
        self._say(bytes([SERVICE_REQUEST]) + string(b"ssh-userauth"))
        self._reply(call, (SERVICE_ACCEPT,))

    def request(self, call: Call, user: bytes, method: str, fields: bytes = b"") -> Reply:
        """Try to log in by `method`, whose own part of the request is `fields`."""
        self._say(self._beginning(user, method) + fields)
        return self._log_in_reply(call, method)

    def answer(self, call: Call, answers: Sequence[bytes]) -> Reply:
        """Answer the prompts of the method keyboard-interactive."""
        self._say(bytes([USERAUTH_RESPONSE]) + u32(len(answers)) + b"".join(string(answer) for answer in answers))
        return self._log_in_reply(call, "keyboard-interactive")

    def probe(self, call: Call, user: bytes, identity: Identity) -> Reply:
        """Ask whether the server would take the key."""
        algorithm = string(identity.algorithm(self.algorithms).encode())
        return self.request(call, user, "publickey", b"\0" + algorithm + string(identity.blob))

    def signed(self, user: bytes, identity: Identity) -> tuple[bytes, str]:
        """What is to be signed to log in with the key (RFC 4252, section 7), and by which algorithm."""
        algorithm = identity.algorithm(self.algorithms)
        fields = b"\1" + string(algorithm.encode()) + string(identity.blob)
        return string(self.session_id or b"") + self._beginning(user, "publickey") + fields, algorithm

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The signature algorithms that the server says it takes."""
        said: bytes | str = self.server_extensions.get("server-sig-algs", b"")  # type: ignore[attr-defined]  # no stub
        return tuple((said if isinstance(said, str) else said.decode("ascii", "replace")).split(","))

    def proves(self, call: Call, blob: bytes) -> bool:
        """Whether the server proves that it holds the host key `blob` too."""
        try:
            key = paramiko.PKey.from_type_string(Packet(blob).string().decode("ascii", "replace"), blob)
        except (Malformed, paramiko.SSHException, ValueError, TypeError):
            return False
        with self._lock_of_requests:
            self._say(bytes([GLOBAL_REQUEST]) + string(_PROVE) + b"\1" + string(blob))
            kind, answer = self._reply(call, (REQUEST_SUCCESS, REQUEST_FAILURE))
        if kind != REQUEST_SUCCESS:
            return False
        data = string(_PROVE) + string(self.session_id or b"") + string(blob)
        try:
            return bool(key.verify_ssh_sig(data, paramiko.Message(Packet(answer).string())))
        except (Malformed, paramiko.SSHException, ValueError):
            return False

    def start_sftp(self, channel: paramiko.Channel) -> None:
        """Ask for SFTP on the new `channel`, which the server closes if it has none. (paramiko's own way waits for the
        answer, without a bound.)
        """
        request = paramiko.Message()
        request.add_byte(bytes([CHANNEL_REQUEST]))
        request.add_int(channel.remote_chanid)
        request.add_string("subsystem")
        request.add_boolean(True)
        request.add_string("sftp")
        self._send_user_message(request)  # type: ignore[attr-defined]  # no stub

    def drop(self) -> None:
        """Close it at once, from any thread; whoever waits gets an error."""
        self._replies.put(None)
        sock = self.sock
        if isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self.close()
        sock.close()

    def lost(self, call: Call) -> FarbootError:
        """The error of a connection that has ended by itself."""
        error = self.get_exception()
        detail = f"{type(error).__name__}: {error}" if error is not None else ""
        tried, on = call.tried, call.on
        if self.farewell:
            return Unreachable(tried, on, f"the server ended the connection: {self.farewell}", detail=detail)
        if isinstance(error, paramiko.SSHException) and "ncompatible" in f"{error}{type(error).__name__}":
            hint = "the server is very old, or very strict; ssh -vv shows what it offers"
            return BadAnswer(tried, on, f"no common way of encryption: {error}", hint, detail)
        if isinstance(error, paramiko.SSHException) and not self.remote_version:
            if isinstance(error.__context__, TimeoutError):
                return silent(call)
            why, hint = "the server hung up, or does not speak SSH", "is that the port of sshd?"
            return Unreachable(tried, on, why, hint, detail)
        if isinstance(error, TimeoutError):
            return TimedOut(tried, on, "the server no longer answers", detail=detail)
        if error is None or isinstance(error, EOFError | OSError):
            return Unreachable(tried, on, "the connection broke off", "try again", detail)
        return BadAnswer(tried, on, "the server does not keep to SSH's protocol", detail=detail)

    # -- how paramiko's thread tells us -------------------------------------------------------------------------

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._replies.put(None)

    def _heard(self, kind: int, message: paramiko.Message) -> None:
        if kind == USERAUTH_SUCCESS:
            self._auth_trigger()  # type: ignore[attr-defined]  # as paramiko's own handler does
        if self._replies.qsize() > _MOST_REPLIES:
            raise paramiko.SSHException("it answers what nobody asked")
        self._replies.put((kind, message.get_remainder()))

    def _asked(self, message: paramiko.Message) -> None:
        """A request of the server's: none is granted, and only its host keys are noted."""
        packet = Packet(message.get_remainder())
        kind, wants_reply = packet.string(), packet.u8()
        if kind == b"hostkeys-00@openssh.com":
            found: list[bytes] = []
            while not packet.ended and len(found) < _MOST_KEYS:
                found.append(packet.string())
            self.host_keys = tuple(found)
        if wants_reply:
            self._say(bytes([REQUEST_FAILURE]))

    def _parse_kex_init(self, message: paramiko.Message) -> None:
        super()._parse_kex_init(message)  # type: ignore[misc]  # not in the stubs
        packet = Packet(self.remote_kex_init)  # type: ignore[attr-defined]  # no stub
        packet.take(17)
        packet.names()
        self.offered_kinds = packet.names()

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        packet = Packet(message.get_remainder())
        packet.u32()
        self.farewell = packet.text()[:200]

    # -- asking and being answered ------------------------------------------------------------------------------

    def _beginning(self, user: bytes, method: str) -> bytes:
        return bytes([USERAUTH_REQUEST]) + string(user) + string(b"ssh-connection") + string(method.encode())

    def _say(self, message: bytes) -> None:
        try:
            self._send_message(paramiko.Message(message))  # type: ignore[attr-defined]  # the only way to say it
        except (OSError, EOFError):
            self._replies.put(None)

    def _reply(self, call: Call, kinds: Sequence[int]) -> tuple[int, bytes]:
        with call.waiting(lambda: self._replies.put(None)) as left:
            try:
                heard = self._replies.get(timeout=left)
            except queue.Empty:
                raise silent(call) from None
        if heard is None:
            raise self.lost(call)
        if heard[0] not in kinds:
            raise BadAnswer(call.tried, call.on, "the server says things out of turn")
        return heard

    def _log_in_reply(self, call: Call, method: str) -> Reply:
        kind, message = self._reply(call, (USERAUTH_SUCCESS, USERAUTH_FAILURE, USERAUTH_ANSWER))
        if kind == USERAUTH_SUCCESS:
            return Reply(success=True)
        try:
            packet = Packet(message)
            if kind == USERAUTH_FAILURE:
                methods = packet.names()
                return Reply(methods=methods, partial=bool(packet.u8()))
            if method == "publickey":
                return Reply(welcome=True)
            if method == "keyboard-interactive":
                packet.string(), packet.string(), packet.string()
                return Reply(prompts=packet.u32())
            return Reply()  # "password" that wants to be changed: PASSWD_CHANGEREQ
        except Malformed:
            raise BadAnswer(call.tried, call.on, "the server's answer to the log-in makes no sense") from None
