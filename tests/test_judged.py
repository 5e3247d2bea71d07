"""What images were judged to be: remembered while the listing does not say that they are others."""

from dataclasses import replace
from datetime import datetime

from app.judged import Judged, JudgedImages
from probes.entry import Entry, Kind
from probes.image import Image
from probes.location import Location
from probes.reader import Pin

NOON = datetime(2026, 5, 1, 12)  # noqa: DTZ001 servers' times often have no zone
DISK = Entry(Location.parse("http://host/a.img")[0], "a.img", Kind.IMAGE, 4096, NOON)
JUDGED = Judged(Image("raw", 4096, 4096), Pin(4096, "etag", strong=True))


def memory(entry: Entry = DISK) -> JudgedImages:
    kept = JudgedImages()
    kept.keep(entry, JUDGED)
    return kept


def test_the_same_size_and_time_prove_that_it_is_the_same_image() -> None:
    found = memory().of(DISK)
    assert found is not None
    assert found.judged is JUDGED
    assert found.is_certain


def test_another_size_or_time_is_another_image_for_good() -> None:
    for other in (replace(DISK, size=8192), replace(DISK, modified=NOON.replace(minute=1))):
        kept = memory()
        assert kept.of(other) is None
        assert kept.of(DISK) is None


def test_a_listing_that_tells_too_little_is_believed_for_now() -> None:
    vague = (replace(DISK, size=None), replace(DISK, modified=None), replace(DISK, size=4000, rounded=True))
    for entry in vague:
        for kept in (memory(), memory(entry)):
            found = kept.of(entry)
            assert found is not None
            assert not found.is_certain


def test_images_elsewhere_are_not_known() -> None:
    assert memory().of(replace(DISK, location=Location.parse("http://other/a.img")[0])) is None


def test_those_that_were_used_last_are_kept() -> None:
    kept = JudgedImages(most=3)
    entries = [replace(DISK, location=Location.parse(f"http://host/{name}.img")[0]) for name in "abcd"]
    for entry in entries[:3]:
        kept.keep(entry, JUDGED)
    kept.of(entries[0])
    kept.keep(entries[3], JUDGED)
    assert [kept.of(entry) is not None for entry in entries] == [True, False, True, True]


def test_for_another_person_everything_is_forgotten() -> None:
    kept = memory()
    kept.forget()
    assert kept.of(DISK) is None
