"""What FTP servers say, taken apart: listings in all forms, replies, paths."""

# ruff: noqa: DTZ001  # the times in listings have no zone

from datetime import UTC, datetime

import pytest

from probes.errors import BadAnswer, BadLocation, Denied, NotFound, Unreachable
from probes.ftp.listing import Row, list_row, mlsd_row, rows
from probes.ftp.paths import absolute, path_in, url_of
from probes.ftp.replies import Reply, login_error, passive_port, reply_error, working_folder
from probes.location import Location
from probes.network.call import Call

TODAY = datetime(2026, 3, 1, 12, 0)


def call() -> Call:
    return Call("try", "ftp://h/", 10)


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (
            "-rw-r--r--    1 1000     1000      4194304 Jan 12 09:31 a name.img",
            Row("a name.img", "file", 4194304, datetime(2026, 1, 12, 9, 31)),
        ),
        ("-rw-r--r-- 1 ftp ftp 7 Dec 31 23:59 x", Row("x", "file", 7, datetime(2025, 12, 31, 23, 59))),
        ("-rw-r--r-- 1 ftp ftp 7 Mar  2 11:00 zone", Row("zone", "file", 7, datetime(2026, 3, 2, 11, 0))),
        ("-rw-r--r-- 1 ftp ftp 7 Feb 29 11:00 leap", Row("leap", "file", 7, datetime(2024, 2, 29, 11, 0))),
        ("drwxr-xr-x+   2 0 0 4096 Jan 12  2024 images", Row("images", "dir", None, datetime(2024, 1, 12))),
        (
            "lrwxrwxrwx    1 0        0              11 Jan 12  2024 latest -> v2.img",
            Row("latest", "link", None, datetime(2024, 1, 12), target="v2.img"),
        ),
        ("-rw-r--r-- 1 a group with spaces 9 Jan 12  2024 b", Row("b", "file", 9, datetime(2024, 1, 12))),
        ("-rw-r--r-- 1 0 0 9 Jan 12  2024  edges ", Row(" edges ", "file", 9, datetime(2024, 1, 12))),
        ("-rw-r--r-- 1 0 0 9 2024-01-12 09:31 iso", Row("iso", "file", 9, datetime(2024, 1, 12, 9, 31))),
        ("-rw-r--r-- 1 0 0 9 Mär 12 09:31 german", Row("german", "file", 9, None)),
        ("-rw-r--r-- 1 0 0 9 Jun 31  2024 no such day", Row("no such day", "file", 9, None)),
        ("-rw-r--r-- 1 0 0 5 Jan 12  2024 7 May 3 2020 odd", Row("7 May 3 2020 odd", "file", 5, datetime(2024, 1, 12))),
        ("brw-rw---- 1 root disk 8, 1 Jan 12  2024 sda1", Row("sda1", "other", None, datetime(2024, 1, 12))),
        ("01-12-24  09:31AM       <DIR>          images", Row("images", "dir", None, datetime(2024, 1, 12, 9, 31))),
        (
            "01-12-24  12:05AM              4194304 a b.img",
            Row("a b.img", "file", 4194304, datetime(2024, 1, 12, 0, 5)),
        ),
        ("01-12-2024  15:45                4,096 c.img", Row("c.img", "file", 4096, datetime(2024, 1, 12, 15, 45))),
        ("01-12-24  03:45PM       <DIR>           edges", Row(" edges", "dir", None, datetime(2024, 1, 12, 15, 45))),
        ("total 12", None),
        ("", None),
        ("anything else", None),
    ],
)
def test_a_line_of_list(line: str, row: Row | None) -> None:
    assert list_row(line, TODAY) == row


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (
            "type=file;size=5;modify=20240112093100;perm=r; a name.img",
            Row("a name.img", "file", 5, datetime(2024, 1, 12, 9, 31, tzinfo=UTC), "20240112093100"),
        ),
        (
            "Type=dir;Modify=20240112093100.5; d",
            Row("d", "dir", None, datetime(2024, 1, 12, 9, 31, tzinfo=UTC), "20240112093100.5"),
        ),
        ("type=OS.unix=slink:/x;size=5; l", Row("l", "link")),
        ("type=file;size=many;modify=yesterday; b", Row("b", "file", None, None, "yesterday")),
        ("type=file;size=99999999999999999999999; c", Row("c", "file")),
        ("type=cdir; .", None),
        ("type=pdir; ..", None),
        ("no facts", None),
        ("type=file;size=1;  edges ", Row(" edges ", "file", 1)),
    ],
)
def test_a_line_of_mlsd(line: str, row: Row | None) -> None:
    assert mlsd_row(line) == row


