"""The bridge as QEMU meets it: a process of its own, in front of real servers.

Long, for every promise of the bridge is tested through the whole of it, on the same servers and images.
"""

import asyncio
import contextlib
import dataclasses
import http.server
import itertools
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.demo.guest import MARKER, GuestImages
from app.qemu.bridge.patience import Patience
from app.qemu.bridge.serve import Expected
from probes.credentials import Credentials, Secret
from probes.evidence import Evidence
from probes.source import DEADLINE
from tests.qemu.bridge_process import BridgeProcess, judged
from tests.qemu.nbd_client import READ, Client, qemu
from tests.servers.ceph import Ceph
from tests.servers.faults import FaultyProxy
from tests.servers.nginx import Nginx, start_nginx
from tests.servers.server import wait_until

SIZE = 12_345_678
CONTENT = random.Random(5).randbytes(SIZE)
EIO = 5


@dataclasses.dataclass
class Site:
    """A folder of the test's own on the real web server."""

    nginx: Nginx
    folder: Path

    def url(self, name: str, port: int | None = None) -> str:
        return f"http://127.0.0.1:{port or self.nginx.port}/{self.folder.name}/{name}"

    def write(self, name: str, content: bytes) -> str:
        (self.folder / name).write_bytes(content)
        return self.url(name)


@pytest.fixture
def site(nginx: Nginx, tmp_path: Path) -> Site:
    folder = Path(nginx.root) / f"bridge-{tmp_path.name}"
    folder.mkdir()
    return Site(nginx, folder)


@pytest.fixture
def image(site: Site) -> str:
    return site.write("image.raw", CONTENT)


async def read(client: Client, offset: int, length: int) -> bytes | int:
    """The bytes, or the error number."""
    reply = await client.ask(READ, offset, length)
    return reply.error or reply.data


# What is served


async def test_what_a_web_server_holds_is_served_byte_for_byte(image: str, site: Site, tmp_path: Path) -> None:
    with BridgeProcess(tmp_path / "b", image) as bridge:
        copy = str(tmp_path / "copy")
        assert await qemu("qemu-img", "convert", "-f", "raw", "-O", "raw", bridge.uri, copy) == (0, "")
        assert (tmp_path / "copy").read_bytes()[:SIZE] == CONTENT
        assert await qemu("qemu-img", "compare", "-f", "raw", "-F", "raw", bridge.uri, str(site.folder / "image.raw")) \
            == (0, "Images are identical.\n")  # fmt: skip


async def test_a_file_of_the_host_is_served_too(tmp_path: Path) -> None:
    (tmp_path / "image.raw").write_bytes(CONTENT)
    with BridgeProcess(tmp_path / "b", str(tmp_path / "image.raw")) as bridge:
        said = await qemu("qemu-img", "compare", "-f", "raw", "-F", "raw", bridge.uri, str(tmp_path / "image.raw"))
    assert said == (0, "Images are identical.\n")


