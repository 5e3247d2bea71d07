"""pyftpdlib, a real FTP server in Python: MLSD, users, TLS of both kinds, and whatever else a test leaves out of it."""

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_FTPHandler
from pyftpdlib.ioloop import IOLoop
from pyftpdlib.servers import FTPServer

_LOG = logging.getLogger("pyftpdlib")
_LOG.addHandler(logging.NullHandler())  # or it would set up the root logger
_LOG.propagate = False

USER, PASSWORD = "alice", "s3cret pässword:with%odd#chars"


class Pyftpd:
    """Serves `root` on a loopback port in a thread of its own. `users` are names and passwords; "anonymous" is one too.

    `tls` is "" or "explicit" or "implicit", with `certificate` and `key`. `without` are commands that it does not know.
    `settings` are attributes of pyftpdlib's handler.
    """

    def __init__(
        self,
        root: Path,
        users: Mapping[str, str] | None = None,
        tls: str = "",
        pair: tuple[Path, Path] | None = None,
        without: tuple[str, ...] = (),
        host: str = "127.0.0.1",
        **settings: Any,
    ) -> None:
        authorizer = DummyAuthorizer()
        for name, password in (users if users is not None else {"anonymous": ""}).items():
            if name == "anonymous":
                authorizer.add_anonymous(str(root))
            else:
                authorizer.add_user(name, password, str(root))
        self.handler = _handler(tls, pair, without, settings)
        self.handler.authorizer = authorizer
        self.commands: list[str] = []
        """Every command that came, without its arguments."""
        _record(self.handler, self.commands.append)
        self._loop = IOLoop()
        self.server = FTPServer((host, 0), self.handler, ioloop=self._loop)
        self.host, self.port = self.server.socket.getsockname()[:2]
        self.root = root
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def authority(self) -> str:
        """`host:port`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def close(self) -> None:
        """Stop it, and end every connection."""
        self._stopping.set()
        self._thread.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._loop.loop(timeout=0.02, blocking=False)
        self.server.close_all()


def _handler(tls: str, pair: tuple[Path, Path] | None, without: tuple[str, ...], settings: Mapping[str, Any]) -> Any:
    base: Any = TLS_FTPHandler if tls else FTPHandler
    # Python's surrogates for bytes that are not UTF-8; and no pause after a wrong password.
    attributes: dict[str, Any] = {"unicode_errors": "surrogateescape", "auth_failed_timeout": 0, "use_sendfile": False}
    known = {name: value for name, value in base.proto_cmds.items() if name not in without}
    attributes |= {"proto_cmds": known, "dtp_handler": type("Data", (base.dtp_handler,), {})}
    if tls:
        assert pair is not None
        attributes |= {"certfile": str(pair[0]), "keyfile": str(pair[1]), "ssl_context": None}
        attributes |= {"tls_control_required": True, "tls_data_required": True}
    if tls == "implicit":
        attributes["__init__"] = _secured_at_once
        attributes["tls_data_required"] = True
    return type("Handler", (base,), attributes | dict(settings))


def _secured_at_once(self: Any, connection: Any, server: Any, ioloop: Any = None) -> None:
    TLS_FTPHandler.__init__(self, connection, server, ioloop)
    self.secure_connection(self.ssl_context)


def _record(handler: Any, tell: Callable[[str], None]) -> None:
    original = handler.pre_process_command

    def pre_process_command(self: Any, line: str, cmd: str, arg: str) -> Any:
        tell(cmd)
        return original(self, line, cmd, arg)

    handler.pre_process_command = pre_process_command


__all__ = ["PASSWORD", "USER", "DTPHandler", "Pyftpd"]
