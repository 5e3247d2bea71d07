"""What the web source makes of odd, broken and hostile answers, and to whom it gives its credentials."""

import gzip
import os
import subprocess
import threading
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.credentials import Credentials, Secret
from probes.entry import Kind
from probes.errors import (
    BadAnswer,
    Changed,
    Denied,
    FarbootError,
    NotFound,
    Refused,
    TimedOut,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.sources.http import HttpSource
from probes.web.call import PROGRESS, Call
from tests.servers.faults import Drip, FaultyProxy, Listener, Scripted
from tests.servers.nginx import Nginx, start_nginx
from tests.servers.site import Reply, Request, Site, ranged
from tests.sources.contract import content

DATA = content(200_000)
QEMU_7 = QemuFacts((7, 2, 22), frozenset({"http", "https"}))
DIRECT = QemuFacts((10, 0, 13), frozenset({"http", "https"}), RouteWish.DIRECT)
AUTO = QemuFacts(DIRECT.version, DIRECT.drivers)


def at(text: str) -> Location:
    return Location.parse(text)[0]


@pytest.fixture
def folder(nginx: Nginx, tmp_path: Path) -> tuple[Path, str]:
    """A folder of this test's own under a real nginx, and its URL."""
    path = Path(nginx.root) / tmp_path.name
    path.mkdir()
    return path, f"{nginx.url}{tmp_path.name}/"


# -- statuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadAnswer),
        (403, Denied),
        (404, NotFound),
        (410, NotFound),
        (429, Unreachable),
        (500, BadAnswer),
        (502, Unreachable),
        (503, Unreachable),
        (204, BadAnswer),
        (299, BadAnswer),
        (304, BadAnswer),
        (599, BadAnswer),
    ],
)
def test_a_status_becomes_an_error_that_names_it(status: int, error: type[FarbootError]) -> None:
    with Site(lambda _: Reply(status)) as site, HttpSource() as source:
        for ask in (source.stat, source.open, lambda place: list(source.entries(place))):
            with pytest.raises(error, match=str(status)):
                ask(at(site.url + "x.img"))


def test_the_words_of_the_server_appear_in_no_error() -> None:
    def answer(request: Request) -> Reply:
        return Reply(401, b"\x1b[2J", {"WWW-Authenticate": f'Basic realm="\x1b[31m{request.headers["Authorization"]}"'})

    with (
        Site(answer) as site,
        HttpSource(Credentials("alice", Secret("s3cret"))) as source,
        pytest.raises(Denied) as caught,
    ):
        source.open(at(site.url + "x.img"))
    assert "\x1b" not in str(caught.value)
    assert "YWxpY2U6czNjcmV0" not in str(caught.value) + caught.value.detail


def test_a_server_that_wants_digest_authentication_is_denied_with_the_reason() -> None:
    with (
        Site(lambda _: Reply(401, b"", {"WWW-Authenticate": 'Digest realm="x"'})) as site,
        HttpSource() as source,
        pytest.raises(Denied, match="Digest") as caught,
    ):
        source.open(at(site.url + "x.img"))
    assert caught.value.wants == ()


def test_what_is_not_http_is_told() -> None:
    with (
        Scripted(lambda _: b"SSH-2.0-OpenSSH_9.2\r\n") as server,
        HttpSource() as source,
        pytest.raises(BadAnswer, match="not HTTP"),
    ):
        source.stat(at(f"http://{server.authority}/"))


# -- ranges --------------------------------------------------------------------------------------------------------


def test_a_small_image_on_a_server_without_ranges_is_read_whole() -> None:
    with Site(lambda _: Reply(200, DATA)) as site, HttpSource() as source:
        with source.open(at(site.url + "x.img")) as reader:
            assert reader.pread(150_000, 1 << 20) == DATA[150_000:]
        assert len(site.requests) == 1


@pytest.mark.parametrize("told", [True, False])
def test_a_large_image_on_a_server_without_ranges_is_refused_with_a_hint(told: bool) -> None:
    body = bytes(17 << 20)
    headers = {} if told else {"Transfer-Encoding": "chunked"}
    whole = body if told else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with (
        Site(lambda _: Reply(200, whole, headers)) as site,
        HttpSource() as source,
        pytest.raises(Unsupported, match="does not serve ranges"),
    ):
        source.open(at(site.url + "x.img"))


