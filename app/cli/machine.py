"""`doctor`, the demonstration, and the ssh agent of a guest's QEMU."""

import argparse
import sys
from pathlib import Path

from app.cli.output import DONE, say, say_json
from app.engine import Engine


def doctor(_engine: Engine, arguments: argparse.Namespace) -> int:
    """Say what this host can do."""
    from app.qemu.host.doctor import examine, lines
    from app.saved_secrets import SavedSecrets

    report = examine(SavedSecrets().why_not())
    if arguments.json:
        say_json(report.as_json())
    else:
        for line in lines(report):
            say(line)
    return DONE


def demo(engine: Engine, _arguments: argparse.Namespace) -> int:
    """Serve the demonstration's images and open Farboot on them."""
    from app.demo.show import demonstration
    from app.main import open_tui

    with demonstration() as location:
        return open_tui(engine, location)


def demo_server(_engine: Engine, arguments: argparse.Namespace) -> int:
    """Serve a folder until standard input ends and no guest needs it any more; the first line printed is its URL."""
    from app.demo.server import serve

    serve(Path(arguments.folder), sys.stdin.fileno(), announce=say)
    return DONE


def agent(engine: Engine, arguments: argparse.Namespace) -> int:
    """Be the ssh agent of a guest's QEMU, with one key, until told to stop."""
    from app.cli.secrets import read_location
    from app.qemu.agent.serve import serve
    from app.qemu.bridge.serve import credentials_from_stdin

    location = read_location(engine, arguments)
    if arguments.credentials_stdin:
        engine.keychain.add(location, credentials_from_stdin())
    serve(location, engine.keychain.get(location), arguments.socket, arguments.key)
    return DONE
