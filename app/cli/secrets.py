"""Where the command line takes secrets from: the location, files, the environment, a prompt."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from app.cli.output import tell
from app.engine import Engine
from probes.credentials import Credentials, Secret
from probes.errors import Denied, FarbootError
from probes.location import Location

_TRIES = 3
_PROMPTS = {"username": "User name", "password": "Password", "key": "Key (base64)", "cookie": "Cookie"}
_Answer = TypeVar("_Answer")


def read_location(engine: Engine, arguments: argparse.Namespace) -> Location:
    """Parse LOCATION and put every credential that came with it into the engine's keychain.

    The later wins: the environment, the options, what LOCATION itself holds. Raises BadLocation, or FarbootError for
    a file that cannot be read.
    """
    location, typed = Location.parse(arguments.location)
    if typed.password is not None or typed.key is not None:
        tell("a secret typed in an argument shows in the process list and the shell's history; use --password-file,"
             " --key-file or the environment")  # fmt: skip
    given = Credentials(
        username=arguments.user,
        password=_from_file(arguments.password_file, "the password file"),
        key=_from_file(arguments.key_file, "the key file"),
        ca_file=arguments.ca_file and os.path.abspath(arguments.ca_file),
    )
    engine.keychain.add(location, typed.over(given.over(from_environment(os.environ))))
    return location


def from_environment(environment: Mapping[str, str]) -> Credentials:
    """Return the credentials in FARBOOT_USERNAME, _PASSWORD, _KEY, _COOKIE and _CA_FILE."""

    def secret(name: str) -> Secret | None:
        value = environment.get(name)
        return Secret(value) if value else None

    return Credentials(
        username=environment.get("FARBOOT_USERNAME") or None,
        password=secret("FARBOOT_PASSWORD"),
        key=secret("FARBOOT_KEY"),
        cookie=secret("FARBOOT_COOKIE"),
        ca_file=environment.get("FARBOOT_CA_FILE") or None,
    )


def asking(engine: Engine, location: Location, call: Callable[[], _Answer]) -> _Answer:
    """Run `call`; while the server denies it for want of credentials, ask at the terminal and try again."""
    for attempt in range(_TRIES):
        try:
            return call()
        except Denied as error:
            if not error.wants or not _can_ask() or attempt == _TRIES - 1:
                raise
            tell(f"{error.on}: {error.why}")
            engine.keychain.add(location, _ask(error.wants, engine.keychain.get(location)))
    raise AssertionError("unreachable")


def ask_secret(engine: Engine, location: Location, field: str) -> Secret:
    """Return one secret of `location`: known, found by its source (a keyring), or asked for."""
    known = getattr(engine.keychain.get(location), field)
    if isinstance(known, Secret):
        return known
    found = _from_source(engine, location, field)
    if found is not None:
        return found
    if not _can_ask():
        hint = f"set FARBOOT_{field.upper()}, or run it at a terminal"
        raise Denied("find", location, f"its {field} is not known", hint, wants=(field,))
    answer: object = getattr(_ask((field,), Credentials()), field)
    assert isinstance(answer, Secret)
    return answer


def _from_source(engine: Engine, location: Location, field: str) -> Secret | None:
    from probes.attachment import Mode

    with engine.open_source(location) as source:
        slots = source.attach(location, engine.host.facts, Mode.SNAPSHOT).secrets
    return next((slot.secret for slot in slots if slot.asked == field), None)


def _ask(wants: tuple[str, ...], known: Credentials) -> Credentials:
    values: dict[str, str | Secret] = {}
    for field in wants:
        prompt = _PROMPTS.get(field, field)
        try:
            if field == "username":
                values[field] = known.username or _read_line(f"{prompt}: ")
            else:
                values[field] = Secret(getpass.getpass(f"{prompt}: "))
        except EOFError:
            raise FarbootError("ask for", prompt.lower(), "the input ended") from None
    return Credentials(**values)  # type: ignore[arg-type]  # the names are those of Credentials' fields


def _read_line(prompt: str) -> str:
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.strip()


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _from_file(path: str | None, what: str) -> Secret | None:
    if path is None:
        return None
    try:
        if path == "-":
            text = sys.stdin.readline()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read(65536)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "it is not text" if isinstance(error, OSError) else "it is not UTF-8 text"
        raise FarbootError("read", f"{what} {path}", why) from None
    secret = text.strip("\r\n")
    if not secret:
        raise FarbootError("read", f"{what} {path}", "it is empty")
    return Secret(secret)
