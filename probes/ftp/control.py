"""One connection to an FTP server: its control connection, and the data connection that may be open beside it.

In place of the standard library's ftplib, of which nothing would be left: here every wait is bounded by the call that
uses the connection, a reply's lines are bounded in number and are bytes (ftplib stumbles over a name that is not
UTF-8), and data connections resume the control connection's TLS session, which vsftpd and ProFTPD insist on.
"""

import socket
import ssl
from dataclasses import dataclass

from probes.errors import BadAnswer, Denied, Unreachable
from probes.ftp.failures import Full, HungUp, ReplyError, translated
from probes.ftp.replies import Reply, login_error, needs_tls, passive_port, reply_error, working_folder
from probes.network.call import Call, PlainSocket, TlsSocket

_MOST_LINES = 500  # of one reply; a banner may be long
_LONGEST_LINE = 8192
_CHUNK = 256 << 10


@dataclass(frozen=True)
class Login:
    """How a server is spoken to. `tls` is "" (none), "implicit" or "explicit"; the password is never shown. `share` is
    how much of the time that is left connecting may take.
    """

    host: str
    port: int
    tls: str
    user: str
    password: str | None
    context: ssl.SSLContext | None = None
    share: float = 1.0

    def __repr__(self) -> str:
        return f"Login({self.host}, {self.port}, {self.tls}, {self.user})"


@dataclass(frozen=True)
class Features:
    """What FEAT told (RFC 2389), and the folder that the login begins in: the same for every connection of a login."""

    words: frozenset[str] = frozenset()
    home: str = ""
    epsv: bool = True

    def __contains__(self, word: str) -> bool:
        return word in self.words


