"""What the web source makes of odd, broken and hostile answers."""

import gzip
import os
from pathlib import Path

import pytest

from probes.attachment import QemuFacts, RouteWish
from probes.credentials import Credentials, Secret
from probes.errors import (
    BadAnswer,
    Changed,
    Denied,
    FarbootError,
    NotFound,
    Unreachable,
    Unsupported,
)
from probes.location import Location
from probes.sources.http import HttpSource
from tests.servers.faults import Scripted
from tests.servers.nginx import Nginx
from tests.servers.site import Reply, Request, Site, ranged
from tests.sources.contract import content

DATA = content(200_000)
DIRECT = QemuFacts((10, 0, 13), frozenset({"http", "https"}), RouteWish.DIRECT)


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
        Scripted(lambda _: short.raw) as server,
        HttpSource() as source,
        pytest.raises(Unreachable, match="broke off"),
    ):
        source.open(at(f"http://{server.authority}/x.img"))


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
