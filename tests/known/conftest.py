"""A machine's files below a folder that stands for its root."""

from collections.abc import Callable
from pathlib import Path

import pytest

from probes.known.root import Root

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Put a text where the root's files are."""

    def put(path: str, text: str) -> Path:
        whole = tmp_path / path.lstrip("/")
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(text)
        return whole

    return put


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """The machine that has those files, seen by root."""
    return Root(str(tmp_path), "/root")
