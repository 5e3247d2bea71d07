"""Chains of images: what is followed and what is not, what is asked, and what the guest would see through them."""

from pathlib import Path

import pytest

from app.demo.guest import GuestImages
from app.engine import Engine, Inspection
from probes.chain import LONGEST, Link, judge_chain
from probes.errors import Unreachable
from probes.image import Firmware, Verdict
from probes.location import Location
from probes.reader import Reader
from tests.formats.images import INCOMPATIBLE, codes, patch, qemu_img_create, run, set_field
from tests.formats.readers import FileReader
from tests.servers.ganesha import Ganesha
from tests.servers.nginx import Nginx
from tests.servers.site import Reply, Request, Site, ranged
from tests.servers.sshd import Sshd, SshHome


def overlay(path: Path, backing: str, claimed: str | None = "qcow2", size: str = "64M") -> Path:
    """A qcow2 over `backing`, which need not be there."""
    claim = ("-F", claimed) if claimed else ()
    return qemu_img_create(path, size, "qcow2", "-u", "-b", backing, *claim)


def raw(path: Path, content: bytes = b"just a disk") -> Path:
    path.write_bytes(content.ljust(64 << 20 >> 4, b"\0"))
    return path


def unclaimed(path: Path, backing: str) -> Path:
    """As old tools made them: nothing says what the backing image is."""
    overlay(path, backing, "raw")
    data = bytearray(path.read_bytes())
    at = int.from_bytes(data[100:104], "big")  # the first header extension, which is the claim
    assert data[at : at + 4] == bytes.fromhex("e2792aca")
    data[at : at + 4] = b"\x13\x13\x13\x13"  # one that nobody knows
    path.write_bytes(data)
    return path


def inspect(place: Path | str) -> Inspection:
    return Engine().inspect(Location.parse(str(place))[0])


def refusal(place: Path | str) -> tuple[str, str]:
    """The code and the text of the one reason for which it is refused."""
    found = [hazard for hazard in inspect(place).image.hazards if hazard.verdict is Verdict.REFUSE]
    (hazard,) = found
    return hazard.code, hazard.text


# What is followed


