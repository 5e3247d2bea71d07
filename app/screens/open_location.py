"""Opening any location, typed or pasted."""

import os
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from app.screens.dialogs import Dialog
from probes.credentials import Credentials
from probes.errors import FarbootError
from probes.location import Location
from probes.text import clean
from widgets.places import Place, PlacesView
from widgets.rows_view import RowsView

Opened = tuple[Location, Credentials]


class OpenLocation(Dialog[Opened | None]):
    """A line to type a location into, with the ones used before, and examples."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Cancel"),
        Binding("down", "suggestions", "Choose", show=False),
    ]

    def __init__(self, typed: str, used: Sequence[str], examples: Sequence[str]) -> None:
        super().__init__()
        self._typed = typed
        self._used = used
        self._examples = examples

    def compose(self) -> ComposeResult:
        """The line, what is wrong with it, what it could be."""
        with Vertical(classes="dialog wide"):
            yield Static("Open a location", classes="dialog-title", markup=False)
            yield Input(self._typed, placeholder="as QEMU takes it", classes="dialog-input", select_on_focus=False)
            yield Static(id="open-error", classes="dialog-error", markup=False)
            yield PlacesView(id="suggestions")
            keys = Text.assemble(
                ("enter", "bold"), " opens    ", ("down", "bold"), " chooses    ", ("esc", "bold"), " leaves it"
            )
            yield Static(keys, classes="dialog-keys")

    def on_mount(self) -> None:
        """Offer what was used before, then examples."""
        self._suggest(self._typed)
        self.query_one(Input).focus()

    def _suggest(self, typed: str) -> None:
        """Offer what contains the text typed so far; of examples, where none does, all."""
        needle = typed.strip().casefold()
        used = [text for text in self._used if needle in text.casefold()]
        examples = [text for text in self._examples if needle in text.casefold()] or self._examples
        places = [Place("Used before", heading=True)] if used else []
        places += [Place(text, typed=text) for text in used]
        places.append(Place("Examples", heading=True))
        places += [Place(text, typed=text) for text in examples]
        view = self.query_one(PlacesView)
        view.show(places)
        view.styles.height = min(max(len(places), len(self._examples)), 10)

    def on_key(self, event: events.Key) -> None:
        """What is typed while another part has the focus, or none yet, belongs into the line all the same."""
        line = self.query_one(Input)
        if event.is_printable and event.character and self.focused is not line:
            event.stop()
            line.insert_text_at_cursor(event.character)
            line.focus()

    def action_suggestions(self) -> None:
        """Go to the suggestions."""
        self.query_one(PlacesView).focus()

    @on(RowsView.Chosen)
    def take(self) -> None:
        """Take a suggestion into the line."""
        place = self.query_one(PlacesView).place
        if place is not None:
            line = self.query_one(Input)
            line.value = place.typed
            line.cursor_position = len(place.typed)
            line.focus()

    @on(Input.Changed)
    def typed(self, event: Input.Changed) -> None:
        """What was wrong may be right now, and other suggestions fit."""
        self.query_one("#open-error", Static).update("")
        self._suggest(event.value)

    @on(Input.Submitted)
    def submit(self, event: Input.Submitted) -> None:
        """Give the location, or say what is wrong with it."""
        typed = event.value.strip()
        try:
            location = Location.parse(typed)
        except FarbootError as error:
            hint = f"\n{error.hint}" if error.hint else ""
            self.query_one("#open-error", Static).update(Text(f"{error.why}{hint}"))
            return
        if location[0].scheme == "file" and "/" not in typed and not os.path.lexists(location[0].path):
            why = f"there is no such file here; a server is typed with its system, such as nfs://{typed}/"
            self.query_one("#open-error", Static).update(Text(clean(why)))
            return
        self.dismiss(location)
