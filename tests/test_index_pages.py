"""Index pages, as servers write them and as nobody should: the parsing alone, without a server.

The pages of nginx, Apache, lighttpd and Python's http.server are met live in tests/sources/test_http.py. Caddy and S3
have no server in Debian: their pages here were written down after what they send.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import BadAnswer, FarbootError
from probes.web.index_pages import More, Row, WholeBucket, page_kind, rows

URL = "http://h:8000/images/"
MORNING = datetime.fromisoformat("2024-01-02T10:03")
A_MINUTE_LATER = datetime.fromisoformat("2024-01-02T10:03:59")


def html(page: str, url: str = URL, piece: int = 1 << 16) -> list[Row]:
    found = rows(pieces(page.encode("utf-8", "surrogateescape"), piece), "text/html; charset=utf-8", url)
    return [row for row in found if isinstance(row, Row)]


def pieces(page: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(page), size):
        yield page[start : start + size]


def names(page: str, url: str = URL) -> list[str]:
    return [row.name + ("/" if row.container else "") for row in html(page, url)]


def link(href: str) -> str:
    return f'<a href="{href}">text</a>'


# -- which links count ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("href", "name"),
    [
        ("a.img", "a.img"),
        ("./a.img", "a.img"),
        ("dir/", "dir/"),
        ("/images/a.img", "a.img"),
        ("/images/dir/", "dir/"),
        ("http://h:8000/images/a.img", "a.img"),
        ("HTTP://H:8000/images/a.img", "a.img"),
        ("//h:8000/images/a.img", "a.img"),
        ("a%20b%2cc.img", "a b,c.img"),
        ("a&amp;b.img", "a&b.img"),
        ("a&#x26;b.img", "a&b.img"),
        ("%ff.img", "\udcff.img"),
        ("gr%C3%BCn.img", "grün.img"),
        ("grün.img", "grün.img"),
        ("a.img?x=1", "a.img"),
        ("a.img#top", "a.img"),
        (" a.img ", "a.img"),
        ("%20a.img", " a.img"),
        ("x/../a.img", "a.img"),
        ("..foo", "..foo"),
        ("./http:a", "http:a"),
        ("'quoted'.img", "'quoted'.img"),
        ("-rf", "-rf"),
    ],
)
def test_a_link_into_the_folder_is_a_row(href: str, name: str) -> None:
    assert names(link(href)) == [name]


@pytest.mark.parametrize(
    "href",
    [
        "", "/", "../", "..", ".", "./", "?C=N;O=D", "/images/?C=M", "/images/", "#top", "../other/", "/other/a.img",
        "/images/deeper/a.img", "deeper/a.img", "http://elsewhere/images/a.img", "https://h:8000/images/a.img",
        "http://h/images/a.img", "javascript:alert(1)", "mailto:a@b", "data:text/html,x", "http://[oops/", "%2e%2e",
        "%2E", "a%2Fb", "%2fetc%2fpasswd", "a%00b", "//elsewhere/a", "\\\\h\\a/b", "ftp://h/images/a",
    ],
)  # fmt: skip
def test_a_link_that_leaves_the_folder_is_none(href: str) -> None:
    assert names(link(href)) == []


def test_a_page_that_is_not_a_folder_lists_what_lies_beside_it() -> None:
    assert names(link("a.img") + link("/images/b.img"), URL + "index.html") == ["a.img", "b.img"]


def test_an_odd_folder_is_itself_wherever_its_name_is_spelt() -> None:
    assert names(link("/a%20b/%7Ec/x"), "http://h/a b/~c/") == ["x"]


def test_each_name_comes_once() -> None:
    assert names(link("a") + link("./a") + link("/images/a") + link("%61")) == ["a"]


def test_what_stands_in_comments_scripts_and_styles_is_no_link() -> None:
    page = (
        "<!-- <a href=x1> > -- --><script>'<a href=x2>'</SCRIPT ><style><a href=x3></style><title><a href=x4></title>"
    )
    assert names(page + '<A class=b HREF = a.img>a</A><a name="x"></a><abbr href=x5><a data-href="x6">') == ["a.img"]


def test_quotes_hide_the_end_of_a_tag() -> None:
    assert names("""<img alt="a > <a href='x'>"><a title='>' href="b.img">""") == ["b.img"]


# -- dates and sizes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "size", "rounded", "modified"),
    [
        ("</a>   02-Jan-2024 10:03    200000\n", 200_000, False, MORNING),
        ("</a>   02-Jan-2024 10:03    195K\n", 195 << 10, True, MORNING),
        ("</a>   02-Jan-2024 10:03       -\n", None, False, MORNING),
        ("</a>   2024-01-02 10:03  1.5G  a description of 3 K\n", 3 << 29, True, MORNING),
        ('</a></td><td>2024-01-02 10:03  </td><td align="right">  0 </td><td>&nbsp;</td>', 0, False,
         MORNING),
        ('</a></td><td class="m">2024-Jan-02 10:03:59</td><td class="s">195.3K</td><td>x</td>', 199_987, True,
         A_MINUTE_LATER),
        ("</a> 31-Feb-2024 10:03 17\n", 17, False, None),
        ("</a> 99-Xxx-2024 99:99 17\n", 17, False, None),
        ("</a> 02-Jan-2024 10:03 99999999999999999999999 \n", None, False, MORNING),
        ("</a> 02-Jan-2024 10:03 99999999999999999E \n", None, False, MORNING),
        ("</a>", None, False, None),
        ("5 K 02-Jan-2024 10:03 17</a>", None, False, None),
    ],
)  # fmt: skip
def test_the_text_behind_a_link_tells_date_and_size(
    tail: str, size: int | None, rounded: bool, modified: datetime | None
) -> None:
    (row,) = html(f'<a href="a.img">a.img{tail}')
    assert (row.size, row.rounded, row.modified) == (size, rounded, modified)


def test_a_page_cut_anywhere_gives_the_same_rows() -> None:
    page = (
        '<html><!-- x --><script>var a = "<a href=no>";</script><pre><a href="../">../</a>\n'
        '<a href="a%20b.img">a b.img</a>   02-Jan-2024 10:03   17\n'
        "<A HREF='grün.img'>x</A> 02-Jan-2024 10:03 18\n</pre>"
    )
    whole = html(page)
    assert [row.size for row in whole] == [17, 18]
    for size in range(1, 40):
        assert html(page, piece=size) == whole


# -- JSON ----------------------------------------------------------------------------------------------------------


def test_the_json_of_nginx() -> None:
    page = b"""[
{ "name":"empty", "type":"directory", "mtime":"Tue, 02 Jan 2024 10:00:00 GMT" },
{ "name":"a#b&c \xff.img", "type":"file", "mtime":"Tue, 02 Jan 2024 10:00:00 GMT", "size":200000 }
]"""
    moment = datetime(2024, 1, 2, 10, tzinfo=UTC)
    assert list(rows([page], "application/json", URL)) == [
        Row("empty", True, None, moment),
        Row("a#b&c \udcff.img", False, 200_000, moment),
    ]


def test_the_json_of_caddy() -> None:
    page = (
        b'[{"name":"sub/","size":4096,"url":"./sub/","mod_time":"2024-01-02T10:00:00.123456789Z","mode":2147484141,'
        b'"is_dir":true,"is_symlink":false},{"name":"a b.img","size":17,"url":"./a%20b.img",'
        b'"mod_time":"2024-01-02T11:00:00+01:00","mode":420,"is_dir":false,"is_symlink":false}]\n'
    )
    first, second = rows([page], "application/json; charset=utf-8", URL)
    assert isinstance(first, Row)
    assert isinstance(second, Row)
    assert (first.name, first.container, first.size) == ("sub", True, None)
    assert (second.name, second.size, second.rounded) == ("a b.img", 17, False)
    assert second.modified == datetime(2024, 1, 2, 10, tzinfo=UTC)


def test_names_that_no_file_has_are_left_out_of_json() -> None:
    items = [{"name": name, "type": "file"} for name in ("", ".", "..", "a/b", "/etc/passwd", "a\0b", "\ud800", "ok")]
    page = json.dumps([*items, {"name": 7}, "x", None, {"name": "big", "size": 1 << 70}, {"name": "neg", "size": -1}])
    assert [(r.name, r.size) for r in rows([page.encode()], "application/json", URL) if isinstance(r, Row)] == [
        ("ok", None),
        ("big", None),
        ("neg", None),
    ]


@pytest.mark.parametrize("page", [b"", b"{", b'{"error": "x"}', b'[{"name":', b"[" * 100_000, b"1" * 5000, b"\xff"])
def test_json_that_is_no_index_is_an_error(page: bytes) -> None:
    with pytest.raises(BadAnswer, match="JSON"):
        list(rows([page], "application/json", URL))


def test_an_empty_folder_of_caddy() -> None:
    assert list(rows([b"null\n"], "application/json", URL)) == []


# -- XML -----------------------------------------------------------------------------------------------------------

S3 = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>dir+a%2F</Prefix>
<KeyCount>3</KeyCount><MaxKeys>1000</MaxKeys><Delimiter>/</Delimiter><EncodingType>url</EncodingType>%s
<Contents><Key>dir+a%%2F</Key><LastModified>2024-01-02T10:00:00.000Z</LastModified><Size>0</Size></Contents>
<Contents><Key>dir+a%%2Fa+b%%26.img</Key><LastModified>2024-01-02T10:00:00.000Z</LastModified>
<ETag>&quot;x&quot;</ETag><Size>200000</Size><StorageClass>STANDARD</StorageClass></Contents>
<CommonPrefixes><Prefix>dir+a%%2Fsub%%2F</Prefix></CommonPrefixes></ListBucketResult>""".replace(b"a%2F<", b"a%%2F<")
LAST = b"<IsTruncated>false</IsTruncated>"
MORE = b"<IsTruncated>true</IsTruncated><NextContinuationToken>1ue/+=&lt;</NextContinuationToken>"


