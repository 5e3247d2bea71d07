"""Real lighttpd servers, each in a folder of its own."""

import os
from dataclasses import dataclass

from tests.servers.server import Server, is_listening, start_on_free_port

_CONFIGURATION = """
server.document-root = "{root}"
server.bind = "127.0.0.1"
server.port = {port}
server.modules = ("mod_dirlisting")
server.http-parseopts = ("url-invalid-utf8-reject" => "disable")
server.upload-dirs = ("{folder}")
dir-listing.activate = "enable"
dir-listing.encoding = "utf-8"
mimetype.assign = (".html" => "text/html", "" => "application/octet-stream")
{more}
"""


@dataclass
class Lighttpd:
    """A running lighttpd."""

    server: Server
    port: int
    root: str

    @property
    def url(self) -> str:
        """Its root, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"


def start_lighttpd(folder: str | os.PathLike[str], root: str | os.PathLike[str], more: str = "") -> Lighttpd:
    """Start lighttpd in `folder`, serving `root`, with more lines of configuration."""
    home = os.fspath(folder)
    os.makedirs(home, exist_ok=True)

    def make(port: int) -> Server:
        path = os.path.join(home, "lighttpd.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(_CONFIGURATION.format(root=os.fspath(root), port=port, folder=home, more=more))
        return Server(["/usr/sbin/lighttpd", "-D", "-f", path], home, lambda: is_listening(port))

    process, port = start_on_free_port(make)
    return Lighttpd(process, port, os.fspath(root))
