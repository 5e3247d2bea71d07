"""To whom the web source goes: redirects, credentials, certificates."""

import subprocess
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.credentials import Credentials, Secret
from probes.entry import Kind
from probes.errors import (
    BadAnswer,
    Changed,
    Denied,
    TimedOut,
    Unreachable,
)
from probes.location import Location
from probes.sources.http import HttpSource
from tests.servers.faults import Drip
from tests.servers.nginx import Nginx, start_nginx
from tests.servers.site import Reply, Request, Site, ranged
from tests.sources.contract import content

DATA = content(200_000)
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


@pytest.mark.parametrize("tag", ["", '"one"'])
def test_a_part_of_an_image_is_another_server_s_only_if_that_proves_it(tag: str) -> None:
    """Else whoever made the image could have its guest read what only this host can reach."""
    headers = {"ETag": tag} if tag else {}

    def front(request: Request) -> Reply:
        is_head = request.headers.get("Range", "").startswith("bytes=0-")
        return ranged(DATA, request, headers) if is_head else Reply(302, b"", {"Location": other.url + "internal"})

    with Site(lambda request: ranged(DATA, request, headers)) as other, Site(front) as site, HttpSource() as source:
        reader = source.open(at(site.url + "x.img"))
        if tag:
            assert reader.pread(100_000, 512) == DATA[100_000:100_512]
            return
        with pytest.raises(Changed):
            reader.pread(100_000, 512)


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
