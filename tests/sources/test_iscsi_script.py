"""iSCSI portals that no daemon at hand can be: those that send elsewhere, have odd names, or lie (`ScriptedPortal`)."""

import contextlib
import struct
from collections.abc import Iterator

import pytest

from probes.attachment import Mode, QemuFacts
from probes.entry import Kind
from probes.errors import BadAnswer, Denied, FarbootError, NotAnImage, NotFound, Unreachable
from probes.iscsi import commands
from probes.iscsi.commands import Lun
from probes.iscsi.names import is_name, own_initiator, portal_of
from probes.location import Location
from probes.registry import open_source
from probes.source import Source
from probes.sources.iscsi import IscsiSource
from tests.servers.iscsi_script import (
    CAPACITY_10,
    CAPACITY_16,
    CHECK_CONDITION,
    GOOD,
    INQUIRY,
    READ_10,
    REPORT_LUNS,
    Reply,
    ScriptedPortal,
    capacity,
    inquiry,
    luns,
    sense,
)
from tests.servers.tgt import Tgt

IQN = "iqn.2026-01.org.example"
QEMU = QemuFacts((7, 2, 0), frozenset({"iscsi"}))
DISK = {
    REPORT_LUNS: luns(1 << 48),
    INQUIRY: inquiry(),
    CAPACITY_16: capacity(8, 512),
    READ_10: (GOOD, bytes(range(256)) * 2),
}


@pytest.fixture
def source() -> Iterator[IscsiSource]:
    with IscsiSource(deadline=5.0) as made:
        yield made


@pytest.fixture
def isolated() -> Iterator[Source]:
    """As the application has it, for answers that may kill the library."""
    with open_source(Location("iscsi"), deadline=2.0) as made:
        yield made


def at(portal: ScriptedPortal, *names: object, query: str = "") -> Location:
    return Location("iscsi", portal.authority, "/" + "/".join(map(str, names)), query)


class TestWhatAPortalTells:
    @pytest.mark.parametrize(
        ("addresses", "authority", "note"),
        [
            ((), "here", ""),
            (("here,1",), "here", ""),
            (("here",), "here", ""),
            (("0.0.0.0:3260,1", "[::]:3260,1"), "here", ""),
            (("192.0.2.1:3260,1", "here,1"), "here", "also at 192.0.2.1:3260"),
            (("192.0.2.1:3260,1", "[2001:db8::1]:860,2"), "192.0.2.1:3260", "at 192.0.2.1:3260, [2001:db8::1]:860"),
            (("[2001:db8::1],1",), "[2001:db8::1]:3260", "at [2001:db8::1]:3260"),
            (("storage.example,1",), "storage.example:3260", "at storage.example:3260"),
            (("nonsense;:1:2", "$(id)"), "here", ""),
        ],
    )
    def test_a_target_is_listed_where_it_can_be_reached(
        self, source: IscsiSource, addresses: tuple[str, ...], authority: str, note: str
    ) -> None:
        with ScriptedPortal() as portal:
            lines = [
                f"TargetName={IQN}:a",
                *(f"TargetAddress={a.replace('here', portal.authority)}" for a in addresses),
            ]
            portal.targets = "\n".join(lines)
            (entry,) = source.entries(at(portal))
            assert entry.location.authority == authority.replace("here", portal.authority)
            assert entry.note == note
            assert entry.kind is Kind.CONTAINER

    def test_the_user_and_the_initiator_go_along_to_another_portal(self, source: IscsiSource) -> None:
        with ScriptedPortal(targets=f"TargetName={IQN}:a\nTargetAddress=192.0.2.1:3260,1") as portal:
            (entry,) = source.entries(Location("iscsi", f"alice@{portal.authority}", "/", f"initiator={IQN}:me"))
        assert str(entry.location) == f"iscsi://alice@192.0.2.1:3260/{IQN}:a/?initiator={IQN}:me"

    @pytest.mark.parametrize(
        "name", ["with;[bold]&amp;%41=é#?'\"", "a/b", "\x1b[31m", "日本", "\udcff\udcfe", "a,b", "..", "$(id)`id`"]
    )
    def test_odd_names_go_round_and_nothing_is_taken_for_something_else(self, source: IscsiSource, name: str) -> None:
        with ScriptedPortal(targets=f"TargetName={IQN}:{name}", commands=DISK) as portal:
            (entry,) = source.entries(at(portal))
            assert entry.name == f"{IQN}:{name}"
            again, _ = Location.parse(str(entry.location))
            assert again == entry.location
            if name != "\x1b[31m":  # no target has a control character in its name: it is shown, and not asked
                assert [unit.name for unit in source.entries(again)] == ["1"]

    def test_names_of_any_length_do_no_harm(self, source: IscsiSource) -> None:
        with ScriptedPortal(targets=f"TargetName={'x' * 5000}\nTargetName=\nTargetName={IQN}:b") as portal:
            assert [len(entry.name) for entry in source.entries(at(portal))] == [5000, len(IQN) + 2]

    @pytest.mark.parametrize("targets", ["TargetAddress=192.0.2.1:3260,1", "Nonsense", "\n\n"])
    def test_an_answer_that_makes_no_sense_is_an_error_or_nothing(self, isolated: Source, targets: str) -> None:
        with ScriptedPortal(targets=targets) as portal, contextlib.suppress(FarbootError):
            assert list(isolated.entries(at(portal))) == []

    def test_a_portal_without_targets_lists_nothing(self, source: IscsiSource) -> None:
        with ScriptedPortal() as portal:
            assert list(source.entries(at(portal))) == []


