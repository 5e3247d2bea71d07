"""Which key writes into an image, what is asked before, and that every place says which boot it would be."""

from pathlib import Path

import pytest

from app.engine import Inspection, Prepared
from app.memory import Memory
from app.qemu.options import Options
from app.qemu.sessions.session import SessionInfo
from app.screens.starting import Starting
from probes.attachment import Mode
from probes.image import Image
from probes.known.root import Root
from probes.location import Location
from probes.source import Progress
from tests.screens.driving import Drive, driving, memory_in
from tests.screens.fakes import FakeEngine, FakeGuests, entry, guest

NAS = Location.parse("nfs://nas/golden/")[0]
WEB = Location.parse("http://web.example.org/")[0]


class Booting(FakeEngine):
    """Writes down the mode of what was prepared last when it is booted."""

    def __init__(self, where: Location = NAS) -> None:
        super().__init__([entry("debian.qcow2", 1 << 30, where=where), entry("cd.iso", 1 << 20, where=where)])
        self.booted: list[Mode] = []
        self._mode = Mode.SNAPSHOT

    def prepare(
        self,
        location: Location,
        options: Options,
        inspection: Inspection | None = None,
        fetch: Progress | None = None,
    ) -> Prepared:
        self._mode = options.mode
        prepared = super().prepare(location, options, inspection)
        if options.mode is Mode.SNAPSHOT:
            return prepared
        warning = f"Write into {location} (qcow2, 3 GiB)? Whether others use it cannot be known."
        return Prepared(prepared.plan, {}, prepared.credentials, prepared.inspection, warning=warning)

    def boot(self, prepared: Prepared) -> SessionInfo:
        self.booted.append(self._mode)
        return guest("debian-a1b", "debian.qcow2")

    def script(self, prepared: Prepared) -> str:
        return f"#!/bin/sh\n# a {self._mode} boot\n"


@pytest.fixture
def guests() -> FakeGuests:
    return FakeGuests([guest("debian-a1b", "debian.qcow2")])


async def to_debian(drive: Drive) -> None:
    await drive.until_listed("debian.qcow2")
    await drive.press("end")
    await drive.until_seen("OK to boot", "-drive")


async def test_b_boots_a_snapshot_and_says_so(guests: FakeGuests) -> None:
    engine = Booting()
    async with driving(NAS, engine, guests) as drive:
        await to_debian(drive)
        await drive.until_seen("b Boot snapshot", "w Write", "a snapshot: what the guest writes is thrown away")
        await drive.press("b")
        await drive.until(lambda: engine.booted == [Mode.SNAPSHOT])


async def test_w_names_the_image_and_waits_for_a_whole_word(guests: FakeGuests) -> None:
    engine = Booting()
    async with driving(NAS, engine, guests) as drive:
        await to_debian(drive)
        await drive.press("w")
        await drive.until_seen(
            "WRITING into debian.qcow2", "Write into nfs://nas/golden/debian.qcow2", "cannot be known"
        )
        await drive.press("enter")
        await drive.type("y\n")
        await drive.until_seen("type yes")
        assert engine.booted == []
        await drive.type("yes\n")
        await drive.until(lambda: engine.booted == [Mode.WRITE])


async def test_esc_leaves_it_as_it_is(guests: FakeGuests) -> None:
    engine = Booting()
    async with driving(NAS, engine, guests) as drive:
        await to_debian(drive)
        await drive.press("w")
        await drive.until_seen("Write into")
        await drive.type("ye")
        await drive.press("escape")
        await drive.until(lambda: not isinstance(drive.app.screen, Starting))
        assert engine.booted == []


async def test_no_is_an_answer_too(guests: FakeGuests) -> None:
    engine = Booting()
    async with driving(NAS, engine, guests) as drive:
        await to_debian(drive)
        await drive.press("w")
        await drive.until_seen("Write into")
        await drive.type("no\n")
        await drive.until(lambda: not isinstance(drive.app.screen, Starting))
        assert engine.booted == []


