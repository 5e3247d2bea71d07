"""Where Esc leads, and o: on servers that answer, on those that do not, and on those that list nothing."""

from collections.abc import Iterator
from dataclasses import replace

from textual.widgets import Input

from app.screens.open_location import OpenLocation
from probes.entry import Entry, Kind
from probes.errors import FarbootError, NotFound, Unreachable, Unsupported
from probes.location import Location
from tests.screens.driving import driving
from tests.screens.fakes import FakeEngine, entry

NAS = Location.parse("nfs://nas/")[0]
BOOT = Location.parse("tftp://boot/")[0]


async def test_esc_leads_to_the_place_in_which_one_was_found_however_deep_it_lies() -> None:
    def listing(location: Location) -> Iterator[Entry]:
        if location == NAS:
            export = Location.parse("nfs://nas/srv/deep/export/")[0]
            yield Entry(export, "/srv/deep/export", Kind.CONTAINER)
        else:
            yield entry("a.img", 1, where=location)

    async with driving(NAS, FakeEngine(listing)) as drive:
        await drive.until_listed("/srv/deep/export")
        await drive.press("enter")
        await drive.until_listed("a.img")
        await drive.press("escape")
        await drive.until_listed("/srv/deep/export")
        await drive.press("escape")
        assert drive.app.screen.focused is drive.browse.places


async def test_esc_from_a_server_that_does_not_answer_asks_it_for_nothing_more() -> None:
    asked: list[Location] = []

    def listing(location: Location) -> Iterator[Entry]:
        asked.append(location)
        raise Unreachable("list", location, "nobody answers")
        yield

    async with driving("nfs://nas/srv/images/", FakeEngine(listing)) as drive:
        await drive.until_seen("nobody answers")
        await drive.press("escape")
        assert drive.app.screen.focused is drive.browse.places
        assert len(asked) == 1


async def test_esc_from_a_misspelt_folder_leads_to_the_one_around_it() -> None:
    def listing(location: Location) -> Iterator[Entry]:
        if location.names[-1:] == ("imges",):
            raise NotFound("list", location, "there is no such folder")
        yield entry("images/", where=location)

    async with driving("nfs://nas/srv/imges/", FakeEngine(listing)) as drive:
        await drive.until_seen("there is no such folder")
        await drive.press("escape")
        await drive.until_listed("images")


class Unlisted(FakeEngine):
    """A server that knows files by their names only, and lists none but those of a menu."""

    def __init__(self) -> None:
        super().__init__(self._list)

    @staticmethod
    def _list(location: Location) -> Iterator[Entry]:
        error: FarbootError = Unsupported("list", location, "TFTP has no listings", "type the path of an image")
        if location.names != ("menu",):
            raise error
        yield replace(entry("a.iso", 1, where=BOOT), note="the default")


async def test_on_a_server_that_lists_nothing_o_begins_with_its_address() -> None:
    async with driving(BOOT, Unlisted()) as drive:
        await drive.until_seen("TFTP has no listings")
        await drive.press("o")
        await drive.until(lambda: isinstance(drive.app.screen, OpenLocation) and drive.app.screen.focused, "the line")
        assert drive.app.screen.query_one(Input).value == "tftp://boot/"
        await drive.type("menu/\n")
        await drive.until_listed("a.iso")


async def test_esc_from_what_such_a_server_listed_does_not_ask_it_for_another_list() -> None:
    async with driving("tftp://boot/menu/", Unlisted()) as drive:
        await drive.until_listed("a.iso")
        await drive.press("escape")
        assert drive.app.screen.focused is drive.browse.places
