"""The screens' tests see no guests but their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runtime and state folders of the test's own; its guests end with it."""
    home: Path = tmp_path_factory.mktemp("farboot")
    for name in ("FARBOOT_RUNTIME_DIR", "FARBOOT_STATE_DIR"):
        folder = home / name.lower()
        folder.mkdir(mode=0o700)
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setenv("TERM", "xterm-256color")
    yield
    from app.qemu.sessions import session

    for guest in session.sessions():
        session.stop(guest.id, force=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with a few images, a folder and a text."""
    folder = tmp_path / "images"
    (folder / "archive").mkdir(parents=True)
    (folder / "archive" / "old.img").write_bytes(b"\0" * 4096)
    for number in (10, 2, 1):
        (folder / f"disk{number}.raw").write_bytes(bytes([number]) * 512 * number)
    (folder / "notes.txt").write_text("nothing to boot\n")
    return folder
