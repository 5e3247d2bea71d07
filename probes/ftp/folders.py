"""Folders on an FTP server: a listing begun, taken in as it arrives, and its links followed."""

from collections.abc import Iterator
from dataclasses import replace

from probes.entry import Entry, Kind, kind_by_name
from probes.errors import BadAnswer, Denied, FarbootError, NotAContainer, NotFound, Unreachable, Unsupported
from probes.ftp.control import Control
from probes.ftp.failures import ReplyError
from probes.ftp.listing import Row
from probes.ftp.looking import enter, look_at
from probes.ftp.paths import absolute
from probes.ftp.replies import reply_error
from probes.location import Location

MOST_ROWS = 2_000_000
"""Rows of a listing after which we do not believe that it ends."""

_LONGEST_LINE = 8192


def begin_listing(control: Control, path: str) -> bool:
    """Start the transfer of a listing; whether it is one of MLSD. Raises NotAContainer, NotFound, Denied."""
    if "MLST" in control.features:
        full = absolute(path, control.features.home)
        try:
            control.retrieve(f"MLSD {full}" if full else "MLSD")
            return True
        except ReplyError as error:
            if not error.reply.is_unknown or error.reply.code == 501:
                raise _not_listed(control, path, error) from None
    if not enter(control, path):
        raise _not_listed(control, path, None)
    try:
        control.retrieve("LIST")
    except ReplyError as error:
        if error.reply.code in {226, 250, 450, 550}:  # how some say that nothing is in it
            return False
        raise reply_error(control.call, error.reply, control.secrets, Kind.CONTAINER) from None
    return False


def _not_listed(control: Control, path: str, error: ReplyError | None) -> FarbootError:
    """Why a folder cannot be listed: it is a file, it is not there, or it may not be read."""
    found = look_at(control, path)
    if not found.is_folder:
        return NotAContainer(control.call.tried, control.call.on, "it is a file, not a folder")
    if error is not None:
        return reply_error(control.call, error.reply, control.secrets, Kind.CONTAINER)
    return Denied(control.call.tried, control.call.on, "the server does not let us into the folder")


def batches(control: Control) -> Iterator[Iterator[str]]:
    """The lines of the listing that was begun, as they arrive. Raises Unreachable where it is cut short, Denied."""
    call, stream = control.call, control.stream
    if stream is None:
        return
    rest, count = b"", 0
    try:
        while data := stream.read(64 << 10):
            *lines, rest = (rest + data).split(b"\n")
            count += len(lines)
            if len(rest) > _LONGEST_LINE or count > MOST_ROWS:
                raise BadAnswer(call.tried, call.on, "the listing has no end, or a line of it has none")
            yield (line.rstrip(b"\r").decode("utf-8", "surrogateescape") for line in lines)
        reply = control.end_stream()
        if not reply.is_done or rest:
            why = f"the listing broke off: the server says {reply.code}"
            raise Unreachable(call.tried, call.on, why, detail=reply.quoted(control.secrets))
        if not count and "failed to open" in reply.text.lower():  # vsftpd's way to say so
            raise Denied(call.tried, call.on, "the server may not read the folder")
    finally:
        control.drop_stream()  # nobody else could go on with it


def entry_of(folder: Location, row: Row) -> Entry:
    """The entry of a row in `folder`; a link is taken for what its name says."""
    note = f"→ {row.target}" if row.target else ""
    if row.type == "dir":
        return Entry(folder.child(row.name, container=True), row.name, Kind.CONTAINER, None, row.modified, note)
    kind = kind_by_name(row.name) if row.type in {"file", "link"} else Kind.OTHER
    return Entry(folder.child(row.name), row.name, kind, row.size, row.modified, note)


def followed(control: Control, folder: Location, path: str, row: Row) -> Entry:
    """The entry of a link, by what it leads to."""
    try:
        found = look_at(control, f"{path}{'' if path.endswith('/') or not path else '/'}{row.name}")
    except (NotFound, Denied, Unsupported):
        place = folder.child(row.name)
        return Entry(place, row.name, Kind.OTHER, None, row.modified, f"→ {row.target} (leads nowhere)")
    if found.is_folder:
        return entry_of(folder, replace(row, type="dir"))
    return entry_of(folder, replace(row, type="file", size=found.size, modified=found.modified or row.modified))