def test_a_chain_beside_the_image_is_followed_to_its_end_and_asked_about_once(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw")
    overlay(tmp_path / "middle.qcow2", "base.raw", "raw")
    top = overlay(tmp_path / "top.qcow2", "middle.qcow2")
    found = inspect(top)
    assert [(link.location.name, link.image.format) for link in found.backing] == [
        ("middle.qcow2", "qcow2"),
        ("base.raw", "raw"),
    ]
    (hazard,) = found.image.hazards
    assert (hazard.code, hazard.verdict) == ("backing-file", Verdict.ASK)
    assert "2 backing images" in hazard.text
    assert "middle.qcow2 (qcow2, 64 MiB) and base.raw (raw, 4 MiB)" in hazard.text
    assert found.asked == {"backing-file"}


def test_an_image_without_backing_is_a_chain_of_one(tmp_path: Path) -> None:
    found = inspect(qemu_img_create(tmp_path / "a.qcow2"))
    assert found.backing == ()
    assert found.image.verdict is Verdict.OK


@pytest.mark.parametrize("driver", ["qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_a_backing_image_is_of_any_format_that_is_what_it_claims_to_be(tmp_path: Path, driver: str) -> None:
    qemu_img_create(tmp_path / "base", "64M", driver)
    found = inspect(overlay(tmp_path / "top.qcow2", "base", driver))
    assert codes(found.image) == {"backing-file"}
    assert [link.image.format for link in found.backing] == [driver]


def test_without_a_claim_it_is_what_it_was_judged_to_be(tmp_path: Path) -> None:
    qemu_img_create(tmp_path / "base", "64M", "qcow2")
    found = inspect(unclaimed(tmp_path / "top.qcow2", "base"))
    assert found.image.backing is not None
    assert found.image.backing.format is None
    assert [link.image.format for link in found.backing] == ["qcow2"]
    assert found.image.verdict is Verdict.ASK


def test_a_folder_below_the_image_s_is_followed_and_names_there_are_of_that_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    raw(tmp_path / "sub" / "base.raw")
    overlay(tmp_path / "sub" / "middle.qcow2", "base.raw", "raw")
    found = inspect(overlay(tmp_path / "top.qcow2", "sub/middle.qcow2"))
    assert [link.location.path for link in found.backing] == [
        str(tmp_path / "sub" / "middle.qcow2"),
        str(tmp_path / "sub" / "base.raw"),
    ]


def test_hazards_of_a_backing_image_are_told_of_the_image(tmp_path: Path) -> None:
    base = qemu_img_create(tmp_path / "base.qcow2")
    set_field(base, INCOMPATIBLE, 2)  # corrupt
    found = inspect(overlay(tmp_path / "top.qcow2", "base.qcow2"))
    (told,) = [hazard for hazard in found.image.hazards if hazard.code == "corrupt"]
    assert told.text.startswith("Of its backing image base.qcow2: ")
    assert all(link.image.hazards == () for link in found.backing)


def test_what_the_guest_would_see_is_looked_at_through_the_whole_chain(
    tmp_path: Path, quick_guest: GuestImages
) -> None:
    (tmp_path / "base.raw").symlink_to("copy.raw")
    (tmp_path / "copy.raw").write_bytes(quick_guest.raw.read_bytes())
    overlay(tmp_path / "middle.qcow2", "base.raw", "raw", "1G")
    found = inspect(overlay(tmp_path / "top.qcow2", "middle.qcow2", size="2G"))
    alone = inspect(quick_guest.raw)
    assert found.image.virtual_size == 2 << 30
    assert found.image.media.firmware == alone.image.media.firmware == frozenset({Firmware.BIOS, Firmware.UEFI})
    assert found.image.media.partitions == alone.image.media.partitions
    assert [link.location.name for link in found.backing] == ["middle.qcow2", "copy.raw"], "links are resolved"


def test_what_the_child_has_written_hides_what_the_backing_image_says(tmp_path: Path, quick_guest: GuestImages) -> None:
    (tmp_path / "base.raw").write_bytes(quick_guest.raw.read_bytes())
    size = str(quick_guest.raw.stat().st_size)
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw", size)
    run("qemu-io", "-f", "qcow2", "-c", "write -z 0 1M", top)
    assert inspect(top).image.media.table is None


@pytest.mark.parametrize(
    "name", ["a b.raw", "100%.raw", "what?x=1.raw", "a#b.raw", "%2e%2e.raw", "größe.raw", "a:b/c.raw"]
)
def test_names_are_taken_as_they_stand_by_a_web_server(nginx: Nginx, tmp_path: Path, name: str) -> None:
    folder = Path(nginx.root) / tmp_path.name
    folder.mkdir()
    if "/" in name:
        (folder / name).parent.mkdir()
    raw(folder / name)
    overlay(folder / "top.qcow2", f"./{name}" if ":" in name else name, "raw")
    found = inspect(f"{nginx.url}{tmp_path.name}/top.qcow2")
    assert codes(found.image) == {"backing-file"}
    assert [link.location.decoded_path for link in found.backing] == [f"/{tmp_path.name}/{name}"]
    assert found.backing[0].image.virtual_size == 4 << 20


# What is not


@pytest.mark.parametrize(
    "name",
    [
        "/etc/hostname", "../base.raw", "sub/../../base.raw", "file:base.raw", "json:{}", "fat:.", "nbd://h/x",
        "nbd:unix:/run/s", "http://elsewhere.example/base.raw", "ssh://h/x", "\\\\h\\x", ".ssh/id_ed25519",
        "sub/.hidden",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_never_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "sub").mkdir()
    opened: list[Location] = []
    top = overlay(tmp_path / "sub" / "top.qcow2", name, "raw")

    def open_image(place: Location) -> Reader:
        opened.append(place)
        return FileReader(place.path)

    chain = judge_chain(Location("file", path=str(top)), open_image)
    assert [place.path for place in opened] == [str(top)]
    assert "backing-outside" in codes(chain[0].image)
    assert chain[0].image.verdict is Verdict.REFUSE


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside.raw"])
def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path, target: str) -> None:
    raw(tmp_path / "outside.raw")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "base.raw").symlink_to(target)
    assert refusal(overlay(folder / "top.qcow2", "base.raw", "raw"))[0] == "backing-outside"
    (folder / ".ssh").mkdir()
    raw(folder / ".ssh" / "id_ed25519")
    (folder / "key.raw").symlink_to(".ssh/id_ed25519")
    assert refusal(overlay(folder / "third.qcow2", "key.raw", "raw"))[0] == "backing-outside"
    (folder / "sub").symlink_to("..")
    assert refusal(overlay(folder / "other.qcow2", "sub/outside.raw", "raw"))[0] == "backing-outside"


def test_nor_is_one_on_an_ssh_server(sshd: Sshd, ssh_home: SshHome, tmp_path: Path) -> None:
    sshd.authorize(ssh_home.key())
    ssh_home.trust(sshd.known())
    links_that_lead_out(tmp_path)
    for name in ("base", "sub", "key"):
        assert refusal(sshd.url(tmp_path / "images" / f"{name}.qcow2"))[0] == "backing-outside"
    good = inspect(sshd.url(tmp_path / "images" / "good.qcow2"))
    assert codes(good.image) == {"backing-file"}


def test_nor_is_one_on_an_nfs_server(ganesha: Ganesha, tmp_path: Path) -> None:
    top = ganesha.folder("images") / tmp_path.name
    top.mkdir()
    links_that_lead_out(top)
    place = f"{ganesha.location('images')}{tmp_path.name}/images"
    for name in ("base", "sub", "key"):
        assert refusal(f"{place}/{name}.qcow2")[0] == "backing-outside"
    assert codes(inspect(f"{place}/good.qcow2").image) == {"backing-file"}


def test_nor_is_one_on_an_nfs_server_that_speaks_version_4_alone(ganesha4: Ganesha, tmp_path: Path) -> None:
    top = ganesha4.folder("images") / tmp_path.name
    top.mkdir()
    links_that_lead_out(top)
    place = f"nfs://{ganesha4.address}/images/{tmp_path.name}/real"
    assert refusal(f"{place}/base.qcow2")[0] == "backing-outside"
    overlay(top / "real" / "plain.qcow2", "good.raw", "raw")
    assert codes(inspect(f"{place}/plain.qcow2").image) == {"backing-file"}


def links_that_lead_out(top: Path) -> None:
    """An image for each way that leads out of its folder; the folder is a link itself, which nobody minds."""
    raw(top / "base.raw", b"somebody's secret")
    (top / "real").mkdir()
    (top / "images").symlink_to("real")
    (top / "real" / "base.raw").symlink_to("../base.raw")
    (top / "real" / "sub").symlink_to("..")
    (top / "real" / ".ssh").mkdir()
    raw(top / "real" / ".ssh" / "key")
    (top / "real" / "key").symlink_to(".ssh/key")
    overlay(top / "real" / "key.qcow2", "key", "raw")
    raw(top / "real" / "good.raw")
    (top / "real" / "link.raw").symlink_to("good.raw")
    overlay(top / "real" / "base.qcow2", "base.raw", "raw")
    overlay(top / "real" / "sub.qcow2", "sub/base.raw", "raw")
    overlay(top / "real" / "good.qcow2", "link.raw", "raw")


def test_a_redirect_to_another_server_is_not_followed(tmp_path: Path) -> None:
    """Else a server could have the guest read what only this host can reach."""
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw").read_bytes()
    disk = bytes(1 << 20)

    def front(request: Request) -> Reply:
        if "top" in request.path:
            return ranged(top, request)
        where = other.url if request.path.startswith("/bad") else "/good/there/"
        return ranged(disk, request) if "there" in request.path else Reply(302, b"", {"Location": f"{where}base.raw"})

    with Site(lambda request: ranged(disk, request)) as other, Site(front) as site:
        code, text = refusal(f"{site.url}bad/top.qcow2")
        assert (code, "another" in text) == ("backing-outside", True)
        assert codes(inspect(f"{site.url}good/top.qcow2").image) == {"backing-file"}


def test_the_question_tells_the_whole_way_to_what_is_opened(tmp_path: Path) -> None:
    (tmp_path / "payroll").mkdir()
    raw(tmp_path / "payroll" / "disk.raw")
    (tmp_path / "base.raw").symlink_to("payroll/disk.raw")
    (hazard,) = inspect(overlay(tmp_path / "top.qcow2", "base.raw", "raw")).image.hazards
    assert "payroll/disk.raw (raw, 4 MiB)" in hazard.text
    deep = "/".join(["x" * 90] * 4)
    (tmp_path / deep).mkdir(parents=True)
    raw(tmp_path / deep / "secret.raw")
    (hazard,) = inspect(overlay(tmp_path / "other.qcow2", f"{deep}/secret.raw", "raw")).image.hazards
    assert "x/secret.raw (raw, 4 MiB)" in hazard.text


def test_an_image_reached_by_a_link_has_its_backing_image_beside_the_link(tmp_path: Path) -> None:
    """As QEMU takes it."""
    (tmp_path / "real").mkdir()
    raw(tmp_path / "base.raw")
    overlay(tmp_path / "real" / "top.qcow2", "base.raw", "raw")
    (tmp_path / "link.qcow2").symlink_to("real/top.qcow2")
    assert [link.location.path for link in inspect(tmp_path / "link.qcow2").backing] == [str(tmp_path / "base.raw")]
    assert refusal(tmp_path / "real" / "top.qcow2")[0] == "backing-missing"


def test_a_missing_backing_image_is_told_by_name(tmp_path: Path) -> None:
    code, text = refusal(overlay(tmp_path / "top.qcow2", "base.qcow2"))
    assert code == "backing-missing"
    assert "base.qcow2" in text
    (tmp_path / "base.qcow2").mkdir()
    assert refusal(tmp_path / "top.qcow2")[0] == "backing-missing"


def test_circles_and_endless_chains_end(tmp_path: Path) -> None:
    overlay(tmp_path / "self.qcow2", "self.qcow2")
    overlay(tmp_path / "a.qcow2", "b.qcow2")
    overlay(tmp_path / "b.qcow2", "a.qcow2")
    overlay(tmp_path / "linked.qcow2", "alias.qcow2")
    (tmp_path / "alias.qcow2").hardlink_to(tmp_path / "linked.qcow2")
    for name in ("self", "a", "linked"):
        code, text = refusal(tmp_path / f"{name}.qcow2")
        assert code == "backing-endless"
        assert "circle" in text
    for number in range(LONGEST + 2):
        overlay(tmp_path / f"{number}.qcow2", f"{number + 1}.qcow2")
    qemu_img_create(tmp_path / f"{LONGEST + 2}.qcow2")
    code, text = refusal(tmp_path / "0.qcow2")
    assert (code, f"more than {LONGEST}" in text) == ("backing-endless", True)
    assert refusal(tmp_path / "1.qcow2")[0] == "backing-endless"
    assert inspect(tmp_path / "2.qcow2").image.verdict is Verdict.ASK


def test_a_circle_that_a_web_server_makes_of_ever_new_names_ends(nginx: Nginx, tmp_path: Path) -> None:
    folder = Path(nginx.root) / tmp_path.name
    folder.mkdir()
    overlay(folder / "top.qcow2", "x/top.qcow2")
    (folder / "x").symlink_to(".")
    assert refusal(f"{nginx.url}{tmp_path.name}/top.qcow2")[0] == "backing-endless"


def test_a_refused_backing_image_refuses_all_with_its_reason(tmp_path: Path) -> None:
    qemu_img_create(tmp_path / "base.qcow2", "1M", "qcow2", "-o", f"data_file={tmp_path}/data")
    code, text = refusal(overlay(tmp_path / "top.qcow2", "base.qcow2"))
    assert code == "qcow2-data-file"
    assert text.startswith("Of its backing image base.qcow2: ")
    overlay(tmp_path / "host.qcow2", "/etc/hostname", "raw")
    code, text = refusal(overlay(tmp_path / "above.qcow2", "host.qcow2"))
    assert (code, "/etc/hostname" in text) == ("backing-outside", True)


def test_a_raw_disk_whose_guest_wrote_a_header_into_it_is_not_taken_for_what_that_says(tmp_path: Path) -> None:
    base = raw(tmp_path / "base.raw")
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw")
    assert inspect(top).image.verdict is Verdict.ASK
    written = overlay(tmp_path / "written.qcow2", "other.raw", "raw")
    patch(base, 0, written.read_bytes())
    code, text = refusal(top)
    assert code == "backing-format"
    assert "qcow2" in text
    assert "rebase" in text


def test_the_question_warns_of_a_raw_disk_whose_guest_may_ask_for_another_one_s(tmp_path: Path) -> None:
    raw(tmp_path / "other.raw")
    (hazard,) = inspect(overlay(tmp_path / "disk.img", "other.raw", "raw")).image.hazards
    assert "a guest" in hazard.text
    (hazard,) = inspect(overlay(tmp_path / "disk.qcow2", "other.raw", "raw")).image.hazards
    assert "a guest" not in hazard.text


@pytest.mark.parametrize("place", ["nbd://h/export", "rbd:pool/image", "iscsi://h/iqn.x:y/1", "host_device:/dev/sdz"])
def test_where_there_are_no_folders_nothing_lies_beside_an_image(tmp_path: Path, place: str) -> None:
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw")
    (link,) = judge_chain(Location.parse(place)[0], lambda _: FileReader(top))
    assert codes(link.image) == {"backing-outside"}
    assert "no folders" in link.image.hazards[0].text


def test_a_server_that_fails_is_no_hazard_but_an_error(tmp_path: Path) -> None:
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw")

    def open_image(place: Location) -> Reader:
        if place.name != "top.qcow2":
            raise Unreachable("open", place, "nobody answers")
        return FileReader(top)

    with pytest.raises(Unreachable):
        judge_chain(Location("http", "h", "/top.qcow2"), open_image)


def test_every_image_is_let_go_of(tmp_path: Path) -> None:
    raw(tmp_path / "base.raw")
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw")
    readers: list[FileReader] = []

    def open_image(place: Location) -> Reader:
        readers.append(FileReader(place.path))
        return readers[-1]

    judge_chain(Location("file", path=str(top)), open_image)
    assert [reader._fd for reader in readers] == [-1, -1]


def test_each_image_has_evidence_of_its_own(tmp_path: Path) -> None:
    base = raw(tmp_path / "base.raw")
    top = overlay(tmp_path / "top.qcow2", "base.raw", "raw")
    chain: tuple[Link, ...] = judge_chain(Location("file", path=str(top)), lambda place: FileReader(place.path))
    for link, path in zip(chain, (top, base), strict=True):
        with FileReader(path) as reader:
            assert link.evidence.agrees(reader)
    patch(base, 100, b"x")
    with FileReader(base) as reader:
        assert not chain[1].evidence.agrees(reader)
