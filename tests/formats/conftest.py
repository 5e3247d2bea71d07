"""What the tests of formats share."""

from pathlib import Path

import pytest

from tests.formats.disks import small_disk
from tests.formats.images import MiB, patch, run, sparse
from tests.formats.partitioned import Disk


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """Make a disk with what `script` tells sfdisk, and this code in its boot sector."""

    def make(script: str, code: bytes = b"", size: int = 100 * MiB) -> Path:
        path = sparse(tmp_path / "disk.raw", size)
        run("sfdisk", "-q", path, stdin=script)
        return patch(path, 0, code)

    return make


@pytest.fixture(scope="session")
def raw_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the raw disk that images are made of. It is everybody's: nobody writes into it."""
    path = small_disk(tmp_path_factory.mktemp("raw"))
    path.chmod(0o444)
    return path