async def test_keys_pressed_ahead_of_the_question_do_not_answer_it(guests: FakeGuests) -> None:
    engine = Booting()
    async with driving(NAS, engine, guests) as drive:
        await to_debian(drive)
        drive.burst("w", "y", "e", "s", "enter")
        await drive.until_seen("Write into")
        await drive.press("enter")
        assert engine.booted == []


async def test_what_cannot_be_written_has_no_key_that_writes(guests: FakeGuests) -> None:
    engine = Booting(WEB)
    async with driving(WEB, engine, guests) as drive:
        await to_debian(drive)
        await drive.until_seen("b Boot snapshot")
        assert "w Write" not in drive.screen
        await drive.press("w", "s")
        assert not isinstance(drive.app.screen, Starting)


@pytest.fixture
def writer(tmp_path: Path) -> Memory:
    """A person whose settings say that b writes."""
    (tmp_path / "settings.toml").write_text('boot = "write"\nmemory = "512M"\n')
    return memory_in(tmp_path)


async def test_by_the_setting_b_writes_after_the_question_and_s_is_the_snapshot(
    guests: FakeGuests, writer: Memory
) -> None:
    engine = Booting()
    async with driving(NAS, engine, guests, memory=writer) as drive:
        await to_debian(drive)
        await drive.until_seen("b Boot, writing", "s Snapshot", "it for writing, after a question")
        await drive.press("b")
        await drive.until_seen("Write into")
        await drive.press("escape")
        await drive.until(lambda: not isinstance(drive.app.screen, Starting))
        await drive.press("s")
        await drive.until(lambda: engine.booted == [Mode.SNAPSHOT])


async def test_the_setting_does_not_make_a_web_servers_image_writable(guests: FakeGuests, writer: Memory) -> None:
    engine = Booting(WEB)
    async with driving(WEB, engine, guests, memory=writer) as drive:
        await to_debian(drive)
        await drive.until_seen("b Boot snapshot")
        await drive.press("b")
        await drive.until(lambda: engine.booted == [Mode.SNAPSHOT])


async def test_the_command_says_which_boot_it_is_and_shows_the_other(guests: FakeGuests) -> None:
    async with driving(NAS, Booting(), guests) as drive:
        await to_debian(drive)
        await drive.press("v")
        await drive.until_seen("boots a snapshot", "# a snapshot boot", "w Writing boot")
        await drive.press("w")
        await drive.until_seen("boots, WRITING into it", "# a write boot", "s Snapshot boot")


async def test_the_settings_are_what_a_boot_begins_with(guests: FakeGuests, writer: Memory) -> None:
    chosen: list[Options] = []

    class Remembering(Booting):
        def prepare(
            self,
            location: Location,
            options: Options,
            inspection: Inspection | None = None,
            fetch: Progress | None = None,
        ) -> Prepared:
            chosen.append(options)
            return super().prepare(location, options, inspection)

        def image(self, location: Location) -> Image:
            return super().image(location)

    async with driving(NAS, Remembering(), guests, memory=writer) as drive:
        await to_debian(drive)
        await drive.press("s")
        await drive.until(lambda: chosen and chosen[-1].mode is Mode.SNAPSHOT)
        assert chosen[-1].memory == 512 << 20


async def test_a_running_guests_disk_is_refused_at_w(tmp_path: Path, images: Path) -> None:
    from app.engine import Engine

    class Running(Root):
        def read(self, path: str) -> str:
            return "1" if path == "/run/libvirt/qemu/web.pid" else super().read(path)

    folder = tmp_path / ".config/libvirt/qemu"
    folder.mkdir(parents=True)
    source = f"<source file='{images}/disk1.raw'/>"
    (folder / "web.xml").write_text(
        f"<domain><name>web</name><devices><disk type='file'>{source}</disk></devices></domain>"
    )
    async with driving(images / "disk1.raw", Engine(root=Running("/", str(tmp_path)))) as drive:
        await drive.until_seen("OK to boot")
        await drive.press("w")
        await drive.until_seen("It will not be booted", "libvirt guest web, which")