async def test_a_qcow2_is_served_as_it_lies_for_qemu_to_open(site: Site, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(CONTENT)
    made = str(site.folder / "image.qcow2")
    assert (await qemu("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(tmp_path / "raw"), made))[0] == 0
    with BridgeProcess(tmp_path / "b", site.url("image.qcow2")) as bridge:
        command = ("qemu-img", "compare", "-f", "qcow2", "-F", "raw", bridge.uri, str(tmp_path / "raw"))
        assert (await qemu(*command))[0] == 0


async def test_several_clients_read_the_whole_at_once(image: str, site: Site, tmp_path: Path) -> None:
    whole = str(site.folder / "image.raw")
    with BridgeProcess(tmp_path / "b", image) as bridge:
        command = ("qemu-img", "compare", "-f", "raw", "-F", "raw", bridge.uri, whole)
        for status, said in await asyncio.gather(*(qemu(*command) for _ in range(4))):
            assert (status, said) == (0, "Images are identical.\n")


async def test_memory_is_bounded_however_much_is_read(tmp_path: Path) -> None:
    (tmp_path / "image.raw").touch()
    os.truncate(tmp_path / "image.raw", 1 << 30)
    with BridgeProcess(tmp_path / "b", str(tmp_path / "image.raw")) as bridge:
        command = ("qemu-img", "bench", "-f", "raw", "-c", "512", "-d", "16", "-s", str(2 << 20), bridge.uri)
        assert (await qemu(*command))[0] == 0
        assert bridge.peak_memory < 220 << 20


# What is checked before


def _changes() -> list[tuple[str, Callable[[Expected], Expected], str]]:
    return [
        ("size", lambda e: dataclasses.replace(e, size=e.size + 1), "bytes"),
        ("validator", lambda e: dataclasses.replace(e, validator="another"), "time stamp or tag"),
        ("evidence", lambda e: dataclasses.replace(e, evidence=Evidence.by([(0, b"other")])), "were judged"),
        ("format", lambda e: dataclasses.replace(e, format="qcow2"), "it is raw now, not qcow2"),
    ]


@pytest.mark.parametrize(("change", "words"), [(c, w) for _, c, w in _changes()], ids=[n for n, _, _ in _changes()])
def test_an_image_that_is_not_the_judged_one_is_not_served(
    image: str, tmp_path: Path, change: Callable[[Expected], Expected], words: str
) -> None:
    bridge = BridgeProcess(tmp_path / "b", image, change(judged(image))).start()
    assert bridge.ended() == 1
    assert bridge.said.count("\n") == 1
    assert words in bridge.said
    assert os.listdir(bridge.folder) == ["log"]


def test_an_image_that_must_be_refused_is_refused_here_again(site: Site, tmp_path: Path) -> None:
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=other.raw", "image.qcow2", "1M"]
    subprocess.run(argv, cwd=site.folder, check=True)
    bridge = BridgeProcess(tmp_path / "b", site.url("image.qcow2")).start()
    assert bridge.ended() == 1
    assert "data" in bridge.said
    assert not bridge.path.exists()


def test_an_image_with_nothing_in_it_is_refused(site: Site, tmp_path: Path) -> None:
    bridge = BridgeProcess(tmp_path / "b", site.write("empty.raw", b"")).start()
    assert bridge.ended() == 1
    assert "nothing in it" in bridge.said


def test_a_server_that_is_not_there_is_told_at_once(image: str, refused_port: int, tmp_path: Path) -> None:
    expected = judged(image)
    bridge = BridgeProcess(tmp_path / "b", f"http://127.0.0.1:{refused_port}/image.raw", expected).start()
    assert bridge.ended() == 1
    assert bridge.said.startswith("farboot: cannot ")
    assert bridge.said.count("\n") == 1


# Credentials


async def test_a_password_opens_the_image_and_is_seen_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "image.raw").write_bytes(CONTENT[:100_000])
    (tmp_path / "passwords").write_text("alice:{PLAIN}hunter2 secret\n")
    lines = f"auth_basic private; auth_basic_user_file {tmp_path}/passwords;"
    credentials = Credentials(username="alice", password=Secret("hunter2 secret"))
    guarded = start_nginx(tmp_path / "nginx", root, server=lines)
    with guarded.server:
        with BridgeProcess(tmp_path / "b", guarded.url + "image.raw", credentials=credentials) as bridge:
            client = await Client.ready(bridge.path)
            assert await read(client, 70_000, 10_000) == CONTENT[70_000:80_000]
            client.close()
            assert "hunter2" not in bridge.shown
        assert "hunter2" not in bridge.said
        expected = judged(guarded.url + "image.raw", credentials)
        wrong = BridgeProcess(tmp_path / "c", guarded.url + "image.raw", expected, stdin=b"{}").start()
        assert wrong.ended() == 1
        assert not wrong.path.exists()


@pytest.mark.parametrize(
    "text", [b'{"password": "hunter2"', b'["hunter2"]', b'{"hunter2": "x"}', b'"hunter2"', b"\xff"]
)
def test_credentials_that_make_no_sense_are_refused_and_not_repeated(image: str, tmp_path: Path, text: bytes) -> None:
    bridge = BridgeProcess(tmp_path / "b", image, stdin=text).start()
    assert bridge.ended() == 1
    assert "the credentials on standard input" in bridge.said
    assert "hunter2" not in bridge.said


# The socket and the process


@pytest.mark.parametrize(("folder_mode", "socket_mode"), [(0o700, 0o666), (0o755, 0o600), (0o750, 0o600)])
def test_the_socket_is_open_only_where_its_folder_is_closed(
    image: str, tmp_path: Path, folder_mode: int, socket_mode: int
) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b").chmod(folder_mode)
    with BridgeProcess(tmp_path / "b", image) as bridge:
        assert stat.S_IMODE(bridge.path.stat().st_mode) == socket_mode


def test_as_soon_as_the_socket_is_there_it_can_be_connected_to(image: str, tmp_path: Path) -> None:
    bridge = BridgeProcess(tmp_path / "b", image).start()
    while not bridge.path.exists():
        pass
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(bridge.path))
    bridge.process.terminate()
    assert bridge.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_it_ends_cleanly_when_told_to_whoever_is_connected(
    image: str, tmp_path: Path, number: signal.Signals
) -> None:
    with BridgeProcess(tmp_path / "b", image) as bridge:
        client = await Client.ready(bridge.path)
        bridge.process.send_signal(number)
        assert bridge.ended() == 0
        assert await client.is_closed()
        assert os.listdir(bridge.folder) == ["log"]
        assert bridge.said == ""


async def test_it_ends_at_once_though_a_read_hangs(image: str, site: Site, tmp_path: Path) -> None:
    with FaultyProxy(site.nginx.port) as proxy:
        url = site.url("image.raw", proxy.port)
        expected = judged(url)
        with BridgeProcess(tmp_path / "b", url, expected) as bridge:
            client = await Client.ready(bridge.path)
            proxy.hang_up()
            proxy.hold_after = 0
            seen = proxy.connections
            client.send(READ, 5_000_000, 4096)
            await asyncio.to_thread(wait_until, lambda: proxy.connections > seen, "the request")
            bridge.process.terminate()
            assert bridge.process.wait(DEADLINE / 2) == 0, "it waited for the server's deadline"
            client.close()


def test_it_ends_with_its_parent(image: str, tmp_path: Path) -> None:
    starter = (
        "import sys; from pathlib import Path; from tests.qemu.bridge_process import BridgeProcess\n"
        "bridge = BridgeProcess(Path(sys.argv[1]), sys.argv[2]).start(); print(bridge.process.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    argv = [sys.executable, "-c", starter, str(tmp_path / "b"), image]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until((tmp_path / "b" / "s").exists, "the bridge's socket")
        parent.kill()
    wait_until(lambda: not _is_running(pid), "the bridge's end")
    assert not (tmp_path / "b" / "s").exists()


def _is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# Outages


async def test_reads_wait_while_the_server_is_dead_and_are_right_when_it_is_back(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "image.raw").write_bytes(CONTENT)
    first = start_nginx(tmp_path / "first", root)
    with contextlib.ExitStack() as stack:
        stack.enter_context(first.server)
        proxy = stack.enter_context(FaultyProxy(first.port))  # which keeps the port while nobody serves it
        with BridgeProcess(tmp_path / "b", f"http://{proxy.authority}/image.raw") as bridge:
            client = await Client.ready(bridge.path)
            proxy.cut_after = 100_000
            waiting = {client.send(READ, offset, 50_000): offset for offset in range(1_000_000, 9_000_000, 500_000)}
            proxy.refuse = True
            first.server.kill()
            proxy.hang_up()
            await asyncio.to_thread(wait_until, lambda: "the guest waits" in bridge.said, "the outage to be told")
            second = start_nginx(tmp_path / "second", root)
            with second.server:
                proxy.heal()
                proxy.upstream = ("127.0.0.1", second.port)
                for _ in range(len(waiting)):
                    reply = await asyncio.wait_for(client.reply(), 60)
                    offset = waiting.pop(reply.cookie)
                    assert reply.error == 0
                    assert reply.data == CONTENT[offset : offset + 50_000]
                assert bridge.said.count("the guest waits") == 1
                wait_until(lambda: "reading goes on" in bridge.said, "the end of the outage to be told")
            client.close()


async def test_an_image_that_stays_away_becomes_read_errors_and_the_bridge_lives_on(
    image: str, site: Site, tmp_path: Path
) -> None:
    patience = Patience(outage=60, refusal=0.1, first_pause=0.01, longest_pause=0.02)
    with BridgeProcess(tmp_path / "b", image, patience=patience) as bridge:
        client = await Client.ready(bridge.path)
        (site.folder / "image.raw").rename(site.folder / "elsewhere")
        assert await read(client, 5_000_000, 4096) == EIO
        (site.folder / "elsewhere").rename(site.folder / "image.raw")
        assert await read(client, 5_000_000, 4096) == CONTENT[5_000_000:5_004_096]
        client.close()


async def test_an_image_in_ceph_is_served_though_the_process_that_reads_it_crashes(ceph: Ceph, tmp_path: Path) -> None:
    pool = ceph.fresh_pool()
    ceph.image(pool, "disk", CONTENT)
    (tmp_path / "copy").write_bytes(CONTENT)
    with BridgeProcess(tmp_path / "b", f"rbd:{pool}/disk:conf={ceph.conf}") as bridge:
        client = await Client.ready(bridge.path)
        assert await read(client, 5_000_000, 4096) == CONTENT[5_000_000:5_004_096]
        (reader,) = bridge.children
        os.kill(reader, signal.SIGKILL)
        assert await read(client, 9_000_000, 4096) == CONTENT[9_000_000:9_004_096]
        client.close()
        command = ("qemu-img", "compare", "-f", "raw", "-F", "raw", bridge.uri, str(tmp_path / "copy"))
        assert await qemu(*command) == (0, "Images are identical.\n")
        (reader,) = bridge.children
    wait_until(lambda: not _is_running(reader), "the end of the process that reads")


async def test_reads_go_on_when_ceph_was_frozen_for_longer_than_any_call_may_take(ceph: Ceph, tmp_path: Path) -> None:
    """The calls time out, the process that made them is killed, opening it again times out too, and then it is back."""
    pool = ceph.fresh_pool()
    ceph.image(pool, "disk", CONTENT)
    with BridgeProcess(tmp_path / "b", f"rbd:{pool}/disk:conf={ceph.conf}", deadline=1) as bridge:
        client = await Client.ready(bridge.path)
        assert await read(client, 5_000_000, 4096) == CONTENT[5_000_000:5_004_096]
        before = set(bridge.children)
        with ceph.paused_osd():
            cookies = {client.send(READ, offset, 4096): offset for offset in range(6_000_000, 12_000_000, 1_000_000)}
            said = "the outage to be told, after the second try"
            await asyncio.to_thread(wait_until, lambda: "the guest waits" in bridge.said, said, 60)
        for _ in range(len(cookies)):
            reply = await asyncio.wait_for(client.reply(), 120)
            offset = cookies.pop(reply.cookie)
            assert reply.error == 0
            assert reply.data == CONTENT[offset : offset + 4096]
        assert "reading goes on" in bridge.said
        over = "the end of the process that made the calls"
        await asyncio.to_thread(wait_until, lambda: not before & set(bridge.children), over)
        client.close()


# Change


async def test_a_changed_image_is_read_errors_and_never_other_bytes(image: str, site: Site, tmp_path: Path) -> None:
    with BridgeProcess(tmp_path / "b", image) as bridge:
        client = await Client.ready(bridge.path)
        assert await read(client, 3_000_000, 4096) == CONTENT[3_000_000:3_004_096]
        other = random.Random(6).randbytes(SIZE)
        (site.folder / "new").write_bytes(other)
        (site.folder / "new").rename(site.folder / "image.raw")
        os.utime(site.folder / "image.raw", (1, 1))
        assert await read(client, 8_000_000, 4096) == EIO
        assert await read(client, 3_000_000, 4096) == EIO, "what is in the cache"
        assert await read(client, 0, 512) == EIO, "what was judged"
        other_client = await Client.ready(bridge.path)
        assert await read(other_client, 0, 512) == EIO
        assert bridge.said.count("every read fails from now on") == 1
        assert bridge.said.count("\n") == 1
        client.close()
        other_client.close()


class Liar(http.server.BaseHTTPRequestHandler):
    """Serves ranges of one content to the first few requests, and of another to the rest, under the same ETag: a web
    server that does what no real one does.
    """

    protocol_version = "HTTP/1.1"
    contents = (b"", b"")
    honest = 0
    asked = itertools.count()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        content = self.contents[0 if next(self.asked) < self.honest else 1]
        first, last = 0, len(content) - 1
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if ranged:
            first, last = int(ranged[1]), min(int(ranged[2] or last), last)
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"always-the-same"')
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if body:
            self.wfile.write(content[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def lying(first: bytes, later: bytes) -> Iterator[tuple[str, type[Liar]]]:
    handler = type("ThisLiar", (Liar,), {"contents": (first, later), "honest": 1 << 30, "asked": itertools.count()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/image.raw", handler
        server.shutdown()
        thread.join()


async def test_a_server_that_swaps_the_header_after_the_judgement_changes_nothing_that_is_run(tmp_path: Path) -> None:
    swapped = b"QFI\xfb" + bytes(range(200)) + CONTENT[204:]
    with lying(CONTENT, swapped) as (url, liar), BridgeProcess(tmp_path / "b", url) as bridge:
        liar.honest = 0
        client = await Client.ready(bridge.path)
        assert await read(client, 0, 4096) == CONTENT[:4096], "the judged bytes are served from memory"
        assert await read(client, 5_000_000, 100) == CONTENT[5_000_000:5_000_100]
        assert await read(client, 0, 200_000) == EIO, "what was read differs from what was judged"
        assert await read(client, 0, 4096) == EIO
        assert "not those that were judged" in bridge.said
        client.close()


async def test_a_server_that_swaps_the_header_between_the_two_judgements_is_caught(tmp_path: Path) -> None:
    with lying(CONTENT, b"QFI\xfb" + CONTENT[4:]) as (url, liar):
        expected = judged(url)
        liar.honest = 0
        bridge = BridgeProcess(tmp_path / "b", url, expected).start()
        assert bridge.ended() == 1
        assert "not those that were judged" in bridge.said


async def test_a_server_that_comes_back_with_another_header_is_caught(tmp_path: Path) -> None:
    with lying(CONTENT, b"QFI\xfb" + CONTENT[4:]) as (url, liar):
        port = int(url.split(":")[2].split("/", maxsplit=1)[0])
        with (
            FaultyProxy(port) as proxy,
            BridgeProcess(tmp_path / "b", url.replace(f":{port}/", f":{proxy.port}/")) as b,
        ):
            client = await Client.ready(b.path)
            liar.honest = 0
            proxy.refuse = True
            proxy.hang_up()
            client.send(READ, 5_000_000, 4096)
            await asyncio.to_thread(wait_until, lambda: "the guest waits" in b.said, "the outage to be told")
            proxy.heal()
            assert (await client.reply()).error == EIO
            assert "bytes are not those" in b.said
            client.close()


# A guest


@pytest.mark.boots
async def test_a_guest_boots_through_it_though_its_server_dies_on_the_way(
    tiny_guest: GuestImages, nginx: Nginx, site: Site, tmp_path: Path
) -> None:
    (site.folder / "tiny.iso").symlink_to(tiny_guest.iso)
    with FaultyProxy(nginx.port) as proxy, BridgeProcess(tmp_path / "b", site.url("tiny.iso", proxy.port)) as bridge:
        proxy.passed = 0
        node = (
            f'{{"driver":"nbd","node-name":"base","server":{{"type":"unix","path":"{bridge.path}"}},"read-only":true}}'
        )
        guest = await asyncio.create_subprocess_exec(
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-serial", "stdio", "-m", "256", "-no-reboot",
            "-blockdev", node, "-device", "ide-cd,drive=base", stdout=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert guest.stdout is not None
        try:
            await asyncio.to_thread(wait_until, lambda: proxy.passed > 1 << 20, "the guest's loader to read", 60)
            proxy.refuse = True
            proxy.hang_up()
            await asyncio.to_thread(wait_until, lambda: "the guest waits" in bridge.said, "the outage to be told")
            proxy.heal()
            seen = b""
            async with asyncio.timeout(240):
                while MARKER.encode() not in seen:
                    chunk = await guest.stdout.read(4096)
                    assert chunk, seen.decode(errors="replace")
                    seen += chunk
        finally:
            guest.kill()
            await guest.wait()
