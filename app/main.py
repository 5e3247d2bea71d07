"""Farboot's entry point: the command line, or the Textual application."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.cli.output import DONE, complain, complain_to_supervisor, tell
from app.cli.parser import parse
from probes.errors import FarbootError, Unsupported
from probes.location import Location

if TYPE_CHECKING:
    from app.engine import Engine
    from app.settings import Settings

_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was typed and return the exit code. No traceback reaches a person."""
    typed = parse(list(sys.argv[1:] if arguments is None else arguments))
    try:
        return _command(typed.command)(_engine(typed), typed)
    except FarbootError as error:
        if getattr(typed, "credentials_stdin", False):  # the supervisor started us, and makes the same error of it
            return complain_to_supervisor(error)
        return complain(error, typed.verbose, typed.json)
    except KeyboardInterrupt:
        tell("stopped")
        return _INTERRUPTED
    except BrokenPipeError:  # `farboot ls … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:  # the last resort: a bug must not look like one to a person
        if os.environ.get("FARBOOT_TRACEBACK"):
            raise
        tell(f"this is a bug in Farboot: {type(error).__name__}: {error} (FARBOOT_TRACEBACK=1 shows where)")
        return FarbootError.exit_status


def open_tui(engine: "Engine", start: Location | None) -> int:
    """Open the Textual application, at `start` if there is one. Raises Unsupported without a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Unsupported("open", "the screen", "this is not a terminal", "farboot ls LOCATION works without one")
    from app.tui import run

    run(engine, start)
    return DONE


def _engine(typed: argparse.Namespace) -> "Engine":
    from app.engine import Engine
    from app.keychain import Keychain
    from app.saved_secrets import SavedSecrets
    from app.settings import DEFAULTS

    by_supervisor = getattr(typed, "credentials_stdin", False)  # who gives all that is needed
    typed.settings = DEFAULTS if by_supervisor else _settings()
    deadline = typed.settings.deadline if typed.deadline is None else typed.deadline
    return Engine(Keychain(None if by_supervisor else SavedSecrets()), deadline)


def _settings() -> "Settings":
    """The person's settings; while their file is broken, which is told, those that hold without one."""
    from app.settings import DEFAULTS, BadSettings, load

    try:
        return load()
    except BadSettings as error:
        tell(str(error))
        return DEFAULTS


def _tui(engine: "Engine", typed: argparse.Namespace) -> int:
    from app.cli.secrets import read_location

    return open_tui(engine, read_location(engine, typed) if typed.location else None)


def _command(name: str) -> "Callable[[Engine, argparse.Namespace], int]":
    if name == "forget":
        from app.cli import secrets

        return secrets.forget
    if name in {"ls", "inspect"}:
        from app.cli import browse

        return browse.ls if name == "ls" else browse.inspect
    if name in {"command", "boot", "fetch", "bridge", "secret"}:
        from app.cli import boot

        return {
            "command": boot.command,
            "boot": boot.boot,
            "fetch": boot.fetch,
            "bridge": boot.bridge,
            "secret": boot.secret,
        }[name]
    if name in {"ps", "console", "screen", "stop"}:
        from app.cli import guests

        return {
            "ps": guests.ps,
            "console": guests.console,
            "screen": guests.save_screen,
            "stop": guests.stop_guest,
        }[name]
    if name in {"doctor", "demo", "demo-server", "agent"}:
        from app.cli import machine

        return {
            "doctor": machine.doctor,
            "demo": machine.demo,
            "demo-server": machine.demo_server,
            "agent": machine.agent,
        }[name]
    return _tui
