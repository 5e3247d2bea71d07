"""`command` and `boot`, and the helpers that a printed script calls: `bridge` and `secret`."""

import argparse
import sys

from app.cli.meter import Meter
from app.cli.output import DONE, TIMED_OUT, USAGE, say, say_json, tell
from app.cli.secrets import ask_secret, asking, read_location
from app.engine import Engine, Inspection, Prepared, encrypted, refused
from app.keeping import keep_passphrases
from app.qemu.options import DiskWish, FirmwareWish, Network, Options
from app.qemu.sessions.wire import SessionInfo
from app.settings import Settings
from probes.attachment import Mode, RouteWish
from probes.errors import Cancelled, FarbootError
from probes.words import human_size


def command(engine: Engine, arguments: argparse.Namespace) -> int:
    """Print what boot would run."""
    prepared = _prepare(engine, arguments)
    plan = prepared.plan
    script = "" if plan.refusals else engine.script(prepared)
    if arguments.json:
        answer: dict[str, object] = {
            "script": script,
            "argv": list(plan.qemu.argv) if plan.qemu else [],
            "drive": plan.drive or None,
            "drive_withheld": plan.drive_withheld or None,
            "route": plan.route,
            "notes": list(plan.notes),
            "refusals": list(plan.refusals),
        }
        say_json(answer)
    for refusal in plan.refusals:
        tell(f"refused: {refusal}")
    if plan.refusals:
        return refused(plan).exit_status
    if not arguments.json:
        say(script.rstrip("\n"))
    return DONE


def boot(engine: Engine, arguments: argparse.Namespace) -> int:
    """Start a guest; print its session's id; wait for its serial line to show a text, if so asked."""
    prepared = _prepare(engine, arguments, ask=True)
    for note in prepared.plan.notes:
        tell(note)
    if prepared.plan.refusals:
        raise refused(prepared.plan)
    if prepared.warning and not arguments.yes:
        _confirm(prepared)
    session = _boot(engine, prepared)
    if arguments.json:
        say_json({"id": session.id, "location": session.location, "state": str(session.state), "pid": session.pid})
    else:
        say(session.id)
    if arguments.wait is not None:
        from app.qemu.sessions.session import wait_for_text

        if not wait_for_text(session.id, arguments.wait, arguments.timeout):
            tell(f"{session.id} did not show {arguments.wait!r} within {arguments.timeout:g} seconds; it goes on")
            return TIMED_OUT
    if arguments.console:
        from app.cli.console import talk

        return talk(session.id)
    return DONE


def fetch(engine: Engine, arguments: argparse.Namespace) -> int:
    """Fetch LOCATION whole, where it can be read in no other way."""
    location = read_location(engine, arguments)
    pin = asking(engine, location, lambda: engine.fetch(location, Meter(), arguments.again))
    tell(f"{location}: a copy of {human_size(pin.size)} lies here")
    return DONE


def bridge(engine: Engine, arguments: argparse.Namespace) -> int:
    """Serve LOCATION as NBD on a Unix socket until told to stop."""
    from app.qemu.bridge.serve import Expected, credentials_from_stdin, serve

    location = read_location(engine, arguments)
    if arguments.credentials_stdin:
        engine.keychain.add(location, credentials_from_stdin())
    expected = Expected(arguments.size, arguments.validator, arguments.evidence, arguments.format)
    credentials = engine.keychain.get(location)
    serve(location, credentials, arguments.socket, expected, write=arguments.write, deadline=engine.deadline)
    return DONE


def secret(engine: Engine, arguments: argparse.Namespace) -> int:
    """Print one secret of LOCATION, for a script to lay it where QEMU reads it; never on a terminal."""
    if sys.stdout.isatty():
        raise FarbootError(
            "print", "a secret", "the output is a terminal", "send it into a file that only you can read"
        )
    location = read_location(engine, arguments)
    sys.stdout.write(ask_secret(engine, location, arguments.field).reveal())
    sys.stdout.flush()
    return DONE


class _Unconfirmed(FarbootError):
    """Nobody said yes, and there is nobody to ask."""

    code = "unconfirmed"
    exit_status = USAGE


def _confirm(prepared: Prepared) -> None:
    """Ask at the terminal whether the guest may write into the image. Raises Cancelled after anything but a yes."""
    location = prepared.plan.location
    if not (sys.stdin is not None and sys.stdin.isatty()):
        hint = "--yes says yes to the question that a terminal would ask"
        raise _Unconfirmed("write into", location, "nobody has said yes to it", hint)
    print(f"{prepared.warning} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Cancelled("write into", location, "you did not say yes", "nothing was started, nothing was written")


def _boot(engine: Engine, prepared: Prepared) -> SessionInfo:
    """Start the guest; passphrases are asked for until they open its images, and then kept if that was wished."""
    session = asking(engine, prepared.plan.location, lambda: engine.boot(engine.with_passphrases(prepared)))
    try:
        for text in keep_passphrases(engine.keychain, encrypted(prepared.plan)):
            tell(text)
    except FarbootError as error:  # the guest runs all the same
        tell(str(error))
    return session


def _accept(inspection: Inspection, options: Options) -> Options:
    """Ask at the terminal about what needs a yes, unless that was given; without one the plan refuses."""
    asked = inspection.asked - options.accept
    if not asked or not (sys.stdin is not None and sys.stdin.isatty()):
        return options
    for hazard in inspection.image.hazards:
        if hazard.code in asked:
            tell(hazard.text)
    print("Boot it all the same? [y/N] ", end="", file=sys.stderr, flush=True)
    said_yes = sys.stdin.readline().strip().lower() in {"y", "yes"}
    return inspection.accepted(options) if said_yes else options


def _prepare(engine: Engine, arguments: argparse.Namespace, ask: bool = False) -> Prepared:
    location = read_location(engine, arguments)
    settings: Settings = arguments.settings
    options = Options(
        mode=Mode.WRITE if arguments.write else Mode.SNAPSHOT,
        memory=arguments.memory or settings.memory,
        cpus=arguments.cpus or settings.cpus,
        firmware=FirmwareWish(arguments.firmware),
        network=Network(arguments.network) if arguments.network else settings.network,
        route=RouteWish(arguments.route),
        disk=DiskWish(arguments.disk),
        accept=frozenset(arguments.accept),
    )
    prepared = asking(engine, location, lambda: engine.prepare(location, options, fetch=Meter()))
    accepted = _accept(prepared.inspection, options) if ask else options
    if accepted == options:
        return prepared
    return asking(engine, location, lambda: engine.prepare(location, accepted, prepared.inspection, Meter()))
