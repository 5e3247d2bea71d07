"""Looking for secrets where they must not show: in every process's argv, again and again, and in files."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_LARGEST = 4 << 20
_OFTEN = 0.02


@dataclass
class Seen:
    """Where a secret was seen: argvs, and paths of files that were left."""

    in_argv: list[str] = field(default_factory=list)
    in_files: list[str] = field(default_factory=list)


@contextlib.contextmanager
def watching(secrets: Sequence[str], *folders: str) -> Iterator[Seen]:
    """Look into every process's argv while the block runs, and into all files below `folders` at its end."""
    seen = Seen()
    wanted = [secret.encode() for secret in secrets]
    over = threading.Event()

    def look() -> None:
        while wanted and not over.wait(_OFTEN):
            seen.in_argv += [argv for argv in _argvs(wanted) if argv not in seen.in_argv]

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield seen
        seen.in_files += [str(path) for folder in folders for path in _files(folder) if _holds(path, wanted)]
    finally:
        over.set()
        watcher.join()


def _argvs(wanted: list[bytes]) -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                argv = Path("/proc", name, "cmdline").read_bytes()
                if any(secret in argv for secret in wanted):
                    yield argv.replace(b"\0", b" ").decode(errors="replace")


def _files(folder: str) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names)


def _holds(path: Path, wanted: list[bytes]) -> bool:
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size <= _LARGEST:
            content = path.read_bytes()
            return any(secret in content for secret in wanted)
    return False
