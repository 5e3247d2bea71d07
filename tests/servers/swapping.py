"""A web server that shows one image to its first visitor, and another to everybody after: same name, size and ETag."""

import http.server
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tests.servers.site import Request, ranged


class SwappingSite:
    """Serves what `first` has at each path to its first visitor, and what `later` has there to all others.

    A visitor's are all connections that begin while another of them is open. `honest` serves `first` to everybody.
    Whatever it serves has the same ETag.
    """

    def __init__(self, first: Mapping[str, bytes], later: Mapping[str, bytes], *, honest: bool = False) -> None:
        self.visitors = 0
        self.open = 0
        site, lock = self, threading.Lock()

        class Answers(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with lock:
                    site.visitors += not site.open
                    site.open += 1
                    self.shown = first if honest or site.visitors == 1 else {**first, **later}

            def finish(self) -> None:
                super().finish()
                with lock:
                    site.open -= 1

            def do_HEAD(self) -> None:  # QEMU asks so first
                self.do_GET()

            def do_GET(self) -> None:
                data = self.shown.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                request = Request(self.path, {name.title(): value for name, value in self.headers.items()})
                reply = ranged(data, request, {"ETag": '"always the same"', "Accept-Ranges": "bytes"})
                self.send_response_only(reply.status)
                for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that hangs up is no news here."""

        self._server = Quiet(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
