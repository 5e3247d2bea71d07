"""Locations: what people type, taken apart and put together again, with no secret left inside."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.credentials import Credentials
from probes.errors import BadLocation, FarbootError
from probes.location import SCHEMES, URL_SCHEMES, Location, rbd_path, split_rbd
from probes.text import is_clean

SECRET = "s3cr3t-Passw0rd"

names = st.text(min_size=1).filter(lambda name: name not in {".", ".."})
raw_names = st.binary(min_size=1, max_size=30).filter(lambda raw: not {0, 47} & set(raw) and raw not in {b".", b".."})


def parsed(text: str) -> Location:
    return Location.parse(text)[0]


class TestExamples:
    @pytest.mark.parametrize(
        ("text", "location"),
        [
            ("http://h", Location("http", "h", "/")),
            ("http://h:8000/images/a.img", Location("http", "h:8000", "/images/a.img")),
            ("HTTPS://h/", Location("https", "h", "/")),
            (" http://h/a ", Location("http", "h", "/a")),
            ("http://h:/a", Location("http", "h", "/a")),
            ("http://h/a#part", Location("http", "h", "/a")),
            ("http://h/?dir=b", Location("http", "h", "/", "dir=b")),
            ("http://[::1]:80/a", Location("http", "[::1]:80", "/a")),
            ("http://[fe80::1%25eth0]/a", Location("http", "[fe80::1%25eth0]", "/a")),
            ("http://bücher.example/a", Location("http", "bücher.example", "/a")),
            ("http://h/with a space/ü", Location("http", "h", "/with%20a%20space/%C3%BC")),
            ("http://h/100%.img", Location("http", "h", "/100%25.img")),
            ("http://h/a%2Fb", Location("http", "h", "/a%2Fb")),
            ("https://user@h/a", Location("https", "h", "/a")),
            ("ftp://alice@h/dir/", Location("ftp", "alice@h", "/dir/")),
            ("ssh://root@h:22/srv/a.img", Location("ssh", "root@h:22", "/srv/a.img")),
            ("ssh://a%40b@h/", Location("ssh", "a%40b@h", "/")),
            ("sftp://h/a", Location("sftp", "h", "/a")),
            ("tftp://h/a", Location("tftp", "h", "/a")),
            ("nfs://h", Location("nfs", "h", "/")),
            ("nfs://h/export/a?uid=0", Location("nfs", "h", "/export/a", "uid=0")),
            ("iscsi://h:3260/iqn.2001-04.org:x/1", Location("iscsi", "h:3260", "/iqn.2001-04.org:x/1")),
            ("iscsi://iqn.2001-04.org:me@h/t/1", Location("iscsi", "iqn.2001-04.org:me@h", "/t/1")),
            ("nbd://h:10809/export", Location("nbd", "h:10809", "/export")),
            ("nbd+unix:///e?socket=/run/s", Location("nbd+unix", "", "/e", "socket=/run/s")),
            ("nbd://h", Location("nbd", "h")),
            ("nbds://h:1/", Location("nbds", "h:1", "/")),
            ("nbd+unix://?socket=/run/s", Location("nbd+unix", "", "", "socket=/run/s")),
            ("gluster://h/vol/a.img", Location("gluster", "h", "/vol/a.img")),
            ("sheepdog://h:7000", Location("sheepdog", "h:7000", "/")),
            ("sheepdog://h/vdi#tag", Location("sheepdog", "h", "/vdi#tag")),
            ("sheepdog://h/a%23b#t%2Fg", Location("sheepdog", "h", "/a%23b#t%2Fg")),
            ("sheepdog://h/vdi#a/b#c", Location("sheepdog", "h", "/vdi#a%2Fb%23c")),
            ("sheepdog+tcp://h/vdi", Location("sheepdog", "h", "/vdi")),
            ("sheepdog:///vdi#3", Location("sheepdog", "localhost", "/vdi#3")),
            ("sheepdog:", Location("sheepdog", "localhost", "/")),
            ("sheepdog:vdi", Location("sheepdog", "localhost", "/vdi")),
            ("sheepdog:vdi:tag", Location("sheepdog", "localhost", "/vdi#tag")),
            ("sheepdog:h:7001:vdi", Location("sheepdog", "h:7001", "/vdi")),
            ("sheepdog:h:7001:vdi:3", Location("sheepdog", "h:7001", "/vdi#3")),
            ("sheepdog+unix:///vdi?socket=/run/s#t", Location("sheepdog+unix", "", "/vdi#t", "socket=/run/s")),
            ("rbd:", Location("rbd")),
            ("rbd:pool", Location("rbd", path="pool")),
            ("rbd:pool/ns/image@snap", Location("rbd", path="pool/ns/image@snap")),
            ("rbd:p/i:id=me:conf=/etc/c.conf", Location("rbd", path="p/i", query="id=me:conf=/etc/c.conf")),
            ("rbd://pool/odd%1bname", Location("rbd", path="pool/odd\x1bname")),
            ("host_device:", Location("host_device")),
            ("host_device:/dev/sdb", Location("host_device", path="/dev/sdb")),
            ("host_device:///dev/odd%1bname", Location("host_device", path="/dev/odd\x1bname")),
            ("/srv/a.img", Location("file", path="/srv/a.img")),
            ("/srv/dir/", Location("file", path="/srv/dir/")),
            ("/srv/./b/../dir/.", Location("file", path="/srv/dir/")),
            ("//srv//a", Location("file", path="/srv/a")),
            ("/", Location("file", path="/")),
            ("/..", Location("file", path="/")),
            ("/a:b/c", Location("file", path="/a:b/c")),
            ("/a b ", Location("file", path="/a b ")),
            ("file:///srv/odd%1bname", Location("file", path="/srv/odd\x1bname")),
            ("file://localhost/a#b", Location("file", path="/a#b")),
            ("file:/a", Location("file", path="/a")),
        ],
    )  # fmt: skip
    def test_what_people_type(self, text: str, location: Location) -> None:
        assert parsed(text) == location

    def test_relative_paths_are_taken_from_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/me")
        here = os.getcwd()
        assert parsed("a.img") == Location("file", path=f"{here}/a.img")
        assert parsed("./sub/") == Location("file", path=f"{here}/sub/")
        assert parsed(".") == Location("file", path=f"{here}/")
        assert parsed("a:b.img") == Location("file", path=f"{here}/a:b.img")
        assert parsed("~/a.img") == Location("file", path="/home/me/a.img")
        assert parsed("file:a.img") == Location("file", path=f"{here}/a.img")

    def test_the_parts_of_an_authority(self) -> None:
        location = parsed("ssh://al%40ice@[fe80::2%25eth0]:2222/a")
        assert (location.user, location.host, location.port) == ("al@ice", "fe80::2%eth0", 2222)
        plain = parsed("http://example.org/a")
        assert (plain.user, plain.host, plain.port) == (None, "example.org", None)

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("ssh://me@Host.Example:22/a", "host.example"),
            ("ssh://h:2222/a", "h:2222"),
            ("https://h:443/", "h"),
            ("http://h:443/", "h:443"),
            ("nfs://[FD00:0:0::1]:2049/e/", "[fd00::1]"),
            ("nbd://[fd00::1]:1/", "[fd00::1]:1"),
            ("ftp://192.0.2.1/", "192.0.2.1"),
            ("nbd+unix:///e?socket=/run/s", ""),
            ("rbd:p/i", ""),
        ],
    )
    def test_one_server_has_one_address_however_it_is_written(self, text: str, address: str) -> None:
        assert parsed(text).address == address

    def test_a_port_that_is_not_written_is_the_one_that_the_systems_own_client_takes(self) -> None:
        import probes.gluster.volumes as gluster
        import probes.iscsi.names as iscsi
        import probes.nbd.server as nbd
        import probes.nfs.services as nfs
        import probes.sheepdog.protocol as sheepdog
        import probes.tftp.transfer as tftp

        for scheme, port in (
            ("gluster", gluster.PORT),
            ("iscsi", iscsi.PORT),
            ("nbd", nbd.PORT),
            ("nbds", nbd.PORT),
            ("nfs", nfs.NFS_PORT),
            ("sheepdog", sheepdog.PORT),
            ("tftp", tftp.PORT),
        ):
            assert parsed(f"{scheme}://h:{port}/a/b").address == "h", scheme

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("http://h:80/", "h"),
            ("http://h/a%20b/", "a b"),
            ("rbd:", "rbd"),
            ("rbd:p/i@s", "i@s"),
            ("host_device:", "host_device"),
            ("host_device:/dev/sda", "sda"),
            ("/", "file"),
            ("/a/b/", "b"),
        ],
    )
    def test_what_a_place_is_called(self, text: str, name: str) -> None:
        assert parsed(text).name == name
        assert parsed(text).title == name

    def test_a_lun_is_called_by_its_target_as_well(self) -> None:
        assert parsed("iscsi://h/iqn.2026-01.org.example:disks/1").title == "disks LUN 1"
        assert parsed("iscsi://h/iqn.2026-01.org.example/0").title == "iqn.2026-01.org.example LUN 0"

    @pytest.mark.parametrize(
        ("text", "container"),
        [
            ("http://h", True),
            ("http://h/a", False),
            ("http://h/a/", True),
            ("rbd:", True),
            ("rbd:p/n/", True),
            ("rbd:p/i", False),
            ("host_device:", True),
            ("host_device:/dev/sda", False),
            ("/a/", True),
            ("/", True),
        ],
    )
    def test_whether_the_text_alone_says_that_it_is_a_container(self, text: str, container: bool) -> None:
        assert parsed(text).is_container == container


class TestParents:
    @pytest.mark.parametrize(
        ("text", "chain"),
        [
            ("http://h/a/b.img", ["http://h/a/", "http://h/"]),
            ("http://h/a/b/?x=1", ["http://h/a/", "http://h/"]),
            ("nfs://h/e/a?uid=0", ["nfs://h/e/?uid=0", "nfs://h/?uid=0"]),
            ("rbd:p/i@s", ["rbd:p/i", "rbd:p", "rbd:"]),
            ("rbd:p/n/i:id=me", ["rbd:p/n/:id=me", "rbd:p:id=me", "rbd::id=me"]),
            (r"rbd:p/\@x\/y", ["rbd:p", "rbd:"]),
            ("host_device:/dev/sda", ["host_device:"]),
            ("/a/b", ["/a/", "/"]),
            ("/", []),
        ],
    )
    def test_the_places_above(self, text: str, chain: list[str]) -> None:
        place, found = parsed(text), []
        while (outer := place.parent) is not None:
            found.append(str(outer))
            place = outer
        assert found == chain
        assert str(parsed(text).root) == ([text, *chain])[-1]

    @settings(deadline=None)
    @given(name=names, container=st.booleans())
    def test_a_childs_parent_is_where_it_came_from(self, name: str, container: bool) -> None:
        place = Location("http", "h", "/dir/")
        assert place.child(name, container).parent == place


class TestRoundTrips:
    @settings(deadline=None)
    @given(scheme=st.sampled_from(URL_SCHEMES), held=st.lists(raw_names, max_size=4), container=st.booleans())
    def test_urls(self, scheme: str, held: list[bytes], container: bool) -> None:
        place = Location(scheme, "h", "/")
        for raw in held:
            place = place.child(os.fsdecode(raw), container=True)
            assert place.name == os.fsdecode(raw)
        assert place.names == tuple(os.fsdecode(raw) for raw in held)
        assert parsed(str(place)) == place
        assert is_clean(str(place))
        assert str(place).isascii()

    @settings(deadline=None)
    @given(scheme=st.sampled_from(["file", "host_device"]), held=st.lists(raw_names, min_size=1, max_size=4))
    def test_paths_of_the_host(self, scheme: str, held: list[bytes]) -> None:
        place = Location(scheme, path="/dev")
        for raw in held:
            place = place.child(os.fsdecode(raw))
            assert place.name == os.fsdecode(raw)
        assert parsed(str(place)) == place
        assert is_clean(str(place))

    @settings(deadline=None)
    @given(held=st.lists(names, min_size=1, max_size=3), snapshot=st.none() | names)
    def test_rbd(self, held: list[str], snapshot: str | None) -> None:
        place = Location("rbd", path=rbd_path(*held, snapshot=snapshot))
        assert split_rbd(place.path) == (*held, *([f"@{snapshot}"] if snapshot else []))
        assert is_clean(str(place))
        assert parsed(str(place)).path == place.path

    @settings(deadline=None)
    @given(name=st.text(alphabet=st.characters(codec=None), min_size=1))
    def test_a_name_that_no_server_should_send_raises_nothing(self, name: str) -> None:
        """JSON may hold halves of UTF-16 pairs."""
        assert is_clean(str(Location("http", "h", "/").child(name)))

    @settings(deadline=None)
    @given(st.text() | st.text(alphabet="ab:/@%?#[]= \\.0"))
    def test_any_text_is_a_location_or_a_clean_error(self, text: str) -> None:
        is_understood_or_refused(text)

    @settings(deadline=None)
    @given(scheme=st.sampled_from(SCHEMES), slashes=st.sampled_from(["", "/", "//", "///"]), rest=st.text())
    def test_any_text_after_a_scheme_too(self, scheme: str, slashes: str, rest: str) -> None:
        is_understood_or_refused(f"{scheme}:{slashes}{rest}")


def is_understood_or_refused(text: str) -> None:
    """Parse it; check that the location says the same when it is parsed again, or that the error is fit to show."""
    try:
        location, _ = Location.parse(text)
    except BadLocation as error:
        refusal = error
    else:
        assert parsed(str(location)) == location
        assert is_clean(str(location))
        assert location.port is None or 0 < location.port < 65536
        return
    assert is_clean(str(refusal))
    assert len(refusal.why) > 3


class TestSecrets:
    @pytest.mark.parametrize(
        ("text", "held"),
        [
            (f"http://alice:{SECRET}@h/a", "password"),
            (f"http://:{SECRET}@h/a", "password"),
            (f"ftp://alice:{SECRET}@h/", "password"),
            (f"ssh://alice:{SECRET}@h/", "password"),
            (f"iscsi://alice%{SECRET}@h/iqn/1", "password"),
            (f"iscsi://iqn.2001-04.org:x:y%{SECRET}@h/iqn/1", "password"),
            (f"iscsi://alice:{SECRET}@h/iqn/1", "password"),
            (f"iscsi://h/iqn/1?target_user=a&target_password={SECRET}", "query"),
            (f"rbd:p/i:id=me:key={SECRET}", "key"),
            (f"rbd:p/i:key={SECRET}:id=me", "key"),
            (f"rbd:p/i: KEY={SECRET}", "key"),
            (rf"rbd:p/i:k\ey={SECRET}", "key"),
            (f"https://b.s3.amazonaws.com/a?X-Amz-Expires=9&X-Amz-Signature={SECRET}", "query"),
            (f"https://a.blob.core.windows.net/c/a.vhd?sv=2020&sp=r&sig={SECRET}", "query"),
            (f"https://h/a?token={SECRET}", "query"),
            (f"https://h/a?a=b&acc%65ss_token={SECRET}", "query"),
            (f"https://h/a?{SECRET}0123456789abcdefghijkl", ""),
            (f"https://h/a?h={SECRET.replace('-', '')}0123456789abcdef", "query"),
        ],
    )
    def test_they_are_split_off(self, text: str, held: str) -> None:
        location, credentials = Location.parse(text)
        if held:
            assert SECRET not in f"{location} {location!r} {credentials} {credentials!r}"
            assert SECRET.replace("-", "") not in str(location)
            assert getattr(credentials, held) is not None
        assert Location.parse(str(location)) == (location, Credentials(username=location.user))

    def test_the_secret_itself_is_whole(self) -> None:
        def password(text: str) -> str | None:
            secret = Location.parse(text)[1].password
            return secret.reveal() if secret else None

        assert password("http://u:p%40%3Aw@h/") == "p@:w"
        assert password("http://u:p@w@h/") == "p@w"
        assert password("ftp://u:@h/") == ""
        assert password("ftp://u@h/") is None
        assert password("iscsi://iqn.2001:u%a:b@h/") == "a:b"
        key = Location.parse(r"rbd:p/i:key=AQ\=\=:id=me")[1].key
        assert key is not None
        assert key.reveal() == "AQ=="
        query = Location.parse("http://h/a?b=%2F&sig=a%3D%3D#f")[1].query
        assert query is not None
        assert query.reveal() == "b=%2F&sig=a%3D%3D"

    @pytest.mark.parametrize("text", ["http://h/?dir=images&sort=name", "nfs://h/e?uid=0&gid=0", "http://h/a?id=12"])
    def test_harmless_queries_stay(self, text: str) -> None:
        location, credentials = Location.parse(text)
        assert str(location) == text
        assert not credentials

    def test_a_user_that_is_no_part_of_the_address_goes_with_the_password(self) -> None:
        assert Location.parse("https://alice@h/a") == (Location("https", "h", "/a"), Credentials("alice"))

    @settings(deadline=None)
    @given(password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8))
    def test_a_quoted_password_comes_whole_and_leaves_no_trace(self, password: str) -> None:
        location, credentials = Location.parse(f"https://u:{quote(password, safe='')}@host.example/a")
        assert str(location) == "https://host.example/a"
        assert credentials.password is not None
        assert credentials.password.reveal() == password

    @pytest.mark.parametrize(
        "text",
        [
            f"foo://alice:{SECRET}@h/a",
            f"foo://alice:pa/{SECRET}@h/a",
            f"http:alice:{SECRET}@h/a",
            f"http://alice:{SECRET}@:80/a",
            f"http://alice:{SECRET}@h:99999/a",
            f"http://alice:{SECRET}/x@h/a",
            f"http://alice:{SECRET}#x@h/a",
            f"http://alice:{SECRET}@a b/",
            f"http://alice:{SECRET}@[::1/",
            f"http://alice:{SECRET}@-oProxyCommand/",
            f"iscsi://al\x1b%{SECRET}@h/",
            f"rbd:p/i:keyfile=/{SECRET}",
            f"rbd:a/b/c/d:key={SECRET}",
            f'json:{{"driver": "http", "password": "{SECRET}"}}',
        ],
    )
    def test_an_error_shows_none(self, text: str) -> None:
        with pytest.raises(FarbootError) as caught:
            Location.parse(text)
        error = caught.value
        assert isinstance(error, BadLocation)
        assert SECRET not in f"{error} {error!r} {error.detail} {error.as_json()}"


class TestBadLocations:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "http://",
            "http:///a",
            "http:h",
            "http://h:0/",
            "http://h:65536/",
            "http://h:+80/",
            "http://h:٨٠/",
            "http://h:00000" + "0" * 5000 + "80/",
            "http://::1/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[h]/",
            "http://h%2f.evil/",
            "http://a\nb/",
            "http://a\\b/",
            "ssh://-oProxyCommand=x/",
            "gopher://h/",
            "fat:/etc",
            "nvme://0000:01:00.0/1",
            "file://server/share",
            "file:///a%00b",
            "host_device:///dev/a%00b",
            "rbd:a/b/c/d",
        ],
    )
    def test_what_is_refused(self, text: str) -> None:
        with pytest.raises(BadLocation) as caught:
            Location.parse(text)
        assert caught.value.exit_status == 2

    def test_a_file_with_the_name_of_a_scheme_can_be_opened(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("fat:a").touch()
        assert parsed("fat:a").path == str(tmp_path / "fat:a")


@pytest.mark.parametrize("text", ["nbd://h", "nbd://h/a", "nbd://h/a/b", "nbd://h/a%2Fb", "nbd://h/a/"])
def test_every_export_of_an_nbd_server_lies_in_its_list_and_the_nameless_one_too(text: str) -> None:
    place, _ = Location.parse(text)
    outer = place.parent
    assert str(place) == text
    assert outer == Location("nbd", "h", "/")
    assert outer.is_container
    assert outer.parent is None
    assert place.is_container is text.endswith("/")


def test_a_snapshot_of_a_vdi_lies_in_the_vdi_and_keeps_its_socket() -> None:
    snapshot = Location.parse("sheepdog+unix:///disk?socket=/run/s#tag")[0]
    assert str(snapshot) == "sheepdog+unix:///disk?socket=/run/s#tag"
    assert snapshot.name == "disk#tag"
    assert not snapshot.is_container
    assert str(snapshot.parent) == "sheepdog+unix:///disk?socket=/run/s"
    assert str(snapshot.root) == "sheepdog+unix:///?socket=/run/s"


def test_what_follows_a_hash_elsewhere_is_left_away() -> None:
    assert str(Location.parse("http://h/a.img#part")[0]) == "http://h/a.img"


@pytest.mark.parametrize(
    ("text", "is_snapshot"),
    [
        ("rbd:p/i@s", True),
        ("rbd:p/i", False),
        (r"rbd:p/\@i", False),
        ("sheepdog://h/vdi#s", True),
        ("sheepdog+unix:///vdi?socket=/s#3", True),
        ("sheepdog://h/v%23di", False),
        ("nfs://h/a#b", False),
    ],
)
def test_a_snapshot_is_known_by_its_name(text: str, is_snapshot: bool) -> None:
    assert Location.parse(text)[0].is_snapshot is is_snapshot
