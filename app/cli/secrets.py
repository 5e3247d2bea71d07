"""Where the command line takes secrets from: the location, files, the environment, a prompt."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Mapping
from typing import TypeVar

from app.cli.output import DONE, tell
from app.engine import Engine
from app.keeping import keep
from app.keychain import Server, place_of
from app.qemu.steps import UNLOCKS
from probes.credentials import Credentials, Secret
from probes.errors import Denied, FarbootError, UnknownHostKey
from probes.location import Location
from probes.text import clean

_TRIES = 3
_PROMPTS = {
    "username": "User name",
    "password": "Password",
    "key": "Key",
    "passphrase": "Passphrase of the key file",
    "image_passphrase": "Passphrase of the image",
    "cookie": "Cookie",
    "query": "Signed query (what follows the ? of the URL)",
    "ca_file": "CA file (PEM)",
    "client_cert": "Certificate of your own (PEM file)",
    "client_key": "Its private key (PEM file)",
}
_PATHS = frozenset({"ca_file", "client_cert", "client_key"})
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
        image_passphrase=_from_file(arguments.image_passphrase_file, "the passphrase file"),
    )
    save = bool(getattr(arguments, "save_credentials", False))
    engine.keychain.add(location, typed.over(given.over(from_environment(os.environ))), save)
    return location


def from_environment(environment: Mapping[str, str]) -> Credentials:
    """Return the credentials in FARBOOT_USERNAME, _PASSWORD, _KEY, _COOKIE, _PASSPHRASE, _IMAGE_PASSPHRASE, _CA_FILE,
    _CLIENT_CERT and _CLIENT_KEY.
    """

    def secret(name: str) -> Secret | None:
        value = environment.get(name)
        return Secret(value) if value else None

    return Credentials(
        username=environment.get("FARBOOT_USERNAME") or None,
        password=secret("FARBOOT_PASSWORD"),
        key=secret("FARBOOT_KEY"),
        cookie=secret("FARBOOT_COOKIE"),
        passphrase=secret("FARBOOT_PASSPHRASE"),
        ca_file=environment.get("FARBOOT_CA_FILE") or None,
        client_cert=environment.get("FARBOOT_CLIENT_CERT") or None,
        client_key=environment.get("FARBOOT_CLIENT_KEY") or None,
        image_passphrase=secret("FARBOOT_IMAGE_PASSPHRASE"),
    )


def asking(engine: Engine, location: Location, call: Callable[[], _Answer]) -> _Answer:
    """Run `call`; while the server denies it for want of credentials, ask at the terminal and try again.

    Once it let us in, what was wished for is kept (`--save-credentials`, a host key that is always to be trusted).
    """
    for attempt in range(_TRIES):
        try:
            answer = call()
        except UnknownHostKey as error:
            if not _can_ask():
                raise
            _ask_about_host(engine, location, error)
            return asking(engine, location, call)
        except Denied as error:
            if error.wants and not _can_ask():
                tell(_how_without_a_terminal(error.wants, location))
            if not error.wants or not _can_ask() or attempt == _TRIES - 1:
                raise
            tell(f"{error.on}: {error.why}")
            place = place_of(error, location)
            engine.keychain.add(place, _ask(error.wants, engine.keychain.get(place), place))
        else:
            _keep(engine, location)
            return answer
    raise AssertionError("unreachable")


def _how_without_a_terminal(wants: tuple[str, ...], location: Location) -> str:
    known = {"query", "username"} if location.user else {"query"}
    names = [f"FARBOOT_{field.upper()}" for field in wants if field not in known]
    way = f"; {' and '.join(names)} in the environment would do" if names else ""
    return f"this is no terminal at which to ask{way}"


def _keep(engine: Engine, location: Location) -> None:
    if not engine.keychain.is_to_keep(location):
        return
    try:
        for text in keep(engine, location):
            tell(text)
    except FarbootError as error:  # what was asked for is done all the same
        tell(str(error))


def _ask_about_host(engine: Engine, location: Location, error: UnknownHostKey) -> None:
    """Ask whether it is the right server. Raises the error itself after anything but a yes."""
    tell(f"{error.on}: {error.why}")
    if error.hint:
        tell(error.hint)
    print("Trust it? yes, always (into known_hosts), or no: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip().casefold()
    if answer not in {"y", "yes", "a", "always"}:
        raise error
    trusted = Credentials(host_key=error.fingerprint)
    engine.keychain.add(location, trusted, vouch_for_host=answer.startswith("a"))


def forget(engine: Engine, arguments: argparse.Namespace) -> int:
    """Delete what the system's keyring holds for the server of LOCATION."""
    location, _ = Location.parse(arguments.location)
    gone = engine.keychain.forget(location)
    tell(f"the credentials for {Server.of(location)} {'were deleted' if gone else 'were not saved: nothing to forget'}")
    return DONE


def ask_secret(engine: Engine, location: Location, field: str) -> Secret:
    """Return one secret of `location`: known, found by its source (a keyring), or asked for."""
    known = engine.keychain.passphrase(location) if field == UNLOCKS else getattr(engine.keychain.get(location), field)
    if isinstance(known, Secret):
        return known
    found = None if field == UNLOCKS else _from_source(engine, location, field)
    if found is not None:
        return found
    if not _can_ask():
        hint = f"set FARBOOT_{field.upper()}, or run it at a terminal"
        raise Denied("find", location, f"its {field} is not known", hint, wants=(field,))
    answer: object = getattr(_ask((field,), Credentials(), location), field)
    assert isinstance(answer, Secret)
    return answer


def _from_source(engine: Engine, location: Location, field: str) -> Secret | None:
    """The secret that the storage's own library found; None where it found none, or is not let in without it."""
    from probes.attachment import Mode

    try:
        with engine.open_source(location) as source:
            attachment = source.attach(location, engine.host.facts, Mode.SNAPSHOT)
    except Denied:
        return None
    slots = attachment.secrets
    if attachment.tls is not None and attachment.tls.psk is not None:
        slots += (attachment.tls.psk,)
    return next((slot.secret for slot in slots if slot.asked == field), None)


def _ask(wants: tuple[str, ...], known: Credentials, location: Location) -> Credentials:
    values: dict[str, str | Secret] = {}
    for field in wants:
        prompt = _PROMPTS.get(field, field) + (f" {clean(location.title)}" if field == UNLOCKS else "")
        try:
            if field == "username":
                values[field] = known.username or location.user or _read_line(f"{prompt}: ")
            elif field in _PATHS:
                path = _read_line(f"{prompt}: ")
                values |= {field: os.path.abspath(os.path.expanduser(path))} if path else {}
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