def test_a_server_may_answer_with_less_of_a_range_than_was_asked_for() -> None:
    def answer(request: Request) -> Reply:
        first, last = request.headers["Range"].removeprefix("bytes=").split("-")
        shorter = {**request.headers, "Range": f"bytes={first}-{min(int(last), int(first) + 29_999)}"}
        return ranged(DATA, Request(request.path, shorter))

    with Site(answer) as site, HttpSource() as source, source.open(at(site.url + "x.img")) as reader:
        assert reader.pread(70_000, 100_000) == DATA[70_000:170_000]


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Range": "bytes 1-9/200000"},
        {"Content-Range": "bytes 9-1/200000"},
        {"Content-Range": "bytes 0-9/5"},
        {"Content-Range": "bytes 0-65535/*"},
        {"Content-Range": "lines 0-9/200000"},
        {"Content-Range": "bytes 0-99999999999999999999/200000"},
        {"Content-Range": "bytes 0-9/200000"},
        {"Content-Encoding": "gzip"},
        {"Content-Type": "multipart/byteranges; boundary=x", "Content-Range": ""},
    ],
)
def test_a_range_that_makes_no_sense_is_an_error(lie: dict[str, str]) -> None:
    def answer(request: Request) -> Reply:
        reply = ranged(DATA, request)
        return Reply(reply.status, reply.body, {**reply.headers, **lie})

    with Site(answer) as site, HttpSource() as source, pytest.raises(BadAnswer):
        source.open(at(site.url + "x.img"))


def test_a_body_that_was_compressed_is_refused_not_passed_on() -> None:
    with (
        Site(lambda _: Reply(200, gzip.compress(DATA), {"Content-Encoding": "gzip"})) as site,
        HttpSource() as source,
        pytest.raises(BadAnswer, match="compresses"),
    ):
        source.open(at(site.url + "x.img"))


def test_a_body_shorter_than_the_server_said_is_an_error() -> None:
    whole = ranged(DATA, Request("/", {"Range": "bytes=0-65535"}))
    short = Reply(206, whole.body[:-1], {**whole.headers, "Content-Length": str(len(whole.body))})
    with (
        Scripted(lambda _: _raw(short)) as server,
        HttpSource() as source,
        pytest.raises(Unreachable, match="broke off"),
    ):
        source.open(at(f"http://{server.authority}/x.img"))


def _raw(reply: Reply) -> bytes:
    headers = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    return f"HTTP/1.1 {reply.status} x\r\n{headers}\r\n".encode() + reply.body


def test_a_page_that_just_stops_is_an_error_even_where_no_length_was_told() -> None:
    start = b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n"
    page = b"<html><body><a href=a.img>a</a><a href=b.img>b</a></body></html>"
    with (
        Scripted(lambda _: start + page[:-20]) as server,
        HttpSource() as source,
        pytest.raises(Unreachable, match="middle"),
    ):
        list(source.entries(at(f"http://{server.authority}/")))
    with Scripted(lambda _: start + page) as server, HttpSource() as source:
        assert [entry.name for entry in source.entries(at(f"http://{server.authority}/"))] == ["a.img", "b.img"]


# -- the pin -------------------------------------------------------------------------------------------------------


def test_an_image_replaced_on_the_server_is_changed_not_mixed(folder: tuple[Path, str]) -> None:
    path, url = folder
    (path / "x.img").write_bytes(DATA)
    with HttpSource() as source, source.open(at(url + "x.img")) as reader:
        assert reader.pin.strong
        (path / "x.img").write_bytes(bytes(len(DATA)))
        os.utime(path / "x.img", (1, 1))
        with pytest.raises(Changed):
            reader.pread(100_000, 512)


@pytest.mark.parametrize(
    "later",
    [
        {"ETag": '"two"'},
        {"ETag": 'W/"two"'},
        {},
        {"Content-Range": "bytes 100000-100511/200001", "ETag": '"one"'},
        {"Content-Range": "bytes 100000-100511/199999", "ETag": '"one"'},
    ],
)
def test_a_change_is_noticed_where_the_server_ignores_conditions(later: dict[str, str]) -> None:
    tags = [{"ETag": '"one"'}]

    def answer(request: Request) -> Reply:
        reply = ranged(DATA, request)
        return Reply(reply.status, reply.body, {**reply.headers, **tags[-1]})

    with Site(answer) as site, HttpSource() as source, source.open(at(site.url + "x.img")) as reader:
        tags.append(later)
        with pytest.raises(Changed):
            reader.pread(100_000, 512)
        assert site.requests[-1].headers["If-Match"] == '"one"'


