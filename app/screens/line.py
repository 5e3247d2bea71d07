"""The two threads behind a serial console: neither a guest that floods nor one that does not read stops the screen."""

import queue
import socket
import threading
from collections.abc import Callable

_KEPT = 256 * 1024


class Line:
    """A guest's serial line. `open` is called in the reading thread; what came is taken with `take`."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._came = bytearray()
        self._typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._socket: socket.socket | None = None
        self._closing = False
        self.error: Exception | None = None
        self.ended = False
        threading.Thread(target=self._run, name="farboot-line", daemon=True).start()

    def take(self) -> bytes:
        """What the guest sent since the last time."""
        with self._lock:
            data = bytes(self._came)
            self._came.clear()
        return data

    def send(self, data: bytes) -> None:
        """Have `data` sent to the guest."""
        self._typed.put(data)

    def close(self) -> None:
        """Leave the line; the guest goes on."""
        with self._lock:
            self._closing = True
            connection = self._socket
        self._typed.put(None)
        if connection is not None:
            _shut(connection)

    def _run(self) -> None:
        try:
            connection = self._connect()
        except Exception as error:  # noqa: BLE001 told by the room, whatever it is
            self.error = error
            self.ended = True
            return
        with self._lock:
            self._socket = connection
            closing = self._closing
        if not closing:
            threading.Thread(target=self._write, args=(connection,), name="farboot-typing", daemon=True).start()
            self._read(connection)
        connection.close()
        self._typed.put(None)
        self.ended = True

    def _read(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                self._came += data
                del self._came[:-_KEPT]

    def _write(self, connection: socket.socket) -> None:
        while (data := self._typed.get()) is not None:
            try:
                connection.sendall(data)
            except OSError:
                return


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is shut already
