"""`doctor` and the demonstration."""

import argparse
import sys
from pathlib import Path

from app.cli.output import DONE, say, say_json
from app.engine import Engine


def doctor(_engine: Engine, arguments: argparse.Namespace) -> int:
    """Say what this host can do."""
    from app.qemu.host.doctor import examine, lines

    report = examine()
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