def test_the_same_tag_that_turns_strong_is_the_same() -> None:
    """Apache calls an entity tag weak while the file is younger than a second."""
    tags = [{"ETag": 'W/"one"'}]
    with (
        Site(lambda request: ranged(DATA, request, tags[-1])) as site,
        HttpSource() as source,
        source.open(at(site.url + "x.img")) as reader,
    ):
        assert not reader.pin.strong
        tags.append({"ETag": '"one"'})
        assert reader.pread(100_000, 512) == DATA[100_000:100_512]
        assert "If-Match" not in site.requests[-1].headers


def test_without_an_entity_tag_the_date_is_the_validator() -> None:
    date = {"Last-Modified": "Tue, 02 Jan 2024 10:00:00 GMT", "ETag": "\x1b[31m"}
    with (
        Site(lambda request: ranged(DATA, request, date)) as site,
        HttpSource() as source,
        source.open(at(site.url + "x.img")) as reader,
    ):
        assert reader.pin.validator == "Tue, 02 Jan 2024 10:00:00 GMT"
        assert not reader.pin.strong


# -- redirects -----------------------------------------------------------------------------------------------------


def test_a_folder_without_its_slash_is_listed_and_its_entries_open(folder: tuple[Path, str]) -> None:
    path, url = folder
    (path / "x.img").write_bytes(DATA)
    with HttpSource() as source:
        entry = source.stat(at(url.rstrip("/")))
        assert (entry.kind, str(entry.location)) == (Kind.CONTAINER, url)
        (inner,) = source.entries(at(url.rstrip("/")))
        assert str(inner.location) == url + "x.img"


def test_a_redirect_is_resolved_once_and_reads_go_straight_to_its_target(folder: tuple[Path, str]) -> None:
    path, url = folder
    (path / "x.img").write_bytes(DATA)
    with Site(lambda _: Reply(302, b"", {"Location": url + "x.img"})) as site, HttpSource() as source:
        place = at(site.url + "latest.img")
        with source.open(place) as reader:
            assert reader.pread(100_000, 512) == DATA[100_000:100_512]
            assert reader.pread(150_000, 512) == DATA[150_000:150_512]
        assert len(site.requests) == 1
        found = source.attach(place, DIRECT, Mode.SNAPSHOT)
        assert found.node["url"] == url + "x.img"
        assert found.location == place


def test_credentials_do_not_follow_a_redirect_to_another_server() -> None:
    with (
        Site(lambda request: ranged(DATA, request)) as other,
        Site(lambda _: Reply(302, b"", {"Location": other.url + "x.img"})) as site,
    ):
        credentials = Credentials("alice", Secret("s3cret"), cookie=Secret("session=1"))
        with HttpSource(credentials) as source:
            source.open(at(site.url + "latest.img")).close()
            assert {"Authorization", "Cookie"} <= set(site.requests[0].headers)
            assert not {"Authorization", "Cookie"} & set(other.requests[0].headers)
            # Nor later, when an entry of that other server is opened with the same source.
            source.open(at(other.url + "x.img")).close()
            assert not {"Authorization", "Cookie"} & set(other.requests[1].headers)
            found = source.attach(at(site.url + "latest.img"), DIRECT, Mode.SNAPSHOT)
            assert "username" not in found.node
            assert found.secrets == ()


def test_a_signed_target_is_read_through_the_bridge_and_asked_for_anew_when_it_expires() -> None:
    signature = ["one"]

    def storage(request: Request) -> Reply:
        return ranged(DATA, request) if f"X-Amz-Signature={signature[0]}" in request.path else Reply(403)

    def front(_: Request) -> Reply:
        return Reply(307, b"", {"Location": f"{other.url}x.img?X-Amz-Signature={signature[0]}"})

    with Site(storage) as other, Site(front) as site, HttpSource() as source:
        place = at(site.url + "latest.img")
        with source.open(place) as reader:
            signature[0] = "two"
            assert reader.pread(100_000, 512) == DATA[100_000:100_512]
        found = source.attach(place, AUTO, Mode.SNAPSHOT)
        assert found.route is Route.BRIDGE
        assert "signed" in found.why
        assert "two" not in repr(found)