def test_the_xml_of_s3() -> None:
    assert list(rows(pieces(S3 % LAST, 7), "application/xml", URL)) == [
        Row("a b&.img", False, 200_000, datetime(2024, 1, 2, 10, tzinfo=UTC)),
        Row("sub", True),
    ]


def test_a_page_of_s3_that_goes_on_ends_with_its_token() -> None:
    *_, last = rows([S3 % MORE], "application/xml", URL)
    assert last == More("1ue/+=<")


def test_a_bucket_listed_without_folders_is_told() -> None:
    page = (S3 % LAST).replace(b"<Delimiter>/</Delimiter>", b"")
    assert list(rows([page], "application/xml", URL)) == [WholeBucket()]
    assert list(rows([b"<ListBucketResult></ListBucketResult>"], "text/xml", URL)) == [WholeBucket()]


@pytest.mark.parametrize(
    "page",
    [
        b'<!DOCTYPE lolz [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><list><file size="1">&b;</file></list>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x SYSTEM "file:///etc/passwd"><list/>'.encode("utf-16"),
        b"<rss></rss>",
        b"<list><file>a</file>",
        b"<list>" + b"<a>" * 100_000,
        b"",
        b"\x00",
        S3 % b"<IsTruncated>true</IsTruncated>",
    ],
)
def test_xml_that_is_no_index_or_dangerous_is_an_error(page: bytes) -> None:
    with pytest.raises(BadAnswer):
        list(rows([page], "application/xml", URL))


