"""What a server wants to know before it lets one in."""

import os
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, Static

from app.background import ask
from app.saved_secrets import SavedSecrets
from app.screens.dialogs import Dialog
from probes.credentials import Credentials, Secret
from probes.errors import Denied
from probes.location import Location
from probes.text import clean
from widgets.tick import Tick

_LABELS = {
    "username": "User name",
    "password": "Password",
    "key": "Key",
    "passphrase": "Passphrase of the key file",
    "image_passphrase": "Passphrase of the image",
    "query": "Signed query, what follows the ? of the URL",
    "cookie": "Cookie",
    "ca_file": "CA file (PEM), by which the server's certificate is checked",
    "client_cert": "Certificate of your own (PEM file)",
    "client_key": "Its private key (PEM file)",
}
_KEYS = {
    "rbd": "Key (cephx, base64)",
    "nbds": "Key (TLS pre-shared, hex)",
    "nbds+unix": "Key (TLS pre-shared, hex)",
}
_PATHS = frozenset({"ca_file", "client_cert", "client_key"})
_PLAIN = _PATHS | {"username"}


@dataclass(frozen=True)
class Answer:
    """What was given, and whether it shall go to the system's keyring."""

    credentials: Credentials
    save: bool = False


class AskCredentials(Dialog[Answer | None]):
    """One line for each thing that could open the location; None for Esc. `saved` is the keyring that may be there,
    `username` the one tried before.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("down", "app.focus_next", "Next", show=False),
        Binding("up", "app.focus_previous", "Before", show=False),
    ]

    def __init__(
        self, error: Denied, location: Location, saved: SavedSecrets | None = None, username: str = ""
    ) -> None:
        super().__init__()
        self._error = error
        self._location = location
        self._saved = saved
        self._username = username or location.user or ""
        self._fields = [field for field in error.wants if field in _LABELS]

    def compose(self) -> ComposeResult:
        """Why, the fields, whether to save them."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._error.on, overflow="ellipsis", no_wrap=True), classes="dialog-title")
            with VerticalScroll(classes="dialog-text", can_focus=False):
                yield Static(Text(self._why()), classes="dialog-why")
                for field in self._fields:
                    label = _KEYS.get(self._location.scheme, _LABELS[field]) if field == "key" else _LABELS[field]
                    yield Static(Text(label), classes="dialog-label")
                    value = self._username if field == "username" else ""
                    yield Input(value, id=field, password=field not in _PLAIN, classes="dialog-input")
                if self._saved is not None:
                    tick = Tick("save in the system's keyring (space)", id="save")
                    tick.display = False
                    yield tick
                    yield Static(id="no-keyring", classes="dialog-label", markup=False)
            yield Static(id="wrong", classes="dialog-error", markup=False)
            keys = Text.assemble(("enter", "bold"), " goes on    ", ("esc", "bold"), " leaves it")
            yield Static(keys, classes="dialog-keys")

    def _why(self) -> str:
        return f"{self._error.why}\n{self._error.hint}" if self._error.hint else self._error.why

    def on_mount(self) -> None:
        """Start in the first field that is empty, and find out whether there is a keyring."""
        lines = list(self.query(Input))
        next((line for line in lines if not line.value), lines[0]).focus()
        self.query_one("#wrong").display = False
        saved = self._saved
        if saved is not None:
            ask(self, saved.why_not, self._keyring_asked, lambda _: None)

    def _keyring_asked(self, why_not: str) -> None:
        if why_not:
            self.query_one("#no-keyring", Static).update(Text(f"It holds for this run: {why_not}."))
        self.query_one("#no-keyring").display = bool(why_not)
        self.query_one(Tick).display = not why_not

    @on(Input.Submitted)
    def next_field(self, event: Input.Submitted) -> None:
        """Go to the next field, or give the answer."""
        lines = list(self.query(Input))
        index = lines.index(event.input)
        if index + 1 < len(lines):
            lines[index + 1].focus()
        else:
            self.answer()

    @on(Tick.Submitted)
    def answer(self) -> None:
        """Give the answer; nothing typed is none."""
        values: dict[str, str | Secret] = {}
        for line in self.query(Input):
            if line.id and line.value:
                values[line.id] = _value(line.id, line.value)
        ticks = list(self.query(Tick))
        save = bool(ticks and ticks[0].display and ticks[0].value)
        answer = Answer(Credentials(**values), save) if values else None  # type: ignore[arg-type]  # the fields' own types
        paths = [str(value) for field, value in values.items() if field in _PATHS]
        ask(self, lambda: _not_pem(paths), lambda wrong: self._looked_at(wrong, answer), lambda _: None)

    def _looked_at(self, wrong: str, answer: Answer | None) -> None:
        """A file that is none would be no reason to ask again later: it is said here, where it can be mended."""
        if wrong:
            self.query_one("#wrong", Static).update(wrong)
            self.query_one("#wrong").display = True
        else:
            self.dismiss(answer)


def _not_pem(paths: list[str]) -> str:
    """What is wrong with the first of the files that cannot be used; empty where all can."""
    for path in paths:
        try:
            with open(path, "rb") as file:
                head = file.read(1 << 20)
        except OSError as error:
            return f"{clean(path)}: {(error.strerror or str(error)).lower()}"
        if b"-----BEGIN " not in head:
            return f"{clean(path)}: that is no PEM file"
    return ""


def _value(field: str, text: str) -> str | Secret:
    if field in _PATHS:
        return os.path.abspath(os.path.expanduser(text))
    return text if field in _PLAIN else Secret(text)