@pytest.mark.parametrize(
    "target",
    ["", "file:///etc/passwd", "ftp://h/x", "http://", "http://[oops/", "javascript:1", "\x1b]0;x\x07", "loop"],
)
def test_a_redirect_to_nowhere_sensible_is_an_error(target: str) -> None:
    where = {"Location": target} if target else {}
    with (
        Site(lambda _: Reply(302, b"", where)) as site,
        HttpSource() as source,
        pytest.raises((BadAnswer, Unreachable)) as caught,
    ):
        source.open(at(site.url + "x.img"))
    assert "\x1b" not in str(caught.value)


# -- credentials ---------------------------------------------------------------------------------------------------


def test_a_signed_query_goes_to_its_own_location_only() -> None:
    _, credentials = Location.parse("http://h/dir/x.img?sig=abc%2Fdef&se=2030")
    assert credentials.query is not None
    with Site(lambda request: ranged(DATA, request)) as site:
        own = at(f"{site.url}dir/x.img")
        with HttpSource(credentials) as source:
            source.open(own).close()
            source.open(at(site.url + "dir/y.img")).close()
            found = source.attach(own, AUTO, Mode.SNAPSHOT)
        assert [request.path for request in site.requests[:2]] == ["/dir/x.img?sig=abc%2Fdef&se=2030", "/dir/y.img"]
    assert found.route is Route.BRIDGE
    assert "abc" not in repr(found)
    with pytest.raises(Unreachable) as caught, HttpSource(credentials) as source:
        source.open(own)
    assert "abc" not in str(caught.value)


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login alice password s3cret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Site(lambda request: ranged(DATA, request)) as site, HttpSource() as source:
        source.open(at(site.url + "x.img")).close()
        assert "Authorization" not in site.requests[0].headers


def test_the_environment_names_the_proxy_but_never_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with Site(lambda request: ranged(DATA, request)) as site, Site(lambda request: ranged(DATA, request)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://bob:p%40ss@{proxy.authority}")
        monkeypatch.setenv("no_proxy", "direct.invalid")
        with HttpSource() as source:
            source.open(at(site.url + "x.img")).close()
            assert proxy.requests == []
            source.open(at("http://images.invalid/x.img")).close()
            assert proxy.requests[0].path == "http://images.invalid/x.img"
            assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic Ym9iOnBAc3M="
            found = source.attach(at("http://images.invalid/x.img"), AUTO, Mode.SNAPSHOT)
            assert (found.route, "proxy" in found.why) == (Route.BRIDGE, True)


# -- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A private authority, a certificate of it for 127.0.0.1, and one for another name."""
    home = tmp_path_factory.mktemp("tls")
    files = {"ca": str(home / "ca.pem")}

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=home)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Mine")
    for name, subject in (("good", "IP:127.0.0.1"), ("other", "DNS:other.example")):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", "x.csr", "-subj", "/CN=x")
        (home / "x.ext").write_text(f"subjectAltName={subject}\n")
        openssl("x509", "-req", "-in", "x.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-extfile", "x.ext", "-out", f"{name}.pem")  # fmt: skip
        files[name] = str(home / f"{name}.pem")
        files[f"{name}.key"] = str(home / f"{name}.key")
    return files


