"""What a path on an FTP server is: by MLST where the server has it (one round trip), else by SIZE, MDTM and CWD."""

from dataclasses import dataclass
from datetime import datetime

from probes.entry import Kind
from probes.errors import NotFound, Unsupported
from probes.ftp.control import Control
from probes.ftp.listing import facts_in, mlsd_row, stamp_time
from probes.ftp.paths import absolute
from probes.ftp.replies import reply_error, size_in, stamp_in
from probes.reader import Pin


@dataclass(frozen=True, slots=True)
class Found:
    """A file or a folder. `stamp` is the time of its last change as the server spells it, with what else identifies
    it.
    """

    is_folder: bool
    size: int | None = None
    modified: datetime | None = None
    stamp: str = ""

    @property
    def pin(self) -> Pin:
        """Its size and stamp, which is in seconds, and so weak."""
        return Pin(self.size or 0, self.stamp)


def look_at(control: Control, path: str) -> Found:
    """Say what `path` (as `probes.ftp.paths.path_in` gives it) is. Raises NotFound, Denied, Unsupported."""
    full = absolute(path, control.features.home)
    if not full:
        return Found(is_folder=True)
    if "MLST" in control.features:
        found = _by_mlst(control, full)
        if found is not None:
            return found
    return _by_size(control, full)


def enter(control: Control, path: str) -> bool:
    """Make `path` the connection's folder; whether it is one."""
    full = absolute(path, control.features.home)
    if not full:
        return True
    reply = control.ask(f"CWD {full}")
    if reply.is_done and not full.startswith("/"):
        control.has_strayed = True
    return reply.is_done


def _by_mlst(control: Control, path: str) -> Found | None:
    reply = control.ask(f"MLST {path}")
    if reply.is_unknown:
        return None
    if not reply.is_done:
        raise reply_error(control.call, reply, control.secrets)
    line = next((line[1:] for line in reply.text.split("\n")[1:] if line.startswith(" ")), "")
    facts = facts_in(line.partition(" ")[0])
    kind = facts.get("type", "").lower()
    if kind in {"dir", "cdir", "pdir"}:
        return Found(is_folder=True)
    row = mlsd_row(line)
    if row is None or row.size is None:  # a link, or a server that tells less
        return None
    stamp = " ".join(facts[name][:100] for name in ("modify", "unique") if name in facts)
    return Found(False, row.size, row.modified, stamp)


def _by_size(control: Control, path: str) -> Found:
    control.binary()  # SIZE counts what would be sent
    size = control.ask(f"SIZE {path}")
    if size.is_done:
        stamp = control.ask(f"MDTM {path}")
        text = stamp_in(stamp) if stamp.is_done else ""
        return Found(False, size_in(size), stamp_time(text), text)
    if enter(control, path):
        return Found(is_folder=True)
    if size.is_unknown and size.code != 501:
        why = "the server does not tell sizes"
        raise Unsupported(control.call.tried, control.call.on, why, "without its size an image cannot be read")
    error = reply_error(control.call, size, control.secrets, Kind.OTHER)
    if isinstance(error, NotFound):
        raise NotFound(error.tried, error.on, "there is no such file or folder, or we may not see it")
    raise error
