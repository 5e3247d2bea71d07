"""A proxy for FTP that dies or dawdles as `FaultyProxy` does: the data connections go through it, too."""

import contextlib
import re
import socket
import threading

from tests.servers.faults import FaultyProxy, Listener


class FtpProxy(Listener):
    """Stands before the server at `port`: its replies to EPSV and PASV name a `FaultyProxy` of ours instead.

    `cut_after` is how many bytes a data connection passes on before it is reset. `latency` is the round trip of
    the control connection in seconds, and what it takes to open a data connection.
    """

    def __init__(self, port: int, latency: float = 0.0) -> None:
        self.upstream = port
        self.latency = latency
        self.cut_after: int | None = None
        self.proxies: list[FaultyProxy] = []
        super().__init__()

    def heal(self) -> None:
        """Be a good proxy (again)."""
        self.cut_after = None

    def close(self) -> None:
        super().close()
        for proxy in self.proxies:
            proxy.close()

    def adopt(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # no latency but ours
        super().adopt(connection)

    def hang_up(self) -> None:
        super().hang_up()
        for proxy in self.proxies:
            proxy.hang_up()

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            self.adopt(server)
            threading.Thread(target=self._commands, args=(client, server), daemon=True).start()
            replies = server.makefile("rb")
            for line in replies:
                self._wait()
                client.sendall(self._through_us(line))
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def _commands(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(16384):
                self._wait()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _wait(self) -> None:
        if self.latency:
            self.stopping.wait(self.latency / 2)

    def _through_us(self, line: bytes) -> bytes:
        if match := re.match(rb"229 .*\(\|\|\|(\d+)\|\)", line):
            return b"229 Extended passive (|||%d|)\r\n" % self._data(int(match[1]))
        if match := re.match(rb"227 .*\(\d+,\d+,\d+,\d+,(\d+),(\d+)\)", line):
            port = self._data(int(match[1]) * 256 + int(match[2]))
            return b"227 Passive (127,0,0,1,%d,%d)\r\n" % divmod(port, 256)
        return line

    def _data(self, port: int) -> int:
        proxy = _DataProxy(port, self.latency)
        proxy.cut_after = self.cut_after
        self.proxies.append(proxy)
        return proxy.port


class _DataProxy(FaultyProxy):
    """Passes on what the server sends only after the round trip that opening the connection takes."""

    def __init__(self, port: int, delay: float) -> None:
        self.delay = delay
        super().__init__(port)

    def serve(self, client: socket.socket) -> None:
        if self.delay:
            self.stopping.wait(self.delay)
        super().serve(client)
