"""The demonstration's web server: one folder, index pages, ranges and validators, on the loopback address alone."""

import html
import io
import os
import re
import select
import threading
from collections.abc import Callable
from datetime import datetime
from email.utils import formatdate
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_STILL_NEEDED_EVERY = 2.0  # seconds


class RangeHandler(SimpleHTTPRequestHandler):
    """http.server's own handler with what disk images need besides: ranges (RFC 9110, section 14) and ETags."""

    protocol_version = "HTTP/1.1"
    server_version = "farboot-demo"
    disable_nagle_algorithm = True  # headers and body are two writes: else each answer takes 40 ms
    timeout = 60

    def send_head(self) -> BinaryIO | None:
        """Answer with the whole file, the one range asked for, or an index page."""
        path = self.translate_path(self.path)
        if os.path.isdir(path):
            return super().send_head()
        try:
            file = open(path, "rb")  # noqa: SIM115  # the caller closes it
        except OSError:
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        status = os.fstat(file.fileno())
        tag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        start, end = 0, status.st_size
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if wanted and self.headers.get("If-Range", tag) == tag:
            start = int(wanted[1])
            end = min(end, int(wanted[2]) + 1) if wanted[2] else end
            if start >= end:
                self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                self.send_header("Content-Range", f"bytes */{status.st_size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                file.close()
                return None
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
        else:
            self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", formatdate(status.st_mtime, usegmt=True))
        self.end_headers()
        file.seek(start)
        self._left = end - start
        return file

    def list_directory(self, path: "str | os.PathLike[str]") -> io.BytesIO | None:
        """Answer with an index page in nginx's form: with sizes and dates, which the base class leaves out."""
        lines = []
        with os.scandir(path) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                status = entry.stat()
                name = quote(entry.name, errors="surrogatepass") + ("/" if entry.is_dir() else "")
                size = "-" if entry.is_dir() else str(status.st_size)
                date = datetime.fromtimestamp(status.st_mtime).strftime("%d-%b-%Y %H:%M")  # noqa: DTZ006  # as nginx does
                lines.append(f'<a href="{name}">{html.escape(entry.name)}</a>  {date}  {size}\n')
        text = f"<html><head><title>Index of /</title></head><body><pre>{''.join(lines)}</pre></body></html>\n"
        body = text.encode("utf-8", "replace")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._left = len(body)
        return io.BytesIO(body)

    def copyfile(self, source: BinaryIO, outputfile: BinaryIO) -> None:  # type: ignore[override]  # ours are binary
        """Send as much as the header promised."""
        left = self.__dict__.pop("_left", None)
        if left is None:
            return super().copyfile(source, outputfile)
        while left and (piece := source.read(min(left, 1 << 20))):
            outputfile.write(piece)
            left -= len(piece)
        return None

    def handle_one_request(self) -> None:
        """A client that goes away is no event."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Keep quiet: the screen belongs to the Textual application."""


def start(folder: Path) -> ThreadingHTTPServer:
    """Serve `folder` on a free loopback port, in a thread, until `shutdown` is called."""

    class Handler(RangeHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]  # the server's own

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def serve(folder: Path, until: int, announce: Callable[[str], None]) -> None:
    """Serve `folder` until the descriptor `until` ends and no guest runs from here any more.

    `announce` is called with the URL once it is served.
    """
    server = start(folder)
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    announce(url)
    while os.read(until, 4096):
        pass
    poll = select.poll()  # nothing to watch: a time to wait, without holding anything
    while _needed(url):
        poll.poll(_STILL_NEEDED_EVERY * 1000)
    server.shutdown()


def _needed(url: str) -> bool:
    from app.qemu.sessions.session import sessions

    return any(session.location.startswith(url) and session.pid is not None for session in sessions())