class TestLogins:
    def test_a_target_that_has_moved_is_followed(self, tgt: Tgt, source: IscsiSource) -> None:
        moved = tgt.target(f"{IQN}:moved")
        moved.lun(1, bytes(512))
        with ScriptedPortal(login=(0x0101, f"TargetAddress=127.0.0.1:{tgt.port},1")) as portal:
            assert source.stat(at(portal, moved.name, 1)).size == 512
            # QEMU follows by itself, should the target move again.
            assert source.attach(at(portal, moved.name, 1), QEMU, Mode.SNAPSHOT).node["portal"] == portal.authority

    def test_one_that_sends_us_round_in_circles_is_left(self, source: IscsiSource) -> None:
        with ScriptedPortal() as portal:
            portal.login = (0x0101, f"TargetAddress={portal.authority},1")
            with pytest.raises(BadAnswer, match="from portal to portal"):
                source.stat(at(portal, f"{IQN}:a", ""))
            assert portal.connections <= 5

    def test_one_that_sends_us_nowhere_is_told(self, source: IscsiSource) -> None:
        with (
            ScriptedPortal(login=(0x0101, "TargetAddress=$(id)")) as portal,
            pytest.raises(BadAnswer, match="which is no address"),
        ):
            source.stat(at(portal, f"{IQN}:a", ""))

    @pytest.mark.parametrize(
        ("status", "error", "words"),
        [
            (0x0201, Denied, "CHAP name and secret"),
            (0x0202, Denied, own_initiator()),
            (0x0203, NotFound, own_initiator()),
            (0x0204, NotFound, "no such target"),
            (0x0206, Unreachable, "too many connections"),
            (0x0301, Unreachable, "not available"),
            (0x0302, Unreachable, "out of resources"),
            (0x0205, BadAnswer, "refused the login"),
            (0x0700, BadAnswer, "refused the login"),
        ],
    )
    def test_each_refusal_says_what_to_do(
        self, source: IscsiSource, status: int, error: type[FarbootError], words: str
    ) -> None:
        with ScriptedPortal(login=(status, "")) as portal, pytest.raises(error) as caught:
            source.stat(at(portal, f"{IQN}:a", ""))
        assert words in str(caught.value)