# -- what no page may do -------------------------------------------------------------------------------------------


def test_other_types_are_no_index_pages() -> None:
    assert [page_kind(kind) for kind in ("text/html;charset=x", "TEXT/HTML", "text/plain", "", "image/png")] == [
        "html", "html", "", "", "",
    ]  # fmt: skip
    with pytest.raises(BadAnswer, match="not an index page"):
        list(rows([b"x"], "image/png", URL))


def test_a_page_without_end_is_cut_off() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * (1 << 20)

    with pytest.raises(BadAnswer, match="larger than 64 MiB"):
        list(rows(endless(), "text/html", URL))


def test_a_signature_in_the_address_appears_in_no_error() -> None:
    with pytest.raises(BadAnswer) as caught:
        list(rows([b"{"], "application/json", URL + "?X-Amz-Signature=abcdef"))
    assert "abcdef" not in str(caught.value)


def test_a_hundred_thousand_links_arrive_one_by_one() -> None:
    given: list[int] = []

    def page() -> Iterator[bytes]:
        yield b"<html><pre>"
        for number in range(100_000):
            given.append(number)
            yield b'<a href="image-%06d.qcow2">image</a>  02-Jan-2024 10:03  200000\n' % number

    found = rows(page(), "text/html", URL)
    next(found)
    assert len(given) < 5
    assert sum(1 for _ in found) == 99_999


@pytest.mark.parametrize(
    "unit", ["<", "<a", '<a href="', '<a "', "<!--", "<script>", "<a href=x", "</", "&#", "<a href='"]
)
def test_a_hostile_page_costs_no_more_than_its_length(unit: str) -> None:
    """Each of these made one parser or another take time by the square of its length: 2 MB never end then."""
    assert len(html(unit * ((2 << 20) // len(unit)), piece=16 << 10)) < 10


_SCRAPS = st.sampled_from(
    [b"<a href=", b'"', b"'", b">", b"<", b"</a>", b"../", b"%2e", b"%2f", b"%00", b"%ff", b"/", b"\\", b".", b"a",
     b" ", b"&#47;", b"&sol;", b"&period;", b"http://h:8000/images/", b"?", b"#", b"<!--", b"-->", b"<script>", b"\xff",
     b"\n", b"02-Jan-2024 10:00 ", b"99999K", b'[{"name":', b"}]", b":", b"<list>", b"<file>", b"</file>", b"<Key>",
     b"<ListBucketResult>", b"<Contents>", b"</Contents>", b"<Delimiter>/</Delimiter>"]
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), st.lists(_SCRAPS, max_size=30).map(b"".join)),
    st.sampled_from(["text/html", "application/json", "text/xml"]),
    st.integers(1, 50),
)
def test_whatever_a_page_holds_names_are_names_and_errors_are_ours(page: bytes, kind: str, size: int) -> None:
    seen = set()
    try:
        for row in rows(pieces(page, size), kind, URL):
            if isinstance(row, Row):
                assert row.name not in {"", ".", ".."}
                assert "/" not in row.name
                assert "\0" not in row.name
                assert row.name not in seen
                row.name.encode("utf-8", "surrogateescape")
                seen.add(row.name)
    except FarbootError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_every_name_that_a_server_quotes_comes_back(name: str) -> None:
    from urllib.parse import quote

    expected = [] if name in {".", ".."} else [name]
    assert [row.name for row in html(link(quote(name)))] == expected
