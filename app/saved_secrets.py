"""Credentials in the system's keyring: the Secret Service of a desktop, KWallet, or what the person set up for Python's
`keyring`. Nothing goes there but by wish, and nothing is asked of it but what a server wants.

A keyring may be locked, and then asks its person, or be dead, and then says nothing at all: so each call runs in a
thread of its own and is given up after a while. Which servers something is saved for stands, without any secret, in a
file of its own: nobody is bothered by a keyring that wants to be unlocked for a server that it knows nothing of.
"""

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from types import ModuleType
from typing import TypeVar

from app.keychain import Server
from app.lines import lines, put_first, state_file, take_off
from probes.credentials import NO_CREDENTIALS, Credentials
from probes.errors import FarbootError, MissingClient, TimedOut, Unsupported

SERVICE = "farboot"
_REMEMBERED = 10.0
_MOST = 10_000
_WISHED = 60.0  # seconds: a keyring may have to be unlocked by its person
_SAVED_FIELDS = (
    "username", "password", "key", "cookie", "passphrase", "ca_file", "client_cert", "client_key", "image_passphrase",
)  # fmt: skip
_T = TypeVar("_T")


class SavedSecrets:
    """The system's keyring. Nothing is imported or contacted before the first call."""

    def __init__(self, index: str | None = None) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._why_not: str | None = None
        self._silent = False

    def why_not(self) -> str:
        """Why nothing can be saved here; empty where it can. Blocks: asks which keyring there is."""
        with self._lock:
            if self._why_not is None:
                try:
                    self._why_not = _bounded(_reason, _REMEMBERED)
                except FarbootError as error:
                    self._why_not = error.why
            return self._why_not

    def load(self, server: Server) -> Credentials:
        """What is saved for a server; empty where nothing is, or nobody answers in time (and then never again)."""
        if self._silent or str(server) not in lines(self._path) or self.why_not():
            return NO_CREDENTIALS
        try:
            text = _bounded(lambda: _keyring().get_password(SERVICE, str(server)), _REMEMBERED)
        except FarbootError:
            self._silent = True
            return NO_CREDENTIALS
        return _credentials(text)

    def save(self, server: Server, credentials: Credentials) -> None:
        """Save what is known for a server, over what is saved. Raises Unsupported, TimedOut, FarbootError."""
        self._insist(_HINT)
        kept = {name: getattr(credentials, name) for name in _SAVED_FIELDS}
        values = replace(NO_CREDENTIALS, **kept).to_json()
        if values:
            _bounded(lambda: _keyring().set_password(SERVICE, str(server), json.dumps(values)), _WISHED)
            put_first(self._path, str(server), _MOST)

    def forget(self, server: Server) -> bool:
        """Delete what is saved for a server; whether there was anything. Raises Unsupported, TimedOut, FarbootError."""
        self._insist("")

        def delete() -> bool:
            if _keyring().get_password(SERVICE, str(server)) is None:
                return False
            _keyring().delete_password(SERVICE, str(server))
            return True

        take_off(self._path, str(server))
        return _bounded(delete, _WISHED)

    @property
    def _path(self) -> str:
        return self._index or state_file("saved-logins")

    def _insist(self, hint: str) -> None:
        why = self.why_not()
        if why:
            raise Unsupported("use", "the system's keyring", why, hint)


_HINT = "credentials hold for this run; FARBOOT_PASSWORD, --password-file and the like give them to the next"


def _reason() -> str:
    """Why the keyring that there is cannot be used; empty where it can."""
    try:
        _keyring()
    except MissingClient as error:
        return f"{error.why} ({error.hint})"
    import keyring.backends.fail
    import keyring.backends.null
    import keyring.core

    backend = keyring.get_keyring()
    if isinstance(backend, keyring.backends.fail.Keyring | keyring.backends.null.Keyring):
        return "this session has no keyring (a Secret Service or KWallet is what a desktop has)"
    chosen = keyring.core.load_env() or keyring.core.load_config()
    if backend.priority < 1 and not chosen:
        return f"the only keyring here, {backend.name}, does not protect what it keeps"
    return ""


def _keyring() -> ModuleType:
    try:
        import keyring
    except ImportError:
        remedy = "apt install python3-keyring or dnf install python3-keyring or pip install keyring"
        raise MissingClient(
            "use", "the system's keyring", "the Python package keyring is not installed", remedy
        ) from None
    return keyring


def _credentials(text: object) -> Credentials:
    """What a keyring gave, if it is what was saved."""
    if not isinstance(text, str):
        return NO_CREDENTIALS
    try:
        values = json.loads(text)
        return Credentials.from_json({name: values[name] for name in _SAVED_FIELDS if name in values})
    except (ValueError, TypeError):
        return NO_CREDENTIALS


def _bounded(call: Callable[[], _T], seconds: float) -> _T:
    """Return what `call` returns within `seconds`. Raises TimedOut, and FarbootError for whatever a keyring raises."""
    outcome: Future[_T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:  # noqa: BLE001  # a keyring raises what its library does; it is told below
            outcome.set_exception(error)

    threading.Thread(target=run, name="farboot-keyring", daemon=True).start()
    try:
        return outcome.result(seconds)
    except FutureTimeout:
        why = f"it gave no answer within {seconds:.0f} s"
        raise TimedOut("use", "the system's keyring", why, "it may be locked: unlock it and try again") from None
    except FarbootError:
        raise
    except Exception as error:  # noqa: BLE001  # see above; its text is cleaned and holds no secret of ours
        why = f"{type(error).__name__}: {error}"
        raise FarbootError("use", "the system's keyring", why, _HINT) from None
