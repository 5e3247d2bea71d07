"""NFS, against a real server: the contract, by version 3 and by version 4 alone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from probes.location import Location
from probes.registry import open_source
from tests.servers.faults import BlackHole, FaultyProxy
from tests.servers.ganesha import Ganesha, at
from tests.sources.contract import Faults, NetworkContract, SourceContract, Storage, content, odd_names


def fill(folder: Path) -> tuple[Mapping[str, bytes], Mapping[str, Mapping[str, bytes]]]:
    """Write the contract's files and folders; return what it wants to know of them."""
    files = {name: content(600 + index, index) for index, name in enumerate(odd_names())}
    files |= {"image.img": content(300_000, 99), "empty.img": b"", "vmlinuz": b"kernel"}
    containers: dict[str, dict[str, bytes]] = {"plain": {}, "a@c:d=e\\f [bold]\x1b[31m,#?%20": {"in.img": b"inside"}}
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for name, inside in containers.items():
        (folder / name).mkdir()
        for inner, data in inside.items():
            (folder / name / inner).write_bytes(data)
    return files, containers


def storage_at(place: Location, folder: Path) -> Storage:
    files, containers = fill(folder)
    return Storage(
        make=lambda credentials, deadline: open_source(Location("nfs", "host"), credentials, deadline),
        container=place.child("contract", container=True),
        files=files,
        image="image.img",
        missing=place.child("contract", container=True).child("missing.img"),
        containers=containers,
    )


@pytest.fixture(scope="module")
def storage3(ganesha: Ganesha) -> Storage:
    return storage_at(at(ganesha.location("images")), ganesha.folder("images") / "contract")


@pytest.fixture(scope="module")
def storage4(ganesha4: Ganesha) -> Storage:
    return storage_at(at(f"nfs://{ganesha4.address}/images/"), ganesha4.folder("images") / "contract")


class Proxied(Faults):
    """The server behind a proxy that breaks connections."""

    def __init__(self, proxy: FaultyProxy, container: Location, refused: int, hole: int) -> None:
        self._proxy = proxy
        self._container = container
        self._ports = refused, hole

    def _with_port(self, port: int) -> Location:
        return replace(self._container, authority=f"127.0.0.1:{port}", query=f"mountport={port}")

    @property
    def refused(self) -> Location:
        return self._with_port(self._ports[0])

    @property
    def hole(self) -> Location:
        return self._with_port(self._ports[1])

    @property
    def container(self) -> Location:
        return self._container

    @property
    def image(self) -> Location:
        return self._container.child("image.img")

    def break_listing(self) -> None:
        self._proxy.cut_after = 3000

    def break_reads(self) -> None:
        self._proxy.cut_after = 50_000

    def mend(self) -> None:
        self._proxy.heal()


class TestNfsContract(SourceContract, NetworkContract):
    """Version 3, run as the application runs it: in a child process."""

    @pytest.fixture
    def storage(self, storage3: Storage) -> Storage:
        return storage3

    @pytest.fixture
    def faults(
        self, storage: Storage, nfs_proxied: tuple[FaultyProxy, str], black_hole: BlackHole, refused_port: int
    ) -> Faults:
        proxy, place = nfs_proxied
        return Proxied(proxy, at(place.format(storage.container.path)), refused_port, black_hole.port)


class TestNfs4Contract(SourceContract):
    """A server that speaks version 4 only, and has no portmapper."""

    @pytest.fixture
    def storage(self, storage4: Storage) -> Storage:
        return storage4
