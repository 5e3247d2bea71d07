"""A small real HTTP server whose answers a test writes itself: for what nginx and its like cannot be brought to say."""

import http.server
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


@dataclass
class Reply:
    """One answer. Content-Length is added unless `headers` hold one, or a Transfer-Encoding."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def raw(self) -> bytes:
        """The answer as it goes over the wire, nothing added."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"HTTP/1.1 {self.status} x\r\n{headers}\r\n".encode() + self.body


@dataclass(frozen=True)
class Request:
    """One request: `path` with its query as it came, the names of the `headers` Capital-Spelt."""

    path: str
    headers: Mapping[str, str]


Handler = Callable[[Request], Reply]


class Site:
    """Serves `answer` on a loopback port; keeps connections alive; remembers every request."""

    def __init__(self, answer: Handler) -> None:
        self.requests: list[Request] = []
        site = self

        class Answers(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                request = Request(self.path, {name.title(): value for name, value in self.headers.items()})
                site.requests.append(request)
                reply = answer(request)
                self.send_response_only(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if not {"Content-Length", "Transfer-Encoding"} & set(reply.headers):
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A client that hangs up is no news here."""

        self._server = Quiet(("127.0.0.1", 0), Answers)
        self.authority = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.authority}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ranged(data: bytes, request: Request, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer a request for a range of `data` as RFC 9110 wants it, conditions left out."""
    match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    if match is None:
        return Reply(200, data, headers or {})
    first, last = int(match[1]), min(int(match[2]), len(data) - 1)
    if first > last:
        return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}", **(headers or {})})
    told = {"Content-Range": f"bytes {first}-{last}/{len(data)}", **(headers or {})}
    return Reply(206, data[first : last + 1], told)