class TestUnitsThatLie:
    def listed(self, source: Source, **more: object) -> list[tuple[str, str, int | None, str]]:
        with ScriptedPortal(commands=DISK | more.get("commands", {})) as portal:  # type: ignore[operator]  # ours
            rows = source.entries(at(portal, f"{IQN}:a", ""))
            return [(row.name, row.kind.value, row.size, row.note) for row in rows]

    def test_small_numbers_in_flat_addressing_keep_a_name_of_their_own(self, source: IscsiSource) -> None:
        rows = self.listed(source, commands={REPORT_LUNS: luns(1 << 48, 0x4001 << 48, 0x4100 << 48)})
        assert [row[0] for row in rows] == ["1", "16385", "256"]
        assert rows[1][3] == "ACME DISK, disk, flat address of 1"

    def test_units_that_libiscsi_cannot_address_are_counted(self, source: IscsiSource) -> None:
        rows = self.listed(source, commands={REPORT_LUNS: luns(1 << 48, 0xC101 << 48, (1 << 48) + (2 << 32))})
        assert rows[0][0] == "1"
        assert rows[1][:3] == ("2 more", "other", None)

    @pytest.mark.parametrize("claimed", [0, 2, 300, 1 << 28])
    def test_only_units_that_are_told_are_listed_whatever_is_claimed(self, source: IscsiSource, claimed: int) -> None:
        rows = self.listed(source, commands={REPORT_LUNS: luns(1 << 48, claimed=claimed)})
        assert [row[0] for row in rows] == (["1"] if claimed else [])

    def test_a_unit_told_twice_is_listed_once(self, source: IscsiSource) -> None:
        assert len(self.listed(source, commands={REPORT_LUNS: luns(1 << 48, 1 << 48)})) == 1

    @pytest.mark.parametrize(
        ("reply", "row"),
        [
            (inquiry(0x0D, b"", b""), ("1", "other", None, "enclosure")),
            (inquiry(0x1D), ("1", "other", None, "ACME DISK, device of type 0x1d")),
            (inquiry(0x20), ("1", "other", None, "ACME DISK, disk, not connected")),
            ((GOOD, b"\0"), ("1", "image", 4096, "disk")),
            (sense(5, 0x2500), ("1", "other", None, "does not answer")),
        ],
    )
    def test_each_kind_of_unit(self, source: IscsiSource, reply: Reply, row: tuple[object, ...]) -> None:
        assert self.listed(source, commands={INQUIRY: reply}) == [row]

    def test_a_unit_that_is_not_there_is_not_listed(self, source: IscsiSource) -> None:
        assert self.listed(source, commands={INQUIRY: inquiry(0x7F)}) == []

    @pytest.mark.parametrize("reply", [capacity(8, 0), capacity(8, 1 << 31), capacity(1 << 63, 512), (GOOD, b"\0\0")])
    def test_a_size_that_makes_no_sense_is_none(self, source: IscsiSource, reply: Reply) -> None:
        ((_, _, size, note),) = self.listed(source, commands={CAPACITY_16: reply})
        assert (size, note) == (None, "ACME DISK, disk, not ready")
        with ScriptedPortal(commands=DISK | {CAPACITY_16: reply}) as portal, pytest.raises(BadAnswer):
            source.open(at(portal, f"{IQN}:a", 1))

    def test_units_of_old_tell_their_size_in_the_short_form(self, source: IscsiSource) -> None:
        short = {CAPACITY_16: sense(5, 0x2000), CAPACITY_10: (GOOD, struct.pack(">II", 7, 512))}
        assert self.listed(source, commands=short) == [("1", "image", 4096, "ACME DISK, disk")]

    def test_a_unit_attention_passes(self, source: IscsiSource) -> None:
        left = [0x2900, 0x2A09, 0x3F0E]

        def attention(_: bytes) -> Reply:
            return sense(6, left.pop()) if left else capacity(8, 512)

        assert self.listed(source, commands={CAPACITY_16: attention}) == [("1", "image", 4096, "ACME DISK, disk")]
        assert not left

    def test_one_that_does_not_pass_is_an_error(self, source: IscsiSource) -> None:
        with (
            ScriptedPortal(commands=DISK | {READ_10: sense(6, 0x2900)}) as portal,
            source.open(at(portal, f"{IQN}:a", 1)) as reader,
            pytest.raises(BadAnswer),
        ):
            reader.pread(0, 512)

    @pytest.mark.parametrize(
        ("reply", "error", "words"),
        [
            ((GOOD, b"short"), BadAnswer, "5 bytes came instead of 512"),
            (sense(3, 0x1100), BadAnswer, "error of the medium"),
            (sense(4, 0x4400), BadAnswer, "error of the hardware"),
            (sense(2, 0x0401), Unreachable, "not ready"),
            (sense(2, 0x3A00), NotAnImage, "no medium"),
            (sense(7, 0x2700), Denied, "write-protected"),
            ((0x18, b""), Denied, "another initiator holds a reservation"),
            ((CHECK_CONDITION, b""), BadAnswer, ""),
        ],
    )
    def test_no_failed_read_gives_data(
        self, isolated: Source, reply: Reply, error: type[FarbootError], words: str
    ) -> None:
        with ScriptedPortal(commands=DISK | {READ_10: reply}) as portal:
            reader = isolated.open(at(portal, f"{IQN}:a", 1))
            with pytest.raises(FarbootError) as caught:
                reader.pread(0, 512)
            if words:
                assert isinstance(caught.value, error)
                assert words in str(caught.value)

    @pytest.mark.parametrize(
        "raw",
        [
            b"\0" * 48,
            b"\xff" * 480,
            b"HTTP/1.1 400 Bad Request\r\n\r\n" * 4,
            b"\x25\x81" + b"\0" * 3 + b"\xff\xff\xff" + b"\0" * 400,
            b"\x31\x80" + b"\0" * 46,
            b"\x3f\x80\x02" + b"\0" * 45,
        ],
        ids=["zeros", "ones", "http", "huge", "r2t", "reject"],
    )
    def test_nonsense_on_the_wire_costs_one_call_at_most_one_helper(self, isolated: Source, raw: bytes) -> None:
        with ScriptedPortal(commands=DISK, raw=raw) as portal:
            with pytest.raises(FarbootError):
                list(isolated.entries(at(portal, f"{IQN}:a", "")))
            portal.raw = b""
            assert len(list(isolated.entries(at(portal, f"{IQN}:a", "")))) == 1


