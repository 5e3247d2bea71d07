"""Ceph, from the listing to the guest: with the key of a user as a secret."""

import pytest

from app.demo.guest import GuestImages
from tests.servers.ceph import Ceph
from tests.systems.contract import Stored, SystemContract


class TestRbd(SystemContract):
    @pytest.fixture
    def stored(self, ceph: Ceph, tiny_guest: GuestImages) -> Stored:
        pool = ceph.fresh_pool()
        ceph.image(pool, "tiny", tiny_guest.raw.read_bytes())
        return Stored(
            f"rbd:{pool}/tiny:conf={ceph.conf}", f"rbd:{pool}:conf={ceph.conf}", "tiny", module="rbd"
        )
