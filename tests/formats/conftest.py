"""What the tests of formats share."""

from pathlib import Path

import pytest

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