class TestWords:
    @pytest.mark.parametrize(("number", "wire"), [(0, 0), (255, 255), (256, 0x4100), (16383, 0x7FFF), (0x4001, 0x4001)])
    def test_numbers_become_what_goes_over_the_wire(self, number: int, wire: int) -> None:
        lun = Lun.of(number)
        assert lun is not None
        assert (lun.wire, lun.number) == (wire, number)

    @pytest.mark.parametrize("number", [-1, 0x8000, 99_999])
    def test_there_are_no_others(self, number: int) -> None:
        assert Lun.of(number) is None

    def test_blocks_beyond_the_short_forms_reach_are_asked_for_in_the_long_one(self) -> None:
        assert commands.read((1 << 32) - 1, 1, 512).cdb[0] == 0x28
        assert commands.read(1 << 32, 1, 512).cdb[0] == 0x88
        assert commands.write((1 << 32) - 8, bytes(8192), 512).cdb[0] == 0x8A
        assert len(commands.read(1 << 40, 100, 512).cdb) == 16

    @pytest.mark.parametrize(
        ("text", "portal"),
        [
            ("10.0.0.1:3260,1", ("10.0.0.1", 3260)),
            ("10.0.0.1", ("10.0.0.1", 3260)),
            ("[fe80::1]:860,65535", ("fe80::1", 860)),
            ("san-1.example.org:1,1", ("san-1.example.org", 1)),
            ("10.0.0.1:0,1", None),
            ("10.0.0.1:99999,1", None),
            ("[10.0.0.1]:3260,1", None),
            ("-oProxyCommand=x", None),
            ("a b", None),
            ("", None),
        ],
    )
    def test_portals_are_taken_apart(self, text: str, portal: tuple[str, int] | None) -> None:
        assert portal_of(text) == portal

    def test_the_initiator_is_the_hosts_own_where_it_has_one(self, tmp_path: object) -> None:
        file = f"{tmp_path}/initiatorname.iscsi"
        assert own_initiator(file).startswith("iqn.2008-11.org.linux-kvm:farboot-")
        assert is_name(own_initiator(file))
        with open(file, "w", encoding="utf-8") as lines:
            lines.write(f"## comment\nInitiatorName={IQN}:node7\n")
        assert own_initiator(file) == f"{IQN}:node7"
        with open(file, "w", encoding="utf-8") as lines:
            lines.write("GenerateName=yes\nInitiatorName=iqn.2026-01.x:a b\n")
        assert own_initiator(file).startswith("iqn.2008-11.org.linux-kvm:farboot-")

    def test_registrants_are_told_by_their_names(self) -> None:
        name = b"iqn.1994-05.com.redhat:node1,i,0x00023d000001\0\0\0\0"
        transport = struct.pack(">BxH", 0x45, len(name)) + name
        one = struct.pack(">Q4xBB4xHI", 0xABC, 1, 3, 1, len(transport)) + transport
        answer = struct.pack(">II", 1, len(one)) + one
        (found,) = commands.registrants_of(answer)
        assert (found.name, found.holds) == ("iqn.1994-05.com.redhat:node1", True)
        for length in range(len(answer)):
            commands.registrants_of(answer[:length])

    def test_no_length_in_an_answer_is_believed(self) -> None:
        for answer in (b"", b"\xff" * 3, b"\xff" * 7, b"\xff" * 40, b"\0\x83\xff\xff" + b"\xff" * 20):
            commands.inquiry_of(answer)
            commands.capacity_of(answer)
            commands.luns_of(answer)
            commands.serial_of(answer)
            commands.identifier_of(answer)
            commands.most_blocks(answer)
            commands.registrants_of(answer)
            commands.keys_of(answer)
            commands.holder_of(answer)
            commands.is_write_protected(answer)
