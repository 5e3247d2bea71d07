"""What every source must do, tried on a real storage system: inherit it in `tests/sources/test_X.py`.

    class TestRbd(SourceContract, NetworkContract, CredentialContract):
        @pytest.fixture
        def storage(self, ceph): return Storage(...)          # what lies there, and where
        @pytest.fixture
        def faults(self, ceph): ...                           # for NetworkContract
        @pytest.fixture
        def lock(self, ceph): ...                             # for CredentialContract

A storage without a network inherits the first class only, one without passwords leaves the third away. Names that
the storage cannot hold are left out of `Storage.files` by its fixture, through `odd_names(without=…)`, where
the reader of the test sees them.
"""

import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from probes.credentials import NO_CREDENTIALS, Credentials
from probes.entry import Kind
from probes.errors import (
    Denied,
    FarbootError,
    NotAContainer,
    NotAnImage,
    NotFound,
    TimedOut,
    Unreachable,
)
from probes.location import Location
from probes.reader import BeginsReads
from probes.source import Source
from tests.servers.faults import BlackHole, FaultyProxy

Make = Callable[[Credentials, float], Source]

_ODD = {
    "space": "with a space.img",
    "edge-spaces": " edges .img ",
    "percent": "100%.img",
    "percent-code": "a%20b%2Fc.img",
    "comma": "a,b.img",
    "equals": "a=b.img",
    "hash": "a#b.img",
    "question": "a?b.img",
    "quote": 'a"b.img',
    "apostrophe": "a'b.img",
    "backslash": "a\\b.img",
    "semicolon": "a;b.img",
    "ampersand": "a&amp;b&c.img",
    "plus": "a+b.img",
    "at": "a@b.img",
    "colon": "a:b.img",
    "scheme": "http:b.img",
    "dollar": "$(id)`id`.img",
    "angle": "<b>a<b>.img",
    "utf-8": "grün-日本.img",
    "composed": "e\u0301\u202e.img",
    "invalid-utf-8": os.fsdecode(b"\xff\xfe.img"),
    "latin-1": os.fsdecode(b"gr\xfcn.img"),
    "markup": "[bold]a[red].img",
    "escape": "\x1b[31mred\x07.img",
    "newline": "a\nb.img",
    "dash": "-rf.img",
    "dots": "..foo.img",
    "hidden-not": "a..img",
    "star": "a*{b}.img",
    "tilde": "~root.img",
    "long": "long-" * 40 + ".img",
}


def odd_names(without: Iterable[str] = ()) -> list[str]:
    """Names that storage systems hold and programs stumble over; `without` names the kinds that this one cannot."""
    left_out = set(without)
    assert left_out <= set(_ODD), f"no such kind of name: {left_out - set(_ODD)}"
    return [name for kind, name in _ODD.items() if kind not in left_out]


