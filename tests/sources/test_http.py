"""The web source against real web servers: nginx, Apache, lighttpd and Python's http.server."""

import functools
import http.server
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from probes.credentials import NO_CREDENTIALS, Credentials, Secret
from probes.location import Location
from probes.sources.http import HttpSource
from tests.servers.apache import start_apache
from tests.servers.lighttpd import start_lighttpd
from tests.servers.nginx import Nginx, start_nginx
from tests.sources.contract import (
    CredentialContract,
    Faults,
    Lock,
    NetworkContract,
    ProxyFaults,
    SourceContract,
    Storage,
    content,
    odd_names,
)

HIDDEN = ("dots",)  # nginx and lighttpd list nothing that begins with a dot
LONG_AGO = 1_700_000_000
PASSWORD = "s3cret pässword:with%odd#chars"


def fill(root: Path, without: Iterable[str] = ()) -> dict[str, bytes]:
    """Lay the contract's tree into a folder: odd names, an image, an empty and a nested folder."""
    files = {name: content(100 + number, seed=number) for number, name in enumerate(odd_names(without))}
    files["image.img"] = content(300_001, seed=1000)
    files["empty.img"] = b""
    files["notes.txt"] = b"hello"
    for name, data in files.items():
        (root / name).write_bytes(data)
    (root / "nothing").mkdir()
    (root / "deeper [x] #1").mkdir()
    (root / "deeper [x] #1" / "inner.iso").write_bytes(content(4096, seed=7))
    for path in root.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    return files


@pytest.fixture(scope="module")
def tree() -> Iterator[tuple[Path, dict[str, bytes]]]:
    # Apache under root serves as www-data, which cannot enter pytest's own folders.
    with tempfile.TemporaryDirectory(prefix="farboot-web-", dir="/var/tmp") as name:
        root = Path(name)
        root.chmod(0o755)
        (root / "www").mkdir()
        yield root, fill(root / "www", HIDDEN)


def storage_at(url: str, files: dict[str, bytes], exact: bool, credentials: Credentials = NO_CREDENTIALS) -> Storage:
    container, _ = Location.parse(url)
    return Storage(
        make=HttpSource,
        container=container,
        files=files,
        image="image.img",
        missing=container.child("missing.img"),
        containers={"nothing": {}, "deeper [x] #1": {"inner.iso": content(4096, seed=7)}},
        credentials=credentials,
        exact_sizes=exact,
    )


Tree = tuple[Path, dict[str, bytes]]


@pytest.fixture
def faults(web: Nginx, refused_port: int) -> Iterator[Faults]:
    faults = ProxyFaults("http", web.port, refused_port, listing=1500)
    yield faults
    faults.close()


@pytest.fixture(scope="module")
def web(tree: Tree) -> Iterator[Nginx]:
    """An nginx that serves the tree, and once more under /locked/ for those who know the password."""
    home, _ = tree
    hashed = subprocess.run(
        ["openssl", "passwd", "-apr1", "-stdin"], input=PASSWORD.encode(), capture_output=True, check=True
    ).stdout.decode()
    (home / "passwords").write_text(f"alice:{hashed}")
    lines = f"""location /locked/ {{
        alias {home}/www/; auth_basic x; auth_basic_user_file {home}/passwords;
    }}"""
    running = start_nginx(home / "nginx", home / "www", lines)
    yield running
    running.server.stop()


class TestNginx(SourceContract, NetworkContract, CredentialContract):
    @pytest.fixture
    def storage(self, web: Nginx, tree: Tree) -> Storage:
        return storage_at(web.url, tree[1], exact=True)

    @pytest.fixture
    def lock(self, web: Nginx) -> Lock:
        container = Location("http", f"127.0.0.1:{web.port}", "/locked/")
        return Lock(
            container,
            container.child("image.img"),
            right=Credentials("alice", Secret(PASSWORD)),
            wrong=Credentials("alice", Secret("wrong-and-unique-4711")),
            wants=("username", "password"),
        )


Start = Callable[[Path, Path], tuple[str, Callable[[], None]]]


def _nginx(lines: str) -> Start:
    def start(home: Path, root: Path) -> tuple[str, Callable[[], None]]:
        running = start_nginx(home, root, lines)
        return running.url, running.server.stop

    return start


def _apache(options: str) -> Start:
    def start(home: Path, root: Path) -> tuple[str, Callable[[], None]]:
        running = start_apache(home, root, options)
        return running.url, running.server.stop

    return start


def _lighttpd(home: Path, root: Path) -> tuple[str, Callable[[], None]]:
    running = start_lighttpd(home, root)
    return running.url, running.server.stop


def _python(home: Path, root: Path) -> tuple[str, Callable[[], None]]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    class QuietServer(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that hangs up is no news here."""

    running = QuietServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()

    def stop() -> None:
        running.shutdown()
        running.server_close()

    return f"http://127.0.0.1:{running.server_port}/", stop


# How each is started, whether its pages tell exact sizes, and which names it cannot list so that they can be had.
SERVERS: dict[str, tuple[Start, bool, tuple[str, ...]]] = {
    "nginx-rounded": (_nginx("autoindex_exact_size off;"), False, HIDDEN),
    "nginx-json": (_nginx("autoindex_format json;"), True, HIDDEN),
    # It writes these bytes into its XML as they are, which then is none.
    "nginx-xml": (_nginx("autoindex_format xml;"), True, (*HIDDEN, "escape", "invalid-utf-8", "latin-1")),
    "apache-fancy": (_apache("FancyIndexing"), False, ()),
    "apache-table": (_apache("FancyIndexing HTMLTable"), False, ()),
    "apache-plain": (_apache("-FancyIndexing"), False, ()),
    # It takes a control character in an address for `_`.
    "lighttpd": (_lighttpd, False, (*HIDDEN, "escape", "newline")),
    # It spells undecodable bytes as Python's surrogates in UTF-8: another name.
    "python": (_python, False, ("invalid-utf-8", "latin-1")),
}


@pytest.fixture(scope="module", params=list(SERVERS))
def served(request: pytest.FixtureRequest, tree: Tree) -> Iterator[tuple[str, bool, dict[str, bytes]]]:
    """Each of the servers, with a tree of its own: where, whether its pages tell exact sizes, and what lies there."""
    start, exact, without = SERVERS[request.param]
    home, _ = tree
    root = home / f"www-{request.param}"
    root.mkdir()
    files = fill(root, without)
    url, stop = start(home / request.param, root)
    yield url, exact, files
    stop()


class TestEveryServer(SourceContract):
    """The same obligations, whoever made the index page."""

    @pytest.fixture
    def storage(self, served: tuple[str, bool, dict[str, bytes]]) -> Storage:
        url, exact, files = served
        return storage_at(url, files, exact)
