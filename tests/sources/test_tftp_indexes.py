"""What boot menus and lists on a TFTP server name, and where that leads."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from probes.attachment import Mode, QemuFacts, Route, RouteWish
from probes.entry import Kind
from probes.errors import NotAContainer, NotAnImage, NotFetched, NotFound, Refused, Unsupported
from probes.location import Location
from probes.sources.tftp import TftpSource
from probes.tftp.index import LARGEST, Named, is_text, names_in
from tests.servers.tftpd import Tftpd, start_atftpd
from tests.sources.contract import content

PXELINUX = """\
DEFAULT menu.c32
MENU TITLE Boot
LABEL debian
  MENU LABEL ^Debian installer
  KERNEL debian/linux
  APPEND vga=788 initrd=debian/initrd.gz,debian/more.gz --- quiet
LABEL memtest
  LINUX memdisk
  INITRD ::images/memtest.iso
  APPEND iso raw
LABEL elsewhere
  KERNEL 192.0.2.7::other/linux
LABEL more
  CONFIG pxelinux.cfg/more
MENU INCLUDE pxelinux.cfg/graphics.conf Graphics
"""
IPXE = """\
#!ipxe
set base http://192.0.2.7/images
:debian
kernel ${base}/linux initrd=initrd.gz quiet
initrd --name initrd.gz ${base}/initrd.gz
:local
sanboot --no-describe tftp://192.0.2.7/disk.img
chain menu.ipxe
kernel ${net0/mac}/linux
"""
GRUB = """\
set timeout=5
menuentry "Debian live" --class debian {
    set isofile="/images/live.iso"
    loopback loop $isofile
    linux (loop)/live/vmlinuz boot=live findiso=$isofile
    initrd /live/initrd.img /live/more.img
}
menuentry 'Net' {
    linux (http,192.0.2.7)/linux quiet
    initrd (pxe)/initrd.gz
}
configfile /grub/more.cfg
"""


def test_a_pxelinux_configuration() -> None:
    assert list(names_in(PXELINUX)) == [
        Named("debian/linux", "Debian installer"),
        Named("debian/initrd.gz", "Debian installer"),
        Named("debian/more.gz", "Debian installer"),
        Named("memdisk", "memtest"),
        Named("/images/memtest.iso", "memtest"),
        Named("tftp://192.0.2.7/other/linux", "elsewhere"),
        Named("pxelinux.cfg/more", "more", is_index=True),
        Named("pxelinux.cfg/graphics.conf", "", is_index=True),
    ]


def test_an_ipxe_script() -> None:
    assert list(names_in(IPXE)) == [
        Named("http://192.0.2.7/images/linux", "debian"),
        Named("http://192.0.2.7/images/initrd.gz", "debian"),
        Named("tftp://192.0.2.7/disk.img", "local"),
        Named("menu.ipxe", "local", is_index=True),
    ]


def test_a_grub_configuration() -> None:
    paths = [named.path for named in names_in(GRUB)]
    assert paths == [
        "/images/live.iso",
        "/live/vmlinuz",
        "/live/initrd.img",
        "/live/more.img",
        "http://192.0.2.7/linux",
        "/initrd.gz",
        "/grub/more.cfg",
    ]
    assert next(names_in(GRUB)).note == "Debian live"


def test_a_list_of_names() -> None:
    text = "# images\n\na.img\r\nfolder/b.iso\nmore/\na.img\n"
    assert list(names_in(text)) == [Named("a.img"), Named("folder/b.iso"), Named("more", is_index=True)]


def test_a_text_with_a_million_names_or_one_endless_one_ends() -> None:
    assert len(list(names_in("".join(f"{number}\n" for number in range(150_000))))) == 100_000
    assert list(names_in("x" * 1_000_000)) == []


def test_what_is_text() -> None:
    assert is_text(b"a list\n\tof names \xc3\xa4\xff\n")
    assert not is_text(b"\x7fELF\x02\x01\x01\0")
    assert is_text(b"")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tftp-index") / "root"
    (root / "boot" / "pxelinux.cfg").mkdir(parents=True)
    (root / "boot" / "debian").mkdir()
    (root / "boot" / "pxelinux.cfg" / "default").write_text(PXELINUX)
    (root / "boot" / "debian" / "linux").write_bytes(b"\0" * 5000)
    (root / "list").write_text("../../../etc/passwd\nhttp://user:secret@h/x.img\ngopher://h/x\nhttp://h/y.img\n")
    (root / "large.img").write_bytes(content(6 << 20))
    (root / "large").write_bytes(b"a name\n" * 200_000)
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Tftpd]:
    running = start_atftpd(root.parent / "atftpd", root)
    yield running
    running.server.stop()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TftpSource]:
    monkeypatch.setenv("FARBOOT_CACHE_DIR", str(tmp_path / "cache"))
    with TftpSource() as made:
        yield made


def at(server: Tftpd, path: str) -> Location:
    return Location("tftp", server.authority, path)


def test_a_pxelinux_configuration_is_opened_as_a_folder_is(server: Tftpd, source: TftpSource) -> None:
    found = list(source.entries(at(server, "/boot/pxelinux.cfg/default/")))
    first = found[0]
    assert (first.location, first.name, first.note) == (at(server, "/boot/debian/linux"), "linux", "Debian installer")
    assert source.stat(first.location).size == 5000
    by_name = {entry.name: entry for entry in found}
    assert by_name["memtest.iso"].kind is Kind.IMAGE
    assert by_name["memtest.iso"].location == at(server, "/images/memtest.iso")
    assert by_name["more"].kind is Kind.CONTAINER
    assert by_name["more"].location == at(server, "/boot/pxelinux.cfg/more/")


def test_a_list_leads_nowhere_outside_the_server_and_holds_no_secret(server: Tftpd, source: TftpSource) -> None:
    assert [str(entry.location) for entry in source.entries(at(server, "/list/"))] == [
        f"tftp://{server.authority}/etc/passwd",
        "http://h/y.img",
    ]


def test_the_server_itself_has_no_listing_and_it_says_what_can_be_typed(server: Tftpd, source: TftpSource) -> None:
    assert source.stat(at(server, "/")).kind is Kind.CONTAINER
    with pytest.raises(Unsupported, match="no listings") as caught:
        list(source.entries(at(server, "/")))
    assert "with a / at its end" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "error"),
    [("/large.img/", NotAContainer), ("/large/", NotAContainer), ("/large.img", NotAContainer), ("/no/", NotFound)],
)
def test_what_is_no_index(server: Tftpd, source: TftpSource, path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        list(source.entries(at(server, path)))


def test_a_small_text_says_how_it_is_listed(server: Tftpd, source: TftpSource) -> None:
    entry = source.stat(at(server, "/list"))
    assert entry.kind is Kind.OTHER
    assert "/ at its end" in entry.note


def test_the_beginning_is_read_without_fetching_and_the_rest_not(server: Tftpd, source: TftpSource) -> None:
    place, whole = at(server, "/large.img"), content(6 << 20)
    with source.open(place) as reader:
        assert reader.pread(1_000_000, 500_000) == whole[1_000_000:1_500_000]
        with pytest.raises(NotFetched) as caught:
            reader.pread((6 << 20) - 512, 512)
        assert caught.value.size == 6 << 20
    with pytest.raises(NotFetched):
        source.attach(place, QemuFacts((7, 2, 0), frozenset({"raw"})), Mode.SNAPSHOT)


def test_fetched_once_it_is_read_anywhere_and_attached(server: Tftpd, source: TftpSource, root: Path) -> None:
    place, whole = at(server, "/large.img"), content(6 << 20)
    told: list[tuple[int, int | None]] = []
    pin = source.fetch(place, lambda came, size: told.append((came, size)))
    assert (pin.size, pin.strong, told[-1]) == (6 << 20, True, (6 << 20, 6 << 20))
    assert len(told) > 5
    with source.open(place) as reader:
        assert reader.pread((6 << 20) - 512, 512) == whole[-512:]
    qemu = QemuFacts((7, 2, 0), frozenset({"raw"}))
    found = source.attach(place, qemu, Mode.SNAPSHOT)
    assert (found.route, found.node["driver"], found.pin, found.trusted) == (Route.FETCH, "file", pin, False)
    assert Path(found.files[0].path).read_bytes() == whole
    for wish in (RouteWish.DIRECT, RouteWish.BRIDGE):
        with pytest.raises(Unsupported):
            source.attach(place, QemuFacts((7, 2, 0), frozenset({"raw"}), wish), Mode.SNAPSHOT)
    with pytest.raises(Refused):
        source.attach(place, qemu, Mode.WRITE)
    with pytest.raises(NotAnImage):
        source.fetch(at(server, "/list/"), lambda came, size: None)


def test_another_image_of_the_same_size_is_noticed_by_its_first_block(
    server: Tftpd, source: TftpSource, root: Path
) -> None:
    (root / "changing.img").write_bytes(b"a" * 100_000)
    place = at(server, "/changing.img")
    source.fetch(place, lambda came, size: None)
    assert source.fetched(place)
    (root / "changing.img").write_bytes(b"b" * 100_000)
    assert not source.fetched(place)
    source.fetch(place, lambda came, size: None)
    with source.open(place) as reader:
        assert reader.pread(99_000, 10) == b"b" * 10
    source.forget(place)
    assert not source.fetched(place)


@pytest.mark.parametrize(
    "piece", ["\n", " \n", "\t", "linux x\n", "menuentry ", "set ", "initrd=", "#!ipxe\nset a ${a}${a}\n"]
)
def test_a_text_that_means_harm_takes_no_longer_than_another(piece: str) -> None:
    """By squaring its length it would hold the screen for hours: so slow it would never end here."""
    assert len(list(names_in((piece * LARGEST)[:LARGEST]))) < LARGEST
