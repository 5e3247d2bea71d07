"""Ceph, from the listing to the guest: with a keyring, with a key as a secret, and with the key in the location."""

import json

import pytest

from app.demo.guest import GuestImages
from tests.conftest import Farboot
from tests.servers.ceph import Ceph
from tests.systems.contract import HasDriver, Listed, Stored, SystemContract, boots
from tests.systems.watch import watching


class TestRbd(Listed, HasDriver, SystemContract):
    @pytest.fixture
    def stored(self, ceph: Ceph, quick_guest: GuestImages) -> Stored:
        pool = ceph.fresh_pool()
        ceph.image(pool, "tiny", quick_guest.raw.read_bytes())
        return Stored(f"rbd:{pool}/tiny:conf={ceph.conf}", f"rbd:{pool}:conf={ceph.conf}", "tiny", module="rbd")


class TestWithAKey(Listed, HasDriver, SystemContract):
    """Without a keyring and a configuration: the monitor's address and a key are all that there is."""

    @pytest.fixture
    def stored(self, ceph: Ceph, quick_guest: GuestImages) -> Stored:
        pool = ceph.fresh_pool()
        ceph.image(pool, "tiny", quick_guest.raw.read_bytes())
        options = _without_files(ceph)
        return Stored(
            f"rbd:{pool}/tiny:{options}",
            f"rbd:{pool}:{options}",
            "tiny",
            module="rbd",
            environment={"FARBOOT_KEY": ceph.key},
            secrets=(ceph.key,),
        )


@pytest.mark.boots
def test_the_form_with_the_key_in_it_boots_and_the_key_goes_nowhere_else(
    farboot: Farboot, ceph: Ceph, quick_guest: GuestImages
) -> None:
    pool = ceph.fresh_pool()
    ceph.image(pool, "qemu", quick_guest.raw.read_bytes())
    typed = f"rbd:{pool}/qemu:id=admin:key={ceph.key}:{_without_files(ceph)}"
    home = farboot.environment["HOME"]
    shown = farboot("command", typed, "--json")
    assert json.loads(shown.stdout)["route"] == "driver", shown.stderr
    assert ceph.key not in shown.stdout + shown.stderr
    with watching((ceph.key,), home) as seen:
        session = boots(farboot, Stored(typed, "", "qemu"))
        listed = json.loads(farboot("ps", "--json").stdout)
    assert [guest["id"] for guest in listed] == [session]
    assert ceph.key not in json.dumps(listed)
    assert all(" boot rbd:" in argv for argv in seen.in_argv), "only in the command that a person typed"
    assert seen.in_files == []


def _without_files(ceph: Ceph) -> str:
    """The options that name the cluster, and no file of this host."""
    return f"conf=/dev/null:mon_host=127.0.0.1\\:{ceph.ports[0]}"