def test_names_that_no_folder_has_are_left_out() -> None:
    lines = [f"type=file;size=1; {name}" for name in ("..", ".", "../x", "a/b", "/etc/passwd", "a\rb", "a\0b", "fine")]
    assert [row.name for row in rows(iter(lines), True, TODAY)] == ["fine"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/", "/home"),
        ("/dir/a.img", "/home/dir/a.img"),
        ("//dir/a.img", "/dir/a.img"),
        ("/%2Fdir/a.img", "/dir/a.img"),
        ("/a%20b;type=i", "/home/a b"),
        ("/a;b", "/home/a;b"),
    ],
)
def test_a_path_is_the_one_that_curl_would_ask_for(path: str, asked: str) -> None:
    assert absolute(path_in(Location("ftp", "h", path)), "/home").rstrip("/") == asked


def test_a_line_break_in_a_path_is_no_second_command() -> None:
    with pytest.raises(BadLocation):
        path_in(Location("ftp", "h", "/a%0d%0aDELE%20b"))


def test_the_url_for_qemu_has_no_user_and_says_the_same_to_curl() -> None:
    assert url_of(Location("ftp", "alice@[::1]:2121", "/a;b%20c", "d=1")) == "ftp://[::1]:2121/a%3Bb%20c%3Fd=1"


def test_the_port_is_taken_from_the_reply_and_the_address_is_not() -> None:
    assert passive_port(call(), Reply(229, "Entering Extended Passive Mode (|||6446|)")) == 6446
    assert passive_port(call(), Reply(227, "Entering Passive Mode (10,0,0,1,25,46).")) == 6446
    for text in ("(|||0|)", "(|||99999|)", "(127,0,0,1,1)", "nothing", "(1,2,3,4,999,999)"):
        with pytest.raises(BadAnswer):
            passive_port(call(), Reply(229 if "|" in text else 227, text))


def test_the_folder_of_the_login() -> None:
    assert working_folder(Reply(257, '"/home/a""b" is the current directory')) == '/home/a"b'
    assert working_folder(Reply(257, "no quotes")) == ""
    assert working_folder(Reply(257, '"C:\\\\" is it')) == ""


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (550, "Failed to open file.", NotFound),
        (550, "x: No such file or directory", NotFound),
        (550, "x: Permission denied", Denied),
        (530, "Please login with USER and PASS.", Denied),
        (550, "SSL/TLS required on the data channel", Denied),
        (425, "Can't build data connection: Connection refused.", Unreachable),
    ],
)
def test_a_refusal_has_its_own_kind_of_error(code: int, text: str, kind: type[Exception]) -> None:
    assert isinstance(reply_error(call(), Reply(code, text)), kind)


def test_a_server_that_wants_tls_says_to_type_ftps() -> None:
    for code, text in (
        (530, "Non-anonymous sessions must use encryption."),
        (503, "Use AUTH first."),
        (534, "Policy requires SSL."),
        (421, "Sorry, cleartext sessions are not accepted on this server"),
    ):
        assert "ftps://" in login_error(call(), Reply(code, text), "alice", True).hint


def test_a_password_that_a_server_repeats_is_not_shown() -> None:
    error = reply_error(call(), Reply(550, "nice password, hunter2"), ("hunter2",))
    assert "hunter2" not in str(error)
