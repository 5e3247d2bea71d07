"""A host while it is used: one connection, over which it is listed and read."""

import threading
from collections.abc import Callable

import paramiko

from probes.errors import Cancelled, Denied, FarbootError, Unsupported
from probes.network.call import Call
from probes.ssh.login import Connection
from probes.ssh.session import NoSftp
from probes.ssh.sftp import Sftp

_WINDOW = 8 << 20
_PACKET = 256 << 10


class Host:
    """The connection to one host, made by `connect` when it is first wanted, and anew when it has died.

    `connect` is given the call on whose behalf it is. Everything but `close` may wait for the host.
    """

    def __init__(self, connect: Callable[[Call], Connection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._sessions: dict[bool, Sftp] = {}
        self._closed = False

    def connection(self, call: Call) -> Connection:
        """The connection, alive. Raises as `probes.ssh.login.connect` does."""
        with self._lock:
            return self._connected(call)

    def sftp(self, call: Call, for_lists: bool) -> Sftp:
        """An SFTP session: one for lists, one for reading, so that neither waits for the other."""
        with self._lock:
            connection = self._connected(call)
            session = self._sessions.get(for_lists)
            if session is None or session.has_ended:
                try:
                    session = _begin_sftp(connection, call)
                except (Denied, Unsupported):
                    other = self._sessions.get(not for_lists)  # a server with MaxSessions 1
                    if other is None or other.has_ended:
                        raise
                    session = other
                self._sessions[for_lists] = session
            return session

    def close(self) -> None:
        """Let go of it, from any thread: whoever uses it gets an error."""
        self._closed = True
        for session in list(self._sessions.values()):
            session.close()
        if self._connection is not None:
            self._connection.close()

    def _connected(self, call: Call) -> Connection:
        if self._connection is None or not self._connection.alive:
            if self._connection is not None:
                self._connection.close()
            self._sessions.clear()
            self._connection = self._connect(call)
            if self._closed:
                self._connection.close()
                raise Cancelled(call.tried, call.on, "it was closed")
        return self._connection


def _begin_sftp(connection: Connection, call: Call) -> Sftp:
    def why_lost() -> FarbootError:
        return connection.line.lost(call)

    try:
        with call.waiting(connection.line.drop) as left:
            channel = connection.line.open_session(_WINDOW, _PACKET, timeout=left)
            connection.line.start_sftp(channel)
            return Sftp(channel, call.seconds, why_lost)
    except paramiko.ChannelException:
        why, hint = "the server allows no session", "see MaxSessions in its sshd_config"
        raise Denied(call.tried, call.on, why, hint) from None
    except NoSftp:
        why, hint = "the server has no SFTP for this account", "see Subsystem sftp in its sshd_config; dropbear needs"
        raise Unsupported(call.tried, call.on, why, f"{hint} openssh-sftp-server") from None
    except (paramiko.SSHException, OSError, EOFError):
        call.remaining()
        raise why_lost() from None
