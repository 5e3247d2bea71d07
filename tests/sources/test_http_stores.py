"""Caddy's JSON and S3's buckets, met as sources.

Debian has neither server: a small real web server answers here as they do (Caddy 2's `browse`, Amazon S3's
ListObjectsV2 with `encoding-type=url`), addresses of both styles.
"""

import json
from collections.abc import Iterator
from urllib.parse import parse_qs, quote_plus, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from probes.entry import Kind
from probes.errors import BadAnswer, Denied, NotAnImage, NotFound
from probes.location import Location
from probes.sources.http import HttpSource
from tests.servers.site import Reply, Request, Site, ranged
from tests.sources.contract import content

OBJECTS = {
    "image.img": content(100_000, 1),
    "a b&c+%.img": content(500, 2),
    "dir/": b"",
    "dir/one.iso": content(700, 3),
    "dir/two <x>.iso": content(800, 4),
    "dir/deeper/three.iso": content(900, 5),
    **{f"many/{number:04}.img": b"x" for number in range(25)},
}
XML = {"Content-Type": "application/xml"}


def at(text: str) -> Location:
    return Location.parse(text)[0]


def s3(bucket: str, page: int = 10) -> Site:
    """An object store: `bucket` is the path before the keys, "" where the host is the bucket's."""

    def answer(request: Request) -> Reply:
        parts = urlsplit(request.path)
        path = unquote(parts.path)
        if path.rstrip("/") == bucket:
            return Reply(200, listing({name: values[0] for name, values in parse_qs(parts.query).items()}), XML)
        key = path.removeprefix(f"{bucket}/")
        if not path.startswith(f"{bucket}/") or key not in OBJECTS:
            return Reply(404, b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", XML)
        return ranged(OBJECTS[key], request, {"ETag": f'"{len(key)}"', "Content-Type": "binary/octet-stream"})

    def listing(asked: dict[str, str]) -> bytes:
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        found: dict[str, str] = {}
        for key in sorted(OBJECTS):
            if key.startswith(prefix):
                inner, slash, _ = key[len(prefix) :].partition("/")
                if delimiter and slash:
                    shown = f"<CommonPrefixes><Prefix>{quote_plus(prefix + inner + slash)}</Prefix></CommonPrefixes>"
                    found.setdefault(prefix + inner + slash, shown)
                else:
                    name = quote_plus(key) if asked.get("encoding-type") else escape(key)
                    found[key] = f"<Contents><Key>{name}</Key><Size>{len(OBJECTS[key])}</Size></Contents>"
        start = int(asked.get("continuation-token", "0").removeprefix("t+/="))
        shown_keys = list(found)[start : start + min(page, int(asked.get("max-keys", "1000")))]
        end = start + len(shown_keys)
        more = f"<IsTruncated>{'true' if end < len(found) else 'false'}</IsTruncated>"
        if end < len(found):
            more += f"<NextContinuationToken>t+/={end}</NextContinuationToken>"
        head = (
            f"<Prefix>{quote_plus(prefix)}</Prefix><EncodingType>url</EncodingType>" if asked else "<Prefix></Prefix>"
        )
        head += f"<Delimiter>{delimiter}</Delimiter>" if delimiter else ""
        body = "".join(found[key] for key in shown_keys)
        return f"<?xml version='1.0'?><ListBucketResult xmlns='x'>{head}{more}{body}</ListBucketResult>".encode()

    return Site(answer)


@pytest.fixture(params=["", "/bucket"], ids=["host-style", "path-style"])
def bucket(request: pytest.FixtureRequest) -> Iterator[tuple[Site, Location]]:
    with s3(request.param) as site:
        yield site, at(site.url.rstrip("/") + request.param + "/")


def test_a_bucket_is_listed_by_folders(bucket: tuple[Site, Location]) -> None:
    with HttpSource() as source:
        found = {entry.name: entry for entry in source.entries(bucket[1])}
        assert {name: (e.kind, e.size) for name, e in found.items()} == {
            "image.img": (Kind.IMAGE, 100_000),
            "a b&c+%.img": (Kind.IMAGE, 500),
            "dir": (Kind.CONTAINER, None),
            "many": (Kind.CONTAINER, None),
        }
        inside = {entry.name: entry for entry in source.entries(found["dir"].location)}
        assert sorted(inside) == ["deeper", "one.iso", "two <x>.iso"]
        (three,) = source.entries(inside["deeper"].location)
        for entry, key in ((found["a b&c+%.img"], "a b&c+%.img"), (three, "dir/deeper/three.iso")):
            with source.open(at(str(entry.location))) as reader:
                assert reader.pread(0, 1 << 20) == OBJECTS[key]


def test_a_list_that_comes_in_pages_is_whole(bucket: tuple[Site, Location]) -> None:
    with HttpSource() as source:
        names = [entry.name for entry in source.entries(bucket[1].child("many", container=True))]
    assert names == [f"{number:04}.img" for number in range(25)]


def test_folders_of_a_bucket_are_containers(bucket: tuple[Site, Location]) -> None:
    with HttpSource() as source:
        for place in (bucket[1], bucket[1].child("many", container=True)):
            assert source.stat(place).kind is Kind.CONTAINER
        assert source.stat(bucket[1].child("image.img")).size == 100_000
        with pytest.raises(NotAnImage):
            source.open(bucket[1])


def test_what_is_not_in_the_bucket_is_not_found(bucket: tuple[Site, Location]) -> None:
    with HttpSource() as source:
        for place in (bucket[1].child("nothing", container=True), bucket[1].child("nothing.img")):
            with pytest.raises(NotFound):
                source.stat(place)
            with pytest.raises(NotFound):
                list(source.entries(place))
        with pytest.raises(NotFound):
            source.open(bucket[1].child("nothing.img"))


def test_a_bucket_that_may_not_be_listed_is_denied() -> None:
    denied = Reply(403, b"<Error><Code>AccessDenied</Code></Error>", XML)
    with Site(lambda _: denied) as site, HttpSource() as source, pytest.raises(Denied):
        list(source.entries(at(site.url)))


def test_a_bucket_whose_pages_never_end_is_an_error() -> None:
    page = b"""<ListBucketResult><Prefix></Prefix><Delimiter>/</Delimiter><IsTruncated>true</IsTruncated>
        <NextContinuationToken>again</NextContinuationToken></ListBucketResult>"""
    with (
        Site(lambda r: Reply(200, page if "list-type" in r.path else b"<ListBucketResult/>", XML)) as site,
        HttpSource() as source,
        pytest.raises(BadAnswer, match="does not end"),
    ):
        list(source.entries(at(site.url)))


def test_caddy_is_asked_for_json_and_its_entries_open() -> None:
    items = [
        {"name": "sub/", "size": 4096, "url": "./sub/", "mod_time": "2024-01-02T10:00:00Z", "is_dir": True},
        {"name": "a b.img", "size": 500, "url": "./a%20b.img", "mod_time": "2024-01-02T10:00:00Z", "is_dir": False},
    ]

    def answer(request: Request) -> Reply:
        if request.path == "/images/":
            assert "application/json" in request.headers["Accept"]
            return Reply(200, json.dumps(items).encode(), {"Content-Type": "application/json; charset=utf-8"})
        if request.path == "/images/sub/":
            return Reply(200, b"null", {"Content-Type": "application/json; charset=utf-8"})
        return ranged(OBJECTS["a b&c+%.img"], request) if request.path == "/images/a%20b.img" else Reply(404)

    with Site(answer) as site, HttpSource() as source:
        place = at(site.url + "images/")
        assert source.stat(place).kind is Kind.CONTAINER
        sub, image = source.entries(place)
        assert (sub.kind, image.kind, image.size) == (Kind.CONTAINER, Kind.IMAGE, 500)
        assert list(source.entries(sub.location)) == []
        with source.open(image.location) as reader:
            assert reader.pread(0, 1000) == OBJECTS["a b&c+%.img"]
