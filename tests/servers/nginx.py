"""Real nginx servers, each in a folder of its own."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.servers.server import Server, is_listening, start_on_free_port

_CONFIGURATION = """
daemon off;
pid {folder}/pid;
error_log stderr warn;
worker_processes 2;
events {{ worker_connections 256; }}
{user}
http {{
    access_log off;
    default_type application/octet-stream;
    types {{ text/html html htm; text/plain txt; application/json json; }}
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
    server {{
        listen 127.0.0.1:{port}{listen};
        root {root};
        autoindex on;
        {server}
    }}
}}
"""


@dataclass
class Nginx:
    """A running nginx: `root` is what it serves, a folder of the test's."""

    server: Server
    port: int
    root: str
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Its root, with a slash at the end."""
        return f"{self.scheme}://127.0.0.1:{self.port}/"


def start_nginx(
    folder: str | os.PathLike[str],
    root: str | os.PathLike[str],
    server: str = "",
    http: str = "",
    tls: tuple[str, str] | None = None,
) -> Nginx:
    """Start nginx in `folder`, serving `root`. `server` and `http` are more lines for these blocks, `tls` the paths
    of a certificate and its key.
    """
    home = os.fspath(folder)
    os.makedirs(home, exist_ok=True)
    if tls:
        server += f"\nssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};"
    user = "user root;" if os.geteuid() == 0 else ""  # the tests' folders are closed to others

    def make(port: int) -> Server:
        path = os.path.join(home, "nginx.conf")
        with open(path, "w", encoding="utf-8") as file:
            listen = " ssl" if tls else ""
            file.write(
                _CONFIGURATION.format(
                    folder=home, port=port, root=os.fspath(root), server=server, http=http, user=user, listen=listen
                )
            )
        return Server(["/usr/sbin/nginx", "-c", path, "-p", home], home, lambda: is_listening(port))

    process, port = start_on_free_port(make)
    return Nginx(process, port, os.fspath(root), "https" if tls else "http")


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """A plain nginx with index pages and ranges; write what it shall serve into its `root`, in a folder of your own."""
    home = tmp_path_factory.mktemp("nginx")
    root = home / "root"
    root.mkdir()
    running = start_nginx(home, root)
    yield running
    running.server.stop()
