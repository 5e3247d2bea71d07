"""The registry: it knows every storage system, and imports none before it is used."""

import importlib
import subprocess
import sys

import pytest

from probes import registry
from probes.errors import MissingClient, Unsupported
from probes.isolation.source import IsolatedSource
from probes.location import SCHEMES, Location
from probes.registry import SYSTEMS, Client, System, load_source, open_source, system_of
from probes.source import HasSnapshots, Source, TellsUse

CLIENTS = ("requests", "urllib3", "paramiko", "rados", "rbd", "libnfs", "nbd", "textual", "rich", "asyncio", "ssl")


def imported_after(program: str) -> set[str]:
    """The modules that a fresh interpreter holds after running `program`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.split())


def test_importing_it_imports_no_client_and_no_source() -> None:
    held = imported_after("import probes.registry")
    assert not held & set(CLIENTS)
    assert not any(name.startswith(("probes.sources.", "probes.formats.")) for name in held)


def test_asking_whether_a_client_is_there_does_not_import_it() -> None:
    held = imported_after("from probes.registry import SYSTEMS\nfor s in SYSTEMS: [c.present for c in s.clients]")
    assert not held & set(CLIENTS)


def test_an_isolated_source_imports_its_client_in_the_child_only() -> None:
    program = (
        "from probes.registry import open_source\nfrom probes.location import Location\n"
        "from probes.errors import FarbootError\n"
        "with open_source(Location.parse('rbd:pool:conf=/nonexistent')[0], deadline=2) as source:\n"
        "    try: source.stat(Location.parse('rbd:pool:conf=/nonexistent')[0])\n"
        "    except FarbootError: pass\n"
    )
    assert not imported_after(program) & {"rados", "rbd", "probes.sources.rbd"}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.title)
class TestEachSystem:
    def test_its_class_is_what_the_registry_says(self, system: System) -> None:
        kind = load_source(system.source)
        assert issubclass(kind, Source)
        assert set(kind.schemes) == set(system.schemes)
        assert kind.title == system.title
        for ability, method in ((HasSnapshots, "snapshots"), (TellsUse, "in_use")):
            assert hasattr(kind, method) == (ability in system.abilities), ability

    def test_its_schemes_are_known_to_locations_and_its_example_is_one(self, system: System) -> None:
        assert set(system.schemes) <= set(SCHEMES)
        location, credentials = Location.parse(system.example)
        assert location.scheme in system.schemes
        assert not credentials

    def test_it_opens_without_contacting_anything(self, system: System) -> None:
        location = Location.parse(system.example)[0]
        with open_source(location) as source:
            assert source.schemes == load_source(system.source).schemes
            assert source.title == system.title
            assert isinstance(source, IsolatedSource) == system.isolated
            assert isinstance(source, HasSnapshots) == (HasSnapshots in system.abilities)
            assert isinstance(source, TellsUse) == (TellsUse in system.abilities)

    def test_each_client_names_a_package(self, system: System) -> None:
        for client in system.clients:
            assert client.remedy.startswith("apt install ")
            assert client.present, f"{client.module} is missing here"


def test_no_scheme_is_spoken_twice() -> None:
    schemes = [scheme for system in SYSTEMS for scheme in system.schemes]
    assert len(set(schemes)) == len(schemes)


def test_a_scheme_that_nobody_speaks_yet_is_unsupported_and_says_what_is_spoken() -> None:
    with pytest.raises(Unsupported, match=r"it speaks .*http"):
        open_source(Location("gopher", "h", "/"))


def test_a_missing_client_disables_its_source_and_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client("no_such_client", "python3-such", "python3-suche", "such")
    lost = System("Lost", ("lost",), "probes.sources.lost:LostSource", clients=(client,))
    monkeypatch.setattr(registry, "SYSTEMS", (lost, *SYSTEMS))
    with pytest.raises(MissingClient) as caught:
        open_source(Location("lost", "h", "/"))
    assert caught.value.hint == "apt install python3-such or dnf install python3-suche or pip install such"
    assert system_of("file").title == "Files"


def test_a_client_that_is_half_there_counts_as_missing() -> None:
    assert not Client("no_such.client").present
    assert not Client("").present
    assert importlib.util.find_spec("json")
    assert Client("json").present