@pytest.fixture(scope="module")
def tls(authority: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> object:
    home = tmp_path_factory.mktemp("nginx-tls")
    (home / "root").mkdir()
    (home / "root" / "x.img").write_bytes(DATA)
    running = start_nginx(home, home / "root", tls=(authority["good"], authority["good.key"]))
    yield running
    running.server.stop()


def test_a_private_authority_is_denied_until_its_file_is_given(tls: Nginx, authority: dict[str, str]) -> None:
    place = at(tls.url + "x.img")
    with HttpSource() as source, pytest.raises(Denied, match="not trusted") as caught:
        source.open(place)
    assert caught.value.wants == ("ca_file",)
    with HttpSource(Credentials(ca_file=authority["ca"])) as source:
        with source.open(place) as reader:
            assert reader.pread(100_000, 50_000) == DATA[100_000:150_000]
        found = source.attach(place, AUTO, Mode.SNAPSHOT)
    assert (found.route, "authority" in found.why) == (Route.BRIDGE, True)


def test_a_certificate_for_another_name_is_denied(
    authority: dict[str, str], tmp_path: Path, folder: tuple[Path, str]
) -> None:
    running = start_nginx(tmp_path / "n", folder[0], tls=(authority["other"], authority["other.key"]))
    with (
        running.server,
        HttpSource(Credentials(ca_file=authority["ca"])) as source,
        pytest.raises(Denied, match="not trusted") as caught,
    ):
        source.open(at(running.url + "x.img"))
    assert caught.value.wants == ()


@pytest.mark.parametrize("file", ["/nowhere/ca.pem", __file__])
def test_a_ca_file_that_is_none_is_told(file: str) -> None:
    with HttpSource(Credentials(ca_file=file)) as source, pytest.raises(Denied, match="CA file") as caught:
        source.open(at("https://127.0.0.1:9/x.img"))
    assert caught.value.wants == ("ca_file",)


def test_https_to_a_plain_server_says_so(folder: tuple[Path, str]) -> None:
    with HttpSource() as source, pytest.raises(Unreachable, match="is it http"):
        source.open(at(folder[1].replace("http:", "https:") + "x.img"))


def test_a_server_that_is_silent_in_the_handshake_times_out(authority: dict[str, str]) -> None:
    with Drip(b"", b"") as server, HttpSource(deadline=0.5) as source, pytest.raises(TimedOut):
        source.open(at(f"https://{server.authority}/x.img"))


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000000\r\n\r\n<html>",
        b"HTTP/1.1 206 OK\r\nContent-Range: bytes 0-65535/9999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["headers", "listing", "image", "chunks"],
)
def test_a_server_that_drips_is_given_up(start: bytes) -> None:
    with Drip(start) as server, HttpSource(deadline=0.7) as source:
        with pytest.raises(TimedOut):
            source.open(at(f"http://{server.authority}/x.img"))
        if b"Range" not in start:
            with pytest.raises(TimedOut):
                list(source.entries(at(f"http://{server.authority}/")))


def test_real_progress_moves_the_deadline_on_and_drops_do_not() -> None:
    now = [0.0]
    call = Call("read", "x", 10.0, lambda: now[0])
    for _ in range(5):
        now[0] += 9
        call.progressed(PROGRESS)
        assert call.remaining() == 10
    for _ in range(9):
        now[0] += 1
        call.progressed(1)
    assert call.remaining() == 1
    now[0] += 1
    with pytest.raises(TimedOut):
        call.remaining()


def test_the_clock_stands_still_while_the_caller_is_busy_with_what_it_got() -> None:
    now = [0.0]
    call = Call("list", "x", 10.0, lambda: now[0])
    with call.resting():
        now[0] += 1000
    assert call.remaining() == 10


def test_a_name_server_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock, for a resolver that hangs cannot be had without changing the machine's own."""
    hang = threading.Event()
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: hang.wait())
    with HttpSource(deadline=0.3) as source, pytest.raises(TimedOut, match="looking up"):
        source.stat(at("http://images.invalid/"))
    hang.set()


def test_closing_a_reader_ends_its_read(folder: tuple[Path, str]) -> None:
    path, url = folder
    (path / "x.img").write_bytes(DATA)
    port = at(url).port
    assert port
    with FaultyProxy(port) as proxy, HttpSource(deadline=120) as source:
        reader = source.open(Location("http", proxy.authority, at(url + "x.img").path))
        proxy.hold_after = 0
        proxy.hang_up()
        failed: list[BaseException] = []
        begun = threading.Event()

        def read() -> None:
            begun.set()
            try:
                reader.pread(100_000, 512)
            except FarbootError as error:
                failed.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        assert begun.wait(30)
        reader.close()
        thread.join(60)
        assert failed


# -- connections ---------------------------------------------------------------------------------------------------


def test_reads_one_after_another_share_a_connection(folder: tuple[Path, str]) -> None:
    path, url = folder
    (path / "x.img").write_bytes(DATA)
    port = at(url).port
    assert port
    with FaultyProxy(port) as proxy, HttpSource() as source:
        with source.open(Location("http", proxy.authority, at(url + "x.img").path)) as reader:
            for number in range(30):
                assert reader.pread(70_000 + number * 1000, 1000) == DATA[70_000 + number * 1000 :][:1000]
        assert proxy.connections == 1