class Control:
    """A connection that is logged in. Used by one call at a time: `lend` it to each.

    Raises HungUp where the server ended the connection, and the family's errors.
    """

    def __init__(self, call: Call, login: Login, features: Features | None = None) -> None:
        self.call = call
        self.who = login
        self.stream: Stream | None = None
        self.is_lent = False
        self.has_rested = False
        self.has_strayed = False  # whether nobody knows any more which folder it is in
        self.is_binary = False
        self._owed = 0
        self.sock: PlainSocket | TlsSocket = call.dial(login.host, login.port, login.share)
        self.family = self.sock.family
        try:
            self._begin(call, login)
            self._log_in(call)
            self.features = self._learn() if features is None else features
            if "UTF8" in self.features:
                self.ask("OPTS UTF8 ON")  # names are sent as the bytes they are, whatever it says
        except BaseException:
            self.close()
            raise

    # -- asking ---------------------------------------------------------------------------------------------------

    def lend(self, call: Call) -> None:
        """Let `call` use it from now on."""
        self.call = call
        self.sock.call = call
        if self.stream is not None:
            self.stream.socket.call = call

    def ask(self, command: str) -> Reply:
        """Send a command, having ended any transfer, and return its reply."""
        self.drop_stream()
        with translated(self.call):
            while self._owed:
                self._owed -= 1
                self._text()
            self._send(command)
            return self._reply()

    def binary(self) -> None:
        """Have files sent as they are."""
        if not self.is_binary:
            reply = self.ask("TYPE I")
            if not reply.is_done:
                raise reply_error(self.call, reply, self.secrets)
            self.is_binary = True

    def retrieve(self, command: str, offset: int = 0) -> "Stream":
        """Have `command` (RETR, LIST, MLSD) send its data from `offset` on. Raises ReplyError for a refusal."""
        connection = self._connect_for_data()
        try:
            if offset:
                reply = self.ask(f"REST {offset}")
                if reply.code != 350:
                    raise ReplyError(reply)
            reply = self.ask(command)
            if not 100 <= reply.code < 200:
                raise ReplyError(reply)
            self._owed += 1
            stream = Stream(self, self._secured(connection), command, offset)
            self._owed -= 1
            self.stream = stream
        except BaseException:
            connection.close()
            raise
        return stream

    def drop_stream(self) -> None:
        """End a transfer that nobody goes on with. Its last reply is read before the next command is sent."""
        if self.stream is not None:
            self.stream.socket.close()
            self.stream = None
            self._owed += 1

    def end_stream(self) -> Reply:
        """The last reply of a transfer whose data has ended."""
        assert self.stream is not None, "there is no transfer"
        self.stream.socket.close()
        self.stream = None
        with translated(self.call):
            return self._reply()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error may repeat."""
        return (self.who.password or "",)

    def close(self) -> None:
        """End it, from any thread."""
        for connection in (self.stream.socket if self.stream else None, self.sock):
            if connection is not None:
                connection.interrupt()
                connection.close()

    # -- lines ----------------------------------------------------------------------------------------------------

    def _send(self, command: str) -> None:
        if any(character in command for character in "\r\n\0"):
            raise ValueError("a command is one line")
        self.sock.sendall(command.encode("utf-8", "surrogateescape") + b"\r\n")

    def _line(self) -> str:
        line: bytes = self._lines.readline(_LONGEST_LINE)
        if not line:
            raise EOFError
        if not line.endswith(b"\n"):
            raise self._nonsense()
        # As Telnet's own character 255 comes twice.
        return line.rstrip(b"\r\n").replace(b"\xff\xff", b"\xff").decode("utf-8", "surrogateescape")

    def _text(self) -> str:
        """A whole reply, which may have several lines."""
        line = self._line()
        if not (line[:3].isascii() and line[:3].isdigit()) or line[3:4] not in {" ", "-", ""}:
            raise self._nonsense()
        if line[3:4] != "-":
            return line
        lines = [line]
        for _ in range(_MOST_LINES):
            lines.append(self._line())
            if lines[-1][:3] == line[:3] and lines[-1][3:4] != "-":
                return "\n".join(lines)
        raise self._nonsense()

    def _nonsense(self) -> BadAnswer:
        hint = "does something else listen there?"
        return BadAnswer(self.call.tried, self.call.on, "the answer is not FTP", hint)

    def _reply(self) -> Reply:
        text = self._text()
        reply = Reply(int(text[:3]), text[4:])
        if reply.code == 421:
            raise HungUp(self.call, reply.quoted(self.secrets))
        return reply

    # -- beginning ------------------------------------------------------------------------------------------------

    def _begin(self, call: Call, login: Login) -> None:
        connection = self.sock
        assert isinstance(connection, PlainSocket), "nothing was done with it yet"
        self._use(connection)
        if login.tls == "implicit":
            self._use(self._wrapped(connection, None))
        with translated(call):
            try:
                greeting = self._reply()
                if greeting.code == 120:  # "ready in some minutes"
                    greeting = self._reply()
            except HungUp as error:
                if error.said:
                    raise Full(call, error.said) from None
                raise
        if greeting.code != 220:
            raise login_error(call, greeting, login.user, had_password=False)
        if login.tls == "explicit":
            reply = self.ask("AUTH TLS")
            if reply.code != 234:
                why = "the server offers no TLS on this port"
                raise Denied(call.tried, call.on, why, "type ftp:// if nobody on the way may be a danger")
            self._use(self._wrapped(connection, None))

    def _use(self, connection: "PlainSocket | TlsSocket") -> None:
        self.sock = connection
        # Unread bytes stay behind: what somebody on the way sent before the handshake is never believed.
        self._lines = connection.makefile("rb")

    def _wrapped(self, connection: "PlainSocket | TlsSocket", session: ssl.SSLSession | None) -> TlsSocket:
        assert self.who.context is not None
        with translated(self.call):
            wrapped = self.who.context.wrap_socket(
                connection, server_hostname=self.who.host, do_handshake_on_connect=False, session=session
            )
            assert isinstance(wrapped, TlsSocket)
            wrapped.call = self.call
            try:
                wrapped.do_handshake()
            except BaseException:
                wrapped.close()
                raise
            return wrapped

    def _log_in(self, call: Call) -> None:
        user, password = self.who.user, self.who.password
        if any(character in f"{user}{password or ''}" for character in "\r\n\0"):
            raise Denied(call.tried, call.on, "the user name or the password has a line break", wants=())
        try:
            reply = self.ask(f"USER {user}")
            if reply.code == 331:
                sent = password if password is not None else "anonymous@" if user == "anonymous" else None
                if sent is None:
                    raise login_error(call, reply, user, had_password=False)
                reply = self.ask(f"PASS {sent}")
        except HungUp as error:
            if Reply(421, error.said).wants_tls:
                raise needs_tls(call) from None
            if error.said:
                raise Full(call, error.said) from None
            raise
        if not reply.is_done:
            if reply.is_full:
                raise Full(call, reply.quoted(self.secrets))
            raise login_error(call, reply, user, password is not None)
        if self.who.tls and (self.ask("PBSZ 0").code >= 500 or not self.ask("PROT P").is_done):
            raise Denied(call.tried, call.on, "the server would send the data itself unencrypted")

    def _learn(self) -> Features:
        reply = self.ask("FEAT")
        lines = reply.text.split("\n")[1:-1] if reply.code == 211 else []
        words = set()
        for line in lines:
            word, _, rest = line.strip().upper().partition(" ")
            words |= {word, "REST STREAM"} if word == "REST" and "STREAM" in rest else {word}
        reply = self.ask("PWD")
        return Features(frozenset(words), working_folder(reply) if reply.code == 257 else "")

    # -- the data connection --------------------------------------------------------------------------------------

    def _connect_for_data(self) -> PlainSocket:
        """Passive only; the data come from where the control connection goes to."""
        reply = self.ask("EPSV")
        if reply.code != 229 and self.family == socket.AF_INET:
            reply = self.ask("PASV")
        if reply.code not in {227, 229}:
            raise reply_error(self.call, reply, self.secrets)
        address = self.sock.getpeername()[0]
        try:
            return self.call.dial(address, passive_port(self.call, reply))
        except Unreachable as error:
            hint = "the server's passive ports must be open in the firewall, too"
            raise Unreachable(error.tried, error.on, f"for the data, {error.why}", hint) from None

    def _secured(self, connection: PlainSocket) -> "PlainSocket | TlsSocket":
        if not self.who.tls:
            return connection
        assert isinstance(self.sock, TlsSocket)
        return self._wrapped(connection, self.sock.session)


class Stream:
    """The data of one transfer, as they come."""

    def __init__(self, control: Control, connection: "PlainSocket | TlsSocket", command: str, position: int) -> None:
        self.control = control
        self.socket = connection
        self.command = command
        self.position = position
        self.reads = 0

    def read(self, most: int) -> bytes:
        """The next bytes, `most` at most; b"" at the end."""
        call = self.control.call
        with translated(call):
            data: bytes = self.socket.recv(min(most, _CHUNK))
        call.progressed(len(data))
        self.position += len(data)
        return data
