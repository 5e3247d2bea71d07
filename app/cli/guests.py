"""`ps`, `console`, `screen`, `stop`: guests that run."""

import argparse
import os
import time

from app.cli.output import DONE, say, say_json, table
from app.engine import Engine
from app.qemu.sessions.session import SessionInfo, find, screen, sessions, stop
from probes.errors import FarbootError
from probes.text import clean
from probes.words import human_size, since


def ps(_engine: Engine, arguments: argparse.Namespace) -> int:
    """List the guests."""
    found = sessions()
    if arguments.json:
        say_json([session_json(session) for session in found])
    elif found:
        rows = [
            (
                s.id,
                str(s.state),
                str(s.pid or "-"),
                since(time.time() - s.started),
                human_size(s.memory),
                "into the image" if s.mode == "write" else "thrown away",
                clean(s.location),
                s.error,
            )
            for s in found
        ]
        for line in table(("ID", "STATE", "PID", "SINCE", "MEMORY", "WRITES", "LOCATION", "WHY"), rows, right=(2, 4)):
            say(line)
    return DONE


def console(_engine: Engine, arguments: argparse.Namespace) -> int:
    """Talk to a guest's serial line."""
    from app.cli.console import talk

    return talk(find(arguments.id).id)


def save_screen(_engine: Engine, arguments: argparse.Namespace) -> int:
    """Save a guest's screen as PNG."""
    picture = screen(find(arguments.id).id)
    try:
        with open(arguments.file, "wb") as file:
            file.write(picture)
    except OSError as error:
        raise FarbootError("write", arguments.file, error.strerror or "it failed") from None
    return DONE


def stop_guest(_engine: Engine, arguments: argparse.Namespace) -> int:
    """Shut a guest down."""
    stop(find(arguments.id).id, force=arguments.force)
    return DONE


def session_json(session: SessionInfo) -> dict[str, object]:
    """One object of `ps --json`."""
    return {
        "id": session.id,
        "name": session.name,
        "location": session.location,
        "state": str(session.state),
        "pid": session.pid,
        "started": session.started,
        "format": session.format,
        "route": session.route,
        "mode": session.mode,
        "memory": session.memory,
        "cpus": session.cpus,
        "network": session.network,
        "error": session.error,
        "vnc": session.vnc,
        "log": session.log,
        "folder": os.fspath(session.folder),
    }