class Impatient(Listener):
    """Ends its first connection when it is used a second time, without an answer."""

    def serve(self, client: object) -> None:
        import socket

        assert isinstance(client, socket.socket)
        first = self.connections == 1
        while request := client.recv(65536):
            fields = dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:] if ": " in line)
            reply = ranged(DATA, Request("/", fields))
            headers = {**reply.headers, "Content-Length": str(len(reply.body))}
            client.sendall(_raw(Reply(206, reply.body, headers)))
            if first:
                client.recv(65536)
                return


def test_a_connection_that_the_server_ended_while_it_rested_is_no_error() -> None:
    with Impatient() as server, HttpSource() as source:
        with source.open(at(f"http://{server.authority}/x.img")) as reader:
            assert reader.pread(100_000, 512) == DATA[100_000:100_512]
        assert server.connections == 2


# -- how QEMU gets at it -------------------------------------------------------------------------------------------


@pytest.fixture
def image(folder: tuple[Path, str]) -> Location:
    path, url = folder
    (path / "a,b=c #1.img").write_bytes(DATA)
    return at(url).child("a,b=c #1.img")


@pytest.mark.parametrize(
    ("qemu", "wish", "route"),
    [
        (DIRECT, RouteWish.AUTO, Route.BRIDGE),
        (QEMU_7, RouteWish.AUTO, Route.BRIDGE),
        (QEMU_7, RouteWish.DIRECT, Route.DRIVER),
        (DIRECT, RouteWish.BRIDGE, Route.BRIDGE),
        (QemuFacts((10,), frozenset({"file"})), RouteWish.AUTO, Route.BRIDGE),
    ],
)
def test_the_route_is_the_bridge_unless_the_driver_is_asked_for(
    image: Location, qemu: QemuFacts, wish: RouteWish, route: Route
) -> None:
    asked = QemuFacts(qemu.version, qemu.drivers, wish)
    with HttpSource() as source:
        found = source.attach(image, asked, Mode.SNAPSHOT)
    assert found.route is route
    assert bool(found.why) == (route is Route.BRIDGE)
    assert (found.trusted, found.writable, found.pin.size) == (False, False, len(DATA))
    assert bool(found.node) == (route is Route.DRIVER)


def test_a_direct_route_where_there_is_none_is_refused_with_the_reason(image: Location) -> None:
    qemu = QemuFacts((10,), frozenset({"file"}), RouteWish.DIRECT)
    with HttpSource() as source, pytest.raises(Unsupported, match="no http driver"):
        source.attach(image, qemu, Mode.SNAPSHOT)


def test_an_image_of_the_web_is_never_written(image: Location) -> None:
    with HttpSource() as source, pytest.raises(Refused):
        source.attach(image, DIRECT, Mode.WRITE)


def test_credentials_become_secrets_beside_the_node(image: Location) -> None:
    credentials = Credentials("alice", Secret("s3cret"), cookie=Secret("session=1"))
    with HttpSource(credentials) as source:
        found = source.attach(image, DIRECT, Mode.SNAPSHOT)
    assert found.node["username"] == "alice"
    assert {slot.option: slot.secret.reveal() for slot in found.secrets} == {
        "password-secret": "s3cret",
        "cookie-secret": "session=1",
    }
    assert "s3cret" not in repr(found)


def test_a_real_qemu_opens_the_node(image: Location, tmp_path: Path) -> None:
    import json

    credentials = Credentials("alice", Secret("s3cret"), cookie=Secret("session=1"))
    with HttpSource(credentials) as source:
        found = source.attach(image, DIRECT, Mode.SNAPSHOT)
    argv = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none", "-S", "-qmp", "stdio"]
    node = {**found.node, "node-name": "disk", "read-only": True}
    for number, slot in enumerate(found.secrets):
        (tmp_path / str(number)).write_text(slot.secret.reveal())
        argv += ["-object", f"secret,id=secret{number},file={tmp_path / str(number)}"]
        node[slot.option] = f"secret{number}"
    talk = "".join(json.dumps({"execute": word}) for word in ("qmp_capabilities", "query-named-block-nodes", "quit"))
    ended = subprocess.run(
        [*argv, "-blockdev", json.dumps(node)], input=talk, capture_output=True, text=True, timeout=60, check=False
    )
    assert '"node-name": "disk"' in ended.stdout, ended.stderr


def test_the_international_name_of_a_host_is_sent_in_ascii() -> None:
    from probes.web.client import url_of

    assert url_of(Location("http", "grün.example:8000", "/x")) == "http://xn--grn-ioa.example:8000/x"
