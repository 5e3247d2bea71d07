"""The description of what is under the cursor: what an image is, whether it may run, and how QEMU would get it."""

from typing import ClassVar

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from probes.entry import Kind
from probes.errors import FarbootError
from probes.image import Hazard, Image, Verdict
from probes.text import clean
from probes.words import human_size, short_time
from widgets.facts import Command, Facts, told

_VERDICTS = {Verdict.OK: ("good", "OK to boot"), Verdict.ASK: ("ask", "ASKS FIRST"), Verdict.REFUSE: ("bad", "REFUSED")}
_MARKS = {Verdict.OK: "·", Verdict.ASK: "?", Verdict.REFUSE: "!"}


class Details(VerticalScroll):
    """Shows `Facts`. `compact` leaves out what the cursor's row says already."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "scroll_up", "Up", show=False),
        Binding("down,j", "scroll_down", "Down", show=False),
        Binding("space", "page_down", "Page down", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "details--good", "details--ask", "details--bad", "details--faint", "details--title", "details--code",
        "details--more",
    }  # fmt: skip
    DEFAULT_CSS = """
    Details { padding: 0 1; scrollbar-gutter: auto; }
    Details > Static { height: auto; width: 1fr; }
    Details > .more { dock: bottom; height: 1; display: none; }
    """

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 Textual's own name for it
        super().__init__(id=id)
        self.facts = Facts()
        self.compact = False

    def compose(self) -> ComposeResult:
        """One text, as long as need be, and a line that says so where it is longer than the room."""
        yield Static(id="text")
        yield Static(classes="more", markup=False)

    def show(self, facts: Facts) -> None:
        """Show these facts, from their top when they are about something else."""
        other = facts.entry != self.facts.entry
        self.facts = facts
        self.redraw()
        if other:
            self.scroll_home(animate=False)

    def redraw(self) -> None:
        """Draw the facts again: the colours or the room changed."""
        if self.is_mounted:
            self.query_one("#text", Static).update(self._draw())
            self.call_after_refresh(self._say_more)

    def _say_more(self) -> None:
        """Nothing is cut silently: say how many lines are below, and the key that leads there."""
        more, room = self.query_one(".more", Static), self.content_size.height
        length = self.query_one("#text").outer_size.height
        more.display = length > room > 2
        below = length - (room - 1) - round(self.scroll_offset.y)
        if more.display and below > 0:
            lines = "1 more line" if below == 1 else f"{below} more lines"
            more.update(Text(f"... {lines}: {'down' if self.has_focus else 'tab'}", self._style("more")))
        else:
            more.update("")

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """What is below changes."""
        super().watch_scroll_y(old_value, new_value)
        self._say_more()

    def on_resize(self) -> None:
        """The room changes, too."""
        self.call_after_refresh(self._say_more)

    def on_focus(self) -> None:
        """It is scrolled from here on."""
        self._say_more()

    def on_blur(self) -> None:
        """It is gone to first."""
        self._say_more()

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"details--{name}", partial=True)

    def _draw(self) -> RenderableType:
        facts = self.facts
        parts: list[RenderableType] = []
        if facts.entry is not None and not self.compact:
            parts += [Text(clean(facts.entry.name), self._style("title"), overflow="fold"), Text()]
        if facts.text:
            parts.append(Text(facts.text))
        if facts.error is not None:
            parts.append(self._error(facts.error))
        if facts.image is not None:
            parts += self._image(facts.image)
        elif facts.entry is not None and facts.error is None and not facts.busy:
            parts.append(self._entry())
        if facts.command is not None:
            parts += self._command(facts.command)
        if facts.busy:
            parts.append(Text(facts.busy, self._style("faint")))
        return Group(*parts)

    def _gap(self) -> list[RenderableType]:
        return [] if self.compact else [Text()]

    def _table(self, rows: list[tuple[str, Text]]) -> Table:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=8, no_wrap=True)
        table.add_column(ratio=1, overflow="fold")
        for label, value in rows:
            table.add_row(Text(label, self._style("faint")), value)
        return table

    def _entry(self) -> RenderableType:
        entry = self.facts.entry
        if entry is None:
            return Text()
        rows = []
        if entry.size is not None:
            rows.append(("Size", Text(human_size(entry.size, entry.rounded))))
        if entry.modified is not None:
            rows.append(("Changed", Text(short_time(entry.modified))))
        if entry.note:
            rows.append(("Note", Text(clean(entry.note))))
        if entry.kind is not Kind.IMAGE:
            rows.append(("Enter", Text("opens it" if entry.kind is Kind.CONTAINER else "looks what it is")))
        return self._table(rows)

    def _error(self, error: FarbootError) -> RenderableType:
        text = Text(overflow="fold")
        about = self.facts.entry.location if self.facts.entry else ""
        text.append(f"{told(error, about)}\n", self._style("bad"))
        text.append(error.why)
        if error.hint:
            text.append(f"\n{error.hint}", self._style("ask"))
        text.append("\nr tries again", self._style("faint"))
        return text

    def _image(self, image: Image) -> list[RenderableType]:
        name, words = _VERDICTS[image.verdict]
        refused = self.facts.command is not None and bool(self.facts.command.refusals)
        if refused:
            name, words = _VERDICTS[Verdict.REFUSE]
        verdict = Text(f" {words} ", self._style(name) + Style(reverse=True, bold=True))
        sizes, stored = human_size(image.virtual_size), human_size(image.file_size)
        if image.virtual_size == 0:
            sizes = stored
        elif sizes != stored:
            sizes += f" ({stored} stored)"
        features = "".join(f", {clean(feature)}" for feature in image.features)
        form = Text.assemble((image.format, "bold"), features)
        parts: list[RenderableType] = []
        if self.compact:
            parts.append(Text.assemble(verdict, "  ", form, f"  {sizes}"))
            rows = []
        else:
            parts += [verdict, Text()]
            rows = [("Format", form), ("Size", Text(sizes))]
        if image.media.summary:
            rows.append(("Holds", Text(clean(image.media.summary))))
        if image.backing is not None:
            claimed = f" ({clean(image.backing.format)})" if image.backing.format else ""
            rows.append(("Backing", Text(clean(image.backing.name) + claimed)))
        if self.facts.entry is not None and self.facts.entry.note:
            rows.append(("Note", Text(clean(self.facts.entry.note))))
        if rows:
            parts.append(self._table(rows))
        if image.hazards:
            parts += self._gap()
            parts += [self._hazard(hazard) for hazard in image.hazards]
        return parts

    def _hazard(self, hazard: Hazard) -> RenderableType:
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=1)
        table.add_column(ratio=1, overflow="fold")
        style = self._style({Verdict.OK: "faint", Verdict.ASK: "ask", Verdict.REFUSE: "bad"}[hazard.verdict])
        table.add_row(Text(_MARKS[hazard.verdict], style), Text(clean(hazard.text), style))
        return table

    def _mode(self, mode: str) -> Text:
        if mode == "write":
            return Text("it for writing, after a question", self._style("ask"))
        return Text("a snapshot: what the guest writes is thrown away")

    def _command(self, command: Command) -> list[RenderableType]:
        parts: list[RenderableType] = self._gap()
        if command.error is not None:
            rows = [("Boot", Text(command.error.why, self._style("bad")))]
            if command.error.hint:
                rows.append(("", Text(command.error.hint, self._style("ask"))))
            return [*parts, self._table(rows)]
        said = {clean(hazard.text) for hazard in self.facts.image.hazards} if self.facts.image else set()
        told = [refusal for refusal in command.refusals if refusal not in said]
        rows = [("Refused", Text(clean(refusal), self._style("bad"))) for refusal in told]
        if command.mode and not command.refusals:
            rows.append(("b boots", self._mode(command.mode)))
        if command.drive:
            rows.append(("-drive", Text(clean(command.drive), self._style("code"))))
        elif command.withheld and not command.refusals:
            rows.append(("-drive", Text(f"none: {clean(command.withheld)}", self._style("faint"))))
        reason = command.withheld.rpartition(": ")[2]
        notes = [note for note in command.notes if command.drive or not reason or not note.endswith(reason)]
        notes = [note for note in notes if note not in said]
        for index, note in enumerate(notes):
            rows.append(("" if index else "Notes", Text(f"· {clean(note)}", self._style("faint"))))
        return [*parts, self._table(rows)] if rows else []