def content(size: int, seed: int = 0) -> bytes:
    """Bytes of which every 8 differ from every other 8, so that a misplaced read shows."""
    return b"".join((seed << 40 | number).to_bytes(8, "big") for number in range((size + 7) // 8))[:size]


@dataclass(frozen=True)
class Storage:
    """What the tests find on a real storage system.

    `make` makes a fresh source from credentials and a deadline in seconds. `container` holds exactly `files` (raw
    name to content), of which `image` names one of at least 200,000 bytes, and the containers `containers` (raw
    name to *its* files), at least one of them empty. `missing` is a location in `container` that does not exist.
    `credentials` open it all. Where the place that lists the containers is not `container` itself (rbd: the pool lists
    namespaces and images, but nothing nests deeper), `outer` is that place. `image_kind` is the kind of the files
    that end in `.img`, `exact_sizes` whether listings tell every size exactly.
    """

    make: Make
    container: Location
    files: Mapping[str, bytes]
    image: str
    missing: Location
    containers: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    outer: Location | None = None
    credentials: Credentials = NO_CREDENTIALS
    image_kind: Kind = Kind.IMAGE
    exact_sizes: bool = True

    def source(self, deadline: float = 10.0) -> Source:
        """A source that may see everything."""
        return self.make(self.credentials, deadline)


def locations(source: Source, container: Location) -> dict[str, Location]:
    """Where the entries of `container` are, by name."""
    return {entry.name: entry.location for entry in source.entries(container)}


class SourceContract:
    """The obligations of `probes.source.Source` and `probes.reader.Reader`."""

    def test_lists_every_file_once_with_its_name_and_kind(self, storage: Storage) -> None:
        with storage.source() as source:
            found = [entry for entry in source.entries(storage.container) if entry.kind is not Kind.CONTAINER]
        assert sorted(entry.name for entry in found) == sorted(storage.files)
        assert {entry.kind for entry in found if entry.name.endswith(".img")} == {storage.image_kind}

    def test_lists_the_size_of_every_file(self, storage: Storage) -> None:
        with storage.source() as source:
            found = [entry for entry in source.entries(storage.container) if entry.kind is not Kind.CONTAINER]
        for entry in found:
            size = len(storage.files[entry.name])
            if storage.exact_sizes:
                assert (entry.size, entry.rounded) == (size, False), entry.name
            elif entry.size is not None and not entry.rounded:
                assert entry.size == size, entry.name

    def test_a_listed_location_given_back_as_text_opens_the_same_thing(self, storage: Storage) -> None:
        with storage.source() as source:
            for entry in list(source.entries(storage.container)):
                again, credentials = Location.parse(str(entry.location))
                assert again == entry.location
                assert not credentials.secrets()
                if entry.kind is Kind.CONTAINER:
                    inside = {item.name for item in source.entries(again)}
                    assert inside == set(storage.containers[entry.name]), entry.name
                else:
                    with source.open(again) as reader:
                        assert reader.pread(0, 1 << 20) == storage.files[entry.name], entry.name

    def test_tells_containers_from_files_by_listing(self, storage: Storage) -> None:
        with storage.source() as source:
            found = [e.name for e in source.entries(storage.outer or storage.container) if e.kind is Kind.CONTAINER]
        assert sorted(found) == sorted(storage.containers)

    def test_an_empty_container_lists_nothing(self, storage: Storage) -> None:
        with storage.source() as source:
            places = locations(source, storage.outer or storage.container)
            empty = [name for name, files in storage.containers.items() if not files]
            assert empty, "the storage's fixture should have an empty container"
            for name in empty:
                assert list(source.entries(places[name])) == []

    def test_stat_of_a_container(self, storage: Storage) -> None:
        with storage.source() as source:
            assert source.stat(storage.container).kind is Kind.CONTAINER

    def test_stat_of_each_file_tells_kind_and_exact_size(self, storage: Storage) -> None:
        with storage.source() as source:
            for name, location in locations(source, storage.container).items():
                if name in storage.files:
                    entry = source.stat(location)
                    assert (entry.name, entry.size, entry.rounded) == (name, len(storage.files[name]), False)
                    assert entry.kind is (storage.image_kind if name.endswith(".img") else entry.kind)
                    assert entry.kind is not Kind.CONTAINER

    @pytest.mark.parametrize("operation", ["stat", "open", "entries"])
    def test_what_is_missing_is_not_found(self, storage: Storage, operation: str) -> None:
        with storage.source() as source, pytest.raises(NotFound):
            _run(source, operation, storage.missing)

    def test_a_container_cannot_be_opened(self, storage: Storage) -> None:
        with storage.source() as source, pytest.raises(NotAnImage):
            source.open(storage.container)

    def test_an_image_cannot_be_listed(self, storage: Storage) -> None:
        with storage.source() as source:
            image = locations(source, storage.container)[storage.image]
            with pytest.raises(NotAContainer):
                list(source.entries(image))

    @pytest.mark.parametrize(
        ("offset", "length"),
        [
            (0, 512),
            (0, 0),
            (0, 70_000),
            (1, 1),
            (65_535, 2),
            (65_536, 4096),
            (100_001, 33_333),
            (-512, 512),
            (-1, 1),
            (-100, 4096),
            (0, 1 << 21),
            (1 << 50, 512),
            (1 << 50, 0),
        ],
    )
    def test_reads_exactly_what_lies_there(self, storage: Storage, offset: int, length: int) -> None:
        """Negative offsets count from the image's end."""
        whole = storage.files[storage.image]
        start = offset if offset >= 0 else len(whole) + offset
        with storage.source() as source, source.open(locations(source, storage.container)[storage.image]) as reader:
            assert reader.size == len(whole)
            assert reader.pread(start, length) == whole[start : start + length]

    def test_reading_at_the_very_end_gives_nothing(self, storage: Storage) -> None:
        with storage.source() as source, source.open(locations(source, storage.container)[storage.image]) as reader:
            assert reader.pread(reader.size, 512) == b""

    def test_sixteen_threads_read_at_once(self, storage: Storage) -> None:
        whole = storage.files[storage.image]
        spans = [(number * 3001 % (len(whole) - 5000), 5000) for number in range(96)]
        with (
            storage.source() as source,
            source.open(locations(source, storage.container)[storage.image]) as reader,
            ThreadPoolExecutor(16) as pool,
        ):
            pieces = list(pool.map(lambda span: reader.pread(*span), spans))
        assert pieces == [whole[offset : offset + length] for offset, length in spans]

    def test_reads_that_are_only_begun_give_the_same(self, storage: Storage) -> None:
        """Where a reader can do that at all."""
        whole = storage.files[storage.image]
        with storage.source() as source, source.open(locations(source, storage.container)[storage.image]) as reader:
            if not isinstance(reader, BeginsReads):
                return
            spans = [(number * 4096 % (len(whole) - 8192), 4096) for number in range(64)]
            begun = [(span, reader.begin_read(*span)) for span in (*spans, (len(whole) - 100, 4096), (len(whole), 512))]
            for (offset, length), read in begun:
                if read is not None:
                    done = threading.Event()
                    read.when_done(done.set)
                    assert done.wait(30)
                    assert read.result() == whole[offset : offset + length]

    def test_the_pin_of_unchanged_content_stays(self, storage: Storage) -> None:
        with storage.source() as source:
            image = locations(source, storage.container)[storage.image]
            with source.open(image) as first, source.open(image) as second:
                assert first.pin == second.pin
                assert first.pin.size == len(storage.files[storage.image])

    def test_closing_twice_is_fine_and_reading_afterwards_fails(self, storage: Storage) -> None:
        source = storage.source()
        reader = source.open(locations(source, storage.container)[storage.image])
        reader.close()
        reader.close()
        with pytest.raises(FarbootError):
            reader.pread(0, 512)
        source.close()
        source.close()

    def test_a_listing_that_nobody_finishes_leaves_the_source_usable(self, storage: Storage) -> None:
        with storage.source() as source:
            next(iter(source.entries(storage.container)))
            assert len(list(source.entries(storage.container))) >= len(storage.files)


class Faults(ABC):
    """How to make a storage's network fail. `NetworkContract`'s fixture `faults` gives one."""

    @property
    @abstractmethod
    def refused(self) -> Location:
        """A container where nobody listens."""

    @property
    @abstractmethod
    def hole(self) -> Location:
        """A container on a server that accepts and never answers."""

    @property
    @abstractmethod
    def container(self) -> Location:
        """A container reached through something that can break; it holds `image` and enough that listing it is
        more than one packet.
        """

    @property
    @abstractmethod
    def image(self) -> Location:
        """An image of at least 200,000 bytes in `container`."""

    @abstractmethod
    def break_listing(self) -> None:
        """Have the connection die in the middle of the next listing."""

    @abstractmethod
    def break_reads(self) -> None:
        """Have the connection die in the middle of the reads to come, those of open readers as well."""

    @abstractmethod
    def mend(self) -> None:
        """Let everything work again, for new connections."""


class Breakable(Protocol):
    """A proxy as `tests.servers.faults.FaultyProxy` is one."""

    cut_after: int | None

    @property
    def authority(self) -> str:
        """`host:port`, as a URL has it."""
        ...

    def hang_up(self) -> None:
        """Break every open connection."""

    def heal(self) -> None:
        """Be a good proxy (again)."""

    def close(self) -> None:
        """Stop listening."""


class ProxyFaults(Faults):
    """A real server at `port`, behind a proxy that breaks; `listing` bytes into a listing it dies.

    `proxy` is a FaultyProxy unless the protocol wants another. The container is the server's root.
    """

    def __init__(self, scheme: str, port: int, refused: int, listing: int, proxy: Breakable | None = None) -> None:
        self.scheme = scheme
        self.listing = listing
        self.refused_port = refused
        self.proxy: Breakable = proxy or FaultyProxy(port)
        self.black_hole = BlackHole()

    def close(self) -> None:
        """End the proxy and the hole."""
        self.proxy.close()
        self.black_hole.close()

    @property
    def refused(self) -> Location:
        return Location(self.scheme, f"127.0.0.1:{self.refused_port}", "/")

    @property
    def hole(self) -> Location:
        return Location(self.scheme, self.black_hole.authority, "/")

    @property
    def container(self) -> Location:
        return Location(self.scheme, self.proxy.authority, "/")

    @property
    def image(self) -> Location:
        return self.container.child("image.img")

    def break_listing(self) -> None:
        self.proxy.cut_after = self.listing

    def break_reads(self) -> None:
        self.proxy.cut_after = 120_000
        self.proxy.hang_up()

    def mend(self) -> None:
        self.proxy.heal()


class NetworkContract:
    """What a source over a network owes when the network fails."""

    @pytest.mark.parametrize("operation", ["stat", "open", "entries"])
    def test_a_refused_connection_is_unreachable(self, storage: Storage, faults: Faults, operation: str) -> None:
        with storage.source() as source, pytest.raises(Unreachable):
            _run(source, operation, faults.refused)

    @pytest.mark.parametrize("operation", ["stat", "open", "entries"])
    def test_a_silent_server_times_out(self, storage: Storage, faults: Faults, operation: str) -> None:
        with storage.source(deadline=0.7) as source, pytest.raises(TimedOut):
            _run(source, operation, faults.hole)

    def test_closing_the_source_ends_a_call_that_waits(self, storage: Storage, faults: Faults) -> None:
        source = storage.source(deadline=120.0)
        begun = threading.Event()

        def ask() -> object:
            begun.set()
            return source.stat(faults.hole)

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            assert begun.wait(30)
            source.close()
            with pytest.raises(FarbootError):
                asked.result(timeout=60)

    def test_a_listing_cut_short_is_an_error_and_the_next_one_works(self, storage: Storage, faults: Faults) -> None:
        with storage.source(deadline=5.0) as source:
            faults.break_listing()
            with pytest.raises(FarbootError):
                list(source.entries(faults.container))
            faults.mend()
        with storage.source() as source:
            names = sorted(entry.name for entry in source.entries(faults.container) if entry.kind is not Kind.CONTAINER)
        assert names == sorted(storage.files)

    def test_a_read_cut_short_is_an_error_and_never_short_data(self, storage: Storage, faults: Faults) -> None:
        whole = storage.files[storage.image]
        span = (100_000, len(whole) - 100_000)
        with storage.source(deadline=5.0) as source, source.open(faults.image) as reader:
            faults.break_reads()
            with pytest.raises(FarbootError):
                reader.pread(*span)
            faults.mend()
        with storage.source() as source, source.open(faults.image) as reader:
            assert reader.pread(*span) == whole[span[0] :]


@dataclass(frozen=True)
class Lock:
    """A place that wants credentials: `image` in `container`, opened by `right`, not by `wrong` nor by `none`.

    `wants` are the fields of `Credentials` that `Denied` must name.
    """

    container: Location
    image: Location
    right: Credentials
    wrong: Credentials
    wants: tuple[str, ...]
    none: Credentials = NO_CREDENTIALS


class CredentialContract:
    """What a source that can be locked owes."""

    @pytest.mark.parametrize("operation", ["stat", "open", "entries"])
    def test_the_right_credentials_open_it(self, storage: Storage, lock: Lock, operation: str) -> None:
        with storage.make(lock.right, 10.0) as source:
            _run(source, operation, lock.container if operation == "entries" else lock.image)

    @pytest.mark.parametrize("operation", ["stat", "open", "entries"])
    def test_none_are_denied_and_it_says_which_are_wanted(self, storage: Storage, lock: Lock, operation: str) -> None:
        with storage.make(lock.none, 10.0) as source, pytest.raises(Denied) as caught:
            _run(source, operation, lock.container if operation == "entries" else lock.image)
        assert caught.value.wants == lock.wants

    @pytest.mark.parametrize("operation", ["stat", "open", "entries"])
    def test_wrong_ones_are_denied_and_appear_in_no_error(self, storage: Storage, lock: Lock, operation: str) -> None:
        with storage.make(lock.wrong, 10.0) as source, pytest.raises(Denied) as caught:
            _run(source, operation, lock.container if operation == "entries" else lock.image)
        assert caught.value.wants == lock.wants
        told = " ".join(
            [str(caught.value), repr(caught.value), caught.value.detail, json.dumps(caught.value.as_json())]
        )
        for secret in lock.wrong.secrets():
            assert secret.reveal() not in told


def _run(source: Source, operation: str, location: Location) -> None:
    """Carry one operation out to its end."""
    if operation == "entries":
        list(source.entries(location))
    elif operation == "stat":
        source.stat(location)
    else:
        source.open(location).close()
