"""The bridge as it runs for a guest: in a process of its own, started, awaited, ended."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from app.qemu.bridge.patience import Patience
from app.qemu.bridge.serve import Expected
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.evidence import Evidence
from probes.identify import identify
from probes.location import Location
from probes.recording import RecordingReader
from probes.registry import open_source
from probes.source import DEADLINE
from tests.servers.server import wait_until

ROOT = Path(__file__).resolve().parents[2]
QUICK = Patience(outage=60, refusal=2, first_pause=0.01, longest_pause=0.1)
_PROGRAM = """
import json, sys
from app.qemu.bridge.serve import Expected, Patience, credentials_from_stdin, serve
from probes.errors import FarbootError
from probes.evidence import Evidence
from probes.location import Location
order = json.loads(sys.argv[1])
try:
    credentials = credentials_from_stdin()
    location, _ = Location.parse(order["location"])
    expected = order["expected"] | {"evidence": Evidence.parse(order["expected"]["evidence"])}
    serve(
        location, credentials, order["socket"], Expected(**expected),
        write=order["write"], patience=Patience(**order["patience"]), deadline=order["deadline"],
    )
except FarbootError as error:
    sys.exit(f"farboot: {error}")
"""


def judged(location: str, credentials: Credentials = NO_CREDENTIALS) -> Expected:
    """What is expected of the image at `location`, as the engine would have found it."""
    place, _ = Location.parse(location)
    with open_source(place, credentials) as source, source.open(place) as reader:
        recording = RecordingReader(reader)
        form = identify(recording).format
        return Expected(reader.size, reader.pin.validator, Evidence.by(recording.evidence), form)


class BridgeProcess:
    """One bridge; a context manager. `folder` is its working directory and holds its socket `s` and its `log`."""

    def __init__(
        self,
        folder: Path,
        location: str,
        expected: Expected | None = None,
        patience: Patience = QUICK,
        stdin: bytes = b"",
        credentials: Credentials = NO_CREDENTIALS,
        *,
        write: bool = False,
        deadline: float = DEADLINE,
    ) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder
        self.path = folder / "s"
        expected = expected or judged(location, credentials)
        self.order = json.dumps(
            {
                "location": location,
                "socket": "s",
                "expected": dataclasses.asdict(expected) | {"evidence": str(expected.evidence)},
                "patience": dataclasses.asdict(patience),
                "write": write,
                "deadline": deadline,
            }
        )
        self.stdin = stdin or json.dumps(credentials.to_json()).encode()

    @property
    def uri(self) -> str:
        """What QEMU's tools take."""
        return f"nbd+unix:///?socket={self.path}"

    @property
    def said(self) -> str:
        """What it wrote to stderr so far."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def shown(self) -> str:
        """What everyone on this host may see of it: its command line and environment."""
        return "".join(self._proc(name) for name in ("cmdline", "environ"))

    @property
    def children(self) -> list[int]:
        """The processes that it has started, by id."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    @property
    def peak_memory(self) -> int:
        """The most memory it has had so far, in bytes."""
        line = next(line for line in self._proc("status").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) << 10

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text(errors="replace")

    def start(self) -> Self:
        """Start it, without waiting."""
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, self.order],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
        assert self.process.stdin is not None
        self.process.stdin.write(self.stdin)
        self.process.stdin.close()
        return self

    def ended(self) -> int:
        """Wait for its end; its status."""
        return self.process.wait(60)

    def __enter__(self) -> Self:
        self.start()
        wait_until(lambda: self.path.exists() or self.process.poll() is not None, "the bridge's socket")
        assert self.process.poll() is None, self.said
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
